"""Writes campaigns of launches with plausible synthetic figures, through the real store and the real manifest, so that
tests of comparisons need no hours of measuring.

    python -m tests.reports.synthetic_campaign FOLDER        # writes one: main, a slower new, and the control
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.store.manifest import CONTROL, MANIFEST, Campaign, End, Launch, Stage, Variant
from reports.store.schema import Block, CaseHeader, Result
from reports.store.writing import to_line
from tests.reports.synthetic_run import FAST_NS, SLOW_NS, Change, cost_us, plan, write_run

SIZES = [16384, 65536]
ALGORITHMS = ["library", "one_shot_push", "two_shot"]
# The factor by which a case takes longer.
Effect = Callable[[CaseHeader], float]


def no_effect(case: CaseHeader) -> float:
    return 1.0


def slower(percent: float, algorithm: str = "two_shot", size_bytes: int = 16384) -> Effect:
    """An effect: one case is slower by this percentage."""
    return lambda case: (
        1 + percent / 100 * ((case.algorithm, case.size_bytes) == (algorithm, size_bytes))
    )


def write_launch(
    folder: Path,
    number: int,
    *,
    effect: Effect = no_effect,
    spread: float = 0.002,
    sizes: Sequence[int] = SIZES,
    algorithms: Sequence[str] = ALGORITHMS,
    seed: int = 0,
    n_blocks: int = 6,
    fast_rounds: Sequence[int] = (),
    change: Change = lambda block: block,
    **options: Any,
) -> Result:
    """Write a launch of small cases.

    Each case deviates by a factor common to the launch and by a factor of the case; `spread` is the standard deviation
    of both together, of the log. Blocks deviate by a fifth of `spread`.
    """
    rng = np.random.default_rng([seed, number])
    cases = plan(
        sizes, algorithms, ["isolated"], [False], (), options.get("datatype", "float32"), 2
    )
    common, *own = np.exp(rng.normal(0, spread / np.sqrt(2), 1 + len(cases))).tolist()

    def made_up(block: Block) -> Block | None:
        case = cases[block.case]
        rtt_ns = FAST_NS if block.round in fast_rounds else SLOW_NS
        cost = (
            cost_us(case.algorithm, case.size_bytes, rtt_ns, 2)
            * common
            * own[block.case]
            * effect(case)
        )
        time_us = cost * float(np.exp(rng.normal(0, spread / 5)))
        return change(msgspec.structs.replace(block, time_us=time_us, total_us=1.25 * time_us))

    return write_run(
        folder,
        sizes=sizes,
        algorithms=algorithms,
        modes=["isolated"],
        n=4,
        n_blocks=n_blocks,
        fast_rounds=fast_rounds,
        change=made_up,
        seed=number,
        run_id=f"2026-11-20T06-{number // 60:02d}-{number % 60:02d}Z-allreduce-{seed:03d}{number:03d}",
        **options,
    )


def rewrite_head(run: Path, **changes: Any) -> None:
    """Set values in a run's first line; `world__size=4` sets a nested value."""
    head, _, rest = run.read_bytes().partition(b"\n")
    record = msgspec.json.decode(head)
    for path, value in changes.items():
        *outer, name = path.split("__")
        inner = record
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[name] = value
    run.write_bytes(msgspec.json.encode(record) + b"\n" + rest)


def write_launches(folder: Path, count: int, **options: Any) -> Path:
    """Write a folder of run files without a campaign."""
    for number in range(count):
        write_launch(folder, number, **options)
    return folder


def write_campaign(
    folder: Path,
    variants: Mapping[str, Effect],
    *,
    pairs: int = 8,
    fresh: int = 0,
    fresh_sizes: Sequence[int] = SIZES,
    design: Any = "two-stage",
    control: bool = False,
    end: bool = True,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **common: Any,
) -> Path:
    """Write a campaign of these variants; the first is the baseline. `options` maps a variant to the options of its
    launches."""
    names = [*variants, *[CONTROL] * control]
    records: list[Any] = [
        Campaign(
            campaign_id=f"{folder.name}-1",
            plan="0123456789abcdef",
            version="0.1.0",
            seed=0,
            design=design,
            pairs=pairs,
            fresh=fresh,
            margin=0.01,
            control=control,
            variants=[
                Variant(name=name, argv=["mpirun", "-n", "2", "python"]) for name in variants
            ],
        )
    ]
    number = 0
    stages: list[tuple[Any, int, list[str]]] = [
        ("first", pairs, names),
        ("fresh", fresh, list(variants)),
    ]
    for stage, count, stage_variants in stages:
        if count:
            records.append(Stage(stage=stage, sizes=[] if stage == "first" else list(fresh_sizes)))
        for pair in range(count):
            for place, name in enumerate(stage_variants):
                launch_options: dict[str, Any] = {**common, **((options or {}).get(name, {}))}
                if stage == "fresh":
                    launch_options["sizes"] = fresh_sizes
                result = write_launch(
                    folder / name, number, effect=variants.get(name, no_effect), **launch_options
                )
                number += 1
                run = result.path.relative_to(folder).as_posix()
                records.append(
                    Launch(
                        stage=stage,
                        pair=pair,
                        place=place,
                        variant=name,
                        attempt=0,
                        status="finished",
                        exit=0,
                        elapsed_s=5.0,
                        run=run,
                    )
                )
    if end:
        records.append(End(status="complete"))
    (folder / MANIFEST).write_bytes(b"".join(map(to_line, records)))
    return folder


if __name__ == "__main__":
    print(
        write_campaign(
            Path(sys.argv[1]),
            {"main": no_effect, "new": slower(5)},
            fresh=10,
            fresh_sizes=[16384],
            control=True,
        )
    )
