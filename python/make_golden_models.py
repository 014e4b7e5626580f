#!/usr/bin/env python3
"""Writes the golden files that the baselines and the conversion are held against: tests/golden/{llama,mamba}.safetensors,
llama_variants.safetensors, and tests/golden/llama_folder with llama_folder.safetensors.

    make_golden_models.py FOLDER        (pip install torch transformers safetensors)

Small models of the Hugging Face library with random weights, LlamaForCausalLM and MambaForCausalLM: their weights
under Harmonic's names, a text (`tokens`) and the logits that the library gives it (`logits`). llama_folder is a folder as
the library saves it, bf16 in two shards with a tokenizer of SentencePiece's kind; beside it the text that its metadata
holds, as the library's `tokens`, and their `logits`. llama_variants has the logits of llama's weights and text under
other settings: NAME for each, and the library's configuration in the metadata.
"""
import json
import re
import sys
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

VOCABULARY, WIDTH, LAYERS, LENGTH = 37, 24, 2, 150

LLAMA = transformers.LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=4,
    num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500.0, tie_word_embeddings=False, attn_implementation="eager",
    max_position_embeddings=LENGTH)
MAMBA = transformers.MambaConfig(
    vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=16, expand=2, conv_kernel=4,
    layer_norm_epsilon=1e-5, tie_word_embeddings=False, use_mambapy=False)

# What Harmonic's configuration calls them: the model is built from these.
SETTINGS = {
    "llama": {"mixer": "attention", "d_model": WIDTH, "n_layers": LAYERS, "ffn_multiple": 40 / WIDTH,
              "attention": {"n_heads": 4, "n_kv_heads": 2, "rope_base": 500.0, "context": LENGTH}},
    "mamba": {"mixer": "mamba", "d_model": WIDTH, "n_layers": LAYERS},
}

NAMES = [  # (the library's, Harmonic's)
    (r"(model|backbone)\.embed(_tokens|dings)\.weight", "embed.weight"),
    (r"lm_head\.weight", "head.weight"),
    (r"(model\.norm|backbone\.norm_f)\.weight", "final_norm.weight"),
    (r"model\.layers\.(\d+)\.input_layernorm\.weight", r"layers.\1.mixer_norm.weight"),
    (r"model\.layers\.(\d+)\.post_attention_layernorm\.weight", r"layers.\1.ffn_norm.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.(.*)", r"layers.\1.mixer.\2"),
    (r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight", r"layers.\1.ffn.\2.weight"),
    (r"backbone\.layers\.(\d+)\.norm\.weight", r"layers.\1.mixer_norm.weight"),
    (r"backbone\.layers\.(\d+)\.mixer\.(.*)", r"layers.\1.mixer.\2"),
]


def own_name(name):
    for theirs, ours in NAMES:
        if re.fullmatch(theirs, name):
            return re.sub(theirs, ours, name)
    sys.exit(f"no name for {name}")


def write(path, model, settings):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * (torch.rand(parameter.shape, generator=generator) - 0.5))
        tokens = torch.randint(VOCABULARY, (1, LENGTH), generator=generator)
        logits = model.double()(tokens, use_cache=False).logits[0]
    tensors = {own_name(name): value.float().contiguous() for name, value in model.named_parameters()}
    tensors["tokens"] = tokens[0].int()
    tensors["logits"] = logits.float()
    save_file(tensors, path, metadata={"format": "pt", "settings": json.dumps(settings),
                                       "transformers": transformers.__version__, "torch": torch.__version__})
    print(f"{path}: {sum(t.numel() for t in tensors.values())} numbers")


TEXT = "Once upon a time the  cat sat\non the mat, ünd \U0001F600 <s> went on."


def small_tokenizer():
    """A vocabulary as sentencepiece-trained Llama models have it."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("\u2581", "t"), ("h", "e"), ("a", "t"), ("\u2581t", "he"), ("o", "n"), ("\u2581", "on"),
              ("\u2581", "\u2581"), ("c", "e")]
    tokens += [left + right for left, right in merges] + list("\u2581thecaonsmiudp,.wOü")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token="<unk>", fuse_unk=True,
        byte_fallback=True))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")])
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in tokens[:3]])
    return tokenizer


def write_folder(path, expected):
    tokenizer = small_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=24, intermediate_size=44, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500.0, tie_word_embeddings=False,
        attn_implementation="eager", max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
    model = transformers.LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * (torch.rand(parameter.shape, generator=generator) - 0.5))
        model.bfloat16().save_pretrained(path, max_shard_size="30KB")
        model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager")
        tokenizer.save(str(path / "tokenizer.json"))
        # Its special tokens in the text are no text here: they are spelt.
        text = TEXT.replace("<s>", "< s>")
        ids = [1] + tokenizer.encode(text, add_special_tokens=False).ids
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    save_file({"tokens": torch.tensor(ids).int(), "logits": logits.float()}, expected,
              metadata={"format": "pt", "text": text, "transformers": transformers.__version__})
    print(f"{path}: {sum(p.numel() for p in model.parameters())} numbers, {len(ids)} tokens")


# What changes positions, norms or attention and no weight. The text is longer than the 40 tokens that these models
# are said to be trained for.
VARIANTS = {
    "epsilon": {"rms_norm_eps": 1e-2},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 40},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}},
    "yarn_turns": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40,
                                    "beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.3}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 40,
                                "high_freq_factor": 3.0, "low_freq_factor": 0.5}},
    "window": {"sliding_window": 9},
}


def write_variants(path, source):
    stored = load_file(source)
    logits, metadata = {}, {"format": "pt", "transformers": transformers.__version__}
    for name, changes in VARIANTS.items():
        settings = LLAMA.to_dict()
        for key in ("rope_parameters", "model_type", "architectures", "transformers_version", "dtype"):
            settings.pop(key, None)
        mistral = "sliding_window" in changes
        config = (transformers.MistralConfig if mistral else transformers.LlamaConfig)(
            **{**settings, "rope_theta": 500.0, **changes}, attn_implementation="eager")
        model = (transformers.MistralForCausalLM if mistral else transformers.LlamaForCausalLM)(config).eval()
        with torch.no_grad():
            for theirs, parameter in model.named_parameters():
                parameter.copy_(stored[own_name(theirs)])
            # Token by token: dynamic scaling turns each by the length of the text so far.
            cache, rows = None, []
            for token in stored["tokens"]:
                out = model.double()(token.reshape(1, 1).long(), past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                rows.append(out.logits[0, 0])
        logits[name] = torch.stack(rows).float()
        metadata[name] = json.dumps({**json.loads(config.to_json_string()),
                                     "architectures": [type(model).__name__]})
    save_file(logits, path, metadata=metadata)
    print(f"{path}: {len(logits)} variants")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.manual_seed(0)
    folder = Path(sys.argv[1])
    write(folder / "llama.safetensors", transformers.LlamaForCausalLM(LLAMA).eval(), SETTINGS["llama"])
    write(folder / "mamba.safetensors", transformers.MambaForCausalLM(MAMBA).eval(), SETTINGS["mamba"])
    write_variants(folder / "llama_variants.safetensors", folder / "llama.safetensors")
    write_folder(folder / "llama_folder", folder / "llama_folder.safetensors")


if __name__ == "__main__":
    main()
