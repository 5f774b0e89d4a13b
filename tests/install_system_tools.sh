#!/usr/bin/env bash
# Installs the system tools that tests need and no wheel brings, as packages of Debian. As root:
#   tests/install_system_tools.sh              installs what is missing
#   tests/install_system_tools.sh --missing    prints the command that would, or nothing
set -euo pipefail
case "${1-}" in
  "" | --missing) ;;
  *) echo "usage: tests/install_system_tools.sh [--missing]" >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

# A tool and its packages.
tools="
make          make
git           git
g++           g++
clang-19      clang-19
clang-22      clang-22
chromium      chromium
chromedriver  chromium-driver
"
# Hosts in namespaces and a real Slurm, for those who have the scripts that tests/cluster.py runs.
if [ -e "${WIRETAX_CLUSTER:-../shared/cluster}/two_hosts.sh" ]; then
  tools+="
ip            iproute2
ssh           openssh-client
sshd          openssh-server
srun          slurm-client
slurmctld     slurmctld
slurmd        slurmd libpmix2
munged        munge
"
fi

missing=()
while read -r tool packages; do
  if [ "$tool" ] && ! command -v "$tool" >/dev/null; then
    read -ra names <<<"$packages"
    missing+=("${names[@]}")
  fi
done <<<"$tools"
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} = 0 ]; then
  exit
elif [ "${1:-}" = --missing ]; then
  echo "apt-get install ${missing[*]}"
elif [ "$(id -u)" != 0 ]; then
  echo "only root can install ${missing[*]}: sudo $0" >&2
  exit 1
else
  echo "Installing ${missing[*]} ..."
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends ca-certificates "${missing[@]}" >/dev/null
fi
