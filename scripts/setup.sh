#!/usr/bin/env bash
# Installs the distribution packages that the build needs and that are missing; says which.
# Debian 12 or newer and Ubuntu 24.04 or newer; elsewhere it names what is missing and stops.
#   usage: scripts/setup.sh [PACKAGE...]      packages to install besides
set -euo pipefail

packages=(
  "$@"
  build-essential cmake ninja-build pkg-config ccache xz-utils curl
  libhwy-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libtomlplusplus-dev libcli11-dev
  libarchive-dev libsodium-dev libsqlite3-dev libhiredis-dev libgtest-dev librapidcheck-dev
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  tools=()
  for tool in c++ cmake ninja pkg-config xz curl; do command -v "$tool" >/dev/null || tools+=("$tool"); done
  [ ${#tools[@]} -eq 0 ] && exit 0
  echo "setup: this is not Debian or Ubuntu; missing: ${tools[*]}" >&2
  echo "setup: install them and the development files of: Highway, fmt, spdlog, nlohmann-json, toml++, CLI11," >&2
  echo "setup: libarchive, libsodium, SQLite, hiredis, Boost (1.81 or newer), GoogleTest, RapidCheck; then run make again" >&2
  exit 1
fi

# Debian 12 has the Boost that is needed beside an older one that is its default.
if grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release; then
  packages+=(libboost1.81-dev)
else
  packages+=(libboost-dev)
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root, or install: ${missing[*]}" >&2; exit 1; }
  sudo=sudo
fi
echo "setup: installing ${missing[*]}" >&2
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
