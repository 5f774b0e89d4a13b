"""`python -m tests.reliability.cluster_matrix > docs/experiments/launchers.md`: each launcher of a
Slurm cluster.

Each cell is a real run of `bench.allreduce` or `bench.bits` with two ranks, on one node or on two.
Ends with status 1 if a launcher neither works nor is refused by one sentence of ours, and with 0
and a word on standard error where no cluster can be made.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import OF_SLURM, VENVS, Cluster, cluster, missing

PATIENCE_S = 60
SMALL = "-b 16K -e 16K --algorithm library --mode isolated --device cpu -n 12"
NAMES = {"mpich": "MPICH", "openmpi": "Open MPI"}
PMI = {"mpich": "pmi2", "openmpi": "pmix"}
OTHER = {"mpich": "openmpi", "openmpi": "mpich"}
TOP = """# Launchers on a Slurm cluster

`python -m tests.reliability.cluster_matrix` starts two ranks on real Slurm nodes with each
launcher. A number in parentheses is one sentence, printed once, with exit status 2.

| launcher | """


def lines(made: Cluster, mpi: str, nodes: int, out: Path) -> dict[str, list[str]]:
    """The command line of each launcher."""
    python, mpirun = made.python(mpi), str(VENVS[mpi] / "bin/mpirun")
    run = [*SMALL.split(), "--out", str(out)]
    program = [python, "-m", "bench.allreduce", *run]
    hosts = ["wt1", "wt2"][:nodes]
    size = ["-N", str(nodes), "-w", ",".join(hosts), "-n", "2"]
    allocated, job = ["salloc", "-Q", *size], out.with_suffix(".sh")
    if mpi == "mpich":
        on_hosts = [mpirun, "-hosts", ",".join(hosts), "-n", "2"]
    else:
        on_hosts = [mpirun, "--host", ",".join(f"{host}:{2 // nodes}" for host in hosts), "-n", "2"]
    own_words = [*run[:-4], "--iters", "12", *run[-2:]]
    started = [python, "-m", "wiretax", "allreduce", "-n", "2", *own_words]
    on_two = made.launcher(mpi, hosts, 2)
    bits = [python, *f"-m bench.bits -e 1K --device cpu --out {out}".split()]
    other = str(VENVS[OTHER[mpi]] / "bin/mpirun")

    def batch(*line: str) -> list[str]:
        job.write_text(f"#!/bin/bash\n{shlex.join(line)}\n")
        return [
            "sh",
            "-c",
            f"sbatch --parsable {' '.join(size)} -o {job}.out {job} >{job}.id || exit; "
            f"while squeue -h -j $(cat {job}.id) 2>/dev/null | grep -q .; do sleep 0.2; done; "
            f"cat {job}.out; cat {job}.out >&2; "
            f"scontrol show job $(cat {job}.id) | grep -q 'ExitCode=0:0'",
        ]

    return {
        "`srun --mpi=pmi2`": ["srun", "--mpi=pmi2", *size, *program],
        "`srun --mpi=pmix`": ["srun", "--mpi=pmix", *size, *program],
        "`srun` alone": ["srun", *size, *program],
        "`sbatch`: `srun` with the right `--mpi`": batch("srun", f"--mpi={PMI[mpi]}", *program),
        "`sbatch`: `mpirun`": batch(mpirun, "-n", "2", *program),
        "`salloc`, `mpirun`": [*allocated, mpirun, "-n", "2", *program],
        "`salloc`, `mpirun` with `-hosts` or `--host`": [*allocated, *on_hosts, *program],
        "`salloc`, `wiretax allreduce -n 2`": [*allocated, *started],
        "no Slurm: `mpirun` with `-hosts` or `--host`, through ssh": [*on_two, *program],
        "the same, `bench.bits`": [*on_two, *bits],
        "the `mpirun` of the other MPI, in `salloc`": [*allocated, other, "-n", "2", *program],
    }


def cell(made: Cluster, line: Sequence[str], out: Path, sentences: list[str]) -> str:
    """`works`, the number of the sentence that refused the launcher, or the problem."""
    try:
        done = made.run(*line, timeout_s=PATIENCE_S)
    except subprocess.TimeoutExpired:
        made.run("scancel", "--user=root")
        return f"**hangs** for {PATIENCE_S} s"
    runs = [path.read_text() for path in out.glob("*.json*")]
    if done.returncode == 0 and len(runs) == 1 and re.search('"(size|ranks)":2', runs[0]):
        return "works"
    ours = [
        line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("bench.")
    ]
    if len(ours) != 1 or not done.returncode:
        return f"**status {done.returncode}**, {len(ours)} sentences"
    sentence = re.sub(r"\d+(\.\d+)+", "N", ours[0])
    if sentence not in sentences:
        sentences.append(sentence)
    return f"({sentences.index(sentence) + 1})"


def matrix(made: Cluster) -> str:
    """The page."""
    columns = [(mpi, nodes) for mpi in NAMES for nodes in (1, 2)]
    rows, sentences = dict[str, list[str]](), list[str]()
    for number, (mpi, nodes) in enumerate(columns):
        for name in lines(made, mpi, nodes, made.shared / "out"):
            out = made.shared / f"{number}-{len(rows)}-{time.monotonic_ns()}"
            rows.setdefault(name, []).append(
                cell(made, lines(made, mpi, nodes, out)[name], out, sentences)
            )
            print(f"{NAMES[mpi]:8} {nodes} {name}: {rows[name][-1]}", file=sys.stderr, flush=True)
    heads = [f"{NAMES[mpi]}, {nodes} {'node' if nodes == 1 else 'nodes'}" for mpi, nodes in columns]
    page = [TOP + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    page += [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()]
    return "\n".join(
        [*page, "", *(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)), ""]
    )


def main() -> int:
    if reason := missing(*OF_SLURM):
        print(f"cluster_matrix: skipped: {reason}", file=sys.stderr)
        return 0
    with cluster(slurm=True) as made:
        page = matrix(made)
    print(page, end="")
    return int("**" in page)


if __name__ == "__main__":
    sys.exit(main())
