#!/usr/bin/env bash
# make bench: runs the benchmarks and keeps what they print, with the machine and the date.
#   usage: scripts/bench.sh FOLDER_WITH_THE_PROGRAMS
set -euo pipefail

bin=$1
cpu=$(awk -F': ' '/^model name/ {print $2; exit}' /proc/cpuinfo | tr -cs 'A-Za-z0-9' '-' | sed 's/-*$//')
out=benchmarks/results
mkdir -p "$out"
for name in startup matmul scan length; do
  result="$out/${name}_${cpu}_$(date +%Y-%m-%d).txt"
  echo "== $name" >&2
  { echo "# ${name}_benchmark, $(nproc) processors, $(git rev-parse --short HEAD 2>/dev/null || true)"; "$bin/${name}_benchmark"; } | tee "$result"
done
