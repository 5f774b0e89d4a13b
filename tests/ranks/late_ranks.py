"""Run by mpirun: `late_ranks.py FOLDER OPTION ...` is `bench.allreduce` on GPUs that counts
launches of `come_late`.

Each rank writes its counts to `FOLDER/RANK` as JSON: {the kernel launched just before: number of
launches}.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from bench.features import FEATURES
from bench.harness.command import main
from collectives.communicator import launched_rank
from kernels.devices.device import Step
from kernels.devices.gpu_stream import GpuStream

enqueue = GpuStream.enqueue
launched, before = [""], Counter[str]()


def enqueue_and_count(stream: GpuStream, *steps: Step) -> None:
    for step in steps:
        if step.kernel.name == "come_late":
            before[launched[-1]] += 1
        launched.append(step.kernel.name)
    enqueue(stream, *steps)


GpuStream.enqueue = enqueue_and_count  # type: ignore[assignment, method-assign]
folder, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
    main("allreduce", "all_reduce", "", FEATURES)
finally:
    (Path(folder) / str(launched_rank())).write_text(json.dumps(before))
