"""Rows of owners' archives that nobody sent, in the place of those of contributed.csv: for tests of
what follows from such rows, and for tests whose figures are typed."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from reports.references import published

CHUNK_BYTES = 32 << 20
Row = Mapping[str, object]


@contextmanager
def contributed(folder: Path, rows: Sequence[Row] = ()) -> Iterator[Path]:
    """The tables with these rows for the contributed ones, until the context ends; yields the table
    of these."""
    path = folder / "contributed.csv"
    columns = published.CONTRIBUTED.read_text().partition("\n")[0].split(",")
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "CONTRIBUTED", path)
        forget()
        yield path
    forget()


def forget() -> None:
    for table in (published.contributed, published.calls, published.cards, published.sockets):
        table.cache_clear()


def sent(us: float, share: float = 0.5, chunk_us: float = 1400.0, **fields: object) -> list[Row]:
    """The rows of an archive of two R9700s: of RCCL, whose call of 16 KiB takes so long from a
    graph, and of our kernel, which takes `share` of it. Intervals are 3 % to each side."""
    archive = str(fields.pop("archive", "1a2b3c4d5e6f"))
    digest = archive.ljust(64, "0")
    both = {
        "machine": f"2x R9700, PCIe 5 x16, peers (EPYC 9354), {archive[:8]}",
        "gpu": "R9700",
        "gpus": 2,
        "hosts": 1,
        "fabric": "PCIe 5 x16",
        "transport": "p2p",
        "collective": "all_reduce",
        "datatype": "float32",
        "grade": "table",
        "statistic": "median",
        "date": "2026-12-01",
        "archive": digest,
        "contributor": "Jane",
        "source": f"archive {digest[:12]}",
    }
    times = [
        ("rccl", "library", 16384, "graph", us),
        ("wiretax", "tuned", 16384, "graph", us * share),
        ("rccl", "library", 16384, "eager", us + 6),
        ("rccl", "library", CHUNK_BYTES, "eager", chunk_us),
        ("wiretax", "tuned", CHUNK_BYTES, "eager", chunk_us * 0.9),
    ]
    return [
        both
        | {"library": library, "kind": kind, "size_bytes": size, "mode": mode, "time_us": time_us}
        | {"time_low_us": time_us * 0.97, "time_high_us": time_us * 1.03}
        | fields
        for library, kind, size, mode, time_us in times
    ]
