"""Wiretax as an installed package: the command `wiretax`, and `load` for stored runs.

In a checkout the folders bench, collectives, kernels and reports stand beside this one. setup.py
puts them inside this package when it builds a wheel."""

import sys
from typing import TYPE_CHECKING

if sys.argv[0] == "-m":  # a command begins; pytest too imports this package, and no other of ours
    from wiretax.common.interpreter import require_packages

    require_packages()

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def load(path: "str | PathLike[str]") -> "pd.DataFrame":
    """The runs of a file, of all files below a folder, or of a survey's archive: one row per case.

    Units are in the names: `_us` microseconds, `_ns` nanoseconds, `_bytes`, `_s` seconds, `_gb_s`
    1e9 bytes per second. A row has:

    - `run_id`, `path`, `started` (UTC), `run_status`, `benchmark`, `version`, `machine_id`,
      `node` (the label of its host), `software_id`, `world_size` (ranks), `hosts`, `gpus` (models;
      None on CPUs), `method` (the options that change how cases are measured, where they are
      not the default; of another harness its name and statistic), and
      `imported_from`, the log or the variant of another harness;
    - `case` (its number in the run), `collective`, `algorithm`, `chosen` (what `auto` or a library
      ran), `library`, `variant`, `memory`, `size_bytes`, `count`, `datatype`, `redop`, `in_place`,
      `mode`, `shape` (JSON, or None), `status` and `reason`.

    A case has all fields of docs/results.md, the columns of `wiretax export`. A quantity, as
    `time_us` (the collective), `consume_us` (reading the result) or `total_us` (both), has a column
    for each part: `time_us_median` over blocks, its 95 % interval `time_us_ci_low` to
    `time_us_ci_high`, and over iterations `time_us_mean`.

    Figures that were not measured are missing (NaN or None). `frame.attrs["unreadable"]` names
    files of a folder that were left out.
    Raises ValueError, in one sentence, if no run can be read."""
    from wiretax.record.frame import load_frame  # not at the top: pandas takes half a second

    return load_frame(path)
