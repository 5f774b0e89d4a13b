"""Opens what a run stands on: the device that was asked for, and the peers' memory on it."""

from collectives.communicator import Communicator
from collectives.operation import Unsupported, World
from collectives.peer_buffer import connect
from kernels.device import MOST_RANKS, Device, DeviceError, Watch
from kernels.device_cpu import CpuDevice


def open_device(name: str) -> Device:
    """The device of that name; `auto` is the CPU as long as there is no other. Raises DeviceError."""
    if name in ("cuda", "hip"):
        raise DeviceError(f"there is no {name} device in this version of wiretax; --device cpu runs on any host")
    return CpuDevice()


def open_world(communicator: Communicator, device_name: str, watch: Watch, yields: bool, timeout_s: float) -> World:
    """Opens the device on every rank and maps the peers' memory, or says in `peers` why there is none.

    Raises Disagreement, on all ranks, where the device cannot be had, memory cannot be shared or the probe fails.
    """
    with communicator.together(DeviceError, OSError):
        device = open_device(device_name)
    if communicator.hosts > 1:
        reason = f"its ranks are on {communicator.hosts} hosts, and memory is mapped within one"
        return World(communicator, device, Unsupported(reason))
    if communicator.size > MOST_RANKS:
        return World(
            communicator, device, Unsupported(f"{communicator.size} ranks, and a slab serves {MOST_RANKS} at most")
        )
    return World(communicator, device, connect(communicator, device, watch, yields, timeout_s))
