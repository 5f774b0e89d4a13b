"""Writes the nightly runs of many nodes quickly, each as large as a real run, to measure how the
reports grow with a store. Node 7 is 4 % slower in its last third; the other nodes do not change.

    python -m tests.reports.synthetic_store FOLDER RUNS NODES   # 198 cases and 2,376 blocks a run
"""

from __future__ import annotations

import datetime
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.reports.synthetic_run import Record, write_run

SLOW_NODE, SLOWED = 7, 1.04
BETWEEN_RUNS, WITHIN = 0.01, 0.03  # standard deviations of logs


def real_run() -> list[Record]:
    """The lines of a run."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_run(Path(folder), variants=("copied", "registered"), n_blocks=12, n=4).path
        lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    lines[0]["environment"] |= {
        f"fact.{number}": {"value": f"value {number}", "source": "/proc/facts", "status": "ok"}
        for number in range(60)
    }
    return lines


def summary(times_us: list[float]) -> Record:
    median = float(np.median(times_us))
    return {"median": median, "ci_low": 0.99 * median, "ci_high": 1.01 * median}


def write(path: Path, lines: list[Record], rng: np.random.Generator, **head: Any) -> None:
    """Writes a run whose times differ from those in `lines`; `head` replaces fields of its first
    line, and `factor` is the run's factor on all times."""
    factor = head.pop("factor")
    own = factor * np.exp(rng.normal(0, BETWEEN_RUNS, len(lines[0]["cases"])))
    noise = np.exp(rng.normal(0, WITHIN, len(lines)))
    trips_ns = (540 * rng.normal(1, 0.03, (len(lines), 2))).tolist()
    times_us = defaultdict[int, list[float]](list)
    written = [lines[0] | head]
    for number, line in enumerate(lines[1:]):
        new = {}
        if line["kind"] == "block":
            time_us = float(line["time_us"] * own[line["case"]] * noise[number])
            times_us[line["case"]].append(time_us)
            new = {
                "time_us": time_us,
                "total_us": 1.25 * time_us,
                "link_rtt_ns": trips_ns[number],
            }
        elif line["kind"] == "case":
            own_us = times_us[line["case"]]
            new = {
                "time_us": line["time_us"] | summary(own_us),
                "total_us": line["total_us"] | summary([1.25 * us for us in own_us]),
            }
        written.append(line | new)
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in written))


def write_store(folder: Path, runs: int, nodes: int) -> None:
    """Writes `runs` runs of `nodes` nodes in turn, a folder for each node."""
    rng, lines = np.random.default_rng(1), real_run()
    of_node = np.exp(rng.normal(0, 0.005, nodes))
    start, world = datetime.datetime(2026, 3, 1, 2), lines[0]["world"]
    for number in range(runs):
        night, node = divmod(number, nodes)
        time = start + datetime.timedelta(days=night, seconds=10 * node)
        run_id = f"{time:%Y-%m-%dT%H-%M-%SZ}-allreduce-{number:06x}"
        is_slow = node == SLOW_NODE and night >= 2 * runs // nodes // 3
        load = {"value": round(float(rng.random()), 2), "source": "/proc/loadavg", "status": "ok"}
        place = folder / f"node-{node:03d}"
        place.mkdir(parents=True, exist_ok=True)
        write(
            place / f"{run_id}.jsonl",
            lines,
            rng,
            run_id=run_id,
            factor=of_node[node] * np.exp(rng.normal(0, BETWEEN_RUNS)) * SLOWED**is_slow,
            environment=lines[0]["environment"] | {"os.load": load},
            world=world | {"ranks": [rank | {"node": f"n{node:03d}"} for rank in world["ranks"]]},
        )


if __name__ == "__main__":
    write_store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
