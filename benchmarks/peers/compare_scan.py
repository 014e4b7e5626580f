#!/usr/bin/env python3
"""The gated scan of Harmonic on a card beside other ways to compute it there, as ratios.

    compare_scan.py HARMONIC [--rows 65536] [--channels 512] [--runs 5] [--no-compile] [--out FILE]

All compute y[t] = (s[t] + d u[t]) silu(z[t]), s[t] = a[t] s[t-1] + sqrt(1 - a[t]^2) u[t], a = sigmoid(-g), of f32
numbers: a loop over time in PyTorch; PyTorch's best forms (two tiers of steps, log2(T) passes by doubling, and
torch.compile's associative scan); and a CUDA kernel of one thread a channel. Each must agree with the loop in double
before it is timed; Harmonic's time is that of its `bench ops`. Forward alone, since the loop's backward takes minutes.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cupy
import torch
import torch.nn.functional as F

from models import decay_scan

TOLERANCE = 1e-3

KERNEL = r"""
extern "C" __global__ void scan(const float* u, const float* z, const float* g, const float* d, float* y, int rows,
                                int channels) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  float s = 0;
  for (int t = 0; t < rows; ++t) {
    const int i = t * channels + c;
    const float a = 1 / (1 + expf(g[i]));
    s = a * s + sqrtf((1 + a) / (1 + expf(-g[i]))) * u[i];
    y[i] = (s + d[c] * u[i]) * z[i] / (1 + expf(-z[i]));
  }
}
"""


def steps_of(u, g):
    a = torch.sigmoid(-g)
    return a, torch.sqrt((1 + a) * torch.sigmoid(g)) * u


def finish(s, u, z, d):
    return (s + d * u) * F.silu(z)


def by_loop(u, z, g, d):
    a, b = steps_of(u, g)
    states = torch.empty_like(u)
    s = torch.zeros_like(u[0])
    for t in range(u.shape[0]):
        s = torch.addcmul(b[t], a[t], s, out=states[t])
    return finish(states, u, z, d)


def by_two_tiers(u, z, g, d):
    a, b = steps_of(u, g)
    return finish(decay_scan(a[None], b[None])[0], u, z, d)


def by_doubling(u, z, g, d):
    a, b = steps_of(u, g)
    by = 1
    while by < u.shape[0]:
        b = torch.cat([b[:by], torch.addcmul(b[by:], a[by:], b[:-by])])
        a = torch.cat([a[:by], a[by:] * a[:-by]])
        by *= 2
    return finish(b, u, z, d)


def compiled_associative():
    from torch._higher_order_ops.associative_scan import associative_scan

    def scan(u, z, g, d):
        join = lambda first, second: (first[0] * second[0], second[0] * first[1] + second[1])
        return finish(associative_scan(join, steps_of(u, g), 0)[1], u, z, d)

    return torch.compile(scan)


def by_kernel():
    kernel = cupy.RawKernel(KERNEL, "scan")

    def scan(u, z, g, d):
        y = torch.empty_like(u)
        rows, channels = u.shape
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            kernel(((channels + 31) // 32,), (32,), (*(t.data_ptr() for t in (u, z, g, d, y)), rows, channels))
        return y

    return scan


def time_of(form, inputs, runs):
    form(*inputs)
    times = []
    for _ in range(runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        form(*inputs)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def time_ours(options):
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "ops.json"
        done = subprocess.run(
            [options.harmonic, "bench", "ops", "--device", "cuda", "--d-model", str(options.channels // 2), "--rows",
             str(options.rows), "--only", "decay scan", "--json", str(out)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr.strip().splitlines()[-1])
        return {row["op"]: row["us"] for row in json.loads(out.read_text())["rows"]}["decay scan"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harmonic", type=Path)
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.harmonic = options.harmonic.resolve()
    torch.manual_seed(0)
    shape = (options.rows, options.channels)
    u, z, g = (torch.randn(shape, device="cuda") for _ in range(3))
    g += 3
    d = torch.randn(options.channels, device="cuda")
    inputs = (u, z, g, d)
    expected = by_loop(*(x.double() for x in inputs))
    ours = time_ours(options)
    lines = [f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {options.rows} rows of {options.channels} "
             f"channels, f32, forward; medians of {options.runs} runs, of the loop one", "", "| | us | ratio |", "|---|---|---|",
             f"| Harmonic | {ours:.1f} | 1 |"]
    forms = {"PyTorch, a loop over time": lambda: by_loop, "PyTorch, two tiers of steps": lambda: by_two_tiers,
             "PyTorch, by doubling": lambda: by_doubling, "CUDA, one thread a channel": by_kernel}
    if not options.no_compile:
        forms["PyTorch, compiled associative scan"] = compiled_associative
    for name, make in forms.items():
        try:
            form = make()
            error = ((form(*inputs).double() - expected).norm() / expected.norm()).item()
            if not error <= TOLERANCE:
                lines.append(f"| {name} | wrong: relative error {error:.1e} | |")
                continue
            took = time_of(form, inputs, 1 if form is by_loop else options.runs)
            lines.append(f"| {name} | {took:.1f} | {took / ours:.1f} |")
        except Exception as error:  # a form that this PyTorch does not have is no result
            lines.append(f"| {name} | does not run: {type(error).__name__} | |")
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
