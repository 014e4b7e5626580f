#!/usr/bin/env bash
# Runs every harmonic command that README.md and docs/ show, as written and in order, in a folder that goes away. Only
# the names that stand for a reader's own text are replaced, and training takes fewer tokens where the command and its
# config leave them open.
#   usage: scripts/run_documented_commands.sh HARMONIC      the program
set -euo pipefail

harmonic=$(readlink -f "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/build/release/bin" "$work/cache"
ln -s "$harmonic" "$work/build/release/bin/harmonic"
for entry in README.md harmonic tests examples docs experiments; do ln -s "$root/$entry" "$work/$entry"; done
cd "$work"
# A server takes a port that is free, keeps nothing, and is asked to end after a while: it must end well.
export HARMONIC_SERVE_PORT=0 HARMONIC_SERVE_SESSIONS=memory
export PATH="$work/build/release/bin:$PATH" HARMONIC_TRAIN_TOKENS=${HARMONIC_TRAIN_TOKENS:-100K} HARMONIC_DATA_CACHE="$work/cache"

# Indented blocks' lines, those that a backslash continues joined, of which the program is run.
commands() {
  sed -e ':join' -e '/\\$/{N;s/\\\n */ /;b join' -e '}' "$@" | sed -n 's/^    \(.*\)/\1/p' |
    grep -E '^(build/release/bin/)?harmonic [a-z]|\| harmonic [a-z]' |
    sed -e 's/YOUR_FOLDER/harmonic/g' -e 's/OTHER_FOLDER/tests/g' -e 's/some\.txt/README.md/g'
}

count=0
while read -r line; do
  case $line in *'$DATA'* | *DIR* | *'...'*) continue ;; esac  # of a text that is not here, or the form of a command
  case $line in *--out\ my-model*)
    case $line in *--resume*) ;; *) rm -rf my-model ;; esac ;;
  esac
  case $line in *'harmonic serve'*) line="timeout --preserve-status --signal=TERM 5 $line" ;; esac
  count=$((count + 1))
  if ! (eval "$line") > out.txt 2> err.txt < /dev/null; then
    echo "failed: $line" >&2
    tail -5 err.txt >&2
    exit 1
  fi
done < <(commands "$root/README.md" "$root"/docs/*.md)
[ "$count" -ge 15 ] || { echo "found only $count commands" >&2; exit 1; }
echo "$count commands run"
