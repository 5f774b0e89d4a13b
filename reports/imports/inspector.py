"""Parses the dumps of NCCL's profiler plugin Inspector, a JSON object for each collective of a
process: of one rank of each of its communicators."""

from collections.abc import Sequence
from typing import Any

import msgspec

from reports.imports.logged import LoggedTest, collective_of
from wiretax.record.result import ResultError
from wiretax.record.schema import Count, NotNegative, Positive

MARK, VERSION = "inspector_output_format_version", "v4."
CAVEAT = (
    "NCCL's Inspector slows calls down, by 4 to 13 % at 128 KB to 4 MB (NVIDIA/nccl#2355), and "
    "drops records when its ring is full (#2304)"
)
PER_RANK = "all_gather", "reduce_scatter"  # whose printed size is of one rank


class Call(msgspec.Struct):
    coll: str
    coll_msg_size_bytes: Count
    coll_exec_time_us: NotNegative


def parse_inspector(documents: Sequence[Any]) -> list[LoggedTest]:
    """A test for each collective and number of ranks, whose rows are calls; [] for other JSON.
    Raises ResultError for another version of the format, ValidationError for a damaged record."""
    if not all(MARK in document.get("metadata", ()) for document in documents):
        return []

    tests = dict[Any, LoggedTest]()
    for line, document in enumerate(documents, 1):
        version = str(document["metadata"][MARK])
        if not version.startswith(VERSION):
            raise ResultError(f"NCCL's Inspector wrote {version}, known is {VERSION}x")
        if "coll_perf" not in document:  # a message between two ranks
            continue
        call = msgspec.convert(document["coll_perf"], Call)
        kind = collective_of(call.coll), msgspec.convert(document["header"]["n_ranks"], Positive)
        new = LoggedTest("nccl-inspector", line, "one rank's call", *kind)
        test = tests.setdefault(kind, new)
        if time_us := call.coll_exec_time_us:  # whole microseconds
            test.add(line, {"size_bytes": call.coll_msg_size_bytes}, time_us=time_us)

    for test in tests.values():
        test.is_per_rank = test.collective in PER_RANK
        test.notes.append(CAVEAT)
    return [*tests.values()]
