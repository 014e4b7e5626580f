#!/usr/bin/env bash
# Makes the virtual environment that the peers run in: PyTorch, Hugging Face Transformers, safetensors.
#   usage: benchmarks/peers/setup.sh [FOLDER]      build/peers by default
# PyTorch's ordinary wheel is large (its GPU libraries come along); pip's own settings choose another index.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$root/build/peers}
"$root/scripts/setup.sh" python3-venv python3-dev  # headers: torch.compile builds against them
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
"$folder/bin/python" -c 'import torch, transformers, safetensors' 2>/dev/null ||
  "$folder/bin/pip" install --quiet torch transformers safetensors numpy
echo "$folder/bin/python"
