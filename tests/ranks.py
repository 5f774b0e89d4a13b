"""What the test programs that run as ranks share: a world, and launches."""

from collectives.communicator import Communicator
from collectives.operation import Device, Step, Watch, World
from collectives.world import open_device, open_world


def connect(timeout_s: float = 30.0, device: str = "cpu", memory: str = "auto", **macros: int) -> tuple[World, Watch]:
    """All ranks of this launch over a device, which they may share; kernels are built with these macros."""
    communicator = Communicator()
    opened, _ = open_device(communicator, device, share_gpus=True)
    watch = opened.watch(Watch())
    world = open_world(communicator, opened, watch, yields=True, timeout_s=timeout_s, memory=memory)
    settings = {name: str(value) for name, value in macros.items()}
    return World(communicator, world.device, world.peers, settings), watch


def launch(device: Device, step: Step, times: int) -> None:
    """Performs a step so often, with nothing in between, and waits for its end."""
    for _ in range(times - 1):
        device.caller(step)() if device.name == "cpu" else step.kernel.function(step.blocks, step.argument)
    device.caller(step)()
