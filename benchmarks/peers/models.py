"""Harmonic's models in PyTorch, as well as PyTorch does them on a CPU, and with Harmonic's weights.

The hierarchical model's recurrence s_t = a_t s_{t-1} + b_t is the part that PyTorch has no op for. Here it goes in two
tiers: the length is cut into about sqrt(T) runs, all of which take their steps together, one vectorised
multiply-add over [B, runs, channels] a step; then the runs' last states are carried from run to run in another loop of
about sqrt(T) steps. That is 3 multiply-adds a number, where an associative scan by doubling has log2(T) passes over
memory and a loop over time T calls. torch.compile fuses the steps' arithmetic.
"""
import json
import math
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

EPSILON = 1e-5


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def decay_scan(a, b):
    """s[t] = a[t] s[t-1] + b[t] over dimension 1 of [B, T, N], from zero."""
    batch, length, width = a.shape
    run = max(1, math.isqrt(length))
    runs = (length + run - 1) // run
    pad = runs * run - length
    a = F.pad(a, (0, 0, 0, pad)).view(batch, runs, run, width)
    b = F.pad(b, (0, 0, 0, pad)).view(batch, runs, run, width)
    state, product = b[:, :, 0], a[:, :, 0]
    states, products = [state], [product]
    for t in range(1, run):
        state = a[:, :, t] * state + b[:, :, t]
        product = a[:, :, t] * product
        states.append(state)
        products.append(product)
    carry = torch.zeros_like(state[:, 0])
    carries = []
    for r in range(runs):
        carries.append(carry)
        carry = product[:, r] * carry + state[:, r]
    whole = torch.stack(states, 2) + torch.stack(products, 2) * torch.stack(carries, 1).unsqueeze(2)
    return whole.reshape(batch, runs * run, width)[:, :length]


class Weights:
    """Parameters by Harmonic's names, dots replaced, within a module."""

    def __init__(self, module, tensors):
        for name, value in tensors.items():
            module.register_parameter(name.replace(".", "__"), nn.Parameter(value.clone()))
        self.module = module

    def __call__(self, name):
        return getattr(self.module, name.replace(".", "__"))


class Harmonic(nn.Module):
    """Layout "levels", decay cells, dense or input gates."""

    def __init__(self, config, tensors):
        super().__init__()
        own = config["harmonic"]
        assert config["n_layers"] == 1 and config["ffn_multiple"] == 0 and own["layout"] == "levels"
        assert own["cell"] == "decay" and own["combine"] == "static" and own["prediction_error"]
        self.own, self.weights = own, Weights(self, tensors)

    def cell(self, name, v):
        w = lambda part: self.weights(f"layers.0.mixer.{name}.{part}")
        n = rms_norm(v, w("norm.weight"))
        if self.own["conv_width"] > 0:
            kernel = w("conv.weight")
            padded = F.pad(n.transpose(1, 2), (self.own["conv_width"] - 1, 0))
            n = F.conv1d(padded, kernel.view(kernel.shape[0], 1, -1), w("conv.bias"), groups=n.shape[2]).transpose(1, 2)
        u, z = F.linear(n, w("in_proj.weight")).chunk(2, -1)
        g = F.linear(u if self.own["gate"] == "dense" else n, w("gate.weight"), w("gate.bias"))
        a = torch.sigmoid(-g)
        s = decay_scan(a, torch.sqrt((1 + a) * torch.sigmoid(g)) * u)
        return v + F.linear((s + w("skip") * u) * F.silu(z), w("out_proj.weight"))

    def forward(self, tokens):
        w, own = self.weights, self.own
        part = lambda name: w(f"layers.0.mixer.{name}")
        x = F.embedding(tokens, w("embed.weight"))
        below = rms_norm(x, w("layers.0.mixer_norm.weight"))
        length, width = x.shape[1], x.shape[2]
        for n in range(own["cells"][0]):
            below = self.cell(f"level1.{n}", below)
        mix = part("combine.1.weight") * rms_norm(below, part("combine.1.norm"))
        for level, stride in enumerate(own["strides"][1:], 2):
            ratio = stride // own["strides"][level - 2]
            blocks = below.shape[1] // ratio
            pooled = below[:, :blocks * ratio].view(x.shape[0], blocks, ratio, width).mean(2)
            previous = F.pad(pooled[:, :-1], (0, 0, 1, 0)) if blocks > 0 else pooled
            below = pooled - F.linear(previous, part(f"predict.{level}.weight"))
            for n in range(own["cells"][level - 1]):
                below = self.cell(f"level{level}.{n}", below)
            down = F.linear(below, part(f"down.{level}.weight"))
            start = part(f"start.{level}").expand(x.shape[0], 1, width)
            held = part(f"combine.{level}.weight") * rms_norm(torch.cat([start, down], 1), part(f"combine.{level}.norm"))
            # Token t reads block floor((t + 1) / stride) - 1, of which `held` has the one before the first at 0.
            mix = mix + held.repeat_interleave(stride, 1)[:, 1:length + 1]
        return F.linear(rms_norm(x + mix, w("final_norm.weight")), w("head.weight"))


class Transformer(nn.Module):
    def __init__(self, config, tensors):
        super().__init__()
        self.config, self.weights = config, Weights(self, tensors)
        self.heads, self.kv_heads = config["attention"]["n_heads"], config["attention"]["n_kv_heads"]
        width = config["d_model"] // self.heads
        rates = config["attention"]["rope_base"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.arange(config["attention"]["context"], dtype=torch.float64)[:, None] * rates
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1).float())
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1).float())

    def turned(self, x):
        first, second = x.chunk(2, -1)
        length = x.shape[2]
        return x * self.cos[:length] + torch.cat([-second, first], -1) * self.sin[:length]

    def forward(self, tokens):
        w = self.weights
        x = F.embedding(tokens, w("embed.weight"))
        batch, length, _ = x.shape
        heads = lambda y, count: y.view(batch, length, count, -1).transpose(1, 2)
        for i in range(self.config["n_layers"]):
            part = lambda name: w(f"layers.{i}.{name}.weight")
            n = rms_norm(x, part("mixer_norm"))
            q = self.turned(heads(F.linear(n, part("mixer.q_proj")), self.heads))
            k = self.turned(heads(F.linear(n, part("mixer.k_proj")), self.kv_heads))
            v = heads(F.linear(n, part("mixer.v_proj")), self.kv_heads)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
            x = x + F.linear(y.transpose(1, 2).reshape(batch, length, -1), part("mixer.o_proj"))
            n = rms_norm(x, part("ffn_norm"))
            x = x + F.linear(F.silu(F.linear(n, part("ffn.gate"))) * F.linear(n, part("ffn.up")), part("ffn.down"))
        return F.linear(rms_norm(x, w("final_norm.weight")), w("head.weight"))


class Mamba(nn.Module):
    """Hugging Face's, with Harmonic's weights under the library's names: by a parallel scan where mambapy is installed,
    or else by a loop over time."""

    has_parallel_scan = find_spec("mambapy") is not None

    def __init__(self, config, tensors):
        super().__init__()
        import transformers
        self.model = transformers.MambaForCausalLM(transformers.MambaConfig(
            vocab_size=config["vocab_size"], hidden_size=config["d_model"], num_hidden_layers=config["n_layers"],
            state_size=16, expand=2, conv_kernel=4, layer_norm_epsilon=EPSILON, tie_word_embeddings=False,
            use_mambapy=self.has_parallel_scan, use_cache=False))
        names = {"embed.weight": "backbone.embeddings.weight", "final_norm.weight": "backbone.norm_f.weight",
                 "head.weight": "lm_head.weight"}
        renamed = {}
        for name, value in tensors.items():
            theirs = names.get(name) or "backbone." + name.replace("mixer_norm.weight", "norm.weight")
            expected = self.model.get_parameter(theirs)
            renamed[theirs] = value.view(expected.shape)
        self.model.load_state_dict(renamed)

    def forward(self, tokens):
        return self.model(tokens, use_cache=False).logits


KINDS = {"harmonic": Harmonic, "attention": Transformer, "mamba": Mamba}


def load(folder):
    """A model folder of Harmonic's."""
    config = json.loads((Path(folder) / "config.json").read_text())
    tensors = load_file(Path(folder) / "model.safetensors")
    return KINDS[config["mixer"]](config, tensors)
