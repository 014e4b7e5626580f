#!/usr/bin/env bash
# Makes the virtual environment that the peers run in: PyTorch, Hugging Face Transformers, tokenizers, tiktoken,
# safetensors, llama.cpp.
#   usage: benchmarks/peers/setup.sh [FOLDER]      build/peers by default
# PyTorch's ordinary wheel is large (its GPU libraries come along); pip's own settings choose another index.
# llama.cpp comes ready-made, for any processor with AVX2. LLAMA_CPP=compile in the environment compiles it for this
# one, which its speeds want; that takes about half an hour.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$root/build/peers}
"$root/scripts/setup.sh" python3-venv python3-dev  # headers: torch.compile builds against them
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
has() { "$folder/bin/python" -c "import $1" 2>/dev/null; }
has torch,transformers,safetensors || "$folder/bin/pip" install --quiet torch transformers safetensors numpy
has tokenizers,tiktoken || "$folder/bin/pip" install --quiet tokenizers tiktoken
has gguf,xllamacpp || "$folder/bin/pip" install --quiet --only-binary=:all: gguf xllamacpp==2026.10.11549
if [ "${LLAMA_CPP:-}" = compile ] && ! has llama_cpp; then
  "$root/scripts/setup.sh" cmake g++
  CMAKE_ARGS="-DGGML_NATIVE=ON" "$folder/bin/pip" install --quiet --no-binary=llama-cpp-python llama-cpp-python
fi
echo "$folder/bin/python"
