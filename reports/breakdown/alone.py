"""What an all-reduce takes alone: in a run of the instrument, or as published for these cards."""

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import median

from reports.advice.group_times import runs_by_ranks
from reports.advice.nearest import question_of
from reports.advice.reduce_times import (
    SMALL,
    AllReduceLaunches,
    ReduceTimes,
    one_way,
    read_launches,
    span_over_launches,
)
from reports.advice.spans import Span
from reports.advice.specs import sheet_of
from reports.breakdown.bill import Alone, CallBill
from reports.references.published import meant_cards, near_size, select, votes
from reports.tables.beside_published import by_way, counts
from reports.tables.sentences import counted, size_text, some
from wiretax.common.program import on_ranks
from wiretax.record.case import typed_size
from wiretax.record.observations import MIN_BLOCKS, Entry
from wiretax.record.result import ResultError
from wiretax.record.schema import Run
from wiretax.record.stats import Interval

BENCHMARKS = {
    "all_gather": "allgather",
    "reduce_scatter": "reduce_scatter",
    "all_to_all": "alltoall",
    "send_recv": "sendrecv",
}
MODES = {"chained": "a chain", "isolated": "single calls"}


@dataclass
class Baseline:
    """Where times alone are looked up: all-reduces of `run` by their number of ranks, or else what
    is published of a `card`. `size_bytes` is that of calls of which the traces tell none. `notes`
    gather why a call has no time alone."""

    run: Path | None = None
    launches: Mapping[int, AllReduceLaunches] = field(default_factory=dict)
    card: str = ""
    size_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def baseline_of(arguments: argparse.Namespace, gpus: Collection[int], device: str = "") -> Baseline:
    """By --run, or by --gpu or the `device` that the traces name. `gpus` are the numbers of ranks
    that call together. Raises ResultError for a run that cannot stand beside the traces, and for an
    unknown --gpu."""
    card = arguments.gpu or device
    baseline = Baseline(arguments.run, {}, card, arguments.size or 0)
    if not arguments.run:
        baseline.notes += question_of(card, 2, 1).notices if arguments.gpu else meant_cards(card)[1]
        return baseline
    found = runs_by_ranks([arguments.run], "all_reduce", min(gpus, default=2), 1)
    if not found:
        raise ResultError(f"{arguments.run} has no all-reduces: it is no run of bench.allreduce")
    files = {ranks: names for (ranks, _), names in found.items() if ranks in gpus}
    if gpus and not files:
        ranks = " and ".join(str(ranks) for ranks, _ in sorted(found))
        raise ResultError(
            f"{arguments.run} has all-reduces of {ranks} ranks, the traces of "
            f"{' and '.join(map(str, sorted(gpus)))}"
        )
    baseline.launches = {ranks: read_launches(names, ranks) for ranks, names in files.items()}
    for launches in baseline.launches.values():
        if launches.wrong:
            raise ResultError(f"{', '.join(launches.wrong)} failed or has wrong results")
        if not launches.runs:
            raise ResultError(
                "; ".join([f"{arguments.run} has no run that counts", *launches.notes])
            )
        baseline.notes += [*launches.notes, *other_device(launches.runs[0].run, device)]
    return baseline


def other_device(run: Run, device: str) -> list[str]:
    """A sentence if nothing shows that the traces' `device` is the run's. Raises ResultError if it
    is known to be another."""
    place = run.gpus[0] if run.gpus else "CPU cores"
    if device == place or (device == "CPU" and not run.gpus):
        return []
    if not device:
        unnamed = f"Run {run.run_id} is of CPU cores, and no file names the GPU beside it."
        return [] if run.gpus else [unnamed]
    own, other = sheet_of(place), sheet_of(device)
    if not run.gpus or (own and other and own != other):
        raise ResultError(f"run {run.run_id} is of {place}, the traces are of {device}")
    if own and other:
        return []
    return [f"Run {run.run_id} is of {place}, the traces name {device}."]


def alone_of(call: CallBill, gpus: int, baseline: Baseline) -> Alone | None:
    """The time alone of an all-reduce of `gpus` ranks; the call gets the size of --size if it has
    none. None without one, with a sentence in `baseline.notes`."""
    if call.collective != "all_reduce":
        return None
    call.size_bytes = call.size_bytes or baseline.size_bytes
    if not call.size_bytes:
        baseline.notes.append(
            f"The traces do not tell the size of the all-reduces of {call.by}: add --size BYTES, "
            "the tokens of a step x the hidden size x 2, for their time alone."
        )
        return None
    found = measured(call, gpus, baseline) if baseline.run else published(call, gpus, baseline.card)
    if isinstance(found, Alone):
        return found
    command = to_measure(call.collective, call.size_bytes, gpus, call.is_graph)
    baseline.notes.append(
        f"An all-reduce of {size_text(call.size_bytes)} alone: {found}. Measure it and add "
        f"--run alone: `{command} --out alone`."
    )
    return None


def to_measure(collective: str, size_bytes: int, gpus: int, is_graph: bool | None = None) -> str:
    """The command that measures such a call alone, from a graph if the engine's was. Its size is
    exact, for no time is taken from beyond the measured sizes."""
    size, graph = typed_size(size_bytes), " -G 1" if is_graph else ""
    return on_ranks(gpus, f"{BENCHMARKS.get(collective, 'allreduce')} -b {size} -e {size}{graph}")


def measured(call: CallBill, gpus: int, baseline: Baseline) -> Alone | str:
    """In the run's launches, by what the engine ran if they have it; between two sizes as
    ReduceTimes has it, and not beyond. Of eager calls single ones, if there are any. Or why not."""
    launches = baseline.launches.get(gpus)
    if not launches:
        return f"{baseline.run} has none of {gpus} ranks"
    algorithm = algorithm_of(call.by, launches.runs)
    rows = launches.times.head(0)
    if call.is_graph is False:
        rows = one_way(launches.runs, call.collective, "isolated", [algorithm])
    if rows.empty:
        rows = one_way(launches.runs, call.collective, None, [algorithm])
    if rows.empty:
        return f"{baseline.run} has none with {MIN_BLOCKS} blocks in each launch: it was too short"
    confidence = launches.confidence if launches.have_intervals else None
    times_us = {
        size: span_over_launches(rows[rows.size_bytes == size]["time_us"], confidence)
        for size in sorted({*rows.size_bytes.tolist()})
    }
    size = call.size_bytes
    smaller = max((each for each in times_us if each <= size), default=0)
    larger = min((each for each in times_us if each >= size), default=0)
    if not smaller or not larger:
        sizes = " to ".join(dict.fromkeys(map(size_text, (min(times_us), max(times_us)))))
        return f"{baseline.run} has {sizes} alone"
    row = rows[rows.size_bytes == smaller].iloc[0]
    words = [
        row["library"] if isinstance(row["library"], str) else algorithm,
        "" if is_of_engine(algorithm, call.by) else f"not {call.by}",
        MODES[row["mode"]],
        counted(len(launches.runs), "launch"),
        "" if smaller == larger else f"between {size_text(smaller)} and {size_text(larger)}",
    ]

    def interval(us: Span) -> Interval:
        return (us.value, us.low, us.high) if confidence else (us.value, None, None)

    us, _ = ReduceTimes(gpus, "", times_us).look_up(size)
    curve = [(size, interval(us)) for size, us in times_us.items()]
    return Alone(interval(us), ", ".join(filter(None, words)), curve)


def algorithm_of(by: str, runs: Sequence[Entry]) -> str:
    """The algorithm of these runs that the engine ran, or else ours."""
    known = dict.fromkeys(case.algorithm for run in runs for case in run.plan.cases)
    ours = [name for name in ("auto", "library") if name in known]
    return next((name for name in known if is_of_engine(name, by)), (ours or ["auto"])[0])


def is_of_engine(algorithm: str, by: str) -> bool:
    """Whether an algorithm of a run is the library, or the kernel of the engine, of this name."""
    if re.search(r"\b(N|R|one)CCL\b", by):
        return algorithm == "library"
    return algorithm in by.lower() or (algorithm == "auto" and by == "Wiretax")


def published(call: CallBill, gpus: int, card: str) -> Alone | str:
    """As others printed it for such cards, of the way that most machines have: of the engine's own
    kernel, or else of a library. Up to SMALL, where a call takes its latency, sizes from half to
    twice count if nobody measured this one. Or why not."""
    lacks = f"none is published of {gpus}x {card or 'unknown GPUs (--gpu NAME)'}"
    if not meant_cards(card)[0]:
        return lacks
    size, by = call.size_bytes, call.by.lower()
    rows = question_of(card, gpus, 1).equal(size, kind={"library", "tuned"}, is_history={False})
    rows = near_size(rows, size) if size <= SMALL else select(rows, size_bytes={size})
    rows = [row for row in rows if row.library in by] or select(rows, kind={"library"})
    if call.is_graph is not None:
        mode = "graph" if call.is_graph else "eager"
        rows = select(rows, mode={mode, "unknown"}) or rows
    if not rows:
        return lacks
    way, rows = max(by_way(rows).items(), key=lambda each: len(votes(each[1], attrgetter("us"))))
    times_us = [row.us for row in rows]
    sizes = sorted({row.size_bytes or 0 for row in rows})
    words = [
        f"published of {some([*dict.fromkeys(row.library for row in rows)])} {way}".rstrip(),
        f"at {' and '.join(map(size_text, sizes))}" if sizes != [size] else "",
        some([*dict.fromkeys(row.mode for row in rows if row.mode != "unknown")]),
        f"{counts(rows)} ({some([*dict.fromkeys(row.source for row in rows)])})",
    ]
    low_high = (min(times_us), max(times_us)) if len(rows) > 1 else (None, None)
    middle_us = median(votes(rows, attrgetter("us")).values())
    return Alone((middle_us, *low_high), ", ".join(filter(None, words)))
