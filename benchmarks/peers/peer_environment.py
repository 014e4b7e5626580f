"""What a process that computes by a peer's library starts with: an allocator that keeps memory, and MKL's kernels.

glibc maps large blocks anew and gives them back, and page faults would be much of the time of libraries that make each
result anew. MKL, which PyTorch's wheels bring, asks whose the processor is, and unless it is Intel's multiplies matrices
by kernels that are about half as fast as those it has for Intel's processors with the same instructions. A library of one
function, loaded before MKL, answers in its place.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

KEPT = str(1 << 32)  # bytes: no block is so large
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": KEPT, "MALLOC_TRIM_THRESHOLD_": KEPT, "MALLOC_TOP_PAD_": str(1 << 30)}
ANSWER = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"
WORTH = 1.1  # times as fast: less is chance
DESCRIPTION = "HARMONIC_PEER_KERNELS"


class Kernels(NamedTuple):
    variables: dict  # of the environment that a process with these kernels starts in
    name: str        # of PyTorch's BLAS and of the kernels
    speed: str       # of a small product


def sgemm():
    """The name of PyTorch's BLAS, and GFLOP/s of its product of f32 on one thread, the fastest of many."""
    import torch
    torch.set_num_threads(1)
    x, w, y = torch.rand(2048, 512), torch.rand(512, 512), torch.empty(2048, 512)
    fastest = float("inf")
    for _ in range(50):
        begin = time.perf_counter()
        torch.mm(x, w, out=y)
        fastest = min(fastest, time.perf_counter() - begin)
    config = torch.__config__.show()
    mkl = re.search(r"Math Kernel Library Version ([\d.]+)", config)
    other = re.search(r"BLAS_INFO=(\w+)", config)
    name = f"MKL {mkl[1]}" if mkl else other[1] if other else "a BLAS that PyTorch does not name"
    return name, 2e-9 * 2048 * 512 * 512 / fastest


def measured(variables):
    done = subprocess.run([sys.executable, __file__], env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"a product by PyTorch, which was to show its speed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def c_compiler():
    return shutil.which("cc")


def kernels(way, folder):
    """MKL's kernels "as-installed", or those that it has for Intel's processors ("intel"), for which `folder` is to stay
    as long as the processes that use them; as installed, with the reason, where these are the same or no faster."""
    blas, installed = measured({})
    speed = f"SGEMM on one thread {installed:.0f} GFLOP/s"
    same = Kernels({}, f"{blas} as installed", speed)
    if way == "as-installed":
        return same
    if not blas.startswith("MKL"):
        return same._replace(speed=f"{speed}; it is not MKL, which alone has kernels to choose")
    if "GenuineIntel" in Path("/proc/cpuinfo").read_text():
        return same._replace(speed=f"{speed}; Intel's kernels, as the processor is Intel's")
    if not c_compiler():
        sys.exit("no C compiler: MKL takes the kernels of Intel's processors by a library that one has to compile")
    library = Path(folder) / "intel.so"
    subprocess.run([c_compiler(), "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=ANSWER, text=True, check=True)
    variables = {"LD_PRELOAD": str(library)}
    _, intel = measured(variables)
    if intel < WORTH * installed:
        return same._replace(speed=f"{speed}; with Intel's kernels {intel:.0f}, which is no gain")
    return Kernels(variables, f"{blas} with Intel's kernels", f"SGEMM on one thread {intel:.0f} GFLOP/s, as installed {installed:.0f}")


def entered():
    """(name, speed) of the kernels in a process that `restart` has started, else None. What that one starts itself has
    the ordinary environment."""
    description = os.environ.pop(DESCRIPTION, None)
    if description is None:
        return None
    for variable in ("LD_PRELOAD", *KEPT_MEMORY):
        os.environ.pop(variable, None)
    return json.loads(description)


def restart(way):
    """Runs this command once more, with memory that is kept and these kernels, and returns its status."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = kernels(way, folder)
        environment = {**os.environ, **KEPT_MEMORY, **chosen.variables, DESCRIPTION: json.dumps([chosen.name, chosen.speed])}
        return subprocess.run([sys.executable, *sys.orig_argv[1:]], env=environment).returncode


if __name__ == "__main__":
    print(json.dumps(sgemm()))
