#!/usr/bin/env bash
# Unpacks the real hipRTC, as Debian packages it, into a new folder and installs nothing: 60 MB to
# load, 260 MB on the disk. It needs no GPU, and none of this system's libraries.
#   tests/kernels/unpack_hiprtc.sh FOLDER [SUITE] [RELEASE]
# Debian's testing has ROCm 6 (forky 6), its experimental ROCm 7 (experimental 7: the default).
set -euo pipefail
if [ $# -lt 1 ] || [ -e "$1" ]; then
  echo "usage: tests/kernels/unpack_hiprtc.sh NEW-FOLDER [SUITE] [RELEASE]" >&2
  exit 2
fi
suite=${2:-experimental}
release=${3:-7}
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources | head -n 1)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,archives/partial,none}
for name in sid "$suite"; do
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $name main"
done | sort -u >"$work/sources.list"
options=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/none"
  -o "Dir::Etc::preferencesparts=$work/none" -o "Dir::State::lists=$work/lists"
  -o "Dir::State::status=/dev/null" -o "Dir::Cache=$work")
apt-get "${options[@]}" update
apt-get "${options[@]}" -y --no-install-recommends --download-only -t "$suite" \
  install "libhiprtc$release" "libhiprtc-builtins$release" libamd-comgr3
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$folder"; done
