"""What another harness prints, such as nccl-tests or a user's script, as an ordinary run."""

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from bench.campaigns.campaign_options import CampaignOptions, Variant
from bench.machine import environment, node
from reports.imports.logged import LoggedTest
from reports.imports.nccl_tests import NcclTest, device_kernel_of
from reports.imports.runs import find_tests, run_of
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import End, Result


def read_output(options: CampaignOptions, variant: Variant, log: Path) -> tuple[Result, list[str]]:
    """The run that a launch's output describes: its file {out}, or else its standard output; and
    sentences on rows that could not be read. Raises ResultError without timings or without the
    number of ranks, ValueError for a bad name of this node."""
    file = log.with_suffix(".file.txt")
    if not file.is_file():
        file = log.with_suffix(".out.txt")
    content = content_of(file)
    if not content.strip():
        raise ResultError("it printed nothing (--wall times a program without timings)")
    found = find_tests(Path("its output"), content)
    tests = [test for test in found if test.rows]
    if not tests:
        raise ResultError("its output has no timings, only the head of a table")
    for test in tests:
        test.world_size = test.world_size or options.ranks
        if not test.world_size:
            raise ResultError("its output names no number of ranks: say how many: --ranks N")
        if isinstance(test, NcclTest) and not test.device_kernel:
            test.name_device_kernel(device_kernel_of(" ".join(variant.arguments)))

    result = run_here(tests, variant)
    reasons = [str(test.reason) for test in found if test.status == "failed"]
    unread = list[str]()
    if lines := sorted(line for test in found for line in test.unread):
        many = f"rows that could not be read: {len(lines)}, the first in line {lines[0]}"
        reasons.append(many)  # a wrong one would be among them
        unread = [many, *result.run.notes[1:]]  # the first note is on its clock
    if reasons and result.complete:
        result.end = End(status="incomplete", reason=reasons[0])
    return result, unread


def run_here(tests: Sequence[LoggedTest], variant: Variant) -> Result:
    """The run of these tests, which the variant has just made on this machine."""
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
    return result
