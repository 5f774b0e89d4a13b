"""Runs a command with a wrong clock: `mpirun -n N python tests/ranks/clock_ranks.py
2026-11-20T06:15:00 OPTIONS`."""

import sys
from datetime import datetime, timezone
from typing import Any
from unittest import mock

from bench.features import FEATURES
from bench.harness.command import main


class Wrong(datetime):
    """A clock that always shows `SAYS`."""

    @classmethod
    def now(cls, tz: Any = None) -> "Wrong":
        return cls.fromisoformat(SAYS).replace(tzinfo=timezone.utc)


if __name__ == "__main__":
    SAYS, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    with mock.patch("bench.harness.session.datetime", Wrong):
        main("allreduce", "all_reduce", "Under a wrong clock.", FEATURES)
