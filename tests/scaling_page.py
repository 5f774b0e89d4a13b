"""The tables of docs/scaling.md, made by the model. `python -m tests.scaling_page` writes them into
the page; a test compares.
"""

import numpy as np

from reports.advice.reduce_times import assumed_times
from reports.advice.scaling import FLAT, ClusterTimes, cluster_times, library_us
from reports.advice.specs import LINKS, NETWORKS, SECTIONS
from reports.tables.sentences import number, size_text
from tests.launch import ROOT

PAGE = ROOT / "docs" / "scaling.md"
NODES = 2, 4, 8, 16, 32, 64
SIZES = [16 << 10, 256 << 10, 1 << 20, 16 << 20, 1 << 30]
STEPS = [1 << shift for shift in range(10, 34)]
HIERARCHICAL = "hierarchical", "hierarchical_whole"
# The start of a kernel within a node, the median or the least of published ones, and the library's
# time over the model's: exact, and the median of published times.
CASES = {"by the model": (0, 1.0), "kernels in 6 us": (1, 1.0), "library x 1.35": (0, 1.35)}


def cluster(nodes: int) -> ClusterTimes:
    """Nodes as DGX H100."""
    return cluster_times(assumed_times(8, LINKS["nvlink4"]), nodes, NETWORKS["ib-ndr"])


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns in a block of code, to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (header, *rows)
    ]
    return "\n".join(["```", *lines, "```"])


def times() -> str:
    rows = []
    for size in SIZES:
        for nodes in NODES:
            us = cluster(nodes).by_algorithm(size)
            figures = [number(us[name][0]) for name in (*FLAT, *HIERARCHICAL)]
            rows.append(
                [size_text(size), str(nodes), *figures, min(us, key=lambda name: us[name][0])]
            )
    return table(["size", "nodes", *FLAT, *HIERARCHICAL, "fastest"], rows)


def gain(nodes: int, size: int, start: int, error: float) -> float:
    """The faster flat algorithm's time over the faster hierarchical one's, with the library's times
    `error` times as long."""
    us, node = cluster(nodes).by_algorithm(size), cluster(nodes).node
    ours_us = []
    for name, phases in zip(HIERARCHICAL, (2, 1), strict=True):
        within_us = node(size)[0] + (phases - 1) * node(1)[0]
        faster_us = phases * (node(1)[0] - node(1)[start])
        ours_us.append(within_us - faster_us + error * (us[name][0] - within_us))
    return float(error * min(us[name][0] for name in FLAT) / min(ours_us))


def pays() -> str:
    rows = []
    for nodes in NODES:
        cells = [str(nodes)]
        for start, error in CASES.values():
            gains = [gain(nodes, size, start, error) for size in STEPS]
            edges = np.flatnonzero(np.diff([False, *(each > 1 for each in gains), False]))
            cells.append(
                ", ".join(
                    f"{size_text(STEPS[first])} to {size_text(STEPS[end - 1])}"
                    for first, end in zip(edges[::2], edges[1::2], strict=True)
                )
            )
            cells.append(f"{max(gains):.2f} at {size_text(STEPS[int(np.argmax(gains))])}")
        rows.append(cells)
    return table(["nodes", *(word for name in CASES for word in (name, "most"))], rows)


def ratios() -> dict[str, list[float]]:
    """Published times over the model's, by set."""
    found: dict[str, list[float]] = {}
    for entry in SECTIONS["scaling"]:
        link, network = LINKS[entry["link"]], NETWORKS[entry["network"]]
        for size, us in entry["us"].items():
            model = min(
                library_us(name, entry["nodes"], 8, int(size), link, network) for name in FLAT
            )
            found.setdefault(entry["name"], []).append(us / model)
    return found


def errors() -> str:
    rows = []
    for entry in SECTIONS["scaling"]:
        sizes, values = list(map(int, entry["us"])), ratios()[entry["name"]]
        rows.append(
            [
                entry["name"],
                f"{size_text(min(sizes))} to {size_text(max(sizes))}",
                str(len(sizes)),
                f"{min(values):.2f}",
                f"{np.median(values):.2f}",
                f"{max(values):.2f}",
            ]
        )
    every = np.concatenate(list(ratios().values()))
    rows.append(
        [
            "all",
            "",
            str(len(every)),
            f"{min(every):.2f}",
            f"{np.median(every):.2f}",
            f"{max(every):.2f}",
        ]
    )
    return table(["published", "sizes", "points", "least", "median", "most"], rows)


TABLES = {"times": times, "pays": pays, "errors": errors}


def page(text: str) -> str:
    """The page with today's tables between its marks."""
    for name, make in TABLES.items():
        start, rest = text.split(f"<!-- {name} -->\n")
        text = f"{start}<!-- {name} -->\n{make()}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
