"""The figures of README.md and of the tables of gpu.md and performance.md, each from the archived
run, or the table of data, that it comes from. test_figures_of_runs.py compares them."""

import json
import math
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from statistics import median

import pandas as pd

from reports.tables.rows import BEATEN_BY
from reports.verdicts.libraries import cells_of
from reports.verdicts.sides import read_sides
from tests.launch import ROOT
from tests.reports.archived import unpack
from wiretax.record.case import size_of
from wiretax.record.result import read
from wiretax.record.schema import Case, Result, Run

DATA = ROOT / "docs/experiments/data"
README, GPU, PERFORMANCE = "README.md", "docs/experiments/gpu.md", "docs/experiments/performance.md"
NEAR_NS = 200  # shorter round trips are between cores that share a cache
LINK_BYTES = 16 << 20  # of the transfers that gpu.md shows


@dataclass(frozen=True)
class Figure:
    """A value, and what measured it: a run, with the case's library, variant and place. Without a
    run it is of an archived text, or, if not `is_archived`, of a table in data/."""

    value: float
    run: Run | None = None
    library: str | None = None
    variant: str = ""
    in_place: bool = False
    is_archived: bool = True


NOWHERE = Figure(math.nan, is_archived=False)  # differs from no figure
Cell = Sequence[Figure]
Row = Sequence[Cell]
UNARCHIVED: Row = ()  # its section says so
Rows = Mapping[str, Row]


@cache
def runs(archive: str) -> dict[str, Result]:
    """The runs of an archive by the last six digits of their names."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = unpack(Path(folder), archive)
        return {path.stem[-6:]: read(path) for path in unpacked.glob("*.jsonl")}


@cache
def lines(archive: str, name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return (unpack(Path(folder), archive, ".txt") / name).read_text().splitlines()


def us(
    archive: str, digits: str, form: str, size: str, with_links: bool = False, mode: str = "chained"
) -> Figure:
    """The time of a case, less the kernel between two calls or with it. `form` is its algorithm and
    variant: `library registered`."""
    result = runs(archive)[digits]
    (case,) = [
        case
        for case in result.cases
        if f"{case.algorithm} {case.variant}" == form
        and (case.mode, case.size_bytes) == (mode, size_of(size))
    ]
    time = (with_links and case.with_link_us) or case.time_us  # single launches keep their links
    assert time, form
    assert case.n_wrong == 0, form
    library = case.library if case.algorithm == "library" else None
    return Figure(time.median, result.run, library, case.variant, case.in_place)


def middle(figures: Sequence[Figure]) -> Figure:
    """The median over launches."""
    return Figure(median(figure.value for figure in figures), figures[0].run)


def span(figures: Iterable[Figure]) -> Cell:
    """The least and the largest."""
    ordered = sorted(figures, key=lambda figure: figure.value)
    return ordered[0], ordered[-1]


def one(figures: Iterable[Figure], decimals: int) -> Cell:
    """All, where the least and the largest are the same as they are printed."""
    low, high = span(figures)
    assert round(low.value, decimals) == round(high.value, decimals)
    return [low]


# README: two ranks on one H200, and on one H100 with NCCL.


def h200_rows(for_readme: bool) -> Rows:
    """The rows in the card's memory, of README or of gpu.md."""
    sizes = "16K", "1M", "32M"
    out, in_place = partial(us, "h200-card", "1ffef4"), partial(us, "h200-card", "2d680d")
    torch_one = [out("torch_symmetric one_shot_symmetric", size) for size in sizes]
    torch_two = [in_place("torch_symmetric two_shot_symmetric", size) for size in sizes]
    push = [[out("one_shot_push copied", size)] for size in sizes]
    direct = [
        [launch("two_shot_direct registered", size) for launch in (out, in_place)] for size in sizes
    ]
    if for_readme:
        return {
            "torch 2.11, symmetric memory, one-shot": [[figure] for figure in torch_one],
            "torch's two-shot, in place": [[figure] for figure in torch_two],
            "Wiretax one-shot": push,
            "Wiretax two-shot, registered; in place": direct,
        }
    return {
        "NCCL, limited (see below), two launches": [
            [nccl_on_h200("8ca307", "16K")],
            *(
                [nccl_on_h200(digits, size) for digits in ("4b10cd", "8ca307")]
                for size in sizes[1:]
            ),
        ],
        "torch, one-shot; two-shot in place": list(zip(torch_one, torch_two, strict=True)),
        "one-shot push": push,
        "two-shot direct, registered; in place": direct,
    }


def nccl_on_h200(digits: str, size: str) -> Figure:
    """The fastest of NCCL's variants that ran."""
    variants = ["graph", "tuned", *(["registered"] if digits == "4b10cd" else [])]
    times = [us("h200-card", digits, f"library {variant}", size) for variant in variants]
    return min(times, key=lambda figure: figure.value)


def over_host_memory() -> Rows:
    time_us = partial(us, "h200-card", "4b10cd")
    forms = {
        "one-shot push": "one_shot_push",
        "one-shot in short chunks, since removed": "one_shot_pipelined",
        "two-shot push, also ring": "two_shot_push",
        "two-shot push, chunks of 1 MiB": "two_shot_push+1024K",
    }
    sizes = "1M", "2M", "4M", "8M", "16M", "32M"
    return {
        row: [[time_us(f"{form} copied", size)] for size in sizes] for row, form in forms.items()
    }


def beside_nccl() -> Rows:
    """On the H100, with the kernel between two calls: launched one by one, and from a graph."""
    sizes = "16K", "1M", "32M"
    single, graph = (
        partial(us, "h100-nccl", digits, with_links=True) for digits in ("1f7ef1", "595e32")
    )
    return {
        "NCCL, plain; registered": [
            [single("library plain", size), single("library registered", size)] for size in sizes
        ],
        "`auto`, copied; from a graph": [
            [launch("auto copied", size) for launch in (single, graph)] for size in sizes
        ],
        "two-shot direct, registered; from a graph": [
            [launch("two_shot_direct registered", size) for launch in (single, graph)]
            for size in sizes
        ],
        "torch's two-shot, in place; from a graph": [
            [torchs_program(size, column) for column in ("chained_us", "graph_us")]
            for size in sizes
        ],
    }


def torchs_program(size: str, column: str) -> Figure:
    printed = map(json.loads, lines("h100-nccl", "torch_symm.txt"))
    (row,) = [
        row
        for row in printed
        if (row.get("case"), row.get("size")) == ("two_shot registered, in place", size_of(size))
    ]
    return Figure(row[column][1], in_place=True)


def nccl_from_a_graph() -> Rows:
    first, second = partial(us, "h100-nccl", "a670ed"), partial(us, "h100-wire", "c8b480")
    forms = {
        "NCCL at its defaults": "library graph",
        "NCCL, registered (symmetric windows)": "library registered",
        "`auto`, copied": "auto copied",
        "`auto`, registered": "auto registered",
    }
    return {
        row: [
            [first(form, "16K"), second(form, "16K")],
            [second(form, "64K")],
            [second(form, "1M")],
        ]
        for row, form in forms.items()
    }


def estimator() -> Rows:
    """Events less the true time: the range of the medians, and of the quantiles of 5 and 95 %."""
    return {
        "launched": [estimated("estimator.txt", who) for who in ("auto", "library")],
        "from a graph": [estimated("estimator-graph.txt", who) for who in ("auto", "library")],
    }


def estimated(name: str, who: str) -> Cell:
    quantiles = [
        line.split()[5:10] for line in lines("h200-card", name) if line.split()[1:2] == [who]
    ]
    fifth, _, middles, _, most = zip(*(map(float, row) for row in quantiles), strict=True)
    return [Figure(value) for value in (min(middles), max(middles), min(fifth), max(most))]


def parts_of_a_wire() -> Rows:
    cards = [runs("h100-wire")[digits] for digits in ("b2f5b9", "055839", "3a3ecf")]
    hosts = [runs("h100-wire")[digits] for digits in ("c43879", "abf44b", "2eb4cd")]

    def times_us(results: Sequence[Result], algorithm: str) -> list[Figure]:
        return [
            Figure(case.time_us.median, result.run)
            for result in results
            for case in result.cases
            if case.algorithm == algorithm and case.time_us
        ]

    def rates(algorithm: str) -> Cell:
        times = times_us(hosts, algorithm)
        return span(Figure(LINK_BYTES / each.value / 1e3, each.run) for each in times)

    def both(algorithm: str) -> Row:
        return [span(times_us(results, algorithm)) for results in (cards, hosts)]

    stores, fenced = times_us(cards, "unfenced_stores"), both("fenced_stores")
    return {
        "round trip of a dependent load, us": both("dependent_loads"),
        "a flag, one way, us": both("ping_pong"),
        "stores; loads; both at once, each, GB/s": [
            [],
            [*rates("stores"), *rates("loads"), *rates("stores_and_loads")],
        ],
        "16 KiB of stores and a flag; with a fence, us": [
            [*one(stores, 2), *fenced[0]],
            [*span(times_us(hosts, "unfenced_stores")), *fenced[1]],
        ],
        "a kernel in a chain from a graph, us": [
            one(times_us(cards, "graph_kernel"), 1),
            span(times_us(hosts, "graph_kernel")),
        ],
    }


def through_the_host() -> Rows:
    sizes = "16K", "32K", "64K", "128K", "256K", "1M"
    forms = {"LL": "ll", "one-shot push": "push", "one-shot pull": "pull", "two-shot": "two"}

    def cell(form: str, size: str) -> Cell:
        if form == "ll" and size not in ("16K", "32K"):
            return []
        name = "two_shot copied" if form == "two" else f"one_shot_{form} copied"
        launches = "3a9078", "5a3536"
        return [middle([us("h100-wire", run, name, size) for run in launches])]

    return {row: [cell(form, size) for size in sizes] for row, form in forms.items()}


def decode_step() -> Rows:
    result = runs("h100-decode")["b81062"]

    def row(chats: int) -> Row:
        own = {case.algorithm: case for case in result.cases if case.shape["slots"] == chats}
        tensor = own["tensor_parallel"]
        steps_ms = [
            step_ms(own[name]) for name in ("compute", "tensor_parallel", "pipeline_parallel")
        ]
        assert tensor.exposed_us
        exposed_us = tensor.exposed_us.median / (2 * tensor.shape["layers"])
        values = [*steps_ms[:2], exposed_us, steps_ms[2]]
        return [[Figure(value, result.run)] for value in values]

    return {str(chats): row(chats) for chats in (1, 2)}


def step_ms(case: Case) -> float:
    assert case.total_us
    return case.total_us.median / 1e3


def fused_forms() -> Cell:
    """The exposed time of the fused form, and of the best separate one."""
    norm, gemv = runs("h100")["ea53fc"], runs("h100")["7aae43"]
    norms = [exposed(norm, size, "tokens", tokens) for size, tokens in NORMS]
    layers = "attention_output", "mlp_down"
    gemvs = [exposed(gemv, "32K", "layer", layer) for layer in layers]
    zero = Figure(0)  # that the paired differences exclude
    return [*chain(*norms), zero, *chain(*gemvs)]


NORMS = ("32K", 1), ("512K", 16), ("8M", 256), ("64M", 2048)


def exposed(result: Result, size: str, name: str, value: object) -> list[Figure]:
    own = [
        case
        for case in result.cases
        if case.size_bytes == size_of(size) and case.shape[name] == value and case.exposed_us
    ]
    fused, separate = (
        [
            case.exposed_us.median
            for case in own
            if case.exposed_us and (case.algorithm == "fused") == is_fused
        ]
        for is_fused in (True, False)
    )
    return [Figure(min(times), result.run) for times in (fused, separate)]


# CPU cores.


def machines() -> Rows:
    found = [*runs("tables").values(), *runs("xeon").values()]

    def row(model: str, first_level_kib: int, second_level_mib: int) -> Row:
        begins = f"L1d {first_level_kib}K", f"L2 {second_level_mib << 10}K"
        own = [
            result
            for result in found
            if str(result.run.environment["cpu.model"]["value"]).startswith(model)
            and all(text in result.run.environment["cpu.caches"]["value"] for text in begins)
        ]
        trips = [Figure(result.counted.rtt_ns, result.run) for result in own]
        near = [trip for trip in trips if trip.value < NEAR_NS]
        others = [trip for trip in trips if trip.value >= NEAR_NS]
        if model == "AMD":
            return [[], span(near), span(others)]
        shares = Figure(len(near)), Figure(len(own))
        return [[], [*span(others), *span(near), *shares], []]

    return {
        "EPYC A (generation not recorded)": UNARCHIVED,
        "EPYC 3rd gen (AVX2)": UNARCHIVED,
        "EPYC 4th gen (AVX-512)": row("AMD", 32, 1),
        "EPYC 5th gen (AVX-512)": row("AMD", 48, 1),
        "Xeon 5th gen (AVX-512)": row("Intel", 48, 2),
    }


def choices() -> Rows:
    """How well earlier choices were: they are gone, and so are their audits."""
    page = (ROOT / PERFORMANCE).read_text()
    _, _, table = page.partition("| choice | EPYC")
    return {
        row.split(" | ")[0].lstrip("| "): UNARCHIVED
        for row in table.split("\n\n")[0].splitlines()[2:]
    }


def intel_mpi(state: str) -> Cell:
    """Intel MPI's time over that of `auto` with its better buffers, on EPYC A."""
    table = pd.read_csv(DATA / "allreduce_over_libraries.csv", comment="#")
    own = table[(table.series == "searched settings") & (table.library == "Intel MPI")]
    better = own[own.state == state].groupby("size_kib").library_over_auto.max()
    return [Figure(value, is_archived=False) for value in (better.min(), better.max())]


def libraries() -> Rows:
    return {
        "MPICH 5.0.2": UNARCHIVED,
        "Open MPI 5.0.11": UNARCHIVED,
        "Intel MPI 2021.18": [intel_mpi("near"), intel_mpi("far")],
    }


def two_intel_mpis() -> Rows:
    """Each version's time over that of `auto`, as `reports libraries` computes it."""
    with tempfile.TemporaryDirectory() as folder:
        campaign = Path(folder, "impi19")
        with tarfile.open(DATA.parent / "runs/impi.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        cells = cells_of(read_sides([str(campaign)]))
    sizes = [size_of(size) for size in ("16K", "64K", "256K", "1M", "4M", "8M", "16M", "32M")]
    ratios = cells.set_index(["library", "size_bytes"]).ratio
    return {
        library: [[Figure(ratios[library, size])] for size in sizes]
        for library in ("Intel MPI 2021.18.1", "Intel MPI 2021.19.0")
    }


# README's text.


@cache
def run_of_readme() -> tuple[str, dict[str, list[float]]]:
    """The table of `make allreduce`: its text, and the figures of each row by size."""
    text = (ROOT / README).read_text()
    (run,) = re.findall(r"<!-- run -->\n\n```\n(.*?)```\n<!-- end -->", text, re.DOTALL)
    rows = re.findall(r"^ *(\d+ [KM]iB) +([\d.].*)$", run, re.MULTILINE)
    return run, {size: [float(word) for word in re.findall(r"\d[\d.]*", row)] for size, row in rows}


def in_the_run(*values: float) -> Cell:
    return [Figure(value, is_archived=False) for value in values]


def nccl_on_h100() -> Cell:
    time_us = partial(us, "h100-wire", "c8b480")
    limited = runs("h200-card")["8ca307"].run
    free = runs("h100-wire")["c8b480"].run
    return [
        Figure(channels(limited), limited),
        Figure(channels(free), free),
        time_us("library registered", "16K"),
        time_us("library registered", "1M"),
        time_us("auto copied", "16K"),
        time_us("auto registered", "1M"),
    ]


def channels(run: Run) -> int:
    """Of the library's communicators by default."""
    of_all = run.world["library"]["channels"]
    return int(of_all["plain"]["coll"])


def one_launch_each() -> Cell:
    """The share of unchanged cells that differ, and the most tables with a difference, in %."""
    rates = pd.read_csv(DATA / "calibration_rates.csv", comment="#")
    alone = rates[rates.group.str.startswith("One launch against one,")].rate_percent
    (limit,) = set(rates[rates.group == "A/A: FASTER or SLOWER"].at_most_percent)
    return in_the_run(alone.min(), alone.max(), limit)


def columns_of_readme() -> Rows:
    """What README says of the columns and lines of that table, in its row of 16 KiB."""
    run, rows = run_of_readme()
    library_us, auto_us, ratio, *_ = rows["16 KiB"]
    (trip_ns,) = re.findall(r"round trip (\d+) ns", run)
    (elsewhere,) = re.findall(r"(\d+)% of the blocks", run)
    return {
        "**library**": [in_the_run(library_us)],
        "**auto**": [in_the_run(auto_us, 100 * (BEATEN_BY - 1))],
        "**library/auto**": [in_the_run(ratio, 95, library_us, auto_us, 1)],
        "**% of roofline**": [in_the_run(rows["16 KiB"][-2])],
        "**link**": [in_the_run(float(trip_ns), 100 - float(elsewhere))],
    }


def in_searched_settings() -> Cell:
    """Of MPICH and Open MPI, which stand nowhere else, and of Intel MPI."""
    newest = two_intel_mpis()["Intel MPI 2021.19.0"]
    return [*[NOWHERE] * 4, *span(figure for cell in newest for figure in cell)]


# By page and the first words of a paragraph, less sizes, versions, dates and what is in code.
PROSE: dict[tuple[str, str], Callable[[], Cell]] = {
    (README, "NCCL has no row"): nccl_on_h100,
    (README, "**Two cores"): in_searched_settings,
    (README, "- **One launch is no verdict.**"): one_launch_each,
    (GPU, "- **Fused all-reduce and RMSNorm**"): fused_forms,
}

# By page and the first words of the table's head.
TABLES: dict[tuple[str, str], Callable[[], Rows]] = {
    (README, "| | 16 KiB |"): partial(h200_rows, True),
    (README, "| column or line |"): columns_of_readme,
    (GPU, "| command |"): dict,
    (GPU, "| | 16 KiB | 1 MiB |"): beside_nccl,
    (GPU, "| from a graph |"): nccl_from_a_graph,
    (GPU, "| in the card's memory |"): partial(h200_rows, False),
    (GPU, "| over host memory |"): over_host_memory,
    (GPU, "| | ours |"): estimator,
    (GPU, "| | GPU memory |"): parts_of_a_wire,
    (GPU, "| | 16 KiB | 32 KiB |"): through_the_host,
    (GPU, "| chats |"): decode_step,
    (PERFORMANCE, "| machine"): machines,
    (PERFORMANCE, "| choice |"): choices,
    (PERFORMANCE, "| EPYC A"): libraries,
    (PERFORMANCE, "| library over auto"): two_intel_mpis,
}
