#!/usr/bin/env python3
"""Holds a GGUF model that `harmonic convert` has read against the package gguf and transformers.

    check_gguf.py HARMONIC MODEL.gguf CONVERTED TEXT        (pip install gguf torch transformers safetensors)

HARMONIC is the program, CONVERTED the folder that it wrote, TEXT a file. Every tensor must be what gguf unpacks, to the
bit; and the bits that each token of the text costs (`harmonic score --by token`) those that transformers gives the
same weights, within 1e-3 of a nat.
"""
import json
import math
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

from make_golden_models import own_name


def field(reader, key):
    return reader.fields[key].contents()


def half_a_head_apart(matrix, heads):
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    program, path, folder, text = sys.argv[1:]
    reader = gguf.GGUFReader(path)
    count = {key: int(field(reader, f"llama.{name}")) for key, name in {
        "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
        "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv", "max_position_embeddings": "context_length"}.items()}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    config = transformers.LlamaConfig(
        **count, vocab_size=len(field(reader, "tokenizer.ggml.tokens")), tie_word_embeddings="output.weight" not in stored,
        rms_norm_eps=round(float(field(reader, "llama.attention.layer_norm_rms_epsilon")), 12),
        rope_theta=float(field(reader, "llama.rope.freq_base")))
    model = transformers.LlamaForCausalLM(config).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    own = load_file(Path(folder) / "model.safetensors")
    compared = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = stored[names.get_name(name, try_suffixes=(".weight",))]
            values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
            values = half_a_head_apart(values, heads) if heads else values
            if not np.array_equal(values.view(np.uint32), own[own_name(name)].numpy().view(np.uint32)):
                sys.exit(f"{name}: not what gguf unpacks")
            parameter.copy_(torch.from_numpy(values))
            compared += values.size
    print(f"{compared} numbers are those of gguf, to the bit")

    content = Path(text).read_bytes()
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    lead = json.loads((Path(folder) / "config.json").read_text())["eot_token_id"]
    ids = [lead] + tokenizer.encode(content.decode(), add_special_tokens=False).ids + [lead]
    score = subprocess.run([program, "score", "--model", folder, "--json", "--by", "token"], input=content,
                           capture_output=True, check=True)
    lines = [json.loads(line) for line in score.stdout.splitlines()]
    if [line["token"] for line in lines] != ids[1:]:
        sys.exit("other tokens than the tokenizers library's")
    with torch.no_grad():
        logits = model.double()(torch.tensor([ids[:-1]])).logits[0]
    nats = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    worst = max(abs(line["bits"] * math.log(2) - float(nat)) for line, nat in zip(lines, nats))
    print(f"{len(lines)} tokens, perplexity {math.exp(nats.mean()):.4f}, largest difference {worst:.1e} nats")
    if worst > 1e-3:
        sys.exit("more than 1e-3")


if __name__ == "__main__":
    main()
