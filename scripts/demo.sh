#!/usr/bin/env bash
# make demo: trains a small model for about two minutes on text that this machine has (the headers of C and C++), proves
# it causal, writes a sample, and compares it with xz on files that it has not seen.
#   usage: scripts/demo.sh path/to/harmonic [FOLDER]
set -euo pipefail

harmonic=$(realpath "$1")
out=${2:-build/demo}
config=$(dirname "$0")/../examples/demo.toml
rm -rf "$out" && mkdir -p "$out/train" "$out/valid"

# Every 40th header, in the order of their names, is held out, a hundred at most. Boost's are left out: there are five times as
# many of them as of all others.
find /usr/include -path /usr/include/boost -prune -o -type f -size -256k -print | LC_ALL=C sort >"$out/files"
held_out='NR % 40 == 0 && NR <= 4000'
awk "$held_out" "$out/files" | xargs -d '\n' cp --parents -t "$out/valid"
awk "!($held_out)" "$out/files" | xargs -d '\n' cp --parents -t "$out/train"
rm "$out/files"
echo "demo: $(find "$out/train" -type f | wc -l) files to train on, $(find "$out/valid" -type f | wc -l) held out" >&2

export HARMONIC_CACHE=$out/cache
start=$SECONDS
"$harmonic" train --config "$config" --data "$out/train" --valid "$out/valid" --data.format text --out "$out/model"
seconds=$((SECONDS - start))

echo
echo "the certificate: does the model ever look at the future?"
"$harmonic" check --model "$out/model" --random-tokens 16384

echo
echo "a sample:"
"$harmonic" generate --model "$out/model" --prompt $'#ifndef _' --max-tokens 600 --temperature 0.7 --ignore-end

"$harmonic" eval --model "$out/model" --data "$out/valid" --format text --lengths 1024 --state carry --json "$out/eval.json" >/dev/null
number() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" "$2" | tail -n 1; }
largest() { grep -o "\"$1\":[0-9.e+]*" "$out/model/metrics.jsonl" | sed 's/.*://' | sort -g | tail -n 1; }
median() { grep -o "\"$1\":[0-9.e+]*" "$out/model/metrics.jsonl" | sed 's/.*://' | sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
bytes=$(find "$out/valid" -type f -print0 | LC_ALL=C sort -z | xargs -0 cat | wc -c)
together=$(find "$out/valid" -type f -print0 | LC_ALL=C sort -z | xargs -0 cat | xz -9 | wc -c)
apart=$(find "$out/valid" -type f -print0 | LC_ALL=C sort -z | xargs -0 -n 1 xz -9 -c | wc -c)
per_byte() { awk "BEGIN {printf \"%.4f\", 8 * $1 / $bytes}"; }

echo
printf '%-44s %s\n' \
  "bits per byte on held-out files, harmonic" "$(printf %.4f "$(number bits_per_byte "$out/eval.json")")" \
  "the same files, each by itself, xz -9" "$(per_byte "$apart")" \
  "the same files as one, xz -9" "$(per_byte "$together")" \
  "training, tokens a second (median)" "$(printf %.0f "$(median tokens_per_second)")" \
  "training, seconds" "$seconds" \
  "peak memory of training, MB" "$(awk "BEGIN {printf \"%.0f\", $(largest peak_memory_bytes) / 1e6}")" \
  "state of a text of any length, bytes" "$("$harmonic" inspect "$out/model" | awk '/bytes, with the position/ {print $NF}')" \
  "the model" "$out/model"
cat <<TXT

next, on your own text:
  $1 train --config examples/demo.toml --data YOUR_FOLDER --out my-model
  $1 generate --model my-model --prompt "Once"
  $1 score --model my-model --by line < some.txt
TXT
