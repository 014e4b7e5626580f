#!/usr/bin/env bash
# Levels against flat stacks on Gutenberg: three configs, three paired seeds, then one table. What is finished is not
# run again, what was stopped is resumed.
#   usage: experiments/gutenberg_layouts.sh HARMONIC DATA OUT      DATA: folder with train-*.txt.xz and valid.txt.xz
set -euo pipefail

harmonic=$1 data=$2 out=$3
configs=$(dirname "$0")/configs
mkdir -p "$out"
for seed in 1 2 3; do
  for name in sandwich flat-equal-parameters flat-equal-work; do
    run=$out/$name-$seed
    if [ ! -e "$run.json" ]; then
      resume=()
      [ -e "$run/run.toml" ] && resume=(--resume)
      "$harmonic" train --config "$configs/gutenberg-$name.toml" --data "$data"/train-*.txt.xz --train.seed "$seed" \
        --out "$run" "${resume[@]}"
      "$harmonic" eval --model "$run" --data "$data/valid.txt.xz" --lengths 4096 --state cold --json "$run.json" >/dev/null
    fi
  done
done

bits() { sed -n 's/.*"bits_per_byte": *\([0-9.]*\).*/\1/p' "$1"; }
printf '%-6s %12s %24s %18s\n' seed sandwich flat-equal-parameters flat-equal-work
for seed in 1 2 3; do
  printf '%-6s %12.4f %24.4f %18.4f\n' "$seed" "$(bits "$out/sandwich-$seed.json")" \
    "$(bits "$out/flat-equal-parameters-$seed.json")" "$(bits "$out/flat-equal-work-$seed.json")"
done
