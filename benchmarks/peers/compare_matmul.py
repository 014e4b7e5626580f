#!/usr/bin/env python3
"""Harmonic's matrix products beside those of MKL, oneDNN and OpenBLAS, on the shapes of `harmonic bench ops`.

    compare_matmul.py HARMONIC [--d-model 256,512] [--rows 16384] [--threads 1,2] [--turns 3] [--runs 5]

Forward y = x W^T, with x of ROWS by C and W of 1, 2 and 4 C by C, f32; backward dx = dy W and dW = dy^T x, whose times are
added up. Theirs are the products alone; Harmonic's backward adds to dW, and sums dy over the rows for a bias. PyTorch's
wheels bring MKL and oneDNN, NumPy's bring OpenBLAS; where a C compiler is at hand, MKL takes the kernels that it has for
Intel's processors where these are faster (peer_environment.py). Each library's products are first held against those in
double precision. All are measured in turns, since a shared machine is not always as fast, each library in a process of its
own with so many threads, whose allocator keeps what it has been given: oneDNN makes a result anew for each product, and
page faults would be much of its time. Shown are GFLOP/s, the medians of the turns; the median of Harmonic's share of a
turn's best of the others; and the page faults that were left in a call of theirs. Only Harmonic's results have the same
bits whatever the number of rows and threads.
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

import peer_environment

PEERS = ("MKL", "oneDNN", "OpenBLAS")
DIRECTIONS = {"forward": "linear, C -> {} C", "backward": "linear backward, C -> {} C"}  # as `harmonic bench ops` calls them
TOLERANCE = 1e-5


def products_of(peer, x, w, dy):
    """Three functions that take y, dx and dW of these NumPy arrays by a library, ready to be timed, and one that makes an
    array of what they return."""
    import numpy as np

    def called(product, y, dx, dw):
        return [lambda: product(x, w.T, out=y), lambda: product(dy, w, out=dx), lambda: product(dy.T, x, out=dw)]

    if peer == "OpenBLAS":
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
        if "openblas" not in blas:
            raise SystemExit(f"NumPy was built with {blas}, not with OpenBLAS")
        return called(np.matmul, *map(np.empty_like, (dy, x, w))), lambda a: a
    import torch
    x, w, dy = map(torch.from_numpy, (x, w, dy))
    if peer == "MKL":
        if not torch.backends.mkl.is_available():
            raise SystemExit("this PyTorch was built without MKL")
        torch.backends.mkldnn.set_flags(False)
        return called(torch.mm, *map(torch.empty_like, (dy, x, w))), lambda a: a.numpy()
    if not torch.backends.mkldnn.is_available():
        raise SystemExit("this PyTorch was built without oneDNN")
    ops = torch.ops.aten  # what PyTorch's autograd calls for arrays of oneDNN's
    own_x, own_w, own_dy = (a.to_mkldnn() for a in (x, w, dy))
    return [lambda: torch.nn.functional.linear(own_x, own_w), lambda: ops.mkldnn_linear_backward_input(x.shape, own_dy, w),
            lambda: ops.mkldnn_linear_backward_weights(own_dy, own_x, own_w, False)[0]], lambda a: a.to_dense().numpy()


def seconds_of(product, runs):
    """The median of a product's times, and the page faults of a call."""
    times = []
    for i in range(runs + 2):
        if i == 2:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / runs


def measure_peer(peer, threads, shapes, runs):
    """For each shape {direction: (GFLOP/s, page faults of a call)}."""
    import numpy as np
    if peer != "OpenBLAS":
        import torch
        torch.set_num_threads(threads)
    generator = np.random.default_rng(1)
    speeds = []
    for rows, inputs, outputs in shapes:
        x, w, dy = (generator.standard_normal(size, dtype=np.float32) for size in ((rows, inputs), (outputs, inputs), (rows, outputs)))
        products, plain = products_of(peer, x, w, dy)
        for product, (a, b) in zip(products, ((x, w.T), (dy, w), (dy.T, x))):
            found, expected = plain(product())[:64].copy(), a[:64].astype(np.float64) @ b.astype(np.float64)
            if not np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected):
                raise SystemExit(f"{peer}: a product of {rows} x {inputs} x {outputs} is wrong; nothing is shown")
        (y, y_faults), (dx, dx_faults), (dw, dw_faults) = (seconds_of(product, runs) for product in products)
        work = 2e-9 * rows * inputs * outputs
        speeds.append({"forward": (work / y, y_faults), "backward": (2 * work / (dx + dw), max(dx_faults, dw_faults))})
    return speeds


def run_peer(peer, threads, shapes, runs, variables):
    count = str(threads)
    environment = {**os.environ, **peer_environment.KEPT_MEMORY, **variables,
                   "OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    done = subprocess.run([sys.executable, __file__, "--peer", peer, "--threads", count, "--runs", str(runs), "--shapes", json.dumps(shapes), "-"],
                          env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{peer}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def run_ours(harmonic, threads, shapes, options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ops.json"
        done = subprocess.run([harmonic, "bench", "ops", "--only", "linear", "--d-model", options.d_model, "--rows", str(options.rows),
                               "--threads", str(threads), "--runs", str(options.runs), "--json", path], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"harmonic: {done.stderr.strip()}")
        report = json.loads(path.read_text())
    speeds = {(row["rows"], row["channels"], row["op"]): row["GFLOP/s"] for row in report["rows"]}
    return [{direction: speeds[rows, inputs, op.format(outputs // inputs)] for direction, op in DIRECTIONS.items()}
            for rows, inputs, outputs in shapes], report["machine"]


def compare(shapes, mkl, options):
    print(f"GFLOP/s; {mkl.name} ({mkl.speed})\n")
    columns = ["product", "rows x in x out", "threads", "Harmonic", mkl.name, *PEERS[1:], "of the best", "of the matrix peak", "their page faults"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for threads in map(int, options.threads.split(",")):
        turns = []
        for _ in range(options.turns):
            ours, machine = run_ours(options.harmonic, threads, shapes, options)
            variables = {"MKL": mkl.variables}
            turns.append((ours, [run_peer(peer, threads, shapes, options.runs, variables.get(peer, {})) for peer in PEERS]))
        for direction in DIRECTIONS:
            for i, shape in enumerate(shapes):
                own = [ours[i][direction] for ours, _ in turns]
                theirs = [[speeds[i][direction][0] for speeds in peers] for _, peers in turns]
                share = statistics.median(speed / max(others) for speed, others in zip(own, theirs))
                faults = max(speeds[i][direction][1] for _, peers in turns for speeds in peers)
                speed = statistics.median(own)
                print(f"| {direction} | {' x '.join(map(str, shape))} | {threads} | {speed:.1f} | " +
                      " | ".join(f"{statistics.median(others):.1f}" for others in zip(*theirs)) +
                      f" | {share:.2f} | {100 * speed * 1e9 / machine['matrix_peak']:.0f} % | {faults:.0f} |", flush=True)


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
    with tempfile.TemporaryDirectory() as folder:
        mkl = peer_environment.kernels("intel" if peer_environment.c_compiler() else "as-installed", folder)
        compare(shapes, mkl, options)


if __name__ == "__main__":
    main()
