#!/usr/bin/env bash
# Runs a bundle (gpu_bundle.sh) on a machine with a card, and ends within 8 minutes: correctness first, then figures, then
# those beside PyTorch where python3 has it. No figure is taken after a test has failed; one that is missing is named.
#   usage: gpu_check.sh BUNDLE       or gpu_check.sh within the bundle's folder; logs go to BUNDLE/results
set -uo pipefail

bundle=$(cd "${1:-$(dirname "$0")}" && pwd)
log=$bundle/results/gpu-$(date -u +%Y-%m-%d-%H%M%S).log
export HARMONIC_CUDA_PLUGIN=$bundle/bin/libharmonic_cuda.so
allowed=470
missing=()
run() { # SECONDS PROGRAM ARGUMENTS...
  local seconds=$1 program=$2 left=$((allowed - SECONDS))
  shift 2
  if [ "$left" -lt 5 ]; then echo "no time is left for: $program $*"; return 1; fi
  if [ "$left" -lt "$seconds" ]; then seconds=$left; fi
  echo "+ $program $*"
  timeout "$seconds" "$bundle/start" "$program" "$@"
}
measure() { # as run; what fails is told at the end
  run "$@" || missing+=("${*:2:4}")
}
step() { # as run, and stops everything where it fails
  if ! run "$@"; then
    echo "gpu_check: FAILED; nothing that follows would mean anything"
    exit 1
  fi
}
# Many tests at once: what takes their time is the reference, which computes on the processor.
tests() { # SHARDS PROGRAM FILTER
  local shards=$1 program=$2 filter=$3 pids=() failed=0 i
  for ((i = 0; i < shards; ++i)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$i run 200 "$program" --gtest_brief=1 --gtest_filter="$filter" \
      > "$log.$program.$i" 2>&1 &
    pids+=($!)
  done
  for i in "${pids[@]}"; do wait "$i" || failed=1; done
  cat "$log.$program".* > "$log.$program" && rm "$log.$program".*
  cat "$log.$program"
  # A filter that finds nothing shows nothing.
  grep -q "PASSED.* [1-9][0-9]* test" "$log.$program" || failed=1
  rm "$log.$program"
  if [ "$failed" = 1 ]; then
    echo "gpu_check: FAILED; nothing that follows would mean anything"
    exit 1
  fi
}
train() { # MIXER LENGTHS VOCABULARY MB RUNS
  measure 60 harmonic bench train --device cuda --precision bf16 --mixers "$1" --d-model 256 --lengths "$2" --vocab "$3" \
    --tokens 16384 --memory-mb "$4" --runs "$5"
}

{
  date -u
  echo "commit $(tr '\n' ' ' < "$bundle/commit"); $(cat "$bundle/toolkit")"
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm --format=csv ||
    echo "nvidia-smi does not answer"

  step 30 harmonic bench ops --device cuda --d-model 16 --rows 64 --vocab 64 --runs 1 # is there a card at all?
  export HARMONIC_TEST_DEVICE=cuda
  tests 8 ops_tests '*MatchesTheReference*:*ExtremeGates*:*ARowWithoutATarget*:*NothingRead*:*ATeacherThatIs*:*OnADevice*:ChooseTokens*:Muon.*:SumsOfSquares.*:ReadHeld.*:*RoundsOnACard*'
  tests 3 train_tests 'CudaTraining.*'
  tests 1 model_tests 'RunningStates*'
  tests 2 eval_tests 'CertificateOnADevice.*'
  tests 1 convert_tests 'Distillation.OnADevice*'
  unset HARMONIC_TEST_DEVICE
  step 60 harmonic train --config "$bundle/demo.toml" --data "$bundle/docs" --out "$bundle/results/model-$$" \
    --train.tokens 200K --device cuda --profile
  step 30 harmonic check --model "$bundle/results/model-$$" --random-tokens 4096 --device cuda
  for device in cpu cuda; do
    measure 60 harmonic train --config "$bundle/demo.toml" --data "$bundle/docs" --out "$bundle/results/steps-$$-$device" \
      --train.steps 200 --train.tokens 0 --train.eval_every 0 --device "$device"
  done
  losses() { grep -o '"loss":[0-9.e-]*' "$bundle/results/steps-$$-$1/metrics.jsonl" | cut -d: -f2; }
  paste <(losses cpu) <(losses cuda) | awk -F'\t' '
    !($1 > 0 && $2 > 0) {missing = 1; next}
    {d = $1 > $2 ? $1 - $2 : $2 - $1; if (d / $1 > most) most = d / $1}
    END {printf "losses of cpu and cuda over %d steps: within %.1e of each other\n", NR, most; exit missing || NR != 200 || most > 2e-3}' ||
    missing+=("losses of both devices within 2e-3 over 200 steps")

  train harmonic 8192,16384,32768,65536 50257 16384 9
  train harmonic 8192 256 16384 9
  train harmonic 1000000 50257 1400 2
  train attention 8192 256 16384 9
  train mamba 8192 256 16384 9
  measure 60 harmonic bench ops --device cuda --precision bf16 --d-model 256 --runs 9
  measure 60 harmonic bench ops --device cuda --precision bf16 --d-model 256 --rows 65536 --runs 9 --only "decay scan"
  measure 60 harmonic bench decode --device cuda --precision bf16 --weights bf16 --streams 1,16,256 --runs 3
  measure 60 harmonic bench decode --device cuda --precision bf16 --mixers harmonic --d-model 2048 --layers 22 --vocab 1024 \
    --weights bf16,f32 --streams 1 --runs 3 --tokens 16
  if python3 -c "import torch, cupy" 2> /dev/null; then
    peer() { # PROGRAM ARGUMENTS...
      local left=$((allowed - SECONDS))
      if [ "$left" -lt 5 ] || ! timeout "$left" python3 -W ignore "$bundle/benchmarks/peers/$1" "$bundle/harmonic" "${@:2}"
      then missing+=("$1"); fi
    }
    peer compare_scan.py
    mixers=attention # and Mamba by mambapy, where it is: Hugging Face's loop over time takes minutes
    if python3 -c "import transformers, mambapy" 2> /dev/null; then mixers=$mixers,mamba; fi
    peer compare_training.py --device cuda --precision bf16 --memory-mb 16384 --vocab 50257 --tokens 16384 --d-model 256 \
      --lengths 8192 --mixers $mixers --runs 3
  else
    echo "python3 has no PyTorch or CuPy: nothing is compared with them"
  fi
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv
  for what in "${missing[@]}"; do echo "gpu_check: not measured: $what"; done
  [ "${#missing[@]}" = 0 ] && echo "gpu_check: done in $SECONDS seconds"
} 2>&1 | tee "$log"
grep -q "gpu_check: done" "$log"
