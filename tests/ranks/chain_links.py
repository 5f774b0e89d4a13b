"""`chain_links.py COMMAND OPTIONS`, under mpirun: runs a benchmark of GPUs without graphs, and puts
into LINKS_FILE, a line for each case, how often an iteration launches which link of a chain."""

import os
import runpy
import sys
from collections import Counter
from typing import Any

from bench.harness import timing
from bench.harness.iteration import CHAIN_LINKS, Iteration
from kernels.devices.gpu_stream import GpuModule

launched, seen = Counter[str](), dict[str, str]()
plain_kernel, plain_perform = GpuModule.kernel, timing.perform


def kernel(self: GpuModule, name: str, threads: int | None = None) -> Any:
    found = plain_kernel(self, name, threads)

    def enqueue(blocks: int, argument: Any) -> None:
        launched[f"{name} {blocks} blocks {argument.count} elements"] += 1
        found.function(blocks, argument)

    is_link = name in CHAIN_LINKS.values()
    return type(found)(name, enqueue) if is_link else found


def perform(session: Any, iteration: Iteration, counts: Any) -> Any:
    launched.clear()
    stamps = plain_perform(session, iteration, counts)
    times = {name: number / counts.total for name, number in launched.items()}
    seen[f"{iteration.number}"] = f"{times}"
    return stamps


GpuModule.kernel = kernel  # type: ignore[method-assign]
timing.perform = perform
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    if os.environ.get("PMI_RANK") == "0":
        with open(os.environ["LINKS_FILE"], "w") as file:
            file.writelines(f"{number} {times}\n" for number, times in seen.items())
