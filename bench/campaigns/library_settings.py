"""The settings of MPI libraries that `bench.tune_library` tries, from library_settings.toml."""

from pathlib import Path

import msgspec

Setting = str  # environment variables (`NAME=VALUE`) and options of the benchmark, between blanks
DEFAULT: Setting = ""
THREAD_LEVELS = "--mpi-thread-level=single", "--mpi-thread-level=multiple"
LIBRARIES = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes())


def settings_for(library: str, collective: str) -> list[Setting]:
    """The settings to try for a library such as `Open MPI 5.0.11`, the default first; of an unknown
    library the thread levels alone."""
    tables = [table for name, table in LIBRARIES.items() if library.startswith(name)]
    settings = [
        line.replace("{}", str(value))
        for table in tables
        for line, values in (table.get(collective, {}) | table["every"]).items()
        for value in values
    ]
    return [DEFAULT, *settings, *THREAD_LEVELS]
