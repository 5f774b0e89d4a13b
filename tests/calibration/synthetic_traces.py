"""Traces of an engine's ranks with a known truth, as torch.profiler writes them. The generator
imports nothing of the project: a mistake of the reader cannot hide in the truth."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rng = np.random.Generator

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
ALL_GATHER = "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
GEMM = "void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, float>(cublasParams)"
BESIDE = "void vllm::prefetch_kernel<c10::BFloat16>(c10::BFloat16 const*, int)"
MAIN_STREAM, SIDE_STREAM = 7, 13
ENDS_APART_US = 0.1  # at most, of a call on two ranks
TAIL = 3.0  # times as long
BASE_NS, CLOCK_US = 1790857026000000000, 5.2e12  # what times count from, and where a trace begins


@dataclass(frozen=True)
class Engine:
    """A step has `calls` rounds: the device idles `gap_us`, computes `compute_us` and runs a call,
    which moves data for `transport_us` once the last rank has arrived. `late_rank` computes
    `late_us` longer, and its host launches `host_late_us` later. A kernel of `beside_us` begins
    with each call on another stream. With `gathers` the last call of a step is an all-gather.

    With `launches` the trace tells when the host launched each kernel, while the device idles.

    `noise` is the standard deviation of the log of each duration, `tails` the share of durations
    that are TAIL times as long. `step_noise` is the same of a factor that a step's computes share,
    an AR(1) with `rho`."""

    ranks: int = 2
    calls: int = 4
    gap_us: float = 2.0
    compute_us: float = 60.0
    transport_us: float = 20.0
    late_rank: int = -1
    late_us: float = 0.0
    host_late_us: float = 0.0
    beside_us: float = 0.0
    gathers: bool = False
    launches: bool = False
    noise: float = 0.03
    tails: float = 0.0
    step_noise: float = 0.0
    rho: float = 0.0


@dataclass
class Played:
    """What happened, in us by (ranks, steps, calls): a gap, compute, and a call of `call_us` beside
    `beside_us` of other work."""

    engine: Engine
    gap_us: Floats
    compute_us: Floats
    call_us: Floats
    beside_us: Floats

    @property
    def transport_us(self) -> Floats:
        """(steps, calls): the rank that comes last waits for nobody."""
        return np.asarray(self.call_us.min(axis=0))

    def parts_us(self) -> dict[str, Floats]:
        """The parts of each step, (ranks, steps), and the whole as `step`."""
        waiting = np.maximum(0, self.call_us - self.transport_us - self.beside_us)
        by_call = {
            "step": self.gap_us + self.compute_us + self.call_us,
            "idle": self.gap_us,
            "compute": self.compute_us,
            "overlap": self.beside_us,
            "waiting": waiting,
            "transport": self.call_us - self.beside_us - waiting,
        }
        return {part: us.sum(axis=2) for part, us in by_call.items()}

    def kinds(self) -> dict[str, slice]:
        """Which calls of a step are of one collective."""
        if not self.engine.gathers:
            return {"all_reduce": slice(None)}
        return {"all_reduce": slice(0, -1), "all_gather": slice(-1, None)}


def play(
    engine: Engine,
    steps: int,
    rng: Rng,
) -> Played:
    """So many steps of an engine."""
    shape = engine.ranks, steps, engine.calls

    def lasting(us: float, *shape: int) -> Floats:
        spread = rng.standard_normal(shape) * engine.noise
        slow = np.where(rng.random(shape) < engine.tails, TAIL, 1.0)
        return np.asarray(us * np.exp(spread) * slow)

    of_step = np.exp(engine.step_noise * ar1(rng.standard_normal(steps), engine.rho))
    compute_us = lasting(engine.compute_us, *shape)
    compute_us[engine.late_rank] += lasting(engine.late_us, *shape[1:])
    compute_us *= of_step[:, None]
    gap_us = lasting(engine.gap_us, *shape)
    gap_us[engine.late_rank] += lasting(engine.host_late_us, *shape[1:])
    transport_us = lasting(engine.transport_us, *shape[1:])
    if engine.gathers:
        transport_us[:, -1] *= 2
    ends_us = rng.uniform(0, ENDS_APART_US, shape)  # after the moment when the data are there
    last_us = np.roll(ends_us.reshape(engine.ranks, -1), 1, axis=1)
    last_us[:, 0] = 0
    arrives_us = last_us.reshape(shape) + gap_us + compute_us
    call_us = arrives_us.max(axis=0) + transport_us + ends_us - arrives_us
    beside_us = np.minimum(lasting(engine.beside_us, *shape), call_us)
    return Played(engine, gap_us, compute_us, call_us, beside_us)


def ar1(noise: Floats, rho: float) -> Floats:
    """Turns independent values of one variance into an AR(1) with it, in place."""
    for i in range(1, len(noise)):
        noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return noise


def contents(played: Played, clocks_us: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """The trace of each rank, whose clock begins at one of `clocks_us`."""
    begins = clocks_us or [CLOCK_US] * played.engine.ranks
    return [
        {
            "schemaVersion": 1,
            "deviceProperties": [{"id": rank, "name": "NVIDIA H100 PCIe"}],
            "distributedInfo": {
                "backend": "nccl",
                "rank": rank,
                "world_size": played.engine.ranks,
            },
            "displayTimeUnit": "ms",
            "baseTimeNanoseconds": BASE_NS,
            "traceEvents": [*events(played, rank, begins[rank])],
            "traceName": f"rank{rank}.json",
        }
        for rank in range(played.engine.ranks)
    ]


def events(
    played: Played,
    rank: int,
    clock_us: float,
) -> Iterator[dict[str, Any]]:
    """Of one rank in order of time, with some of the host's, which tell nothing."""
    yield {
        "ph": "M",
        "name": "process_name",
        "pid": rank,
        "args": {"name": "python"},
    }
    now_us, engine, kernels = clock_us, played.engine, count(1)
    of_rank = (
        us[rank].tolist()
        for us in (played.gap_us, played.compute_us, played.call_us, played.beside_us)
    )

    def launched(
        part: float, name: str, ts: float, dur: float, stream: int, **args: object
    ) -> Iterator[dict[str, Any]]:
        """A kernel, and its launch after a part of the gap that begins now."""
        number = next(kernels)
        if engine.launches:
            at_us, lasts_us = now_us + part * gap_us, gap_us / 4
            host = {"correlation": number}
            yield event("cuda_runtime", "cudaLaunchKernel", at_us, lasts_us, rank, **host)
        device = {
            "device": rank,
            "stream": stream,
            "correlation": number,
            "grid": [8, 1, 1],
        }
        yield event("kernel", name, ts, dur, rank, stream, **device, **args)

    for step, by_call in enumerate(zip(*of_rank, strict=True)):
        step_us = sum(sum(us) for us in by_call[:3])
        yield event("user_annotation", f"ProfilerStep#{step}", now_us, step_us, rank)
        yield event("cpu_op", "aten::linear", now_us, by_call[0][0], rank)
        for call, (gap_us, compute_us, call_us, beside_us) in enumerate(zip(*by_call, strict=True)):
            computes_us = now_us + gap_us
            calls_us = computes_us + compute_us
            gathers = engine.gathers and call == engine.calls - 1
            name = ALL_GATHER if gathers else ALL_REDUCE
            told = message("_allgather_base" if gathers else "allreduce", 8192, engine.ranks)
            yield from launched(0.0, GEMM, computes_us, compute_us, MAIN_STREAM)
            yield from launched(0.3, name, calls_us, call_us, MAIN_STREAM, **told)
            if beside_us:
                yield from launched(0.6, BESIDE, calls_us, beside_us, SIDE_STREAM)
            now_us = calls_us + call_us


def message(
    collective: str,
    elements: int,
    ranks: int,
) -> dict[str, Any]:
    """What torch 2.4 and later write about a call."""
    return {
        "Collective name": collective,
        "In msg nelems": elements,
        "Out msg nelems": elements,
        "Group size": ranks,
        "dtype": "BFloat16",
        "Process Group Name": "1",
        "Process Group Ranks": str([*range(ranks)]),
    }


def event(
    cat: str, name: str, ts: float, dur: float, pid: int, tid: int = 1, **args: object
) -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": round(ts, 3),
        "dur": round(dur, 3),
        "args": args,
    }


def write(of_ranks: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """The files of the ranks' traces."""
    paths = [folder / f"rank{rank}.json" for rank in range(len(of_ranks))]
    for path, content in zip(paths, of_ranks, strict=True):
        path.write_text(json.dumps(content))
    return paths
