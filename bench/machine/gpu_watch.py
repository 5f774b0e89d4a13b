"""Looks at a GPU between blocks: its clocks, its power, and whether the driver slowed it down.

A look takes milliseconds and never stands within timed work. NVIDIA's driver, and AMD's on
MI300, count the time for which they slowed a card down, so that a card that recovers between two
looks is seen too. Of other cards only what a look finds is known."""

import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from bench.machine import pci
from bench.machine.files import whole
from bench.machine.gpu_state import (
    MEMORY_CLOCK,
    SM_CLOCK,
    amd_clocks,
    ask,
    handle,
    throttle_reasons,
)
from wiretax.record.schema import GpuState, WatchedGpu

# Counters in nanoseconds, by NVML_PERF_POLICY_* of nvmlDeviceGetViolationStatus and by
# NVML_FI_DEV_CLOCKS_EVENT_REASON_* of nvmlDeviceGetFieldValues, which older drivers lack.
POLICIES = {"SwPowerCap": 0, "Thermal": 1, "SyncBoost": 2, "BoardLimit": 3}
FIELDS = {"SwThermalSlowdown": 269, "HwThermalSlowdown": 270, "HwPowerBrakeSlowdown": 271}
LEAST_S = 1e-3  # a change of clocks counts for microseconds

# amdgpu's gpu_metrics by its version, from kgd_pp_interface.h of Linux 6.17. Five counters of
# cycles of the firmware follow the number of all cycles; before 1.6 a mask tells the state now.
RESIDENCIES = "Prochot", "SocketPower", "SocketThermal", "VrThermal", "MemoryThermal"
CYCLES_AT = {(1, 6): 32, (1, 7): 40, (1, 8): 40}
STATUS_AT = {(1, 1): 68, (1, 2): 68, (1, 4): 40, (1, 5): 72}  # its bits differ between cards
COMMON_STATUS_AT = {(1, 3): 112}  # its bits are those of amdgpu_smu.h
COMMON_BITS = {"Power": 0xFFFF, "Current": 0xFFFF << 16, "Thermal": 0xFFFFFF << 32}
UNKNOWN = 0xFFFFFFFF


class Look(NamedTuple):
    """A GPU at a moment. `throttle`: why it is slowed down now, None if unknown. `counters`: how
    long it was so far, in nanoseconds, or in cycles where `all_cycles` has the number of all."""

    at_s: float
    state: GpuState
    throttle: Sequence[str] | None
    counters: Mapping[str, int]
    all_cycles: int = 0


def look(bus_id: str) -> Look:
    """What the driver of a GPU says of it now."""
    return _amd_look(bus_id) if handle(bus_id) is None else _nvidia_look(bus_id)


def _nvidia_look(bus_id: str) -> Look:
    gpu = handle(bus_id)
    power_mw = ask("nvmlDeviceGetPowerUsage", gpu)
    clocks = [ask("nvmlDeviceGetClockInfo", gpu, kind) for kind in (SM_CLOCK, MEMORY_CLOCK)]
    counters = {}
    for name, policy in POLICIES.items():
        if violation := ask("nvmlDeviceGetViolationStatus", gpu, policy):
            counters[name] = int(violation.violationTime)
    fields = ask("nvmlDeviceGetFieldValues", gpu, [*FIELDS.values()]) or ()
    for name, field in zip(FIELDS, fields, strict=False):
        if field.nvmlReturn == 0:
            counters[name] = int(field.value.ullVal)
    state = GpuState(
        clocks_mhz=None if None in clocks else "/".join(map(str, clocks)),
        power_w=None if power_mw is None else power_mw / 1e3,
    )
    return Look(time.monotonic(), state, throttle_reasons(bus_id), counters)


def _amd_look(bus_id: str) -> Look:
    powers_uw = [pci.attribute(bus_id, f"hwmon/*/power1_{name}") for name in ("average", "input")]
    known_uw = [each for each in map(whole, powers_uw) if each is not None]
    state = GpuState(clocks_mhz=amd_clocks(bus_id), power_w=known_uw[0] / 1e6 if known_uw else None)
    metrics = pci.content(bus_id, "gpu_metrics")
    version = (metrics[2], metrics[3]) if len(metrics) > 3 else (0, 0)

    def word(form: str, offset: int | None) -> tuple[int, ...]:
        """Numbers there; () if the file ends before."""
        if offset is None or offset + struct.calcsize(form) > len(metrics):
            return ()
        return struct.unpack_from(form, metrics, offset)

    throttle, counters, cycles = None, dict[str, int](), UNKNOWN
    if words := word("<Q", COMMON_STATUS_AT.get(version)):
        [status] = words
        if status != UNKNOWN << 32 | UNKNOWN:
            throttle = [name for name, bits in COMMON_BITS.items() if status & bits]
    if words := word("<I", STATUS_AT.get(version)):
        [status] = words
        if status != UNKNOWN:
            throttle = [f"status {status:#x}"] if status else []
    if words := word("<6I", CYCLES_AT.get(version)):
        cycles, *residencies = words
        if cycles != UNKNOWN:
            counters = dict(zip(RESIDENCIES, residencies, strict=True))
    known = {name: value for name, value in counters.items() if value != UNKNOWN}
    return Look(time.monotonic(), state, throttle, known, cycles)


def watched(rank: int, bus_id: str, looks: Sequence[Look]) -> WatchedGpu:
    """What these looks say: before the first block, after each round, and after the last block."""
    first, *later = looks
    last, power_w = later[-1], [each.state.power_w for each in later[:-1]]
    known_w = [each for each in power_w if each is not None]
    counts_cycles = last.all_cycles > 0
    all_cycles = (last.all_cycles - first.all_cycles) % (1 << 32)
    per_s = 1e9
    if counts_cycles:
        per_s = all_cycles / max(last.at_s - first.at_s, LEAST_S)
    throttled_s = {}
    for name in sorted(first.counters.keys() & last.counters.keys()):
        units = last.counters[name] - first.counters[name]
        if counts_cycles:
            units %= 1 << 32  # 32 bits overflow
        is_possible = not counts_cycles or units <= all_cycles  # not if the driver began anew
        if per_s and is_possible and units / per_s >= LEAST_S:
            throttled_s[name] = units / per_s
    seen = Counter(name for each in later for name in each.throttle or ())
    return WatchedGpu(
        rank=rank,
        bus_id=bus_id,
        start=first.state,
        end=last.state,
        power_w=(min(known_w), median(known_w), max(known_w)) if known_w else None,
        looks=len(later),
        throttled_s=throttled_s,
        throttled_looks=dict(seen),
    )
