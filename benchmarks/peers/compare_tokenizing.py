#!/usr/bin/env python3
"""Encoding of a text by Harmonic, Hugging Face's tokenizers and tiktoken with one vocabulary, one thread, as ratios.

    compare_tokenizing.py BIN TOKENIZER TEXT [--runs 5]

BIN is the folder with `harmonic` and `tokenizer_benchmark`; TOKENIZER a folder with GPT-2's encoder.json and vocab.bpe.
The ids of the three must be the same for the whole text, or nothing is timed. The text goes to the peers in pieces of
about 64 KB, cut after line ends, which both take faster than one long string; Hugging Face's by its batch call without
offsets, its fastest. The three take turns; medians count.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tiktoken
import tokenizers

PIECE = 1 << 16
# How GPT-2 cuts a text before its pairs are merged.
SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def byte_of_letter():
    """The byte behind each letter of GPT-2's vocabulary file."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + n): byte for n, byte in enumerate(others)}}


def load_tiktoken(folder):
    letters = byte_of_letter()
    ids = json.loads((folder / "encoder.json").read_text())
    end = ids.pop("<|endoftext|>", None)
    ranks = {bytes(letters[letter] for letter in token): rank for token, rank in ids.items()}
    special = {} if end is None else {"<|endoftext|>": end}
    return tiktoken.Encoding("peer", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=special)


def load_tokenizers(folder):
    model = tokenizers.models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def pieces_of(text):
    pieces, begin = [], 0
    while begin < len(text):
        # A piece ends where no token can cross: before a line end that follows something else than white space.
        cut = re.compile(r"(?<=\S)(?=\n)").search(text, min(begin + PIECE, len(text)))
        end = cut.start() if cut else len(text)
        pieces.append(text[begin:end])
        begin = end
    return pieces


def our_ids(harmonic, tokenizer, text):
    done = subprocess.run([harmonic, "tokenizer", "encode", "--tokenizer", tokenizer], input=text.encode(), capture_output=True)
    if done.returncode != 0:
        sys.exit(done.stderr.decode().strip())
    return [int(word) for word in done.stdout.split()]


def our_seconds(benchmark, tokenizer, text_file):
    done = subprocess.run([benchmark, "--tokenizer", tokenizer, "--only-text", text_file], capture_output=True, text=True)
    found = re.search(r"^encode text +[\d.]+ MB +([\d.]+) s", done.stdout, re.MULTILINE)
    if not found:
        sys.exit(f"{benchmark}: {done.stderr.strip() or 'printed no time for the text'}")
    return float(found[1])


def seconds_of(encode, pieces):
    begin = time.perf_counter()
    encode(pieces)
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8", errors="strict")
    pieces = pieces_of(text)
    fast, hugging = load_tiktoken(options.tokenizer), load_tokenizers(options.tokenizer)
    encoders = {
        "tiktoken": lambda texts: [fast.encode_ordinary(piece) for piece in texts],
        "tokenizers": lambda texts: [found.ids for found in hugging.encode_batch_fast(texts, add_special_tokens=False)],
    }
    ids = our_ids(options.bin / "harmonic", options.tokenizer, text)
    for name, encode in encoders.items():
        if [token for piece in encode(pieces) for token in piece] != ids:
            sys.exit(f"{name}: other ids than Harmonic's for {options.text}; nothing is timed")
    with tempfile.NamedTemporaryFile(suffix=".txt") as plain:
        plain.write(text.encode())
        plain.flush()
        times = {"Harmonic": [], **{name: [] for name in encoders}}
        for _ in range(options.runs):
            times["Harmonic"].append(our_seconds(options.bin / "tokenizer_benchmark", options.tokenizer, plain.name))
            for name, encode in encoders.items():
                times[name].append(seconds_of(encode, pieces))
    megabytes = len(text.encode()) / 1e6
    ours = statistics.median(times["Harmonic"])
    print(f"{megabytes:.2f} MB, {len(ids)} tokens, the same ids from all; one thread, medians of {options.runs} in turns; "
          f"tokenizers {tokenizers.__version__}, tiktoken {tiktoken.__version__}\n")
    print("| encoder | seconds | MB/s | Harmonic is faster by |\n|---|---|---|---|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.3f} | {megabytes / median:.1f} | {median / ours:.2f} |")


if __name__ == "__main__":
    main()
