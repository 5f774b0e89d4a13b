"""Run alone on a GPU, software or real: compares the matmul of a second stream with numpy, and
measures its progress during iterations. Prints the report as JSON."""

import json
import sys
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from bench.features.background import COLUMNS, INNER, MOST, StreamMatmul
from bench.harness.iteration import ARRIVED, LEFT, Iteration
from collectives.operation import Operation
from kernels.devices.device import Arguments, Counts, Gate, Kernel, Stamps, Step, Watch
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import visible_gpus


def product(device: GpuDevice, matmul: StreamMatmul) -> object:
    """The largest error of a launch against numpy, and its operations."""
    device.caller(matmul.step)()
    a, b, c = (memory.read().view(np.float32) for memory in matmul.memories)
    expected = a.reshape(-1, INNER).astype(np.float64) @ b.reshape(INNER, COLUMNS)
    error = np.abs(c.reshape(-1, COLUMNS) - expected).max()
    return {
        "error": float(error),
        "flops": matmul.flops,
        "expected_flops": 2.0 * expected.size * INNER,
    }


def progress(device: GpuDevice, matmul: StreamMatmul) -> object:
    """The progress during iterations that wait 40 ms and then 1 us, the launches that each block
    ended with, and how many checks ran."""
    watch = device.watch(Watch())
    loop, report = device.compile("iteration", {}), dict[str, Any]()
    nothing = Step(loop.kernel("nothing"), Gate())
    checks = 0

    def count_check(blocks: int, argument: object) -> None:
        nonlocal checks
        checks += 1

    for name, wait_ns in (("long", 40_000_000), ("short", 1000)):
        wait = Step(loop.kernel("come_late"), Arguments(timeout_ns=wait_ns))
        iteration = Iteration(
            -1,
            "",
            nothing,
            Operation(wait, lambda: None),
            nothing,
            Step(Kernel("check", count_check), None),
        )
        actions, number = iteration.actions(nothing), watch.iteration

        def run(counts: Counts, actions: Any = actions, check: Step = iteration.check) -> Stamps:
            return device.run(actions, check, counts, watch)

        checks = 0
        stamps, launches = matmul.during(run, Counts(3, 8, 1))
        report[name] = {
            "shapes": [list(stamps.shape), list(launches.shape)],
            "checks": checks,
            "iterations": watch.iteration - number,
            "filled": matmul.launches,
            "lasted": int(np.isfinite(launches).sum()),
            "least": float(np.nanmin(launches, initial=1e9)),
            "span_ms": float(np.median(stamps[:, LEFT] - stamps[:, ARRIVED])) / 1e6,
        }
    return {**report, "most": MOST}


if __name__ == "__main__":
    opened = GpuDevice(visible_gpus()[1][0])
    in_background = StreamMatmul(cast(Any, SimpleNamespace(device=opened)))
    print(
        json.dumps({"product": product, "progress": progress}[sys.argv[1]](opened, in_background))
    )
