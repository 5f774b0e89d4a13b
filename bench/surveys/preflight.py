"""What stands in the way of a survey, in a sentence with its remedy, before the first step: else a
step would fail for it minutes later, or the survey measure something else."""

import os
import shutil
import sys
from collections.abc import Collection

from bench.campaigns.processes import run_to_end, with_status
from bench.machine import pci
from bench.machine.diagnosis import SMALL_SHM_BYTES
from bench.machine.gpus import SHM
from kernels.devices import gpu_access
from kernels.devices.gpu_driver import APU_LABEL

VISIBLE = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
START_S = 30.0  # for ranks that do nothing, which takes a second


def served_gpus() -> list[str]:
    """The cards, without a processor's own GPU, that a driver of the kernel serves."""
    return [
        bus_id
        for bus_id in pci.gpu_bus_ids()
        if pci.driver(bus_id) in ("nvidia", "amdgpu")
        and pci.attribute(bus_id, "hwmon/*/in1_label") != APU_LABEL
    ]


def hides_gpus() -> bool:
    """Whether the kernel serves cards that lack a device node here, as in a container: a survey of
    the CPU would surprise their owner."""
    hidden = {bus_id for ids in gpu_access.hidden_cards().values() for bus_id in ids}
    return not hidden.isdisjoint(served_gpus())


def remarks(seen: Collection[str]) -> list[str]:
    """Sentences on cards that the process does not see beside those that it has `seen`, and on what
    a container has too little of."""
    said = list[str]()
    hidden = [bus_id for bus_id in served_gpus() if bus_id not in seen]
    if seen and hidden:
        set_here = [name for name in VISIBLE if name in os.environ]
        remedy = f"unset {' and '.join(set_here)}" if set_here else "give the container all GPUs"
        are = "is" if len(hidden) == 1 else "are"
        said.append(f"{' and '.join(hidden)} {are} here too, and not visible: {remedy}.")
    if seen and os.path.isdir(SHM) and (size := shutil.disk_usage(SHM).total) < SMALL_SHM_BYTES:
        said.append(
            f"{SHM} holds {size >> 20} MiB, and NCCL and RCCL may need more: docker run --ipc=host."
        )
    return said


def why_no_start(mpirun: str, ranks: int) -> str:
    """Why `mpirun` starts no ranks, such as Open MPI's below root; empty if it does."""
    command = [mpirun, "-n", str(ranks), sys.executable, "-c", ""]
    status, last_line = run_to_end(command, None, os.environ, START_S)
    return with_status(last_line, status) if status else ""
