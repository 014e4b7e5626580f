#!/usr/bin/env bash
# What the parts of the recipe that makes a constant-state model of stories260K are worth: the form of the cell, the start
# from attention's weights, the phase on layers, the timescales. Every row has the same texts, tokens and evaluation.
#   usage: experiments/hallamonic_ablation.sh HARMONIC STORIES OUT [SHARE]     as scripts/hallamonic_stories260k.sh
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n 's/^#   *usage: /usage: /p' "$0" >&2
  exit 2
fi

root=$(cd "$(dirname "$0")/.." && pwd)
out=$3
[ ! -e "$out" ] || { echo "$out: is there already; name a folder that is not" >&2; exit 2; }
mkdir -p "$out"
row() {  # NAME FLAGS [CONFIG]
  CONVERT=$2 CONFIG=${3:-$root/experiments/configs/hallamonic-stories260k.toml} \
    "$root/scripts/hallamonic_stories260k.sh" "$harmonic" "$stories" "$out/$1" "$share"
  export TEXTS=$out/matrix
}
harmonic=$1 stories=$2 share=${4:-1}
row matrix "--features 64"
row scratch "--features 64 --from-scratch"
row without-layers "--features 64" "$root/experiments/configs/hallamonic-without-layers.toml"
row flat-taus "--features 64 --taus 32,8,2"  # timescales of 16 to 64 tokens at every level to begin with
row paper "--form paper"
"$harmonic" curves teacher="$out/matrix/eval-teacher.json" matrix="$out/matrix/eval-student.json" \
  scratch="$out/scratch/eval-student.json" without-layers="$out/without-layers/eval-student.json" \
  flat-taus="$out/flat-taus/eval-student.json" paper="$out/paper/eval-student.json" --svg "$out/ablation.svg" --most 6 |
  tee "$out/result.txt"
