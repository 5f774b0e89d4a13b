"""Run by itself: `late_ranks.py FOLDER OPTION ...` is `bench.allreduce` on GPUs; each rank leaves in `FOLDER/RANK` its
launches of `come_late`, counted by what was put into the stream just before, as JSON."""

import json
import sys
from collections import Counter
from pathlib import Path

from bench.harness.session import main
from collectives.communicator import launched_rank
from kernels.devices.device import Step
from kernels.devices.gpu import GpuDevice

enqueue = GpuDevice.enqueue
launched, before = [""], Counter[str]()


def enqueue_and_count(device: GpuDevice, step: Step) -> None:
    if step.kernel.name == "come_late":
        before[launched[-1]] += 1
    launched.append(step.kernel.name)
    enqueue(device, step)


GpuDevice.enqueue = enqueue_and_count  # type: ignore[assignment, method-assign]
try:
    main("allreduce", "all_reduce", "", sys.argv[2:])
finally:
    (Path(sys.argv[1]) / str(launched_rank())).write_text(json.dumps(before))
