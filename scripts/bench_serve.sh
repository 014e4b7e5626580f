#!/usr/bin/env bash
# Puts harmonic serve under load and prints a Markdown table: what is asked of it, what was measured. The load runs in
# another process on the same machine. Each part checks what comes back before it shows a figure.
#   usage: scripts/bench_serve.sh FOLDER_WITH_THE_PROGRAMS [PART...]
# Parts: connections drip sessions throughput first-token same odd-files pack soak; all of them where none is named.
# Settings, of the environment:
#   MODEL=DIR       the model that serves; one of the paper's plain form (d_model 256, bytes, random weights) is made,
#                   and for throughput and first-token, which are judged by it, one of the paper's preset
#                   (vocabulary 50,257), beside which the small one, whose steps are short, shows what HTTP costs
#   SECONDS_EACH    about how long each measurement takes [10]          SOAK_SECONDS [600]
#   CONNECTIONS [10000]  STREAMS [500]  DRIPS [5000]  SESSIONS [1000000]  SESSIONS_IN_FILE [100000]
#   PROMPT_TOKENS [100000]  REQUESTS [1000]  FILES [1000]
#   PACK_MODEL=DIR, PACK_FILES="A B ..."   for the part pack: a trained model, and files to pack (of PACK_BYTES each)
set -euo pipefail

bin=$(readlink -f "$1")
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(connections drip sessions throughput first-token same odd-files pack soak)
threads=$(nproc)
work=$(mktemp -d)
servers=()
stop_servers() {
  for server in "${servers[@]}"; do kill -TERM "$server" 2>/dev/null || true; done
  for server in "${servers[@]}"; do wait "$server" 2>/dev/null || true; done
  servers=()
}
trap 'stop_servers; rm -rf "$work"' EXIT
ulimit -n "$(ulimit -Hn)"

model=${MODEL:-$work/model}
[ -n "${MODEL:-}" ] || "$bin/serve_load" model --model "$model"

# with_both_models PART: with the paper's preset, and with the small model unjudged; with MODEL alone where it is given.
with_both_models() {
  if [ -z "${MODEL:-}" ]; then
    local small=$model
    model=$work/paper
    [ -d "$model" ] || "$bin/serve_load" model --model "$model" --vocabulary 50257
    "$1"
    stop_servers
    model=$small
    "$1" --not-judged
  else
    "$1"
  fi
}
throughput() {
  serve one
  load throughput --port "$one_port" "$@"
}
first_token() {
  serve one --cache-mb 0
  load first-token --port "$one_port" --prompt "${PROMPT_TOKENS:-100000}" "$@"
}

# serve NAME [FLAG...]: a server on a port that is free; its port and process are in NAME_port and NAME_pid.
serve() {
  local name=$1 log="$work/$1.log"
  shift
  "$bin/harmonic" serve --model "$model" --port 0 --sessions memory "$@" 2>"$log" &
  servers+=($!)
  declare -g "${name}_pid=$!"
  for _ in $(seq 200); do
    declare -g "${name}_port=$(sed -n 's/.*http:\/\/127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log" | head -1)"
    local port="${name}_port"
    [ -n "${!port}" ] && return
    kill -0 "$!" 2>/dev/null || break
    sleep 0.05
  done
  cat "$log" >&2
  exit 1
}

load() {
  local part=$1
  shift
  "$bin/serve_load" "$part" --model "$model" --threads "$threads" --seconds "${SECONDS_EACH:-10}" "$@" || failed=1
}

# The same requests alone, among others, after a restart, by one thread and two, and from another server's tokens.
same() {
  (umask 077; head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"$work/keyring")
  local ask=(--file "$work/answers" --requests "${REQUESTS:-1000}")
  serve first --keyring "$work/keyring" --threads 2 --batch 128
  load same --port "$first_port" "${ask[@]}"
  load same --port "$first_port" "${ask[@]}" --others 64 --what "among 64 others"
  stop_servers
  serve first --keyring "$work/keyring" --threads 2 --batch 128
  serve second --keyring "$work/keyring" --threads 1
  load same --port "$first_port" "${ask[@]}" --what "after a restart"
  load same --port "$second_port" "${ask[@]}" --what "with 1 thread, after 2"
  load same --port "$second_port" "${ask[@]}" --first-port "$first_port" --what "from a state token on another server"
  stop_servers
}

bits() { awk -v packed="$1" -v plain="$2" 'BEGIN { printf "%.4f", 8 * packed / plain }'; }
pack() {
  if [ -z "${PACK_MODEL:-}" ] || [ -z "${PACK_FILES:-}" ]; then
    echo "bench_serve: no pack: PACK_MODEL and PACK_FILES name a trained model and files" >&2
    return
  fi
  local file plain="$work/plain" size ours xz zstd
  for file in $PACK_FILES; do
    case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac | head -c "${PACK_BYTES:-1000000000000}" >"$plain" || true
    size=$(stat -c %s "$plain")
    "$bin/harmonic" pack --model "$PACK_MODEL" --quiet "$plain" "$work/packed"
    "$bin/harmonic" unpack --model "$PACK_MODEL" --quiet --threads 1 "$work/packed" "$work/again"
    cmp "$plain" "$work/again"
    ours=$(bits "$(stat -c %s "$work/packed")" "$size")
    xz=$(bits "$(xz -9 -c "$plain" | wc -c)" "$size")
    zstd=$(command -v zstd >/dev/null && bits "$(zstd -19 -q -c "$plain" | wc -c)" "$size" || echo "not installed")
    echo "| bits per byte of $(basename "$file") ($size bytes), packed and back | 20 % under xz -9 | $ours; xz -9 $xz, zstd -19 $zstd |" \
      "$(awk -v a="$ours" -v b="$xz" 'BEGIN { print (a <= 0.8 * b) ? "yes" : "**no**" }') |"
  done
}

failed=0
printf '%s processors, commit %s, %s\n\n' "$threads" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$(date +%Y-%m-%d)"
echo "| figure | asked | measured | holds |"
echo "|---|---|---|---|"
for part in "${parts[@]}"; do
  case $part in
    connections)
      serve one --batch 512 --queue 512
      load connections --port "$one_port" --pid "$one_pid" --connections "${CONNECTIONS:-10000}" --streams "${STREAMS:-500}" ;;
    drip)
      serve one
      load drip --port "$one_port" --clients "${DRIPS:-5000}" ;;
    throughput) with_both_models throughput ;;
    first-token) with_both_models first_token ;;
    sessions)
      load sessions --sessions "${SESSIONS:-1000000}" --in-file "${SESSIONS_IN_FILE:-100000}" --folder "$work" ;;
    same) same ;;
    odd-files) load odd-files --files "${FILES:-1000}" ;;
    pack) pack ;;
    soak)
      serve one --cache-mb 16
      SECONDS_EACH=${SOAK_SECONDS:-600} load soak --port "$one_port" --pid "$one_pid" ;;
    *)
      echo "bench_serve: no part is called $part" >&2
      exit 2 ;;
  esac
  stop_servers
done
exit $failed
