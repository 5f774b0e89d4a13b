"""Lays out /sys and /proc as the recorded machines have them."""

import json
import os
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded" / "machines"


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((RECORDED / f"{name}.json").read_text()))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def with_acs(control: int) -> bytes:
    """A configuration of 4 KiB whose first extended capability is ACS with this control word."""
    return bytes(0x100) + bytes.fromhex("0d0001001f00") + control.to_bytes(2, "little") + bytes(0xEF8)


def lay_out(root: Path, name: str) -> Path:
    """The recorded machine's folders below `root`."""
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
