#!/usr/bin/env python3
"""Harmonic's matrix product beside those of MKL, oneDNN and OpenBLAS, on the shapes of `harmonic bench ops`.

    compare_matmul.py HARMONIC [--d-model 256,512] [--rows 16384] [--threads 1,2] [--turns 3] [--runs 5]

y = x W^T with x of ROWS by C and W of 1, 2 and 4 C by C, f32. PyTorch's wheels bring MKL and oneDNN, NumPy's bring
OpenBLAS. Each library's product is first held against one in double precision. All are measured in turns, since a shared
machine is not always as fast, each library in a process of its own with so many threads, whose allocator keeps what it has
been given: the libraries make a result anew for each product, and page faults would be most of its time. Shown are GFLOP/s,
the medians of the turns; the median of Harmonic's share of a turn's best of the others; and the page faults that were left
in a call of theirs. Only Harmonic's result has the same bits whatever the number of rows and threads.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEERS = ("MKL", "oneDNN", "OpenBLAS")
TOLERANCE = 1e-5


def product_of(peer, threads):
    """A function (x, w) -> y of NumPy arrays, and one that makes them ready, so that only the product is timed."""
    import numpy as np
    if peer == "OpenBLAS":
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
        if "openblas" not in blas:
            raise SystemExit(f"NumPy was built with {blas}, not with OpenBLAS")
        return (lambda x, w: x @ w.T), (lambda a: a), (lambda y: y)
    import torch
    torch.set_num_threads(threads)
    if peer == "MKL":
        if not torch.backends.mkl.is_available():
            raise SystemExit("this PyTorch was built without MKL")
        torch.backends.mkldnn.set_flags(False)
        return torch.nn.functional.linear, torch.from_numpy, (lambda y: y.numpy())
    if not torch.backends.mkldnn.is_available():
        raise SystemExit("this PyTorch was built without oneDNN")
    return torch.nn.functional.linear, (lambda a: torch.from_numpy(a).to_mkldnn()), (lambda y: y.to_dense().numpy())


def measure_peer(peer, threads, shapes, runs):
    import numpy as np
    product, ready, plain = product_of(peer, threads)
    generator = np.random.default_rng(1)
    speeds = []
    for rows, inputs, outputs in shapes:
        x = generator.standard_normal((rows, inputs), dtype=np.float32)
        w = generator.standard_normal((outputs, inputs), dtype=np.float32)
        a, b = ready(x), ready(w)
        found = plain(product(a, b))[:64]
        expected = x[:64].astype(np.float64) @ w.T.astype(np.float64)
        if not np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected):
            raise SystemExit(f"{peer}: its product of {rows} x {inputs} x {outputs} is wrong; nothing is shown")
        times = []
        for i in range(runs + 2):
            if i == 2:
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            product(a, b)
            times.append(time.perf_counter() - start)
        faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / runs
        speeds.append((2e-9 * rows * inputs * outputs / statistics.median(times[2:]), faults))
    return speeds


def run_peer(peer, threads, shapes, runs):
    kept = str(1 << 32)  # glibc neither maps a block of its own for a result nor gives memory back
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_=kept, MALLOC_TRIM_THRESHOLD_=kept, MALLOC_TOP_PAD_=str(1 << 30), OPENBLAS_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    done = subprocess.run([sys.executable, __file__, "--peer", peer, "--threads", str(threads), "--runs", str(runs), "--shapes", json.dumps(shapes), "-"],
                          env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{peer}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def run_ours(harmonic, threads, shapes, options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ops.json"
        done = subprocess.run([harmonic, "bench", "ops", "--only", "linear, C", "--d-model", options.d_model, "--rows", str(options.rows),
                               "--threads", str(threads), "--runs", str(options.runs), "--json", path], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"harmonic: {done.stderr.strip()}")
        report = json.loads(path.read_text())
    speeds = {(row["rows"], row["channels"], row["op"]): row["GFLOP/s"] for row in report["rows"]}
    return [speeds[rows, inputs, f"linear, C -> {outputs // inputs} C"] for rows, inputs, outputs in shapes], report["machine"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harmonic")
    parser.add_argument("--d-model", default="256,512")
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--shapes", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(measure_peer(options.peer, int(options.threads), json.loads(options.shapes), options.runs)))
        return
    shapes = [(options.rows, int(c), wider * int(c)) for c in options.d_model.split(",") for wider in (1, 2, 4)]
    print("| rows x in x out | threads | Harmonic | " + " | ".join(PEERS) + " | of the best | of the matrix peak | their page faults |")
    print("|---" * (len(PEERS) + 6) + "|")
    for threads in map(int, options.threads.split(",")):
        turns = []
        for _ in range(options.turns):
            ours, machine = run_ours(options.harmonic, threads, shapes, options)
            turns.append((ours, [run_peer(peer, threads, shapes, options.runs) for peer in PEERS]))
        for i, shape in enumerate(shapes):
            ours = statistics.median(ours[i] for ours, _ in turns)
            theirs = [statistics.median(peers[p][i][0] for _, peers in turns) for p in range(len(PEERS))]
            share = statistics.median(ours[i] / max(speeds[i][0] for speeds in peers) for ours, peers in turns)
            faults = max(speeds[i][1] for _, peers in turns for speeds in peers)
            print(f"| {' x '.join(map(str, shape))} | {threads} | {ours:.1f} | " + " | ".join(f"{speed:.1f}" for speed in theirs) +
                  f" | {share:.2f} | {100 * ours * 1e9 / machine['matrix_peak']:.0f} % | {faults:.0f} |", flush=True)


if __name__ == "__main__":
    main()
