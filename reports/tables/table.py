"""The default table of a run with its head and its sentences, and the table of all cases."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from msgspec.structs import replace
from rich.table import Table

from collectives.build import BuildName
from reports.tables import sentences, step_table
from reports.tables.beside_published import published_line
from reports.tables.headline import headline, points
from reports.tables.rows import (
    CLEAR,
    STABLE,
    Named,
    SizeRow,
    View,
    beats_bound,
    bound_notes,
    cost_us,
    default_rows,
    is_noisy,
    own_words,
    ratio_text,
    shown_cases,
    software_notes,
    speed_ups,
    verdict_of,
    views,
)
from reports.tables.run_text import lay_out_run, library_lines, opening, wrong_tables
from reports.tables.sentences import (
    algorithm_of,
    interval_text,
    lay_out,
    number,
    plain_table,
    shape_text,
    shape_words,
    size_text,
    some,
    type_text,
    wrong_text,
)
from reports.tables.stable_price import HEADINGS, percent_text
from reports.tables.tail_line import chain_lines, tail_line
from wiretax.common.grouped import grouped
from wiretax.record.case import is_own_work, late_us
from wiretax.record.chain_links import leads
from wiretax.record.schema import FIGURES, Case, Result, Summary
from wiretax.record.stats import Interval
from wiretax.record.tails import STEP_FIELDS

# Columns that stand in the title if all cells are alike; figures declare it (`Shown.is_folded`).
FOLDED = (
    *("mode", "type", "variant", "place"),
    *(shown.heading for shown in FIGURES.values() if shown.is_folded),
    *("blocks", "status"),
)

KEYS = ("size", "algorithm", "variant", "type", "place")  # columns that name a case
Cells = dict[str, str]  # of a row, by their headings
NO_PRICE = dict.fromkeys(HEADINGS, "-")


def render(result: Result, long: bool = False, brief: bool = False) -> str:
    """The table, with all tables, notes and conclusions, or `brief` as many as fit a screen; or
    with `long` a row for each case. Ends with a newline."""
    if long:
        bold = [*opening(result), headline([result], points)]
        tables = [*wrong_tables(result.cases, len(result.cases)), *long_tables(result)]
        return lay_out(bold, library_lines(result), tables, chain_lines(result))

    first, tables = views(result)[0], list[tuple[str, Table]]()
    all_rows = list[list[SizeRow]]()

    # The cases of the run's collective by datatype and operation, such as `int8 sum`.
    own = (case for case in result.cases if case.collective == result.cases[0].collective)
    by_type = grouped(own, type_text)
    for type_name, cases in by_type.items():
        part = replace(result, cases=cases)
        for view in views(part):
            rows = default_rows(part, view)
            words = [] if cases[0] is result.cases[0] else [type_name]
            words += _title(result, view)
            all_rows.append(rows)
            if any(case.time_us or case.n_wrong for case in result.cases):
                tables += _default_tables(", ".join(words), rows)

    first_rows = next(filter(None, all_rows), [])
    title, lines = headline([result], points), head(result, first, first_rows)
    every = [row for rows in all_rows for row in rows]
    open_cases = unsettled(every) if any(row.ratio for row in every) else None
    below = [*tail_line(result, every), *published_line(result)]
    return lay_out_run(result, title, lines, tables, below, brief, open_cases)


def unsettled(rows: Iterable[SizeRow]) -> list[Case]:
    """The cases of these rows whose ratio to the library, or to ours, is not clear."""
    ratios = [
        (case, ratio)
        for row in rows
        for case, ratio in (
            (row.library, row.ratio),
            (row.ours, row.ratio),
            *((each.case, each.from_library or each.from_ours) for each in row.named.values()),
        )
    ]
    found = {case.case: case for case, ratio in ratios if case and verdict_of(ratio) not in CLEAR}
    return [*found.values()]


def _title(result: Result, view: View) -> list[str]:
    """What a table shows that the first one does not, and what its times contain."""
    mode, shape = view
    words = own_words(result, shape)

    if words and late_us(shape):
        words[-1] += ": us begin at its arrival"

    if mode == "chained":
        calls = max(case.calls for case in shown_cases(result, view))
        send_buffer = f"{'less' if leads(result) else 'with'} its next send buffer"
        words.append(f"chained: {calls} dependent calls; us, busbw of a call {send_buffer}")

    stamps_us = result.run.link.get("overhead_us")
    if mode == "isolated" and stamps_us:
        words.append(
            f"isolated: two stamps and an empty launch take {number(stamps_us)} us of each time"
        )

    return words


def _default_tables(title: str, rows: Sequence[SizeRow]) -> list[tuple[str, Table]]:
    """The table of a view; and one of what is named beside ours, without a title. No column is
    empty."""
    is_auto = {row.ours.algorithm for row in rows if row.ours} <= {"auto"}
    name = "auto" if is_auto else "best"
    label = "size\n" if rows[-1].size_bytes else "work\n"
    # A memory that the names of all rows have stands in their heading.
    memories = {_what_ran(row.ours).memory if row.ours else None for row in rows}
    memory = memories.pop() if len(memories) == 1 else None
    cells = filled([_cells(row, label, name, memory) for row in rows])
    if len(cells[0]) == 1:  # the sizes alone
        return []
    if f"{name}\nus" not in cells[0]:  # the name would stand for the library's algorithm
        for texts in cells:
            texts.pop(_algorithm_heading(memory), None)
    tables = [(title, plain_table(cells[0], cells, marks(rows)))]
    has_price = name == "auto" and any(STABLE in row.named for row in rows)  # 80 columns hold one
    further = [
        {
            next(iter(cells[0])).strip(): row.label,
            "algorithm": other,
            "us": _cost(each.case),
            **({} if has_price else _speed(each.case)),
            **(_price(each) if other == STABLE and name == "auto" else NO_PRICE),
            "library/this": ratio_text(each.from_library),
            f"{name}/this": ratio_text(each.from_ours),
        }
        for row in rows
        for other, each in row.named.items()
        if each.case is not row.ours
    ]
    if any(each["us"] != "-" for each in further):
        further = filled(further)
        tables.append(("", plain_table(further[0], further)))

    return tables


def _price(stable: Named) -> Cells:
    """What sums in rank order cost beside `auto`, in the same rounds as their ratio; with a minus
    where they take less."""
    us = cost_us(stable.case)
    if stable.from_ours is None or us is None or is_noisy(stable.from_ours):
        return NO_PRICE
    ratio, _, _ = stable.from_ours
    texts = number(us * (1 - ratio)), percent_text(stable.from_ours)
    return dict(zip(NO_PRICE, texts, strict=True))


def filled(rows: Sequence[Cells]) -> list[Cells]:
    """The rows, by their headings, without columns that are empty throughout."""
    names = {name for row in rows for name, cell in row.items() if cell != "-"}
    return [{name: cell for name, cell in row.items() if name in names} for row in rows]


def _cells(row: SizeRow, label: str, ours: str, memory: str | None) -> Cells:
    """The cells of a row by their headings, of which these two are given, and the memory in that of
    the algorithms; a routed row shows the load that its skew makes."""
    case, mark = row.ours or row.library, "*" if row.better else ""
    routing = case.routing if case else None
    cells: Cells = {label: row.label}
    if routing:
        cells = {
            "\nskew": row.label + mark,
            "experts\nmax/mean": number(routing.get("expert_max_over_mean")),
            "ranks\nmax/mean": number(routing.get("rank_max_over_mean")),
            "leaves\nMB": number(max(routing.get("leaving_bytes", [0])) / 1e6),
        }

    cells["library\nus"] = _cost(row.library)
    cells[f"{ours}\nus"] = _cost(row.ours)
    if not routing:
        name = "-"
        if row.ours:
            ran = _what_ran(row.ours)
            name = str(ran._replace(memory=None) if memory else ran)
        cells[_algorithm_heading(memory)] = name + mark
    cells[f"library/{ours}\n[95 % in launch]"] = ratio_text(row.ratio)
    if case and late_us(case.shape):
        waits = row.ours.arrival_skew_us if row.ours else None
        cells["waits\nus"] = number(waits.median if waits else None)
    elif not routing:
        cells |= _speed(row.ours)

    cells["\n#wrong"] = wrong_text(row.worst)
    return cells


def _algorithm_heading(memory: str | None) -> str:
    return f"over {memory}\nalgorithm" if memory else "\nalgorithm"


def _what_ran(ours: Case) -> BuildName:
    """A named algorithm with the words of its build, which others of the same name lack; what
    `auto` took without them."""
    if ours.chosen:
        return BuildName.parse(ours.chosen)._replace(words=())
    return BuildName.parse(algorithm_of(ours))


def _cost(case: Case | None) -> str:
    return "WRONG" if case and case.status == "wrong" else number(cost_us(case))


def _speed(case: Case | None) -> Cells:
    """The bus bandwidth of a case, and its share of the roofline."""
    return {
        "busbw\nGB/s": number(case.bus_bw_gb_s if case else None),
        "% of\nroofline": _share_of_bound(case),
    }


def _share_of_bound(case: Case | None) -> str:
    if case is None or case.share_of_bound is None:
        return "-"

    share = f"{min(case.share_of_bound, 9.99):.0%}"
    return f"{share}!" if beats_bound(case) else share


def head(result: Result, view: View, rows: Sequence[SizeRow]) -> list[str]:
    """The operation, the library and the units of the first table."""
    (mode, shape), lines = view, list[str]()
    cases = [case for row in rows for case in (row.ours, row.library) if case]

    if cases:
        case = cases[0]
        words = [type_text(case), mode, *shape_words(shape)]
        if case.collective != "sendrecv":
            words.append("in place" if case.in_place else "out of place")
        libraries = [row.library.library or "the library" for row in rows if row.library]
        # On GPUs the library is NCCL or RCCL, which have no thread level.
        level = None if result.run.gpus else sentences.fact(result.run, "mpi.thread_level")
        against = f"against {libraries[0]}" if libraries else "without the library"
        if libraries and level:
            against += f", {level}"
        against += f"; seed {result.run.seed}"
        if result.run.imported_from:
            names = case.library, result.run.version, f"from {result.run.imported_from}"
            against = ", ".join(filter(None, names))
        lines.append(f"{', '.join(words)}; {against}")

    if result.run.imported_from:  # a note says what its times are
        return lines

    is_read = any(case.consume_us for case in cases)
    ranks = "slowest rank; busbw = collective alone" if is_read else "slowest rank"

    if late_us(shape):
        ranks = (
            "slowest rank, from the late one's arrival; waits = from the first arrival to the last"
            if result.run.clock_shared
            else "the late rank alone"
        )

    lines.append(f"us = {'collective + reading its result' if is_read else 'one call'}, {ranks}")
    if result.run.world_size == 1:
        lines.append("note: busbw means nothing with one rank; start at least two")

    return lines


def marks(rows: Sequence[SizeRow]) -> list[str]:
    """The footnotes of the marks in these rows."""
    better = [
        f"{row.better[0]} at {row.label} ({row.better[1]:.2f}x)" for row in rows if row.better
    ]
    notes = bound_notes(row.ours for row in rows) + software_notes(row.library for row in rows)
    if better:
        notes.insert(0, f"* another variant beat auto by more than 5 %: {some(better, 4)}")
    return notes


def long_tables(result: Result) -> list[tuple[str, Table]]:
    """A table for each mode, isolated before chained, with a row for each case, smaller sizes
    first, and one of its steps; without columns that are empty in it."""
    ratios, tables = speed_ups(result), []
    for mode in sorted({case.mode for case in result.cases}, reverse=True):
        cases = [case for case in result.cases if case.mode == mode]
        cases.sort(key=lambda case: (case.size_bytes, case.in_place))
        rows = long_rows(cases, ratios)
        alike = [name for name in FOLDED if len({row[name] for row in rows if name in row}) == 1]
        title = ", ".join(f"{name} {rows[0][name]}" for name in alike)
        names = [name for name in rows[0] if name not in (*alike, *step_table.HEADINGS)]
        cells = ([row[name] for name in names] for row in rows)
        headings = (name.replace(" ", "\n", 1) for name in names)
        tables.append(
            (title, plain_table(headings, cells, bound_notes(cases) + software_notes(cases)))
        )
        tables += step_table.table_of_steps(cases, rows, [name for name in KEYS if name in names])

    return tables


def long_rows(cases: Iterable[Case], ratios: Mapping[int, Interval | None]) -> list[Cells]:
    """The cells of each case by their headings, without figures that no case has; `ratios` of
    `speed_ups`."""
    rows = []
    for case in cases:
        name = f"{case.library or algorithm_of(case)} {shape_text(case.shape)}"
        figures = {shown.heading: _text(case, field) for field, shown in FIGURES.items()}
        rows.append(
            {
                "size": "-" if is_own_work(case) else size_text(case.size_bytes),
                "algorithm": name.rstrip(),
                "variant": case.variant,
                "mode": case.mode,
                "type": type_text(case),
                "place": "in" if case.in_place else "out",
                **figures,
                "their percentiles us": _their_text(case),
                FIGURES["share_of_bound"].heading: _share_of_bound(case),
                "blocks": str(case.time_us.n_blocks) if case.time_us else "-",
                "library/ this": ratio_text(ratios.get(case.case)),
                "status": f"{case.status}: {case.reason}" if case.reason else case.status,
            }
        )

    return filled(rows)


def _their_text(case: Case) -> str:
    parts = sorted((case.theirs or {}).items(), key=itemgetter(1))
    return " ".join(f"{name.removesuffix('_us').upper()} {number(us)}" for name, us in parts) or "-"


def _text(case: Case, name: str) -> str:
    """A figure in few digits: of a summary the median, with its interval for the whole cost."""
    if name in STEP_FIELDS:
        return step_table.step_text(case, name)

    value = getattr(case, name)
    if name == "total_us" and value:
        return interval_text((value.median, value.ci_low, value.ci_high))
    if isinstance(value, Summary):
        return number(value.median)
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, dict):
        return " ".join(f"{part:.1f}" for part in value.values()) or "-"

    return number(value)
