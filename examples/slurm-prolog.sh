#!/bin/sh
# Qualifies a node before a job: `Prolog=/etc/slurm/wiretax-prolog.sh` and `PrologFlags=Alloc` in
# slurm.conf. Slurm drains a node whose prolog ends with another status than 0. Here only a rejected
# machine does: one that could not be measured in the time runs its job.
wiretax=${WIRETAX:-/opt/wiretax/bin/wiretax}    # as root sees it: a venv with `pip install .` of a checkout
log=${WIRETAX_LOG:-/var/log/wiretax-qualify.jsonl}
export HYDRA_LAUNCHER=fork HYDRA_RMK=user       # MPICH starts its ranks itself, not through srun
export HOME="${HOME:-/root}"

folder=$(mktemp -d) || exit 0
trap 'rm -rf "$folder"' EXIT
# The least bus bandwidth of this GPUs' all-reduce: set it to what a good node reaches. Better is
# --expect /opt/wiretax/trusted, the --out of a node that you trust, which also tells a lost card.
"$wiretax" qualify --quiet --max-time "${WIRETAX_SECONDS:-60}" --out "$folder/q" \
    --min "${WIRETAX_MIN:-32M >= 20 GB/s}" "$@" >>"$log" 2>&1
[ $? != 1 ]
