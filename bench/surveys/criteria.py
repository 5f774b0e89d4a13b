"""What `bench.qualify` holds a machine against: the runs of a machine that is trusted, and limits.

A figure beyond its limit rejects the machine. One that nobody measured, or whose interval reaches
beyond the limit, decides nothing: the slower a machine is, the fewer blocks it has in its time."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import median

from bench.campaigns.campaign_options import Stop
from bench.harness.console import USAGE
from reports.advice.call_percentiles import FIELDS, needed
from reports.advice.candidates import Requirement, requirement_of
from reports.advice.nearest import BAD, answer_to, beside, question_of_run, usual_us
from reports.tables.sentences import describe, number, size_text, some
from reports.verdicts.judge import Incomparable, differing
from reports.verdicts.sides import Side, faults_of
from wiretax.common.grouped import grouped
from wiretax.record.case import Key, key_of
from wiretax.record.manifest import runs_by_time
from wiretax.record.observations import cards_of
from wiretax.record.result import ResultError, read
from wiretax.record.schema import Case, Estimate, Result, Summary

SLOW = 1.25  # times a trusted machine's: launches of one machine differ by less
TRUSTED, HERE = "the trusted machine", "this machine"


@dataclass
class Findings:
    """Sentences on why the machine is rejected, and on what could not be decided; and how many
    figures were compared with each criterion."""

    faults: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    with_published: int = 0
    with_trusted: int = 0
    with_limits: int = 0

    @property
    def compared(self) -> int:
        """With what can accept a machine: published figures only reject."""
        return self.with_trusted + self.with_limits


def limit(text: str) -> Requirement:
    """The type of an option: a limit of a size. Raises ArgumentTypeError."""
    requirement = requirement_of(text)
    if requirement is None or requirement.figure[0] == "tok/s":
        raise argparse.ArgumentTypeError(
            f"{text!r} is no limit such as '32M >= 20 GB/s' (busbw), '16K <= 50 us' or '16K p99 <= "
            f"90 us' ({', '.join(FIELDS)})"
        )
    return requirement


def read_trusted(folder: Path) -> list[Result]:
    """The runs of a trusted machine, each once. Raises Stop without any, for runs that are wrong or
    incomplete, and for a case without an interval in all of them, which would decide nothing;
    ResultError."""
    runs = {result.run.run_id: result for result in map(read, runs_by_time(folder))}
    trusted = [*runs.values()]
    if faults := faults_of(Side(str(folder), trusted)):
        raise Stop(USAGE, f"{folder} is of no machine to trust: {faults[0]}")
    cases = [case for result in trusted for case in result.cases if case.time_us]
    if not cases:
        raise Stop(USAGE, f"{folder} has no run of a machine to compare with")
    blind = [own[0] for own in grouped(cases, case_of).values() if not any(map(has_interval, own))]
    if blind:
        raise Stop(
            USAGE,
            f"{folder} has too few blocks for an interval of {some([*map(describe, blind)])}: "
            "measure that machine again, with a longer --max-time",
        )
    return trusted


def missing_cards(trusted: Sequence[Result], n_cards: int) -> list[str]:
    """A sentence if the trusted machine's runs used more cards than are here."""
    most = max((len(cards_of(result.run)) for result in trusted), default=0)
    if n_cards >= most:
        return []
    return [f"only {n_cards} of the trusted machine's {most} GPUs can be used here"]


def hold_against(
    findings: Findings, trusted: Sequence[Result], own: Sequence[Result], allowed: Sequence[str]
) -> None:
    """Compares each case of the trusted machine with this machine's."""
    for benchmark, theirs in grouped(trusted, lambda result: result.run.benchmark).items():
        ours = [result for result in own if result.run.benchmark == benchmark]
        if not ours:
            findings.undecided.append(f"{benchmark} was not measured here")
            continue
        try:
            differing([Side(TRUSTED, theirs), Side(HERE, ours)], allowed)
        except Incomparable as error:
            findings.undecided.append(f"{benchmark}: {error}")
            continue

        here = grouped((case for result in ours for case in result.cases), case_of)
        there = [case for result in theirs for case in result.cases if case.time_us]
        for key, cases in grouped(there, case_of).items():
            measured = [case for case in here.get(key, ()) if case.time_us]
            if not measured:
                findings.undecided.append(f"{describe(cases[0])} was not measured here")
            times_us = [
                each.time_us.median for each in cases if each.time_us and has_interval(each)
            ]
            for case in measured:
                hold_time(findings, case, median(times_us))


def case_of(case: Case) -> Key:
    """What identifies a case here and on the trusted machine, whatever the library's version."""
    return key_of(case, ("library",))


def hold_time(findings: Findings, case: Case, expected_us: float) -> None:
    """Holds a time against the trusted machine's."""
    time_us, most_us = case.time_us, SLOW * expected_us
    assert time_us
    findings.with_trusted += 1
    least_us = time_us.ci_low or 0.0
    said = f"at least {number(least_us)}" if least_us > most_us else number(time_us.median)
    sentence = f"{describe(case)}: {said} us, on {TRUSTED} {number(expected_us)} us"
    if time_us.median > most_us:
        findings.faults.append(sentence)
    elif time_us.ci_high is None:
        findings.undecided.append(f"{sentence}; too few blocks here for an interval")
    elif time_us.ci_high > most_us:
        findings.undecided.append(
            f"{sentence}; here the interval reaches {number(time_us.ci_high)} us"
        )


def hold_to_published(findings: Findings, result: Result) -> None:
    """Compares each call with those that are published of equal machines, if any are."""
    try:
        question = question_of_run(result)
    except ResultError:  # CPU cores, a card that nobody published, or wrong results, which reject
        return
    for call in question.own:
        size_bytes = call.size_bytes or 0
        answer = answer_to(question, size_bytes, call.kind)
        alike = beside(answer, call)
        if not alike or answer.differs:
            continue
        findings.with_published += 1
        if call.us > BAD * usual_us(alike):
            findings.faults.append(
                f"{call.kind} at {size_bytes} B: {number(call.us)} us, published for equal "
                f"machines are {number(usual_us(alike))} us"
            )


def hold_to(findings: Findings, limits: Sequence[Requirement], own: Sequence[Result]) -> None:
    """Holds single out-of-place all-reduces to these limits: of `auto` and the library the faster
    one, since a link that one of them can use so well is no worse."""
    cases = [
        case
        for result in own
        if result.run.benchmark == "allreduce"
        for case in result.cases
        if case.mode == "isolated" and not case.in_place and case.time_us and case.total_us
    ]
    for requirement in limits:
        unit, size_bytes = requirement.figure
        figures = [
            figure
            for case in cases
            if case.size_bytes == size_bytes and (figure := figure_of(case, unit))
        ]
        if not figures:
            why = f"; {needed(unit)}" if unit in FIELDS else ""
            findings.undecided.append(f"{requirement.text}: not measured{why}")
            continue
        if unit == "GB/s":
            best = max(figures, key=attrgetter("median"))
            worst = best.ci_low
        else:
            best, unit = min(figures, key=attrgetter("median")), "us"
            worst = best.ci_high
        findings.with_limits += 1
        sentence = (
            f"{requirement.text}: {size_text(int(size_bytes))} has {number(best.median)} {unit}"
        )
        # A percentile of a tail jumps between runs: its whole interval rejects, and not its value.
        least = (best.ci_low or 0.0) if requirement.figure[0] in FIELDS else best.median
        if not requirement.is_met(least):
            findings.faults.append(sentence)
        elif worst is None:
            findings.undecided.append(f"{sentence}; too few blocks for an interval")
        elif not requirement.is_met(worst):
            findings.undecided.append(f"{sentence}; the interval reaches {number(worst)} {unit}")


def figure_of(case: Case, unit: str) -> Summary | None:
    """The time with reading the result, or the bus bandwidth, as the table prints them, or a
    percentile of its calls."""
    if unit == "us":
        return case.total_us
    if unit in FIELDS:
        steps: Estimate | None = getattr(case, FIELDS[unit])
        if steps is None:
            return None
        return Summary(median=steps.value, ci_low=steps.ci_low, ci_high=steps.ci_high)
    if case.bus_bw_gb_s is None or not case.time_us:
        return None
    amount = case.bus_bw_gb_s * case.time_us.median
    low_us, high_us = case.time_us.ci_low, case.time_us.ci_high
    return Summary(
        median=case.bus_bw_gb_s,
        ci_low=amount / high_us if high_us else None,
        ci_high=amount / low_us if low_us else None,
    )


def has_interval(case: Case) -> bool:
    return bool(case.time_us and case.time_us.ci_low)
