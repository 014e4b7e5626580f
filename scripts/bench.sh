#!/usr/bin/env bash
# make bench: runs the benchmarks and keeps what they print, with the machine and the date.
#   usage: scripts/bench.sh FOLDER_WITH_THE_PROGRAMS
# The peers run too where benchmarks/peers/setup.sh has made their environment (or PEERS_PYTHON names one); decoding
# beside llama.cpp where PEERS_GGUF names a model (and PEERS_TEXT a text that both are held to), encoding where PEERS_GPT2
# names a folder with GPT-2's encoder.json and vocab.bpe.
set -euo pipefail

bin=$1
# "Intel(R) Xeon(R) Processor" becomes Intel-Xeon.
cpu=$(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo |
  sed -E 's/\((R|TM)\)//g; s/ (Processor|CPU)\>.*//' | tr -cs 'A-Za-z0-9' '-' | sed 's/-*$//')
out=benchmarks/results
mkdir -p "$out"

# keep NAME COMMAND...: the command's output as a page of its own, whole or not at all.
keep() {
  local name=$1 page
  shift
  page="$out/${name}_${cpu}_$(date +%Y-%m-%d).md"
  echo "== $name" >&2
  {
    printf '# %s\n\n%s processors, commit %s, %s\n\n' "$name" "$(nproc)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$(date +%Y-%m-%d)"
    printf '    %s\n\n' "${*//$bin\//}"
    "$@" | tee /dev/stderr | sed 's/^\([^|]\)/    \1/'
  } >"$page.tmp"
  mv "$page.tmp" "$page"
}

# training NAME ARGUMENTS...: beside PyTorch, and once more with MKL's faster kernels where it does not take them itself.
training() {
  local name=$1
  shift
  keep "$name" "$python" benchmarks/peers/compare_training.py "$bin/harmonic" "$@"
  if ! grep -q GenuineIntel /proc/cpuinfo && command -v cc >/dev/null; then
    keep "$name-intel-kernels" "$python" benchmarks/peers/compare_training.py "$bin/harmonic" "$@" --mkl-kernels intel
  fi
}

keep startup "$bin/startup_benchmark"
keep tokenizer "$bin/tokenizer_benchmark"
for name in ops train decode length memory; do keep "$name" "$bin/harmonic" bench "$name"; done
python=${PEERS_PYTHON:-build/peers/bin/python}
if [ -x "$python" ]; then
  training peers-training --mixers harmonic,attention
  # Hugging Face's Mamba goes through time in Python, and its backward pass grows with the square of the length.
  training peers-mamba --mixers mamba --lengths 250 --tokens 1000 --runs 1
  keep peers-matmul "$python" benchmarks/peers/compare_matmul.py "$bin/harmonic"
  text=${PEERS_TEXT:-docs/training.md}
  if [ -n "${PEERS_GPT2:-}" ]; then
    keep peers-tokenizing "$python" benchmarks/peers/compare_tokenizing.py "$bin" "$PEERS_GPT2" "$text"
  fi
  if [ -n "${PEERS_GGUF:-}" ]; then
    keep peers-decoding "$python" benchmarks/peers/compare_decoding.py "$bin/harmonic" "$PEERS_GGUF" --text "$text"
  fi
else
  echo "bench: no peers: benchmarks/peers/setup.sh makes their environment" >&2
fi
