"""Wiretax as an installed package: the command `wiretax`, and `load` for stored runs.

In a checkout the folders bench, collectives, kernels and reports stand beside this one. setup.py
puts them inside this package when it builds a wheel."""

from typing import TYPE_CHECKING, Literal

from bench import VERSION as __version__

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd

__all__ = ["__version__", "load"]


def load(path: "str | PathLike[str]", level: Literal["case", "block"] = "case") -> "pd.DataFrame":
    """The runs of a file, or of all files below a folder: one row per case, or per block of a case.

    Units are in the names: `_us` microseconds, `_ns` nanoseconds, `_bytes`, `_s` seconds, `_gb_s`
    1e9 bytes per second, `_gflop_s`. Both levels have:

    - `run_id`, `path`, `started` (UTC), `benchmark`, `version`, `machine_id`, `software_id`,
      `ranks`, `gpus` (models, "" on CPUs) and `imported` (from a log of another benchmark);
    - `case` (its number in the run), `collective`, `algorithm`, `chosen` (behind `auto`),
      `library`, `variant`, `memory`, `size_bytes`, `count`, `datatype`, `redop`, `in_place`,
      `mode`, `shape` (JSON, or None), `status` and `reason`.

    A case has medians over its blocks, each with its 95 % interval in `_ci_low` and `_ci_high`:
    `time_us` (the collective), `total_us` (with reading the result), `consume_us` (the reading),
    `chain_only_us`, `arrival_skew_us`, `compute_us`, `exposed_us`, `matmul_gflop_s` and
    `matmul_alone_gflop_s`. It also has `alg_bw_gb_s`, `bus_bw_gb_s`, `bound_us`, `share_of_bound`
    (0 to 1), `n_wrong`, `suspect` and `state` (of the link). Of an imported log, `time_us` is the
    printed mean.

    A block has medians over its `n` iterations under the same names, and `block`, `round`,
    `mean_us`, `measure_s`, `link_rtt_before_ns` and `link_rtt_after_ns`. Figures that were
    not measured are missing (NaN or None). `frame.attrs["unreadable"]` names files of a folder that
    were left out.
    Raises ValueError, in one sentence, if no run can be read."""
    from reports.tables.frame import load_frame  # not at the top: pandas takes half a second

    return load_frame(path, level)
