"""A candidate that `procure` judged, and all of them side by side."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reports.advice.candidates import Figure, FigureKey, Offer, Requirement
from reports.advice.reduce_times import AllReduceLaunches
from reports.tables.sentences import some, start_time

WORST_LAST = "N/A", "PASS", "UNVERIFIED", "UNDECIDED", "FAIL"
# The heading of the first column; no candidate's name has a line break.
WHAT = "requirement,\nfigure"


@dataclass
class Appraisal:
    """A candidate with its all-reduces, its figures, of which all candidates have the same, rows on
    what its tokens cost, on the files that were judged and on the cards that were qualified, a
    verdict and its reason for each requirement, and doubts about its figures."""

    name: str
    offer: Offer
    launches: AllReduceLaunches
    figures: dict[FigureKey, Figure]
    costs: list[dict[str, str]]
    files: list[dict[str, str]]
    cards: list[dict[str, str]]
    verdicts: dict[Requirement, tuple[str, str]]
    notes: list[str]

    @property
    def word(self) -> str:
        """The verdict on all requirements: the worst, where undecided is worse than a pass."""
        words = {word for word, _ in self.verdicts.values()}
        return max(words, key=WORST_LAST.index, default="N/A")

    @property
    def run_ids(self) -> list[str]:
        return [run.run.run_id for run in self.launches.runs]


@dataclass
class Procurement:
    """The content of the table and the page; its strings are printable, but for the text of the
    spec. `prices` compares what speed costs."""

    headline: str
    word: str
    prices: list[str]
    verdicts: Counter[str]
    appraisals: list[Appraisal]
    sentences: list[str]
    spec: bytes
    made: str

    @property
    def spec_sha256(self) -> str:
        return hashlib.sha256(self.spec).hexdigest()


def table_rows(appraisals: Sequence[Appraisal]) -> list[dict[str, str]]:
    """A row for each requirement and for each figure, with a cell for each candidate."""
    rows = [
        {WHAT: requirement.text}
        | {each.name: "\n".join(each.verdicts[requirement]) for each in appraisals}
        for requirement in appraisals[0].verdicts
    ]
    runs = {}
    for each in appraisals:
        logs = [start_time(run.run) for run in each.launches.runs if run.run.imported_from]
        versions = {run.run.version for run in each.launches.runs if not run.run.imported_from}
        days = sorted({run_id[:10] for run_id in each.run_ids}) if versions else []
        begun = " to ".join(dict.fromkeys([*days[:1], *days[-1:]]))
        made = [f"{begun}, Wiretax {', '.join(sorted(versions))}"] if versions else []
        runs[each.name] = "\n".join([str(len(each.run_ids)), *made, *filter(None, [some(logs)])])
    rows.append({WHAT: "runs"} | runs)

    for figures in zip(*(each.figures.values() for each in appraisals), strict=True):
        cells = [f"{figure.text}\n{figure.note}" for figure in figures]
        rows.append({WHAT: figures[0].name} | dict(zip(runs, cells, strict=True)))

    return rows
