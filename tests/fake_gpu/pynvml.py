"""NVML in software, before the real pynvml: a driver that the variable FAKE_NVML switches on.

FAKE_NVML lists, separated by commas, what its cards do and have, each behind `rank0:` if only that
rank's card does:
  counts             the driver counts how long it slowed the card down
  slow=N             the card is slowed down by its power cap at the N-th question for it (from 1)
It logs each question for power into the file FAKE_NVML_LOG, if that is set: one for each look."""

import os
from types import SimpleNamespace
from typing import Any

NVML_NVLINK_MAX_LINKS = 0
NVML_FEATURE_ENABLED = 1
NVML_NVLINK_DEVICE_TYPE_SWITCH = 2
nvmlClocksEventReasonSwPowerCap = 4
SLOWED_NS = 1_200_000_000

_rank = os.environ.get("PMI_RANK", "0")
_words = [word.rpartition(":") for word in os.environ.get("FAKE_NVML", "").split(",")]
_here = {name for where, _, name in _words if where in ("", f"rank{_rank}")}
_slow_at = {int(name.removeprefix("slow=")) for name in _here if name.startswith("slow=")}
_asked = 0


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    if "FAKE_NVML" not in os.environ:
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetHandleByPciBusId(bus_id: str) -> str:
    return bus_id


def nvmlDeviceGetPowerUsage(gpu: str) -> int:
    """In milliwatts. A look begins with it."""
    global _asked
    _asked += 1
    if log := os.environ.get("FAKE_NVML_LOG"):
        with open(log, "a") as file:
            file.write(f"rank {_rank}\n")
    return 100_000 + 10_000 * _asked


def nvmlDeviceGetClockInfo(gpu: str, kind: int) -> int:
    return {1: 1980 - 100 * (_asked in _slow_at), 2: 2619}[kind]


def nvmlDeviceGetCurrentClocksEventReasons(gpu: str) -> int:
    # A driver that counts reports the card at other times than those of the looks.
    return nvmlClocksEventReasonSwPowerCap * (_asked in _slow_at and "counts" not in _here)


def nvmlDeviceGetViolationStatus(gpu: str, policy: int) -> Any:
    if "counts" not in _here:
        raise NVMLError("Not Supported")
    slow_looks = sum(_asked >= number for number in _slow_at)
    return SimpleNamespace(violationTime=5 + SLOWED_NS * slow_looks * (policy == 0))


def nvmlDeviceGetFieldValues(gpu: str, fields: Any) -> Any:
    return [SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(ullVal=0)) for _ in fields]
