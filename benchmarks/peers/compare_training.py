#!/usr/bin/env python3
"""Training steps of Harmonic and of PyTorch on the same models, side by side, as ratios.

    compare_training.py HARMONIC [--mixers harmonic,attention,mamba] [--d-model 256,512] [--lengths 1000,8000]
                        [--vocab 8192] [--tokens 8000] [--threads 2] [--turns 3] [--runs 5] [--no-compile]
                        [--out FILE] [--device cuda --precision bf16] [--compile-mamba]

HARMONIC is the program. For each mixer and width a model is made by it; PyTorch's loss on the same weights and
tokens must equal the program's, or nothing is timed. Then both take steps of the same size: gradients, their norm, AdamW;
in turns, since a shared machine is not always as fast. A turn's speeds are of RUNS steps each, their median; speeds and
ratio are the medians of TURNS turns. In bf16 PyTorch's steps are of autocast.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import models

PRESETS = {"harmonic": "paper", "attention": "paper-transformer", "mamba": "paper-mamba"}
TOLERANCE = 1e-4
TEXT = Path(__file__)
CHECKED_BYTES = 2000  # of the text: Hugging Face's Mamba takes its time


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr.strip().splitlines()[-1:]}")


def make_model(harmonic, mixer, width, context, folder):
    run(harmonic, "train", "--data", TEXT, "--out", folder, "--set", f"model.preset={PRESETS[mixer]}",
        "--model.d_model", width, "--model.harmonic.d_state", 0, "--model.attention.context", context,
        "--train.steps", 3, "--train.seq_len", 256, "--train.eval_every", 0)


def check_loss(harmonic, folder, length, work):
    """Mean bits a token of a text in cold windows, by both."""
    excerpt = TEXT.read_bytes()[:CHECKED_BYTES]
    (work / "excerpt.txt").write_bytes(excerpt)
    run(harmonic, "eval", "--model", folder, "--data", work / "excerpt.txt", "--format", "text", "--lengths", length, "--json", work / "eval.json")
    ours = json.loads((work / "eval.json").read_text())["results"][0]
    tokens = torch.tensor([0, *excerpt, 0])
    model = models.load(folder)
    nats = 0.0
    with torch.no_grad():
        for begin in range(0, len(tokens) - 1, length):
            window = tokens[begin:begin + length + 1]
            logits = model(window[None, :-1])[0]
            nats += F.cross_entropy(logits.double(), window[1:], reduction="sum").item()
    assert ours["tokens"] == len(tokens) - 1
    theirs = nats / math.log(2) / ours["tokens"]
    if not abs(theirs / ours["bits_per_token"] - 1) <= TOLERANCE:
        sys.exit(f"{folder}: PyTorch has {theirs:.6f} bits a token where Harmonic has {ours['bits_per_token']:.6f}: "
                 "they are not the same model; nothing is timed")
    return theirs


def time_ours(harmonic, mixer, width, length, options, work):
    run(harmonic, "bench", "train", "--mixers", mixer, "--d-model", width, "--lengths", length, "--vocab", options.vocab,
        "--tokens", options.tokens, "--threads", options.threads, "--runs", options.runs, "--json", work / "bench.json",
        "--device", options.device, "--precision", options.precision, "--memory-mb", options.memory_mb)
    return json.loads((work / "bench.json").read_text())["rows"][0]["tokens/s"]


def their_turns(folder, length, options, compiled):
    """A function that takes a turn's steps with PyTorch and returns tokens a second."""
    model = models.load(folder, options.vocab).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    sequences = max(1, options.tokens // length)
    tokens = torch.randint(options.vocab, (sequences, length + 1), device=options.device)
    # Our forms as one graph or not at all: parts that the compiler leaves out are slow, and no one would see it.
    torch.compiler.reset()
    forward = torch.compile(model, fullgraph=not isinstance(model, models.Mamba), dynamic=False) if compiled else model

    def step():
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            logits = forward(tokens[:, :-1])
            loss = F.cross_entropy(logits.reshape(-1, options.vocab), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        if options.device == "cuda":
            torch.cuda.synchronize()

    def turn():
        step()
        seconds = []
        for _ in range(options.runs):
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
        return sequences * length / statistics.median(seconds)

    step()
    return turn


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harmonic", type=Path)
    parser.add_argument("--mixers", default="harmonic,attention,mamba")
    parser.add_argument("--d-model", default="256,512")
    parser.add_argument("--lengths", default="1000,8000")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--compile-mamba", action="store_true", help="on a card: by PyTorch's associative scan")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--memory-mb", type=int, default=2048, help="of the program's activations")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.harmonic = options.harmonic.resolve()
    models.Mamba.has_parallel_scan &= not options.compile_mamba
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{options.threads} threads"
    lines = [f"PyTorch {torch.__version__}, {where}, {options.precision}, vocabulary {options.vocab}, steps of "
             f"{options.tokens} tokens, {options.turns} turns of {options.runs}; tokens a second",
             "", "| mixer | d_model | T | Harmonic | PyTorch | ratio | of each turn |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        print(line, flush=True)
    for mixer in options.mixers.split(","):
        for width in map(int, options.d_model.split(",")):
            for length in map(int, options.lengths.split(",")):
                with tempfile.TemporaryDirectory() as name:
                    work = Path(name)
                    make_model(options.harmonic, mixer, width, max(length, 1000), work / "model")
                    check_loss(options.harmonic, work / "model", 300, work)
                    # Hugging Face's Mamba walks time in a Python loop, which a compiler would unroll for hours on a processor;
                    # mambapy's scan is measured as its users run it.
                    compiled = options.compile_mamba if mixer == "mamba" else not options.no_compile
                    their_turn = their_turns(work / "model", length, options, compiled)
                    turns = [(time_ours(options.harmonic, mixer, width, length, options, work), their_turn()) for _ in range(options.turns)]
                    ours, theirs = map(statistics.median, zip(*turns))
                    ratios = [ours / theirs for ours, theirs in turns]
                form = "" if compiled else " (not compiled)"
                if mixer == "mamba" and models.Mamba.has_parallel_scan:
                    form += " (mambapy's parallel scan)"
                lines.append(f"| {mixer} | {width} | {length} | {ours:.0f} | {theirs:.0f}{form} | {statistics.median(ratios):.2f} | "
                             f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} |")
                print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
