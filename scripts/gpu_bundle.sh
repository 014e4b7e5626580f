#!/usr/bin/env bash
# Builds a folder that runs on a machine with a card, its driver and cuBLASLt, whatever else is installed there: the
# program, the cuda backend, the tests that know of a card, and every library that they need, the C library included.
# cuBLASLt is large and comes with CUDA; WITH_CUBLAS=1 puts it into the folder, too.
#   usage: scripts/gpu_bundle.sh OUT [PRESET]
set -euo pipefail

out=${1:?usage: scripts/gpu_bundle.sh OUT [PRESET]}
preset=${2:-release}
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/$preset
tests=(ops_tests model_tests eval_tests train_tests convert_tests)

(cd "$root" && cmake --preset "$preset" > /dev/null)
cmake --build "$build" --target harmonic harmonic_cuda "${tests[@]}"

mkdir -p "$out/bin" "$out/lib" "$out/results" "$out/docs" "$out/benchmarks/peers"
out=$(cd "$out" && pwd)
for program in harmonic libharmonic_cuda.so "${tests[@]}"; do
  cp "$build/bin/$program" "$out/bin/"
  strip "$out/bin/$program"
done
# What the programs are linked to, but for what belongs to the driver.
for program in "$build/bin/harmonic" "$build/bin/libharmonic_cuda.so" "${tests[@]/#/$build/bin/}"; do
  ldd "$program" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/lib[^ ]*\) .*/\1/p'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libcuda.so*) ;;
    libcublasLt.so*) if [ "${WITH_CUBLAS:-0}" = 1 ]; then cp -L "$library" "$out/lib/"; fi ;;
    *) cp -L "$library" "$out/lib/" ;;
  esac
done
# start PROGRAM ARGUMENTS...: by the bundle's own loader and libraries; those of the driver and of CUDA are where the
# system has them. harmonic ARGUMENTS...: the program, as other programs call it.
cat > "$out/start" << 'END'
#!/usr/bin/env bash
bundle=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
folder_of() { # LIBRARY ELSE
  local found
  found=$(ldconfig -p 2> /dev/null | sed -n "s/.*$1 .*=> //p" | head -1)
  dirname "${found:-$2/$1}"
}
libraries=$bundle/lib:$(folder_of libcuda.so.1 /usr/lib/x86_64-linux-gnu)
libraries=$libraries:$(folder_of libcublasLt.so.13 /usr/local/cuda/lib64)
export HARMONIC_CUDA_PLUGIN=$bundle/bin/libharmonic_cuda.so
program=$1
shift
exec "$bundle/lib/ld-linux-x86-64.so.2" --library-path "$libraries" "$bundle/bin/$program" "$@"
END
cat > "$out/harmonic" << 'END'
#!/usr/bin/env bash
exec "$(dirname "$(readlink -f "$0")")/start" harmonic "$@"
END
chmod +x "$out/start" "$out/harmonic"
cp "$root/scripts/gpu_check.sh" "$root/examples/demo.toml" "$out/"
cp "$root"/docs/*.md "$out/docs/"
cp "$root"/benchmarks/peers/{compare_scan,compare_training,models}.py "$out/benchmarks/peers/"
git -C "$root" rev-parse HEAD > "$out/commit" 2> /dev/null || echo "not known" > "$out/commit"
git -C "$root" diff --quiet 2> /dev/null || echo "with changes that are not committed" >> "$out/commit"
nvcc=$(sed -n 's/^CMAKE_CUDA_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
"${nvcc:-nvcc}" --version | sed -n 's/.*release/nvcc/p' > "$out/toolkit"
du -sh "$out"
