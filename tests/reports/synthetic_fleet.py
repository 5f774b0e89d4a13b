"""Writes stores of fleets: runs of nodes with equal hardware, which differ a little, and some of which are slow."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from tests.reports.synthetic_run import write_run

SIZES = [16384, 1 << 20]
NO_SLOWER: Mapping[str, float] = {}


def write_fleet(
    folder: Path,
    names: Collection[str],
    runs: int = 3,
    slower: Mapping[str, float] = NO_SLOWER,
    machine_id: str = "a1b2c3",
    hosts: int = 1,
) -> list[Path]:
    """Writes `runs` of each node and returns their files; a pair of nodes is `n1+n2`. `slower` has the share by which a
    node is slower. Nodes differ by 0.3 %, launches by 0.6 %."""
    rng, paths = np.random.default_rng(len(names)), list[Path]()
    for name in names:
        level = np.log1p(slower.get(name, 0.0)) + 0.003 * rng.standard_normal()
        for number in range(runs):
            serial = f"{machine_id[:2]}{len(paths):04x}"
            scale = float(np.exp(level + 0.006 * rng.standard_normal()))
            path = write_run(
                folder / machine_id,
                sizes=SIZES,
                algorithms=["library"],
                modes=["isolated"],
                n_blocks=6,
                n=1,
                scale=scale,
                seed=len(paths),
                run_id=f"2026-11-2{number}T06-15-00Z-allreduce-{serial}",
            ).path
            label(path, name, machine_id, hosts)
            paths.append(path)
    return paths


def label(path: Path, name: str, machine_id: str = "a1b2c3", hosts: int = 1) -> None:
    """Stores the labels of its nodes, one for each rank or the only one for both, in a run."""
    text, ends = path.read_text(), name.split("+")
    for rank in range(2):
        text = text.replace(
            f'{{"rank":{rank},', f'{{"rank":{rank},"node":"{ends[min(rank, len(ends) - 1)]}",', 1
        )
    text = text.replace('"machine_id":"a1b2c3"', f'"machine_id":"{machine_id}"', 1)
    path.write_text(text.replace('"hosts":1', f'"hosts":{max(hosts, len(ends))}', 1))
