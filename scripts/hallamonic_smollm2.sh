#!/usr/bin/env bash
# SmolLM2-135M turned into a model of constant state, and what became of it: converts it, distils it on texts, and compares
# teacher and student on the same targets with 1,024 to 65,536 tokens of context, of which the teacher was made for 8,192.
#   usage: scripts/hallamonic_smollm2.sh HARMONIC GGUF OUT TEXTS VALID [SHARE]
#     HARMONIC  the program
#     GGUF      the file that scripts/fetch_smollm2.sh fetches
#     OUT       a folder; what is finished there is not done again
#     TEXTS     quoted paths of texts to learn from; VALID a held-out text of 70,000 tokens or more
#     SHARE     of the full run's training, 1 by default; a small one only shows that it works
# The work takes two hours on two processors and 11 GB of memory. Much of it is attention over long texts:
# CONTEXTS, GROUPS_WITHIN and GROUPS_CURVE make it less; PARTS names some of convert, distil, check, within, curves, and
# of two that are not done unasked: tuned, the teacher itself trained on as many tokens of the same texts, and lambada, the
# last words of the passages in LAMBADA's file, which LAMBADA names. For a hybrid REPLACE lists the layers to replace and CONVERT
# has the flags of convert that say how; CONFIG names another distill.toml.
set -euo pipefail

if [ $# -lt 5 ]; then
  sed -n 's/^#   *usage: /usage: /p' "$0" >&2
  exit 2
fi

harmonic=$(realpath "$1")
gguf=$2
out=$3
read -ra texts <<<"$4"
valid=$5
share=${6:-1}
root=$(cd "$(dirname "$0")/.." && pwd)
parts=" ${PARTS:-convert distil check within curves} "
[[ $parts != *" lambada "* || -r ${LAMBADA:-} ]] || { echo "LAMBADA: expected the file of passages to take" >&2; exit 2; }
mkdir -p "$out"
export HARMONIC_CACHE=$out/cache
start=$SECONDS
log() { echo "$((SECONDS - start)) s: $*" >&2; }

if [[ $parts == *" convert "* && ! -e $out/start ]]; then
  [ -e "$out/teacher" ] || "$harmonic" convert --from "$gguf" --out "$out/teacher" >"$out/teacher.txt"
  "$harmonic" convert --from "$out/teacher" --out "$out/start" --replace "${REPLACE:-all}" ${CONVERT:---features 256} | tee "$out/student.txt"
fi

# distil CONFIG NAME START: the phases of a file with this run's share of their tokens.
distil() {
  local phases=$out/$2.toml
  awk -v share="$share" -F'"' '/^tokens/ {n = int($2 * 1000 * share); print "tokens = " (n < 4096 ? 4096 : n); next} {print}' \
    "$1" >"$phases"
  "$harmonic" distill --teacher "$out/teacher" --student "$3" --config "$phases" --data "${texts[@]}" --valid "$valid" \
    --out "$out/$2" --resume
}
if [[ $parts == *" distil "* ]]; then
  log "distillation"
  distil "${CONFIG:-$root/experiments/configs/hallamonic-smollm2.toml}" student "$out/start"
fi
if [[ $parts == *" tuned "* ]]; then
  log "the teacher itself, tuned on the same texts"
  distil "$root/experiments/configs/hallamonic-smollm2-tuned.toml" tuned "$out/teacher"
fi

if [[ $parts == *" check "* ]]; then
  log "certificates"
  for model in start student; do
    "$harmonic" check --model "$out/$model" --random-tokens 4096 --json "$out/check-$model.json" >"$out/check-$model.txt"
  done
fi

if [[ $parts == *" within "* ]]; then
  log "within the teacher's context"
  "$harmonic" eval --model "$out/student" --against "$out/teacher" --data "$valid" --contexts 512,2048 --targets 64 \
    --groups "${GROUPS_WITHIN:-48}" --json "$out/within.json" | tee "$out/within.txt"
fi

if [[ $parts == *" curves "* ]]; then
  log "curves"
  contexts=${CONTEXTS:-1024,4096,8192,16384,65536}
  curves=()
  # evaluate FILE NAME CONTEXTS MODEL FLAGS...: a curve of the table and of the chart.
  evaluate() {
    [ "$out/eval-$1.json" -nt "$out/$4/model.safetensors" ] ||
      "$harmonic" eval --model "$out/$4" --data "$valid" --contexts "$3" --room "${contexts##*,}" --targets 64 \
        --groups "${GROUPS_CURVE:-6}" --json "$out/eval-$1.json" "${@:5}" >/dev/null
    curves+=("$2=$out/eval-$1.json")
    log "$2"
  }
  # Attention over all that went before is not asked beyond twice its limit: by then it has broken, and it is most of the work.
  short=${CONTEXTS_TEACHER:-1024,4096,8192,16384}
  evaluate teacher "teacher" "$short" teacher --beyond-limit
  evaluate ntk "teacher, NTK" "$short" teacher --stretch ntk
  evaluate yarn "teacher, YaRN" "$short" teacher --stretch yarn
  evaluate window "teacher, window 2048" "$contexts" teacher --window 2048
  [ ! -e "$out/tuned/model.safetensors" ] || evaluate tuned "teacher, tuned" "$short" tuned --beyond-limit
  evaluate student "student" "$contexts" student
  "$harmonic" curves "${curves[@]}" --svg "$out/contexts.svg" | tee "$out/result.txt"
fi

if [[ $parts == *" lambada "* ]]; then
  for model in teacher tuned student; do
    [ -e "$out/$model/model.safetensors" ] || continue
    log "LAMBADA, $model"
    "$harmonic" eval --model "$out/$model" --task lambada --data "$LAMBADA" --json "$out/lambada-$model.json" |
      tee "$out/lambada-$model.txt"
  done
fi
log "done"
