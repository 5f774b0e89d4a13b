"""Lays out /sys and /proc as on the recorded machines, and fakes NVML for the doctor's tests."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.machine.diagnosis import problems
from tests.launch import ROOT

# Recorded machines, and two of their GPUs.
VEGAS = "two_vega20_under_a_switch", "3f:00.0", "43:00.0"
RTX5090S = "two_rtx5090_on_one_root_complex", "01:00.0", "03:00.0"
KFD_NODES = "sys/class/kfd/kfd/topology/nodes"
# The recorded pair below one switch, in KFD's format with no link between the two.
NO_PEERS = {
    f"{KFD_NODES}/{number}/properties": f"simd_count 240\np2p_links_count 0\nlocation_id {bus << 8}"
    for number, bus in ((1, 0x3F), (2, 0x43))
}
RECORDED = ROOT / "tests/recorded/machines"


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((RECORDED / f"{name}.json").read_text()))


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
    return root


def with_acs(control: int) -> bytes:
    """A PCI configuration space of 4 KiB. Its first extended capability is ACS with this control
    word."""
    capability = bytes.fromhex("0d0001001f00") + control.to_bytes(2, "little")
    return bytes(0x100) + capability + bytes(0xEF8)


def with_express(able: int = 0, control: int = 0, target: int = 0) -> bytes:
    """A configuration space of 256 bytes. Its second capability, after power management, is PCIe's,
    with these low words of DEVCAP2 and DEVCTL2 and this target speed in LNKCTL2."""
    config = bytearray(0x100)
    config[0x34] = 0x40
    config[0x40:0x42], config[0x48:0x4A] = b"\x01\x48", b"\x10\x00"
    for offset, word in ((0x24, able), (0x28, control), (0x30, target)):
        config[0x48 + offset : 0x4A + offset] = word.to_bytes(2, "little")
    return bytes(config)


def lay_out(root: Path, name: str) -> Path:
    """Write the recorded machine's folders below `root`."""
    machine = recorded(name)
    for folder, files in machine.get("pci", {}).items():
        device = root / "sys/devices" / folder
        device.mkdir(parents=True, exist_ok=True)
        link = root / "sys/bus/pci/devices" / device.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(device, link.parent))
        if "acs" in files:
            (device / "config").write_bytes(with_acs(int(files["acs"], 16)))
        write(device, {file: text for file, text in files.items() if file != "acs"})
    return write(root, machine.get("files", {}))


NVML = {
    "NVML_FEATURE_ENABLED": 1,
    "NVML_NVLINK_MAX_LINKS": 36,
    "NVML_NVLINK_DEVICE_TYPE_SWITCH": 2,
}


def fake_nvml(gpus: dict[str, dict[str, Any]], status: int) -> Any:
    """A fake pynvml of `gpus`, {bus id: {name, memory, bar1, nvlinks: [(up, bus id of the end)]}},
    with one peer status for all pairs. A GPU's handle is its bus id; what it lacks is an error."""

    def remote(gpu: str, number: int) -> SimpleNamespace:
        end = gpus[gpu]["nvlinks"][number][1].partition(".")[0]
        domain, bus, device = (int(part, 16) for part in end.split(":"))
        return SimpleNamespace(domain=domain, bus=bus, device=device)

    return SimpleNamespace(
        **NVML,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=dict(zip(gpus, gpus, strict=True)).__getitem__,
        nvmlDeviceGetVbiosVersion=lambda gpu: gpus[gpu]["vbios"],
        nvmlDeviceGetEccMode=lambda gpu: gpus[gpu]["ecc"],
        nvmlDeviceGetName=lambda gpu: gpus[gpu]["name"],
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(
            total=gpus[gpu]["memory"], used=gpus[gpu].get("used", 0)
        ),
        nvmlDeviceGetBAR1MemoryInfo=lambda gpu: SimpleNamespace(bar1Total=gpus[gpu]["bar1"]),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=gpus[gpu]["busy"]),
        nvmlDeviceGetNvLinkState=lambda gpu, number: int(gpus[gpu]["nvlinks"][number][0]),
        nvmlDeviceGetNvLinkRemotePciInfo=remote,
        nvmlDeviceGetNvLinkRemoteDeviceType=lambda gpu, number: 0,
        nvmlDeviceGetP2PStatus=lambda reader, owner, index: status,
    )


def only(sentences, *words):
    """Returns the only sentence with all these words."""
    sentences = list(sentences)
    matches = [sentence for sentence in sentences if all(word in sentence for word in words)]
    assert len(matches) == 1, sentences
    return matches[0]


def none(facts, word):
    """Whether no problem has this word."""
    return not [sentence for sentence in problems(facts) if word in sentence]
