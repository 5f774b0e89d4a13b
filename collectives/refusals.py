"""Names the known causes of refused peer memory, each with what to type.

Sources: hipIpcGetMemHandle fails with HSA_ENABLE_IPC_MODE_LEGACY=1, which public images set
(ROCm/rocm-systems issue 2209). Opening a handle fails with error 17 if containers share their IPC
and PID namespaces but no network (ROCm/rocm-aic pull request 88): ROCm passes memory through a
socket. It also fails on some kernels without AMD's own driver (ROCm/ROCR-Runtime issue 355)."""

import os
from contextlib import suppress
from pathlib import Path

from collectives.communicator import Communicator

LEGACY_IPC = "HSA_ENABLE_IPC_MODE_LEGACY"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # containers show their host's
OPENING = ("ipcOpenMemHandle", "cannot be opened", "hosts")  # what namespaces can prevent
NAMESPACES = {"net": "--network=host", "ipc": "--ipc=host", "pid": "--pid=host"}
UNSET_LEGACY_IPC = (
    f"{LEGACY_IPC}=1 is set, and hipIpcGetMemHandle then fails without AMD's own "
    f"driver module: unset {LEGACY_IPC}"
)
NOT_IMPORTED = (
    "error 17, the kernel did not import the memory: update ROCm and the kernel, or "
    f"install amdgpu-dkms and export {LEGACY_IPC}=1"
)


def legacy_ipc() -> bool:
    """Whether the environment requests ROCm's older IPC."""
    return os.environ.get(LEGACY_IPC, "0") != "0"


def separate_namespaces(communicator: Communicator) -> list[str]:
    """The namespaces that ranks of one machine do not share. All ranks call it."""
    boot_id, own = "", dict.fromkeys(NAMESPACES, "")
    with suppress(OSError):
        boot_id = BOOT_ID.read_text()
        own = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    ranks = communicator.all_gather((boot_id, own))
    return [
        name
        for name in NAMESPACES
        if len({(boot, links[name]) for boot, links in ranks}) > len({b for b, _ in ranks})
    ]


def remedy(communicator: Communicator, refusal: str) -> str:
    """What to type against this refusal, in parentheses; "" if its cause is unknown. All ranks
    call it with the same refusal."""
    is_legacy = any(communicator.all_gather(legacy_ipc()))
    separate = separate_namespaces(communicator)
    if is_legacy and "ipcGetMemHandle" in refusal:
        return f" ({UNSET_LEGACY_IPC})"
    if separate and any(words in refusal for words in OPENING):
        options = " ".join(NAMESPACES[name] for name in separate)
        return (
            f" (the ranks of one machine do not share their {', '.join(separate)} namespace:"
            f" start all ranks in one container, or each with docker run {options})"
        )
    if "ipcOpenMemHandle" in refusal and "InvalidDevicePointer" in refusal:
        return f" ({NOT_IMPORTED})"
    return ""
