"""The page of a campaign: its comparisons, and the facts in which its variants differ."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reports.site import shared
from reports.site.page import Page, Section
from reports.tables.command import command_without_seed
from reports.tables.sentences import some
from reports.verdicts.judge import compare
from reports.verdicts.page import comparison_banner, explanation, forest
from reports.verdicts.sides import COMPARABLE, Side, notes_of, read_sides


def campaign_page(folder: Path) -> Page:
    """A campaign: its comparisons, and the differences between its variants. Raises ResultError."""
    variants = read_sides([str(folder)])
    comparisons = compare(variants, list(COMPARABLE))
    banners = list(map(comparison_banner, comparisons))
    banner = banners[0]
    banner.facts = [
        *banner.facts,
        *(f"{other.word}: {other.sentence}" for other in banners[1:]),
        *notes_of(variants),
    ]
    names = ", ".join(side.label for side in variants[1:])
    return Page(
        f"{folder.name}: {names} against {variants[0].label}",
        banner,
        [
            *(forest(each, f"cells-{place}") for place, each in enumerate(comparisons)),
            _differences(variants),
            *map(explanation, comparisons),
        ],
    )


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same on all sides."""
    runs = [(side.label, launch.run) for side in variants for launch in side.launches]
    facts = pd.DataFrame(
        [
            {
                **{name: shared.fact_text(fact) for name, fact in run.environment.items()},
                "machine_id": run.machine_id,
                "software_id": run.software_id,
                "version": run.version,
                "command": command_without_seed(run),
                "side": side,
            }
            for side, run in runs
        ]
    )
    values = facts.fillna("-").groupby("side", sort=False).agg(frozenset)
    rows = [
        {
            "fact": str(name),
            **{str(side): some(sorted(texts)) for side, texts in values[name].items()},
        }
        for name in values
        if values[name].nunique() > 1
    ]
    same = "Machine, software and environment are the same on all sides."
    return Section("What differs", [] if rows else [same], table="differences", rows=rows)
