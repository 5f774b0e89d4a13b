"""The command `tuner`: the settings under which a library beats its default, by size, as the table
that the tuner of RCCL or NCCL reads, or as JSON. A setting is a recorded environment variable, such
as NCCL_PROTO or I_MPI_ADJUST_ALLREDUCE, in which a variant differs from the baseline."""

import argparse
import re
import sys
from collections.abc import Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from reports.tables.sentences import environment_of, size_text, some
from reports.verdicts.engines import ENGINES, engine_table
from reports.verdicts.judge import Comparison, compare
from reports.verdicts.sides import Side, add_allow, faults_between, notes_of, read_sides, tell_apart
from reports.verdicts.verdict import FASTER
from wiretax.common.program import complain, write_json
from wiretax.record.result import ResultError

# RCCL's src/plugin/tuner/csv_tuner.cc (ROCm/rocm-systems pull request 4503) reads the table of
# NCCL's plugins/tuner/example. Both skip lines with #; a header would be a row of NCCL's.
COLUMNS = "collective,min_bytes,max_bytes,algorithm,protocol,channels,nodes,ranks,pipe_ops,reg_buff"
COLLECTIVES = "all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"
ALGORITHMS = {
    name.replace("_", ""): name
    for name in ("tree", "ring", "collnet_direct", "collnet_chain", "nvls", "nvls_tree", "pat")
}
PROTOCOLS = "ll", "ll128", "simple"
LEAST_CHANNELS, MOST_CHANNELS = "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS"
IN_COLUMNS = {"NCCL_ALGO", "NCCL_PROTO", LEAST_CHANNELS, MOST_CHANNELS}
RAN = re.compile(r"(\w+) (\w+), ")  # in `chosen`
ANY = -1  # of a column


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a campaign's folder, the default of the library first; or such runs, folders of "
        "runs, quoted globs, FOLDER/VARIANT of a campaign",
    )
    parser.add_argument(
        "--format",
        choices=("rccl", "nccl", "json", *ENGINES),
        required=True,
        help="the table of RCCL's tuner or of NCCL's example plugin; JSON for any library; the "
        "size up to which an engine's own all-reduce wins, of runs that also time the library",
    )
    add_allow(parser)


def tuner(arguments: argparse.Namespace) -> int:
    """Prints the table. Returns 0. Raises ResultError for runs without settings that differ, and
    without a side that a gate could judge."""
    if arguments.format in ENGINES:
        sys.stdout.write(engine_table(arguments.runs, arguments.format))
        return 0
    sides = tell_apart(read_sides(arguments.runs))
    baseline = sides[0]
    comparisons = compare(sides, arguments.allow)
    settings = settings_by_label(sides)
    complain(*notes_of(sides))

    # The sides that a gate could judge.
    judged = list[Comparison]()
    for each in comparisons:
        label, found = each.variant.label, faults_between(each.baseline, each.variant)
        if label in settings and found:
            complain(f"{label} is left out: {found[0]}")
        elif label in settings:
            judged.append(each)
    if not judged:
        raise ResultError("no side with other settings can be judged")

    # What the table says of each setting at each size.
    cells = library_cells(judged)
    cells = cells.assign(settings=cells.side.map(settings))
    is_json = arguments.format == "json"
    values: Any = cells.settings
    if not is_json:
        values = [tuning_of(cell) for cell in cells.itertuples()]
    rows = fastest(cells.assign(value=values))
    if not cells.is_faster.any():
        sentence = f"nothing is FASTER than {baseline.name} at any size"
        if np.isinf(cells.high).all():
            sentence += "; an interval takes 6 pairs"
        complain(sentence)

    if not is_json:
        sys.stdout.write(as_csv(baseline, rows))
        return 0

    run = baseline.launches[0].run
    write_json(
        "tuner",
        baseline=baseline.name,
        nodes=run.world.get("hosts"),
        ranks=run.world_size,
        rows=rows.assign(variant=rows.side).drop(columns=["side", "value"]),
    )
    return 0


def recorded(side: Side) -> dict[str, str]:
    """The environment variables of a side's launches, and those before a campaign's command."""
    facts = {
        name.removeprefix("env."): text
        for name, text in environment_of(side.launches[0].run).items()
        if name.startswith("env.")
    }
    return facts | side.command.environment


def settings_by_label(sides: Sequence[Side]) -> dict[str, dict[str, str]]:
    """The settings in which each side differs from the first, without sides that have none or a
    value that was not stored. Raises ResultError if there is none, or the first has some."""
    default, settings = recorded(sides[0]), dict[str, dict[str, str]]()
    for side in sides[1:]:
        own = recorded(side)
        if kept := [name for name, value in default.items() if own.get(name) != value]:
            raise ResultError(
                f"{sides[0].name} sets {kept[0]}={default[kept[0]]}: the first side must be the "
                "library's default"
            )
        values = {name: value for name, value in sorted(own.items()) if name not in default}
        if "<set>" in values.values():
            complain(f"{side.label}: a value of its settings was not stored: left out")
        elif values:
            settings[side.label] = values

    if not settings:
        raise ResultError(
            f"nothing differs from {sides[0].name} in a setting of a library, such as NCCL_PROTO "
            "or I_MPI_ADJUST_ALLREDUCE"
        )
    return settings


def library_cells(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each variant, collective and size: the cell of the library's plain use with the
    highest interval; another harness times nothing else. `is_faster`: the cells of all types and
    places are FASTER. `high` is infinite without an interval. Raises ResultError without such
    cells."""
    tables = [
        each.cells.assign(
            side=each.variant.label,
            is_foreign=bool(each.variant.launches[0].run.imported_from),
        )
        for each in comparisons
    ]
    cells = pd.concat(tables, ignore_index=True)
    is_plain = (cells.algorithm == "library") & cells.variant.isin(["plain", "graph"])
    cells = cells[(is_plain | cells.is_foreign) & (cells.size_bytes > 0)]
    if (cells["mode"] == "isolated").any():
        cells = cells[cells["mode"] == "isolated"]
    if cells.empty:
        raise ResultError("no case of a library itself is in these runs")

    cells = cells.assign(high=cells.high.fillna(np.inf), is_faster=cells.verdict == FASTER)
    rows = cells.groupby(["side", "collective", "size_bytes"])
    cells["is_faster"] = rows.is_faster.transform("all")
    return cells.loc[rows.high.idxmax()]


class Tuning(NamedTuple):
    """The columns of a row that say what the library shall run."""

    algorithm: str
    protocol: str
    channels: int


def tuning_of(cell: Any) -> Tuning | None:
    """What ran in a cell, or else what its settings say, as the table names it. None for what the
    table has no names or columns for."""
    settings = cell.settings
    names: Sequence[str] = (settings.get("NCCL_ALGO", ""), settings.get("NCCL_PROTO", ""))
    if cell.chosen:
        found = RAN.match(cell.chosen)
        names = found.groups() if found else ("", "")

    algorithm, protocol = (name.lower().replace("_", "") for name in names)
    least = settings.get(LEAST_CHANNELS, "")
    channels = int(least) if least == settings.get(MOST_CHANNELS) and least.isdecimal() else ANY
    is_known = algorithm in ALGORITHMS and protocol in PROTOCOLS
    if not is_known or not settings.keys() <= IN_COLUMNS or cell.collective not in COLLECTIVES:
        return None
    return Tuning(ALGORITHMS[algorithm], protocol, channels)


def fastest(cells: pd.DataFrame) -> pd.DataFrame:
    """The fastest cell of each collective and size at which one with a `value` is faster than the
    baseline, with the sizes that it stands for, from `min_bytes` to `max_bytes`: half to twice its
    bytes, up to the geometric middle to a measured neighbour."""
    rows = list[pd.DataFrame]()
    for collective, own in cells.groupby("collective", sort=False):
        faster = own[own.is_faster].sort_values(["size_bytes", "ratio"])
        winners = faster[faster.value.notna()].drop_duplicates("size_bytes")
        if lost := sorted({*faster.size_bytes} - {*winners.size_bytes}):
            names = some([size_text(size) for size in lost])
            complain(
                f"{collective} {names}: left out, because the table needs the algorithm and the "
                "protocol that were faster, and takes no other setting"
            )

        sizes = sorted({*own.size_bytes.tolist()})
        neighbours = zip([0, *sizes], sizes, [*sizes[1:], 4 * sizes[-1]], strict=False)
        ends = pd.DataFrame(
            [stands_for(*three) for three in neighbours], sizes, ["min_bytes", "max_bytes"]
        )
        rows.append(winners.join(ends, on="size_bytes"))

    return pd.concat(rows)


def stands_for(before: int, size: int, after: int) -> tuple[int, int]:
    """The first and the last size in bytes that a measured one stands for, between its measured
    neighbours."""
    half = (size + 1) // 2
    first_above_the_middle = isqrt(before * size) + 1
    return max(half, first_above_the_middle), min(2 * size, isqrt(size * after))


def as_csv(baseline: Side, rows: pd.DataFrame) -> str:
    """The table, with a line on what was measured before each row."""
    run, campaign = baseline.launches[0].run, baseline.campaign
    nodes, ranks = run.world.get("hosts") or ANY, run.world_size or ANY
    lines = [f"# {campaign.campaign.campaign_id if campaign else run.run_id}", f"# {COLUMNS}"]
    cells: Any = rows.itertuples()
    for each in cells:
        name = each.collective.replace("_", "")
        row = name, each.min_bytes, each.max_bytes, *each.value, nodes, ranks, ANY, ANY
        lines += [
            f"# {size_text(each.size_bytes)}: {each.ratio:.3f} of the default's time, "
            f"interval up to {each.high:.3f}",
            ",".join(map(str, row)),
        ]

    return "\n".join(lines) + "\n"
