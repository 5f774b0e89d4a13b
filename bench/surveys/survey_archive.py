"""Packs the folder of a survey, or of bench.qualify, into the archive that is sent."""

import hashlib
import io
import os
import re
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.surveys.printed import without_names
from bench.surveys.steps import RESULTS, Survey, to_type
from wiretax import __version__
from wiretax.common.program import BENCH, RUN
from wiretax.common.untrusted import read_bytes
from wiretax.record.archive import CONTENTS, Contents, StepRecord
from wiretax.record.writing import write_whole

TIME = "%Y-%m-%dT%H:%M:%SZ"  # in UTC
NAMED = "survey-%Y-%m-%dT%H-%M-%SZ"  # a survey's folder, whose name its user did not choose


def folder_inside(survey: Survey) -> Path:
    """The name of the archive's one folder: the survey's own if that is its time, and otherwise
    the time, as a name that the user chose may tell of a person or a project."""
    name = survey.folder.resolve().name
    if re.fullmatch(r"survey-[0-9TZ-]+", name):
        return Path(name)
    return Path(time.strftime(NAMED, time.gmtime()))


def clean_logs(survey: Survey) -> None:
    """Takes names of hosts and folders out of what the steps printed. Raises OSError."""
    for path in survey.logs.iterdir():
        try:
            text = read_bytes(path, follow=False).decode(errors="replace")
        except OSError as error:
            text = f"left out: {error.strerror}"
        write_whole(path, without_names(text, survey.folder.resolve()).encode())


def write_archive(
    survey: Survey,
    command: str,
    exit_status: int,
    folder: Path,
    others: Mapping[str, bytes] = {},
) -> str:
    """Writes `survey.json` and the archive with all files of the survey's folder, below `folder`;
    `others` stand in place of these. Returns the archive's SHA-256. Raises OSError."""
    files = {**files_of(survey), **others}
    steps = [
        StepRecord(
            name=step.name,
            launch=step.launch,
            command=to_type(survey, step, folder),
            status=step.status,
            sentence=step.sentence,
            elapsed_s=round(step.elapsed_s, 1),
            run=f"{RESULTS}/{step.name}/{step.result.path.name}" if step.result else None,
        )
        for step in survey.steps
    ]
    contents = Contents(
        made=time.strftime(TIME, time.gmtime()),
        version=__version__,
        command=command_of(survey, command),
        status=exit_status,
        vendor=survey.vendor,
        ranks=survey.ranks,
        shares_gpus=survey.shares_gpus,
        steps=steps,
        remarks=[without_names(remark, survey.folder.resolve()) for remark in survey.remarks],
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    files[CONTENTS] = msgspec.json.encode(contents)
    write_whole(survey.inside / CONTENTS, files[CONTENTS])
    packed = pack(str(folder), files)
    write_whole(survey.archive, packed)
    return hashlib.sha256(packed).hexdigest()


def files_of(survey: Survey) -> dict[str, bytes]:
    """The folder's files, without what a killed run left. Another user's link is left out: it could
    lead to what only this user may read."""
    files = dict[str, bytes]()
    for parent, _, names, handle in os.fwalk(dir_fd=int(survey.inside.name)):
        for name in names:
            path = Path(parent, name)
            if path.suffix in ("", ".part"):  # flight records, unfinished files
                continue
            with suppress(OSError):  # a link or a pipe
                data = read_bytes(Path(f"/proc/self/fd/{handle}/{name}"), follow=False)
                files[path.as_posix()] = data
    return files


def command_of(survey: Survey, command: str = "survey") -> str:
    """What was typed, without names of folders."""
    return f"{RUN}{BENCH}{command}{' --quick' if survey.is_quick else ''} -n {survey.ranks}"


def pack(top: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of these files below a folder `top`, without their owner's name. It has the plain
    form of tar alone, in which a name has at most 255 letters: readers take no extension."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime = len(data), int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()
