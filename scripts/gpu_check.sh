#!/usr/bin/env bash
# Runs a bundle (gpu_bundle.sh) on a machine with a card, in under 8 minutes: correctness first, then figures. No figure
# is taken after a failure.
#   usage: gpu_check.sh BUNDLE       or gpu_check.sh within the bundle's folder; the log goes to BUNDLE/results
set -uo pipefail

bundle=$(cd "${1:-$(dirname "$0")}" && pwd)
log=$bundle/results/gpu-$(date -u +%Y-%m-%d-%H%M%S).log
export HARMONIC_CUDA_PLUGIN=$bundle/bin/libharmonic_cuda.so
# The bundle's own loader and libraries; those of the driver and of CUDA are where the system has them.
folder_of() { # LIBRARY ELSE
  local found
  found=$(ldconfig -p 2> /dev/null | sed -n "s/.*$1 .*=> //p" | head -1)
  dirname "${found:-$2/$1}"
}
libraries=$bundle/lib:$(folder_of libcuda.so.1 /usr/lib/x86_64-linux-gnu):$(folder_of libcublasLt.so.13 /usr/local/cuda/lib64)
run() { # SECONDS PROGRAM ARGUMENTS...
  local seconds=$1 program=$2 left=$((470 - SECONDS))
  shift 2
  if [ "$left" -lt 5 ]; then echo "no time is left for: $program $*"; return 0; fi
  if [ "$left" -lt "$seconds" ]; then seconds=$left; fi
  echo "+ $program $*"
  timeout "$seconds" "$bundle/lib/ld-linux-x86-64.so.2" --library-path "$libraries" "$bundle/bin/$program" "$@"
}
step() { # as run, and stops everything where it fails
  if ! run "$@"; then
    echo "gpu_check: FAILED; nothing that follows would mean anything"
    exit 1
  fi
}

{
  date -u
  echo "commit $(tr '\n' ' ' < "$bundle/commit"); $(cat "$bundle/toolkit")"
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm --format=csv ||
    echo "nvidia-smi does not answer"

  step 30 harmonic bench ops --device cuda --d-model 16 --rows 64 --vocab 64 --runs 1 # is there a card at all?
  export HARMONIC_TEST_DEVICE=cuda
  step 150 ops_tests --gtest_brief=1 \
    --gtest_filter='*MatchesTheReference*:*ExtremeGates*:*ARowWithoutATarget*:*NothingRead*:*ATeacherThatIs*'
  step 60 train_tests --gtest_brief=1 --gtest_filter='CudaTraining.*'
  step 40 eval_tests --gtest_brief=1 --gtest_filter='CertificateOnADevice.*'
  unset HARMONIC_TEST_DEVICE

  step 60 harmonic train --config "$bundle/demo.toml" --data "$bundle/text" --out "$bundle/results/model-$$" \
    --train.tokens 200K --device cuda --profile
  step 30 harmonic check --model "$bundle/results/model-$$" --random-tokens 4096 --device cuda

  for precision in bf16 f32; do
    run 90 harmonic bench train --device cuda --precision "$precision" --mixers harmonic --d-model 256 \
      --lengths 8192 --vocab 50257 --tokens 16384 --memory-mb 16384 --runs 10
  done
  run 60 harmonic bench train --device cuda --precision bf16 --d-model 256 --lengths 8192 --vocab 256 --tokens 16384 \
    --memory-mb 16384 --runs 10
  run 60 harmonic bench ops --device cuda --precision bf16 --d-model 256 --runs 5
  run 40 harmonic bench decode --device cuda --weights f32 --streams 1 16 256 --runs 3
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv
  echo "gpu_check: done in $SECONDS seconds"
} 2>&1 | tee "$log"
grep -q "gpu_check: done" "$log"
