"""What keeps a process from the GPUs of its host, and what helps.

A container shows the host's PCI devices, but gets the drivers' device nodes only if it is started
with them; on a host the nodes belong to a group."""

import os
from glob import glob
from importlib.util import find_spec

from kernels.devices import gpu_driver

NVIDIACTL = "/dev/nvidiactl"
BINDINGS = "cupy", "rocm"  # whose owner means GPUs; AMD's own are rocm.bindings
RENDER_NODES = "/dev/dri/renderD*"
NVIDIA_GPU = "0x10de", "0x03"  # vendor and class
FOR_AMD = "start the container with --device /dev/kfd --device /dev/dri"
LOAD_AMD = "on a host load its driver, sudo modprobe amdgpu"
FOR_NVIDIA = "start the container with --gpus all (podman: --device nvidia.com/gpu=all)"


def hidden_cards() -> dict[str, list[str]]:
    """By vendor, the PCI bus ids of cards whose driver has no device node here."""
    found = dict[str, list[str]]()
    if not os.path.exists(gpu_driver.KFD) and not gpu_driver.amd_is_integrated():
        found["AMD"] = [card.name for card in gpu_driver.pci_gpus(*gpu_driver.AMD_GPUS)]
    if not os.path.exists(NVIDIACTL):
        found["NVIDIA"] = [card.name for card in gpu_driver.pci_gpus(NVIDIA_GPU)]
    return found


def gpu_here() -> str | None:
    """What shows that a GPU is here and meant: the node of its driver, or a card without one where
    bindings are installed. None without: a display card alone keeps nobody from the CPU."""
    if node := gpu_driver.gpu_node():
        return node
    hidden = [bus_id for ids in hidden_cards().values() for bus_id in ids]
    has_bindings = any(map(find_spec, BINDINGS))
    return hidden[0] if hidden and has_bindings else None


def obstacles() -> list[str]:
    """What is missing or closed here, each with what helps; [] if nothing is."""
    kfd, hidden = gpu_driver.KFD, hidden_cards()
    found = []
    if ids := hidden.get("AMD"):
        found.append(f"AMD's GPU {ids[0]} has no {kfd} here: {FOR_AMD}; {LOAD_AMD}")
    elif os.path.exists(kfd) and not gpu_driver.amd_is_integrated():
        render_nodes = glob(RENDER_NODES)
        closed = [node for node in (kfd, *render_nodes) if not os.access(node, os.R_OK | os.W_OK)]
        if not render_nodes:
            found.append(f"no {RENDER_NODES} is here: {FOR_AMD}")
        elif closed:
            group = os.stat(closed[0]).st_gid
            found.append(
                f"{closed[0]} is closed to you: sudo usermod -aG render,video $USER, and log in "
                f"again; start a container with --group-add {group}"
            )
    if ids := hidden.get("NVIDIA"):
        found.append(
            f"NVIDIA's GPU {ids[0]} has no {NVIDIACTL} here: {FOR_NVIDIA}; on a host install its "
            "driver"
        )
    elif os.path.exists(NVIDIACTL) and not gpu_driver.first_library([gpu_driver.DRIVERS["cuda"]]):
        found.append(f"{gpu_driver.DRIVERS['cuda']} cannot be loaded: {FOR_NVIDIA}")
    return found


def with_remedy(error: Exception) -> str:
    """An error of `visible_gpus` with what helps."""
    return "; ".join([str(error), *obstacles()])
