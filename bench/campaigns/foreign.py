"""Launches of other harnesses' commands, such as nccl-tests or a user's script: what they print
becomes an ordinary run."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from bench.campaigns.options import CampaignOptions, Variant
from bench.machine import environment, node
from kernels.devices.owners import opened
from reports.imports.runs import find_tests, run_of
from reports.store.result import ResultError, content_of
from reports.store.schema import End, Result


@contextmanager
def output_files(options: CampaignOptions, kept: Path) -> Iterator[Path]:
    """The path, without suffixes, of a launch's output, where nobody else can put a link while the
    command writes. The folder `kept` receives it if it is to be kept. Otherwise it is deleted,
    because it can hold a whole environment."""
    with TemporaryDirectory(prefix="wiretax-") as private:
        try:
            yield Path(private) / "launch"
        finally:
            if options.keeps_output:
                with opened(kept) as folder:
                    for file in filter(Path.is_file, Path(private).iterdir()):
                        with (folder / file.name).open("xb") as copy:
                            copyfile(file, f"/proc/self/fd/{copy.fileno()}")


def read_output(options: CampaignOptions, variant: Variant, log: Path) -> tuple[Result, list[str]]:
    """The run that a launch's output describes: its file {out}, or else its standard output; and
    sentences on rows that could not be read. Raises ResultError without timings or without the
    number of ranks, ValueError for a bad name of this node."""
    files = [log.with_suffix(suffix) for suffix in (".file.txt", ".out.txt")]
    content = content_of(files[not files[0].is_file()])
    found = find_tests(Path("its output"), content)
    tests = [test for test in found if test.rows]
    if not tests:
        raise ResultError("its output has no timings, only the head of a table")
    for test in tests:
        test.world_size = test.world_size or options.ranks
        if not test.world_size:
            raise ResultError("its output names no number of ranks: say how many: --ranks N")

    facts, started = environment.describe(), time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    library = f"{tests[0].format} {tests[0].library}"
    machine_id, software_id = environment.identities(facts, library, "")
    result = run_of(
        tests,
        f"{started}-{variant.name}-{secrets.token_hex(3)}",
        "its output",
        machine_id=machine_id,
        software_id=software_id,
        environment=facts,
        argv=variant.recorded().argv,
        imported_from=f"variant {variant.name}",
    )
    if result.run.hosts in (None, 1):
        label = node.chosen_name() or node.host_label()
        for rank in result.run.ranks:
            rank["node"] = label
    lacks, unread = [str(test.reason) for test in found if test.status == "failed"], list[str]()
    if lines := sorted(line for test in found for line in test.unread):
        # A wrong one would be among them.
        unread = [f"rows that could not be read: {len(lines)}, the first in line {lines[0]}"]
        lacks += unread
        unread += result.run.notes[1:]  # the first is on its clock
    if lacks and result.complete:
        result.end = End(status="incomplete", reason=lacks[0])
    return result, unread
