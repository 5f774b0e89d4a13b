"""Writes the nightly runs of many nodes quickly, each as large as a real run, to measure how the
reports grow with a store. Node 7 is 4 % slower in its last third; the other nodes do not change.

    python -m tests.reports.synthetic_store FOLDER RUNS NODES   # 198 cases and 2,376 blocks a run
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.reports.synthetic_run import SIZES, write_run

SLOW_NODE, SLOWED = 7, 1.04
BETWEEN_RUNS, WITHIN = 0.01, 0.03  # standard deviations of logs
# The figures of a case that change with its time, in the order of its line.
FIGURE = re.compile(
    r'"(time_us|total_us)":\{"median":[^,]*,("mean":[^,]*),"ci_low":[^,]*,"ci_high":[^,]*,'
)


class Pattern:
    """A real run as formats that take new figures: the `blocks` have times in us, (blocks,), and
    round trips."""

    def __init__(self, sizes: Sequence[int], rounds: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            made = write_run(
                Path(folder), sizes=sizes, variants=("copied", "registered"), n_blocks=rounds, n=4
            )
            lines = made.path.read_text().splitlines()
        self.head = json.loads(lines[0])
        self.head["environment"] |= {
            f"fact.{number}": {"value": f"value {number}", "source": "/proc/facts", "status": "ok"}
            for number in range(60)
        }
        self.rest = "\n".join(line for line in lines[1:] if '"kind":"link_block"' in line)
        blocks = [line for line in lines if '"kind":"block"' in line]
        self.case = np.array([json.loads(line)["case"] for line in blocks])
        self.time_us = np.array([json.loads(line)["time_us"] for line in blocks])
        figure = re.compile(r'"(time_us|total_us|link_rtt_ns)":(\[[^]]*\]|[0-9.e-]+)')
        self.block = [
            figure.sub(
                lambda match: (
                    f'"{match[1]}":' + ("[%.1f,%.1f]" if match[1] == "link_rtt_ns" else "%.3f")
                ),
                line.replace("%", "%%"),
            )
            for line in blocks
        ]
        self.cases = [line for line in lines if '"kind":"case"' in line]
        self.end = lines[-1]

    def write(
        self, path: Path, rng: np.random.Generator, factor: float, head: dict[str, Any]
    ) -> None:
        """Writes a run whose times are `factor` times the pattern's; `head` replaces fields of its
        first line."""
        n_cases = len(self.cases)
        own = np.exp(rng.normal(0, BETWEEN_RUNS, n_cases))
        n = len(self.block)
        time_us = factor * own[self.case] * self.time_us * np.exp(rng.normal(0, WITHIN, n))
        total_us, trips_ns = 1.25 * time_us, 540 * rng.normal(1, 0.03, (2, n))
        figures = np.stack([time_us, total_us, *trips_ns], axis=-1).tolist()
        lines = [json.dumps(self.head | head, separators=(",", ":")), self.rest]
        lines += [form % tuple(values) for form, values in zip(self.block, figures, strict=True)]
        middles = [(median, 1.25 * median) for median in medians(self.case, time_us, n_cases)]
        for line, middle in zip(self.cases, middles, strict=True):
            of_line = iter(middle)

            def changed(match: re.Match[str], of_line: Any = of_line) -> str:
                median = next(of_line)
                return (
                    f'"{match[1]}":{{"median":{median:.4f},{match[2]},"ci_low":{0.99 * median:.4f},'
                    f'"ci_high":{1.01 * median:.4f},'
                )

            lines.append(FIGURE.sub(changed, line))
        path.write_text("\n".join([*lines, self.end, ""]))


def medians(case: np.ndarray, values: np.ndarray, n_cases: int) -> list[float]:
    ordered = values[np.lexsort((values, case))]
    counts = np.bincount(case, minlength=n_cases)
    starts = np.cumsum(counts) - counts
    middles = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2
    return list(map(float, middles))


def write_store(
    folder: Path,
    runs: int,
    nodes: int,
    sizes: Sequence[int] = SIZES,
    rounds: int = 12,
    seed: int = 1,
) -> Path:
    """Writes `runs` runs of `nodes` nodes in turn, a folder for each node, two weeks or more.
    Returns the folder."""
    rng, pattern = np.random.default_rng(seed), Pattern(sizes, rounds)
    of_node = np.exp(rng.normal(0, 0.005, nodes))
    start = datetime.datetime(2026, 3, 1, 2)
    for number in range(runs):
        node, night = number % nodes, number // nodes
        time = start + datetime.timedelta(days=night, seconds=10 * node)
        run_id = f"{time:%Y-%m-%dT%H-%M-%SZ}-allreduce-{number:06x}"
        is_slow = node == SLOW_NODE and night >= 2 * runs // nodes // 3
        factor = of_node[node] * np.exp(rng.normal(0, BETWEEN_RUNS)) * (SLOWED if is_slow else 1)
        place = folder / f"node-{node:03d}"
        place.mkdir(parents=True, exist_ok=True)
        environment = pattern.head["environment"] | {
            "os.load": {
                "value": round(float(rng.random()), 2),
                "source": "/proc/loadavg",
                "status": "ok",
            }
        }
        ranks = [rank | {"node": f"n{node:03d}"} for rank in pattern.head["world"]["ranks"]]
        pattern.write(
            place / f"{run_id}.jsonl",
            rng,
            factor,
            {
                "run_id": run_id,
                "environment": environment,
                "world": pattern.head["world"] | {"ranks": ranks},
            },
        )
    return folder


if __name__ == "__main__":
    write_store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
