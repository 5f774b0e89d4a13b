"""What stands in the way of a survey, in a sentence with its remedy, before the first step: else a
step would fail for it minutes later, or the survey measure something else."""

import os
import shutil
import sys
from collections.abc import Collection
from glob import glob

from bench.campaigns.processes import run_to_end, with_status
from bench.machine import pci
from bench.machine.diagnosis import SMALL_SHM_BYTES
from bench.machine.gpus import SHM
from kernels.devices.gpu_driver import APU_LABEL, DEVICE_NODES

VISIBLE = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
RENDER_NODES = "/dev/dri/renderD*"
AMD_CONTAINER = (
    "docker run --device=/dev/kfd --device=/dev/dri --group-add=video --group-add=render "
    "--ipc=host --security-opt seccomp=unconfined"
)
NVIDIA_CONTAINER = "docker run --gpus=all --ipc=host, with NVIDIA's Container Toolkit on the host"
START_S = 30.0  # for ranks that do nothing, which takes a second


def served_gpus(driver: str) -> list[str]:
    """The cards, without a processor's own GPU, that this driver of the kernel serves."""
    return [
        bus_id
        for bus_id in pci.gpu_bus_ids()
        if pci.driver(bus_id) == driver and pci.attribute(bus_id, "hwmon/*/in1_label") != APU_LABEL
    ]


def are(bus_ids: Collection[str]) -> str:
    """`0000:03:00.0 is`, `0000:03:00.0 and 0000:43:00.0 are`."""
    return f"{' and '.join(bus_ids)} {'is' if len(bus_ids) == 1 else 'are'}"


def out_of_reach() -> str:
    """Why this process cannot open cards that the kernel serves, and what helps; empty if it can,
    and without such cards."""
    nvidia_node, amd_node = DEVICE_NODES
    if (cards := served_gpus("nvidia")) and not os.path.exists(nvidia_node):
        return f"{are(cards)} here, and {nvidia_node} is not: {NVIDIA_CONTAINER}"
    if not (cards := served_gpus("amdgpu")):
        return ""
    nodes = [amd_node, *(glob(RENDER_NODES) or [RENDER_NODES])]
    if absent := [node for node in nodes if not os.path.exists(node)]:
        return f"{are(cards)} here, and {absent[0]} is not: {AMD_CONTAINER}"
    if closed := [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]:
        return (
            f"this user may not open {' and '.join(closed)}: sudo usermod -a -G render,video "
            f"$USER, and log in anew; in a container {AMD_CONTAINER}"
        )
    return ""


def remarks(seen: Collection[str]) -> list[str]:
    """Sentences on cards that the process does not see beside those that it has `seen`, and on what
    a container has too little of."""
    said = list[str]()
    hidden = [
        bus_id
        for driver in ("nvidia", "amdgpu")
        for bus_id in served_gpus(driver)
        if bus_id not in seen
    ]
    if seen and hidden:
        set_here = [name for name in VISIBLE if name in os.environ]
        remedy = f"unset {' and '.join(set_here)}" if set_here else "give the container all GPUs"
        said.append(f"{are(hidden)} here too, and not visible: {remedy}.")
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
