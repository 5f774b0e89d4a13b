"""Parses the dumps of NCCL's profiler plugin Inspector, a JSON object for each collective of a
process. Dumps of several ranks in one file give the time of the slowest of them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from reports.imports.logged import LoggedTest, collective_of
from reports.store.result import ResultError
from reports.store.schema import Count, NotNegative, Positive

MARK, VERSION = "inspector_output_format_version", "v4."
CAVEAT = (
    "NCCL's Inspector slows calls down, by 4 to 13 % at 128 KB to 4 MB (NVIDIA/nccl#2355), and "
    "drops records when its ring is full (#2304)"
)
STATISTIC = "each call, slowest rank of the file"
PER_RANK = "all_gather", "reduce_scatter"  # whose printed size is of one rank


class Communicator(msgspec.Struct):
    id: str
    n_ranks: Positive


class Call(msgspec.Struct):
    coll: str
    coll_sn: Count
    coll_msg_size_bytes: Count
    coll_exec_time_us: NotNegative


def parse_inspector(documents: Sequence[Any]) -> list[LoggedTest]:
    """A test for each collective and number of ranks, whose rows are calls; [] for other JSON.
    Raises ResultError for another version of the format, ValidationError for a damaged record."""
    if not all(MARK in document.get("metadata", ()) for document in documents):
        return []

    slowest = dict[Any, tuple[int, float]]()
    for line, document in enumerate(documents, 1):
        version = str(document["metadata"][MARK])
        if not version.startswith(VERSION):
            raise ResultError(f"NCCL's Inspector wrote {version}, known is {VERSION}x")
        if "coll_perf" not in document:  # a message between two ranks
            continue
        communicator = msgspec.convert(document["header"], Communicator)
        call = msgspec.convert(document["coll_perf"], Call)
        kind = collective_of(call.coll), communicator.n_ranks
        key = kind, communicator.id, call.coll_sn, call.coll_msg_size_bytes
        first, time_us = slowest.get(key, (line, 0.0))
        slowest[key] = first, max(time_us, call.coll_exec_time_us)

    tests = dict[Any, LoggedTest]()
    for (kind, _, _, size_bytes), (line, time_us) in slowest.items():
        collective, n_ranks = kind
        new = LoggedTest("nccl-inspector", line, STATISTIC, collective, n_ranks, notes=[CAVEAT])
        test = tests.setdefault(kind, new)
        test.is_per_rank = test.collective in PER_RANK
        if time_us:  # whole microseconds
            test.add(line, {"size_bytes": size_bytes}, time_us=time_us)
    for test in tests.values():
        test.set_status(None)
    return [*tests.values()]
