#!/usr/bin/env python3
"""Writes the golden files that the reader of GGUF files is held against: tests/golden/gguf_blocks.safetensors,
tests/golden/small_llama.gguf and small_llama_gguf.safetensors.

    make_golden_gguf.py FOLDER        (pip install gguf torch transformers safetensors)

gguf_blocks holds random blocks of each packed type, TYPE.blocks, and what the package gguf makes of them, TYPE.values.
small_llama is a model with random weights in most of the types, with a tokenizer of SmolLM's kind; beside it a text,
its tokens by the tokenizers library, and the logits that transformers computes of the unpacked weights.
"""
import importlib.metadata
import sys
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"]
# Bytes of a block at which f16 numbers lie.
SCALES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208]}
BLOCKS = 16

WIDTH, FFN, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
TEXT = "The cat's 2nd hat, 1984:  ünd\n\n  12 \u00b2\u0967 the\tthe \U0001F600\x04 on 3.5!"


def blocks_file(path):
    generator = np.random.default_rng(1)
    tensors = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = generator.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in SCALES.get(name, []):
            # Finite ones, zeros of both signs and the smallest among them.
            scales = generator.integers(0, 1 << 16, BLOCKS, dtype=np.uint16) & 0xBFFF
            scales[:4] = [0, 0x8000, 1, 0x83FF]
            blocks[:, at:at + 2] = scales.view(np.uint8).reshape(BLOCKS, 2)
        if name == "BF16":
            blocks[:, 1] &= 0xBF
        tensors[name + ".blocks"] = torch.from_numpy(blocks)
        tensors[name + ".values"] = torch.from_numpy(gguf.dequantize(blocks, kind).astype(np.float32))
    save_file(tensors, path, metadata={"format": "pt", "gguf": importlib.metadata.version("gguf")})


def alphabet():
    """GPT-2's characters for bytes, by byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(shown)))
    return letters


def small_tokenizer():
    letters = alphabet()
    # As in SmolLM's, some bytes have no token.
    texts = [letters[byte] for byte in range(256) if byte not in (0x04, 0xC0, 0xF5, 0xFF)]
    space = letters[0x20]
    merges = [(space, "t"), ("h", "e"), (space + "t", "he"), ("a", "t"), ("1", "9"), (space, "1"), (space, space),
              ("o", "n"), (letters[0xC3], letters[0xBC]), ("'", "s"), (space, "h")]
    texts += [left + right for left, right in merges]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(specials + texts)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    split = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer, list(vocabulary), merges, specials


def side_by_side(matrix, heads):
    """Rows as llama.cpp has them: rotary pairs as neighbours."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def model_file(path, expected):
    tokenizer, tokens, merges, specials = small_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokens), hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, rms_norm_eps=1e-5, rope_theta=500.0,
        tie_word_embeddings=True, attn_implementation="eager", max_position_embeddings=128)
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * (torch.rand(parameter.shape) - 0.5))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(500.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in specials else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    kinds = {"q_proj": "Q4_1", "k_proj": "Q4_0", "v_proj": "F16", "o_proj": "Q8_0", "gate_proj": "Q8_0",
             "up_proj": "BF16", "down_proj": "Q4_1", "embed_tokens": "Q8_0"}
    for name, value in model.named_parameters():
        part = name.split(".")[-2]
        kind = gguf.GGMLQuantizationType[kinds.get(part, "F32")]
        data = value.detach().numpy()
        heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(part)
        packed = gguf.quantize(side_by_side(data, heads) if heads else data, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), packed, raw_dtype=kind)
        # What is stored is what the library computes with.
        value.data.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(data, kind), kind).astype(np.float32)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ids = [0] + tokenizer.encode(TEXT, add_special_tokens=False).ids
    with torch.no_grad():
        logits = model.double()(torch.tensor([ids]), use_cache=False).logits[0]
    save_file({"tokens": torch.tensor(ids).int(), "logits": logits.float()}, expected,
              metadata={"format": "pt", "text": TEXT, "gguf": importlib.metadata.version("gguf"),
                        "transformers": transformers.__version__})
    print(f"{path}: {len(tokens)} tokens, {len(ids)} in the text")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    blocks_file(folder / "gguf_blocks.safetensors")
    model_file(folder / "small_llama.gguf", folder / "small_llama_gguf.safetensors")


if __name__ == "__main__":
    main()
