"""Unpacks what real hardware left in docs/experiments/runs."""

import tarfile
from pathlib import Path

from tests.launch import ROOT


def unpack(folder: Path, name: str = "h100-wire", ending: str = ".jsonl") -> Path:
    """The folder, which receives the runs of an archive, or its files with another ending."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(ROOT / f"docs/experiments/runs/{name}.tar.xz") as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file and member.name.endswith(ending):
                (folder / Path(member.name).name).write_bytes(file.read())
    return folder
