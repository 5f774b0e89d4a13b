"""A candidate that `procure` judged, and all of them side by side."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reports.advice.candidates import Figure, FigureKey, Offer, Requirement
from reports.advice.reduce_times import AllReduceLaunches
from reports.tables.sentences import some, start_time

# What the headline says of a verdict, the worst last. UNVERIFIED is a figure of a data sheet or of
# other machines: nobody measured this one.
SAID = {
    "N/A": "",  # nothing is required of it
    "PASS": " meets every requirement",
    "UNVERIFIED": " may meet every requirement, but nobody measured {}",
    "UNDECIDED": " may meet every requirement, UNDECIDED: {}",
    "FAIL": " fails {}",
}
WORST_LAST = [*SAID]
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
    runs = {each.name: _runs_text(each.launches) for each in appraisals}
    rows.append({WHAT: "runs"} | runs)

    for figures in zip(*(each.figures.values() for each in appraisals), strict=True):
        cells = [f"{figure.text}\n{figure.note}" for figure in figures]
        rows.append({WHAT: figures[0].name} | dict(zip(runs, cells, strict=True)))

    return rows


def _runs_text(launches: AllReduceLaunches) -> str:
    """Their number; in a line of their own their days and versions of Wiretax, and the starts of
    those of another harness."""
    own = [entry.run for entry in launches.runs if not entry.run.imported_from]
    logs = [start_time(entry.run) for entry in launches.runs if entry.run.imported_from]
    lines = [str(len(launches.runs))]
    if own:
        days = sorted({run.run_id[:10] for run in own})
        versions = sorted({run.version for run in own})
        begun = " to ".join(dict.fromkeys([days[0], days[-1]]))
        lines.append(f"{begun}, Wiretax {', '.join(versions)}")
    if logs:
        lines.append(some(logs))
    return "\n".join(lines)
