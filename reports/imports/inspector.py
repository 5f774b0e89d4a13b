"""Parses the dumps of NCCL's profiler plugin Inspector, a JSON object for each collective of a
process. Dumps of several ranks in one file give the time of the slowest of them."""

from collections import defaultdict
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
PER_RANK = "all_gather", "reduce_scatter"  # whose printed size is of one rank


class Communicator(msgspec.Struct):
    id: str
    rank: Count
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
    numbers, ranks = defaultdict[Any, set[int]](set), defaultdict[Any, set[int]](set)
    for line, document in enumerate(documents, 1):
        metadata = document["metadata"]
        if not str(metadata[MARK]).startswith(VERSION):
            raise ResultError(f"NCCL's Inspector wrote {metadata[MARK]}, known is {VERSION}x")
        if "coll_perf" not in document:  # a message between two ranks
            continue
        communicator = msgspec.convert(document["header"], Communicator)
        call = msgspec.convert(document["coll_perf"], Call)
        kind = collective_of(call.coll), communicator.n_ranks
        key = kind, communicator.id, call.coll_sn, call.coll_msg_size_bytes
        before = slowest.get(key, (line, 0.0))
        slowest[key] = before[0], max(before[1], call.coll_exec_time_us)
        numbers[kind, communicator.id, communicator.rank].add(call.coll_sn)
        ranks[kind].add(communicator.rank)

    tests = dict[Any, LoggedTest]()
    for (kind, _, _, size_bytes), (line, time_us) in slowest.items():
        collective, n_ranks = kind
        statistic = f"each call, slowest of {len(ranks[kind])} of {n_ranks} ranks"
        new = LoggedTest("nccl-inspector", line, statistic, collective, n_ranks)
        test = tests.setdefault(kind, new)
        test.is_per_rank = collective in PER_RANK
        if time_us:  # whole microseconds
            test.add(line, {"size_bytes": size_bytes}, time_us=time_us)
    for kind, test in tests.items():
        own = [seen for (of, *_), seen in numbers.items() if of == kind]
        lost = sum(max(seen) - min(seen) + 1 - len(seen) for seen in own)
        test.notes.append(f"{CAVEAT}; calls without a record: {lost}")
        test.set_status(None)
    return [*tests.values()]
