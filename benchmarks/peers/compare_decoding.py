#!/usr/bin/env python3
"""Decoding by Harmonic and by llama.cpp of the same GGUF file, side by side, as ratios.

    compare_decoding.py HARMONIC MODEL.gguf --text FILE [--tokens 1500] [--contexts 128,2000,8000] [--threads 2] [--runs 5] [--check-only]
        [--student FOLDER [--student-weights int8]]

First both must compute the same, or nothing is timed. On the file's weights written as F32, the log-probability of each
token of the text within 1e-3 of a nat, and the same greedy text; on the file itself, whose blocks llama.cpp multiplies
with activations rounded to 8 bits, the perplexity of the text within 0.5 %; for both llama.cpp is told to keep keys,
values and attention in f32. Then both read contexts and decode after them, in turns, llama.cpp as it is by default. A student, a
model folder that harmonic distill wrote, takes the file's place on our side of the clock alone.
"""
import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np

from llama_peer import LlamaCpp

LOG_PROBABILITY, PERPLEXITY = 1e-3, 0.005
GREEDY = 48  # tokens of the greedy text
DECODED = 32  # tokens after a context


def run(words, text=""):
    done = subprocess.run([str(word) for word in words], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def write_as_f32(source, to):
    """The same model with every tensor as F32."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(to, architecture)
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(n) for n in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def scores(harmonic, model, text, threads):
    """Token ids, and nats of each, by Harmonic; the end of text that a document must predict is left out."""
    lines = run([harmonic, "score", "--model", model, "--by", "token", "--json", "--threads", threads], text).splitlines()
    found = [json.loads(line) for line in lines][:-1]
    return [one["token"] for one in found], np.array([one["bits"] for one in found]) * math.log(2)


def their_scores(peer, begin, tokens):
    peer.restart()
    logits = peer.feed([begin, *tokens[:-1]], every=True).astype(np.float64)
    largest = logits.max(axis=1)
    log_sums = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return log_sums - logits[np.arange(len(tokens)), tokens]


def greedy(peer, begin, tokens, count):
    peer.restart()
    logits = peer.feed([begin, *tokens])
    chosen = []
    while len(chosen) < count:
        chosen.append(int(logits[-1].argmax()))
        logits = peer.feed(chosen[-1:])
    return chosen


def check(options, text, work):
    reader = gguf.GGUFReader(options.model)
    ends = reader.fields["tokenizer.ggml.eos_token_id"].contents()
    names = reader.fields["tokenizer.ggml.tokens"].contents()
    begin = names.index("<|endoftext|>") if "<|endoftext|>" in names else reader.fields["tokenizer.ggml.bos_token_id"].contents()
    plain = work / "f32.gguf"
    write_as_f32(options.model, plain)
    shown = {}
    for path in (plain, options.model):
        tokens, nats = scores(options.harmonic, path, text, options.threads)
        tokens, nats = tokens[:options.tokens], nats[:options.tokens]
        peer = LlamaCpp(path, options.tokens + GREEDY + 8, options.threads, exact=True)
        theirs = their_scores(peer, begin, tokens)
        perplexity = [math.exp(x.mean()) for x in (nats, theirs)]
        shown[path] = (np.abs(nats - theirs).max(), *perplexity)
        print(f"{'F32' if path == plain else 'file'}: {len(tokens)} tokens; largest difference of a log-probability "
              f"{shown[path][0]:.1e} nats; perplexity {perplexity[0]:.4f}, llama.cpp {perplexity[1]:.4f} "
              f"({100 * (perplexity[1] / perplexity[0] - 1):+.3f} %)")
        if path == plain:
            prompt = tokens[:64]
            chosen = greedy(peer, begin, prompt, GREEDY)
            written = run([options.harmonic, "tokenizer", "decode", "--tokenizer", work / "folder"], " ".join(map(str, prompt)))
            ours = run([options.harmonic, "generate", "--model", path, "--prompt", written.rstrip("\n"), "--temperature", 0,
                        "--ignore-end", "--max-tokens", GREEDY, "--threads", options.threads])
            expected = run([options.harmonic, "tokenizer", "decode", "--tokenizer", work / "folder"], " ".join(map(str, [*prompt, *chosen])))
            same = ours.rstrip("\n") == expected.rstrip("\n")
            print(f"F32: greedy text of {GREEDY} tokens after 64: {'the same' if same else 'another'}")
            if not same and ends not in chosen:
                sys.exit(f"the greedy texts differ; nothing is timed\nours:   {ours}\ntheirs: {expected}")
        peer.close()
    if shown[plain][0] > LOG_PROBABILITY:
        sys.exit(f"log-probabilities differ by more than {LOG_PROBABILITY}; nothing is timed")
    if abs(shown[options.model][2] / shown[options.model][1] - 1) > PERPLEXITY:
        sys.exit(f"perplexities differ by more than {100 * PERPLEXITY} %; nothing is timed")


def time_ours(options, context, work):
    model = [options.student, "--weights", options.student_weights] if options.student else [options.model]
    run([options.harmonic, "bench", "decode", "--model", *model, "--contexts", context, "--tokens", DECODED, "--runs", 1,
         "--threads", options.threads, "--json", work / "bench.json"])
    row = json.loads((work / "bench.json").read_text())["rows"][0]
    return row["prefill tokens/s"], row["tokens/s"]


def time_theirs(peer, context, vocabulary):
    text = np.random.default_rng(1).integers(vocabulary, size=context + DECODED).tolist()
    peer.restart()
    start = time.perf_counter()
    peer.feed(text[:context])
    read = time.perf_counter()
    for token in text[context:]:
        peer.feed([token])
    return context / (read - start), DECODED / (time.perf_counter() - read)


def measure(options, work):
    peer = LlamaCpp(options.model, max(options.contexts) + DECODED + 8, options.threads)
    print(f"llama.cpp built for: {peer.instructions()}; {options.threads} threads; medians of {options.runs} runs in turns")
    print("| context | prefill tokens/s | llama.cpp | ratio | decode tokens/s | llama.cpp | ratio |")
    print("|---|---|---|---|---|---|---|")
    for context in options.contexts:
        ours, theirs = [], []
        for _ in range(options.runs):
            ours.append(time_ours(options, context, work))
            theirs.append(time_theirs(peer, context, peer.vocabulary))
        a, b = ([statistics.median(column) for column in zip(*runs)] for runs in (ours, theirs))
        print(f"| {context} | {a[0]:.0f} | {b[0]:.0f} | {a[0] / b[0]:.2f} | {a[1]:.1f} | {b[1]:.1f} | {a[1] / b[1]:.2f} |", flush=True)
    peer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harmonic")
    parser.add_argument("model")
    parser.add_argument("--text", required=True, help="a text that both are held to")
    parser.add_argument("--tokens", type=int, default=1500, help="of it")
    parser.add_argument("--contexts", default="128,2000,8000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--student", help="a model folder to time in place of the file")
    parser.add_argument("--student-weights", default="int8")
    options = parser.parse_args()
    options.contexts = [int(n) for n in options.contexts.split(",")]
    text = Path(options.text).read_text(encoding="utf-8")[:8 * options.tokens]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run([options.harmonic, "convert", "--from", options.model, "--out", work / "folder"])
        check(options, text, work)
        if not options.check_only:
            measure(options, work)


if __name__ == "__main__":
    main()
