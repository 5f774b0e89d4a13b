"""Writes campaigns of launches with plausible synthetic figures, through the real store and the
real manifest, so that tests of comparisons need no hours of measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.reports.synthetic_run import (
    FAST_NS,
    SLOW_NS,
    Sweep,
    cost_us,
    ranks_of,
    rewrite_head,
    write_run,
)
from wiretax.record.manifest import MANIFEST, Campaign, CampaignEnd, Launch, VariantRecord
from wiretax.record.writing import to_line

SMALL: dict[str, Any] = {
    "sizes": [16384, 65536],
    "algorithms": ["library", "one_shot_push", "two_shot"],
    "modes": ["isolated"],
    "n": 4,
    "n_blocks": 6,
}


def no_effect(case):
    return 1.0


def slower(percent, algorithm="two_shot", size_bytes=16384):
    """An effect: one case is slower by this percentage."""
    return lambda case: (
        1 + percent / 100 * ((case.algorithm, case.size_bytes) == (algorithm, size_bytes))
    )


def write_launch(
    folder,
    number,
    *,
    effect=no_effect,
    spread=0.002,
    seed=0,
    **fields,
):
    """Writes a launch of a small `Sweep` with these fields.

    Each case deviates by a factor common to the launch and by a factor of the case; `spread` is the
    standard deviation of both together, of the log. Blocks deviate by a fifth of `spread`.
    """
    sweep, rng = Sweep(**SMALL | fields), np.random.default_rng([seed, number])
    n_factors = 1 + len(sweep.cases())
    common, *own = np.exp(rng.normal(0, spread / np.sqrt(2), n_factors)).tolist()

    def us(case, block):
        rtt_ns = FAST_NS if block.round in sweep.fast_rounds else SLOW_NS
        us = cost_us(case.algorithm, case.size_bytes, rtt_ns, 2) * effect(case)
        return us * common * own[block.case] * float(np.exp(rng.normal(0, spread / 5)))

    minute, second = divmod(number, 60)
    run_id = f"2026-11-20T06-{minute:02d}-{second:02d}Z-allreduce-{seed:03d}{number:03d}"
    made = {"us": us, "seed": number, "run_id": run_id}
    return write_run(folder, **SMALL | fields | made)


def write_launches(folder, count, **options):
    """Writes a folder of run files without a campaign."""
    for number in range(count):
        write_launch(folder, number, **options)
    return folder


def write_box(folder):
    """Writes two launches of a machine with two R9700s, which `reports procure` may judge."""
    write_launches(folder, 2, sizes=[16384, 32 << 20], n_blocks=5)
    for run in folder.glob("*.jsonl"):
        rewrite_head(run, world__ranks=ranks_of("AMD Radeon AI PRO R9700"))


def write_campaign(
    folder,
    variants,
    *,
    pairs=12,
    options=None,
    **common,
):
    """Writes a campaign of these variants: the first is the baseline. `options` maps a variant to
    the options of its launches, `common` has those of all."""
    runs = list[tuple[int, str, Path]]()
    order = [(pair, name) for pair in range(pairs) for name in variants]
    for number, (pair, name) in enumerate(order):
        own = {**common, **(options or {}).get(name, {})}
        result = write_launch(folder / name, number, effect=variants[name], **own)
        runs.append((pair, name, result.path))
    write_manifest(folder, [*variants], runs)
    return folder


def write_manifest(folder, variants, runs):
    """Makes a complete campaign of runs below `folder`, each with its pair and its variant."""
    campaign = Campaign(
        campaign_id=f"{folder.name}-1",
        version="0.1.0",
        seed=0,
        pairs=1 + max(pair for pair, *_ in runs),
        margin=0.01,
        variants=[
            VariantRecord(name=name, argv=["mpirun", "-n", "2", "python"]) for name in variants
        ],
    )
    launches = [
        Launch(
            stage="first",
            pair=pair,
            place=variants.index(name),
            variant=name,
            attempt=0,
            status="finished",
            exit=0,
            elapsed_s=5.0,
            run=path.relative_to(folder).as_posix(),
        )
        for pair, name, path in runs
    ]
    (folder / MANIFEST).write_bytes(
        b"".join(map(to_line, [campaign, *launches, CampaignEnd(status="complete")]))
    )
