#!/usr/bin/env python3
"""Training steps of Harmonic and of PyTorch on the same models, side by side, as ratios.

    compare_training.py HARMONIC [--mixers harmonic,attention,mamba] [--d-model 256,512] [--lengths 1000,8000]
                        [--vocab 8192] [--tokens 8000] [--threads 2] [--turns 3] [--runs 5] [--no-compile]
                        [--mkl-kernels as-installed|intel] [--out FILE] [--device cuda --precision bf16] [--compile-mamba]

HARMONIC is the program. For each mixer and width a model is made by it. The loss of PyTorch's first step on the same
weights and tokens must equal the program's, or nothing is timed; in bf16 and on a card that of the model in f32, not
compiled, on a processor. Then both take steps of the same size: gradients, their norm, AdamW; in turns, since a shared
machine is not always as fast. A turn's speeds are of RUNS steps each, their median; speeds and ratio are the medians of
TURNS turns. In bf16 PyTorch's steps are of autocast. On a processor its process keeps the memory that it has been given; and with --mkl-kernels intel MKL
takes the kernels that it has for Intel's processors, which on others it does not by itself.
"""
import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

import models

PRESETS = {"harmonic": "paper", "attention": "paper-transformer", "mamba": "paper-mamba"}
TOLERANCE = 1e-4
SHARPER = 30  # times the weights of the head that is compared: what differs before it shows in the loss then
FEW = (6, 300)  # texts and their length that are checked where the steps themselves are not


def run(*words, text=None):
    done = subprocess.run([str(word) for word in words], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def random_words(vocabulary, tokens):
    """A text with at least so many tokens, of which a vocabulary of this size can be learned."""
    generator = random.Random(0)
    return " ".join("".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(max(4 * vocabulary, tokens)))


def make_model(harmonic, mixer, width, context, vocabulary, text, folder):
    run(harmonic, "train", "--data", text, "--out", folder, "--set", f"model.preset={PRESETS[mixer]}",
        "--set", f"data.tokenizer=bpe:{vocabulary}", "--model.d_model", width, "--model.harmonic.d_state", 0,
        "--model.attention.context", context, "--train.steps", 3, "--train.seq_len", 256, "--train.eval_every", 0)
    found = json.loads((folder / "config.json").read_text())["vocab_size"]
    if found != vocabulary:
        sys.exit(f"{text} gave a vocabulary of {found} tokens, expected {vocabulary}")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}
    tensors["head.weight"] *= SHARPER
    save_file(tensors, folder / "model.safetensors", metadata)


def read_windows(harmonic, folder, text, sequences, length):
    """The token that leads the text and its first ones, as [sequences, length + 1]; a window's last is the next one's first."""
    lead = json.loads((folder / "config.json").read_text())["eot_token_id"]
    ids = run(harmonic, "tokenizer", "encode", "--tokenizer", folder, text=text.read_text()).split()
    tokens = torch.tensor([lead, *map(int, ids[:sequences * length])])
    return tokens.unfold(0, length + 1, length).contiguous()


def check_loss(theirs, harmonic, folder, text, sequences, length, work):
    """Holds their mean nats a token of the text's first windows against the program's."""
    run(harmonic, "eval", "--model", folder, "--data", text, "--format", "text", "--lengths", length,
        "--max-tokens", sequences * length, "--json", work / "eval.json")
    ours = json.loads((work / "eval.json").read_text())["results"][0]
    assert ours["tokens"] == sequences * length
    bits = theirs / math.log(2)
    if not abs(bits / ours["bits_per_token"] - 1) <= TOLERANCE:
        sys.exit(f"{folder}: PyTorch has {bits:.6f} bits a token where Harmonic has {ours['bits_per_token']:.6f}: "
                 "they are not the same model; nothing is timed")


def time_ours(harmonic, mixer, width, length, options, work):
    run(harmonic, "bench", "train", "--mixers", mixer, "--d-model", width, "--lengths", length, "--vocab", options.vocab,
        "--tokens", options.tokens, "--threads", options.threads, "--runs", options.runs, "--json", work / "bench.json",
        "--device", options.device, "--precision", options.precision, "--memory-mb", options.memory_mb)
    return json.loads((work / "bench.json").read_text())["rows"][0]["tokens/s"]


def loss_of(model, tokens):
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def their_step(model, tokens, options, compiled):
    """A function that takes a step with PyTorch and returns the loss before it."""
    model, tokens = model.to(options.device), tokens.to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    # Our forms as one graph or not at all: parts that the compiler leaves out are slow, and no one would see it. The loss
    # belongs to it, so that it can be fused with what makes the logits.
    torch.compiler.reset()
    forward = torch.compile(loss_of, fullgraph=not isinstance(model, models.Mamba), dynamic=False) if compiled else loss_of

    def step():
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = forward(model, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if options.device == "cuda":
            torch.cuda.synchronize()
        return loss.detach()

    return step


def their_speed(step, tokens, runs):
    """Tokens a second of a turn's steps."""
    step()
    seconds = []
    for _ in range(runs):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return tokens / statistics.median(seconds)


def compare(mixer, width, length, compiled, options, work):
    """Tokens a second of both in each turn."""
    harmonic, folder, text = options.harmonic, work / "model", work / "text.txt"
    sequences = max(1, options.tokens // length)
    text.write_text(random_words(options.vocab, sequences * length))
    make_model(harmonic, mixer, width, max(length, 1000), options.vocab, text, folder)
    model = models.load(folder)
    of_step = options.device == "cpu" and options.precision == "f32"
    if not of_step:
        with torch.no_grad():
            loss = loss_of(model, read_windows(harmonic, folder, text, *FEW)).item()
        check_loss(loss, harmonic, folder, text, *FEW, work)
    step = their_step(model, read_windows(harmonic, folder, text, sequences, length), options, compiled)
    loss = step().item()
    if of_step:
        check_loss(loss, harmonic, folder, text, sequences, length, work)
    return [(time_ours(harmonic, mixer, width, length, options, work), their_speed(step, sequences * length, options.runs))
            for _ in range(options.turns)]


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
    parser.add_argument("--mkl-kernels", choices=["as-installed", "intel"], default="as-installed", help="on a processor")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--memory-mb", type=int, default=2048, help="of the program's activations")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    blas = None
    if options.device == "cpu":
        import peer_environment  # the bundle for a card's machine is without it
        blas = peer_environment.entered()
        if not blas:
            sys.exit(peer_environment.restart(options.mkl_kernels))
    options.harmonic = options.harmonic.resolve()
    models.Mamba.has_parallel_scan &= not options.compile_mamba
    torch.set_num_threads(options.threads)
    where = f"{blas[0]} ({blas[1]}), {options.threads} threads" if blas else torch.cuda.get_device_name()
    lines = [f"PyTorch {torch.__version__}, {where}, {options.precision}, vocabulary {options.vocab}, steps of "
             f"{options.tokens} tokens, {options.turns} turns of {options.runs}; tokens a second",
             "", f"| mixer | d_model | T | Harmonic | PyTorch{f', {blas[0]}' if blas else ''} | ratio | of each turn |",
             "|---|---|---|---|---|---|---|"]
    for line in lines:
        print(line, flush=True)
    for mixer in options.mixers.split(","):
        for width in map(int, options.d_model.split(",")):
            for length in map(int, options.lengths.split(",")):
                # Hugging Face's Mamba walks time in a Python loop, which a compiler would unroll for hours on a processor;
                # mambapy's scan is measured as its users run it.
                compiled = options.compile_mamba if mixer == "mamba" else not options.no_compile
                with tempfile.TemporaryDirectory() as work:
                    turns = compare(mixer, width, length, compiled, options, Path(work))
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
