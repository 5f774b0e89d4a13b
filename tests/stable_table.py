"""`python -m tests.stable_table` writes the table in docs/experiments/fused.md of what stable bits
cost beside our other forms and beside libraries, pinned or not, from the archived runs."""

from collections.abc import Iterator

from reports.tables.exposed import is_step
from reports.tables.form_costs import groups
from reports.tables.run_text import MPI_LIBRARIES
from reports.tables.sentences import environment_of, interval_text
from reports.tables.stable_price import prices
from tests.figures_of_runs import runs
from tests.launch import ROOT
from tests.marked_pages import markdown_table, with_part
from wiretax.record.schema import Result

ARCHIVE, PAGE = "stable", ROOT / "docs/experiments/fused.md"
START, END = "<!-- prices: python -m tests.stable_table -->\n", "<!-- end of prices -->\n"
WORKS = "attention_output", "mlp_down", "step"
LOAD = "load"  # of the minute before
MOST_LOAD = 2.5  # two ranks of the launch before, and little else: more is no measurement
HEADS = [
    "library",
    LOAD,
    *(f"{work}, beside {other}" for work in WORKS for other in ("ours", "it")),
]


def library_of(result: Result) -> str:
    """The library of a run, and how it was pinned."""
    name = next(case.library for case in result.cases if case.library)
    pins = {
        key.removeprefix("env."): value
        for key, value in environment_of(result.run).items()
        if key.removeprefix("env.").startswith(MPI_LIBRARIES)
    }
    return ", ".join([str(name), *(f"`{key}={value}`" for key, value in pins.items())])


def prices_of(result: Result) -> Iterator[tuple[str, str]]:
    """The price by heading: us of a layer's call, % of a step."""
    for cases, forms in groups(result):
        work = "step" if is_step(cases[0]) else cases[0].shape["layer"]
        for other, us, percent in prices(result.run, forms):
            beside = "it" if other.case.library else "ours"
            yield f"{work}, beside {beside}", percent if work == "step" else interval_text(us)


def table() -> str:
    rows = dict[str, dict[str, str]]()
    for result in runs(ARCHIVE).values():
        name = library_of(result)
        row = rows.setdefault(name, {"library": name, LOAD: "0"})
        load = float(environment_of(result.run)["os.load_1min"])
        row[LOAD] = f"{max(load, float(row[LOAD])):.1f}"
        row |= dict(prices_of(result)) if load <= MOST_LOAD else {}
    return markdown_table(HEADS, [[row.get(head, "-") for head in HEADS] for row in rows.values()])


def with_table(page: str) -> str:
    """The page with the table between its two marks."""
    return with_part(page, START, table(), END)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
