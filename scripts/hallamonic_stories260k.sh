#!/usr/bin/env bash
# A real Llama, stories260K, turned into a model of constant state, and what became of it: converts it, lets it write
# texts to learn from, distils, and compares teacher and student on the same targets with 128 to 8,192 tokens of context,
# of which the teacher was made for 512. Ends in under 20 minutes on two processors.
#   usage: scripts/hallamonic_stories260k.sh HARMONIC STORIES OUT [SHARE]
#     HARMONIC  the program
#     STORIES   the folder with stories260K.bin and tok512.bin
#     OUT       a folder that is not there yet
#     SHARE     of the full run's texts and training, 1 by default; 0.05 only shows that it works
# For ablations: CONFIG names another distill.toml, CONVERT holds the flags of convert that say how, TEXTS an earlier OUT
# whose texts are taken; then the teacher is not evaluated again.
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n 's/^#   *usage: /usage: /p' "$0" >&2
  exit 2
fi

harmonic=$(realpath "$1")
stories=$2
out=$3
share=${4:-1}
root=$(cd "$(dirname "$0")/.." && pwd)
config=${CONFIG:-$root/experiments/configs/hallamonic-stories260k.toml}
[ ! -e "$out" ] || { echo "$out: is there already; name a folder that is not" >&2; exit 2; }
mkdir -p "$out"
export HARMONIC_CACHE=$out/cache
part() { awk "BEGIN {n = int($1 * $share); print n < $2 ? $2 : n}"; }
start=$SECONDS
log() { echo "$((SECONDS - start)) s: $*" >&2; }

"$harmonic" convert --from "$stories/stories260K.bin" --tokenizer "$stories/tok512.bin" --out "$out/teacher" >"$out/teacher.txt"
"$harmonic" convert --from "$out/teacher" --out "$out/start" --replace all ${CONVERT:---features 64} | tee "$out/student.txt"

if [ -n "${TEXTS:-}" ]; then
  cp "$TEXTS/train.txt" "$TEXTS/valid.txt" "$out"
else
  log "texts of the teacher"
  "$harmonic" generate --model "$out/teacher" --count "$(part 2000 200)" --max-tokens 511 --seed 1 --quiet >"$out/train.txt"
  "$harmonic" generate --model "$out/teacher" --count "$(part 120 60)" --max-tokens 511 --seed 2 --quiet >"$out/valid.txt"
fi

# distil CONFIG OUT FLAGS...: the phases of a file with this run's share of their tokens.
distil() {
  local phases=$out/$(basename "$2").toml
  awk -v share="$share" -F'"' '/^tokens/ {n = int($2 * 1000000 * share); print "tokens = " (n < 40000 ? 40000 : n); next} {print}' \
    "$1" >"$phases"
  "$harmonic" distill --teacher "$out/teacher" --config "$phases" --data "$out/train.txt" --valid "$out/valid.txt" \
    --out "$2" "${@:3}"
}
log "distillation"
distil "$config" "$out/student" --student "$out/start"
if [ -z "${TEXTS:-}" ]; then
  log "the teacher itself, tuned on the same texts"
  distil "$root/experiments/configs/hallamonic-stories260k-tuned.toml" "$out/tuned" --student "$out/teacher"
fi

log "certificates"
for model in start student; do "$harmonic" check --model "$out/$model" --random-tokens 16384 --json "$out/check-$model.json" >/dev/null; done

log "evaluation"
contexts=128,256,512,1024,2048,4096,8192
curves=()
# evaluate FILE NAME FLAGS...: a curve of the table and of the chart.
evaluate() {
  "$harmonic" eval --data "$out/valid.txt" --contexts "$contexts" --targets 64 --groups "$(part 20 10)" \
    --json "$out/eval-$1.json" "${@:3}" >/dev/null
  curves+=("$2=$out/eval-$1.json")
}
if [ -z "${TEXTS:-}" ]; then
  evaluate teacher "teacher" --model "$out/teacher" --beyond-limit
  evaluate ntk "teacher, NTK" --model "$out/teacher" --stretch ntk
  evaluate yarn "teacher, YaRN" --model "$out/teacher" --stretch yarn
  evaluate window "teacher, window 512" --model "$out/teacher" --window 512
  evaluate tuned "teacher, tuned" --model "$out/tuned" --beyond-limit
fi
evaluate student "student" --model "$out/student"
"$harmonic" eval --model "$out/student" --against "$out/teacher" --data "$out/valid.txt" --contexts 128,256,512 --targets 64 \
  --groups "$(part 100 40)" >"$out/within.txt"
{
  "$harmonic" curves "${curves[@]}" --svg "$out/contexts.svg" --most 6
  echo
  echo "within the teacher's context, more targets:"
  cat "$out/within.txt"
} | tee "$out/result.txt"
log "done: $out/result.txt, $out/contexts.svg"
