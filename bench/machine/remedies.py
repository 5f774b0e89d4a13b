"""What to type where the IOMMU translates, and where the driver offers no peers."""

from bench.machine.gpu_state import Facts
from wiretax.common.program import on_ranks

PASSTHROUGH = (
    "boot the host with iommu=pt. Ubuntu, Debian: add it to GRUB_CMDLINE_LINUX_DEFAULT in"
    " /etc/default/grub, then sudo update-grub; Fedora: sudo grubby --update-kernel=ALL"
    " --args=iommu=pt; restart"
)


def through_host(facts: Facts) -> str:
    """What to do where the driver offers no peers."""
    tune = on_ranks(len(facts["gpus"]), "tune --memory host_staged")
    return f"measure through the host, first with {tune}"
