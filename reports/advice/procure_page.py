"""The page of `procure`, which a buyer signs."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from reports.advice.appraisal import WHAT, Appraisal, Procurement, table_rows
from reports.kit.chart import forest
from reports.kit.page import SIGNATURE, Banner, Cell, Page, Row, Section, command_after, role_of
from reports.tables.sentences import counted
from wiretax import __version__
from wiretax.common.program import BENCH, REPORTS, RUN, on_ranks
from wiretax.common.untrusted import printable
from wiretax.record.packed import archive_of


def procure_page(procurement: Procurement, spec: Path) -> Page:
    """The page for `procure --html`: the candidates side by side."""
    appraisals = procurement.appraisals
    counts = ", ".join(f"{n} {word}" for word, n in procurement.verdicts.items())
    runs = [f"{each.name}: {run_id}" for each in appraisals for run_id in each.run_ids]
    costs = [row for each in appraisals for row in each.costs]
    # What a section of its own explains.
    explained = {
        f"{row['model']}, {what}" for row in costs for what in ("energy", "million tokens")
    }
    return Page(
        f"Procurement: {procurement.headline}",
        Banner(
            procurement.word if counts else counted(len(appraisals), "candidate"),
            f"{procurement.headline}.",
            [counts, *procurement.prices],
        ),
        [
            Section("What to do next", next_steps(appraisals)),
            Section("Each figure beside its requirement", rows=_points(procurement)),
            Section(
                "Requirements, and figures with their intervals over launches",
                rows=[row for row in table_rows(appraisals) if row[WHAT] not in explained],
            ),
            Section("What a million tokens cost", rows=costs),
            Section("How to read this", procurement.sentences),
            Section("Cards", rows=[row for each in appraisals for row in each.cards]),
            Section("Files", rows=[row for each in appraisals for row in each.files]),
            Section(
                "The spec",
                [f"{printable(spec.name)}, SHA-256 {procurement.spec_sha256}"],
                text=procurement.spec.decode("utf-8-sig"),
            ),
            Section(
                "To sign",
                [
                    f"{procurement.headline}.",
                    f"Made on {procurement.made} by Wiretax {__version__} from the spec with the "
                    f"SHA-256 {procurement.spec_sha256}.",
                    SIGNATURE,
                ],
            ),
        ],
        reproduce={
            "command, without folders": f"{RUN}{REPORTS} procure {quote(printable(spec.name))}",
            "run ids": "\n".join(runs),
        },
    )


def next_steps(appraisals: Sequence[Appraisal]) -> list[Cell]:
    """What decides what is open: more launches on a machine whose runs lie here, a survey by the
    seller of another, and an engine for tokens/s."""
    steps = list[Cell]()
    for each in appraisals:
        gpus, own_runs = each.offer.gpus, each.offer.runs
        words = {word for word, _ in each.verdicts.values()}
        is_measured = bool(own_runs) and not any(archive_of(run.path) for run in each.launches.runs)
        if "UNDECIDED" in words and is_measured:
            command = f"{on_ranks(gpus, 'allreduce')} --out {quote(each.name)}"
            steps.append(command_after(f"On {each.name}, add launches until they decide:", command))
        elif gpus > 1 and ("UNDECIDED" in words or ("UNVERIFIED" in words and not own_runs)):
            steps.append(
                [
                    *command_after(
                        f"Ask the seller of {each.name} for a survey archive. On the machine, with "
                        f"Wiretax {__version__}, the seller types",
                        f"{RUN}{BENCH}survey -n {gpus}",
                    ),
                    "and sends results/survey-TIME.tar.gz, whose name you add to its runs.",
                ]
            )
    if any(
        word == "UNVERIFIED" and requirement.figure[0] == "tok/s"
        for each in appraisals
        for requirement, (word, _) in each.verdicts.items()
    ):
        steps.append("Measure tok/s with an engine: these are upper limits.")
    return steps or ["Nothing: every requirement is decided."]


def _points(procurement: Procurement) -> list[Row]:
    """Each candidate's figure with its interval, as shares by which it is better than each
    requirement's limit."""
    rows, shares = list[dict[str, str]](), list[Any]()
    for each in procurement.appraisals:
        for requirement, (word, _) in each.verdicts.items():
            figure = each.figures[requirement.figure]
            if figure.value is not None:
                ends = figure.value, figure.low, figure.high
                # An end at 0 has no place on a logarithmic scale.
                above = [end / requirement.limit if end else None for end in ends]
                is_least = requirement.is_met(2 * requirement.limit)
                shares.append([each and (each if is_least else 1 / each) - 1 for each in above])
                rows.append(
                    {"requirement": requirement.text, "candidate": each.name, "verdict": word}
                )

    if not rows:
        return []
    roles = [role_of(row["verdict"]) for row in rows]
    heading, drawings = forest(shares, roles, words="misses | meets")
    return [row | {heading: drawing} for row, drawing in zip(rows, drawings, strict=True)]
