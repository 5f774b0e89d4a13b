"""Writes stores of fleets: runs of nodes with equal hardware, which differ a little, and some of
which are slow."""

from pathlib import Path

import numpy as np

from tests.reports.synthetic_run import rewrite, write_run

SIZES = [16384, 1 << 20]
NO_SLOWER = dict[str, float]()


def write_fleet(
    folder,
    names,
    runs=3,
    slower=NO_SLOWER,
    machine_id="a1b2c3",
):
    """Writes `runs` of each node and returns their files; a pair of nodes is `n1+n2`. `slower` has
    the share by which a node is slower. Nodes differ by 0.3 %, launches by 0.6 %."""
    rng, paths = np.random.default_rng(len(names)), list[Path]()
    for name in names:
        level = np.log1p(slower.get(name, 0.0)) + 0.003 * rng.standard_normal()
        for number in range(runs):
            path = write_run(
                folder / machine_id,
                sizes=SIZES,
                algorithms=["library"],
                modes=["isolated"],
                n_blocks=6,
                n=1,
                scale=float(np.exp(level + 0.006 * rng.standard_normal())),
                seed=len(paths),
                run_id=f"2026-11-2{number}T06-15-00Z-allreduce-{machine_id[:2]}{len(paths):04x}",
            ).path
            paths.append(label(path, name, machine_id))
    return paths


def label(path, name, machine_id="a1b2c3"):
    """Stores the labels of its nodes, one for each rank or the only one for both, in a run."""
    nodes = name.split("+")

    def change(line):
        if line["kind"] == "run":
            line["machine_id"], line["world"]["hosts"] = machine_id, len(nodes)
            for rank, node in zip(line["world"]["ranks"], 2 * nodes, strict=False):
                rank["node"] = node

    return rewrite(path, change)
