"""A campaign's new folder, and the manifest in it."""

import os
import shutil
import time
from collections.abc import Container
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from bench.campaigns.campaign_options import CampaignOptions, Stop, Variant
from bench.harness.console import USAGE
from bench.harness.progress import Progress
from wiretax.common.owners import open_folder
from wiretax.common.program import typed
from wiretax.record.manifest import MANIFEST, Launch
from wiretax.record.writing import to_line


def check_new(path: Path, beside: Container[str] = (), folder: Path | None = None) -> None:
    """Raises Stop if anything but an empty folder is at the path, or one with files `beside`. The
    path goes with a `folder` of another name, where --out does not name the path itself."""
    if path.exists() and not (
        path.is_dir() and all(file.name in beside for file in path.iterdir())
    ):
        another = typed("--out", f"{folder or path}-2")
        raise Stop(USAGE, f"{path} is there already: remove it, or name a new folder: {another}")


class OpenCampaign:
    """A campaign in its new folder, whose names are those of `open_folder`. Raises OSError."""

    def __init__(self, options: CampaignOptions, command: str = "campaign") -> None:
        self.options, self.pairs = options, options.head.pairs
        self.started_s, self.launch_s = time.monotonic(), options.launch_s
        self.progress = Progress(command, options.quiet)
        self.revisions = ""  # the folder of their files, while there are any
        self.programs = dict[str, str]()  # of variants with a revision, the digest of its code
        self.folder = open_folder(options.folder)
        self.folder_of = cache(lambda variant_name: open_folder(self.folder / variant_name))
        self.file = (self.folder / MANIFEST).open("xb")
        self.launches = list[Launch]()
        self.record(options.head)

    def record(self, line: msgspec.Struct) -> None:
        """Adds a line to the manifest; returns when it is on disk."""
        self.file.write(to_line(line))
        self.file.flush()
        os.fsync(self.file.fileno())
        if isinstance(line, Launch):
            self.launches.append(line)

    def discard(self) -> None:
        """Removes what it wrote: it was refused, and may be typed again."""
        self.file.close()
        for name in self.options.variants:
            shutil.rmtree(self.options.folder / name, ignore_errors=True)
        (self.folder / MANIFEST).unlink()
        with suppress(OSError):  # a gate's answer is there
            self.options.folder.rmdir()

    def finished(self, stage: str) -> list[Launch]:
        """The finished launches of this stage."""
        return [
            launch
            for launch in self.launches
            if launch.status == "finished" and launch.stage == stage
        ]

    def revision_folder(self, variant: Variant) -> Path | None:
        """The folder with the files of the variant's revision, if it has one."""
        return Path(self.revisions, variant.name) if variant.commit else None
