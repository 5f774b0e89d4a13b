"""The records of fits and crossovers, and their file: a `fits` line, then a line for each fit and
each crossover, as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from reports.store.result import of_kind, read_lines
from reports.store.writing import to_line, write_named
from reports.tables.sentences import shape_words

FITS_SCHEMA = 1


class Estimate(msgspec.Struct, kw_only=True):
    """A figure with its 95 % interval; None for an end that the data do not bound."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Regime(msgspec.Struct, kw_only=True):
    """The measured sizes on one line. `half_size_bytes` is n_1/2 = alpha x beta, the size that
    reaches half of beta. `lines` has [alpha in us, us a byte] for each row of the fit's times.
    `worst_residual` is the largest distance of the rows' median from its own line, as a share."""

    from_bytes: int
    to_bytes: int
    alpha_us: Estimate
    beta_gb_s: Estimate
    half_size_bytes: Estimate
    lines: list[list[float]]
    worst_residual: float


class Conditions(msgspec.Struct, kw_only=True):
    """The operation, machine and state of the link (by its median flag round trip) of a fit or
    crossover. `interval` says what intervals are over: `launches`, `this launch` (groups of its
    blocks), or None for two to four launches, which have no intervals."""

    schema: int = FITS_SCHEMA
    machine_id: str
    software_id: str
    world_size: int
    collective: str
    shape: Any
    datatype: str
    redop: str
    mode: str
    in_place: bool
    link_rtt_ns: float | None
    run_ids: list[str]
    interval: str | None

    @property
    def title(self) -> str:
        """`all_reduce, float32 sum, isolated, 2 ranks; flag round trip 113 ns`."""
        words = [self.collective, f"{self.datatype} {self.redop}", self.mode,
                 *shape_words(self.shape), *["in place"] * self.in_place,
                 f"{self.world_size} ranks"]
        link = f"; flag round trip {self.link_rtt_ns:.0f} ns" if self.link_rtt_ns else ""
        return ", ".join(words) + link


class Fit(Conditions, kw_only=True, tag="fit", tag_field="kind"):
    """One algorithm in one state of the link; `cost` names the quantity that is fitted.

    `times_us` has a column for each of `sizes_bytes` and a row for each of `run_ids`: medians of a
    launch's blocks or, if `interval` is `this launch`, of one group of blocks (the id is repeated).
    Without regimes `reason` says why."""

    variant: str
    memory: str
    algorithm: str
    library: str | None
    cost: str
    sizes_bytes: list[int]
    times_us: list[list[float]]
    regimes: list[Regime] = []
    reason: str | None = None

    @property
    def name(self) -> str:
        """`two_shot`, `two_shot registered`, `MPICH 5.0.2`."""
        variant = f" {self.variant}" if self.variant not in ("copied", "plain") else ""
        return (self.library or self.algorithm) + variant

    @property
    def launches(self) -> int:
        return len(set(self.run_ids))


class Crossover(Conditions, kw_only=True, tag="crossover", tag_field="kind"):
    """The size at which one of two algorithms, measured from `from_bytes` to `to_bytes`, overtakes
    the other. Without `size_bytes` there is no certain crossover: `faster_below` is certainly
    faster at the smallest size, `faster_above` at the largest, None if neither algorithm is."""

    first: str
    second: str
    from_bytes: int
    to_bytes: int
    faster_below: str | None
    faster_above: str | None
    size_bytes: Estimate | None = None


class Fits(msgspec.Struct, kw_only=True, tag="fits", tag_field="kind"):
    """The first line of a file of fits: the runs behind them."""

    schema: int = FITS_SCHEMA
    run_ids: list[str]


def write_fits(path: Path, fits: Sequence[Fit], crossovers: Sequence[Crossover]) -> None:
    """Writes the file, whole or not at all. Raises ResultError if it cannot be written."""
    run_ids = list(dict.fromkeys(run_id for fit in fits for run_id in fit.run_ids))
    write_named(path, b"".join(map(to_line, [Fits(run_ids=run_ids), *fits, *crossovers])))


def read_fits(path: Path | str) -> tuple[list[Fit], list[Crossover]]:
    """The fits and crossovers in the file. Raises ResultError, with the file and the line, if it is
    not a file of fits, or of a newer schema."""
    records = read_lines(Path(path), "file of fits", (Fits, Fit, Crossover), FITS_SCHEMA)
    return of_kind(Fit, records), of_kind(Crossover, records)


def by_title(fits: Sequence[Fit]) -> dict[str, list[Fit]]:
    """The fits by their title, in the order of the first fit with each title."""
    groups: dict[str, list[Fit]] = {}
    for fit in fits:
        groups.setdefault(fit.title, []).append(fit)
    return groups
