"""Reads traces of torch.profiler without a device, such as ranks on gloo: the operators are the
work, and collectives are what their backend records.

`gloo:all_reduce` begins when a thread of gloo takes the call from its queue, and ends when the data
are there (torch/csrc/distributed/c10d/ProcessGroupGloo.cpp, AsyncWork::execute). So it begins when
its rank arrives, and lasts until the exchange is over, as a kernel of NCCL does."""

from bisect import bisect_left
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from reports.breakdown.call_messages import cut, message_of_operator
from reports.breakdown.kernel_names import Names
from reports.breakdown.kineto_events import Event
from reports.breakdown.timeline import Annotation, Timeline
from reports.breakdown.trace_json import read_events
from wiretax.common.grouped import grouped
from wiretax.record.result import ResultError

QUEUES = "c10d::"  # operators that put a call into a queue, on the thread of the engine
CALLS_STREAM = 0  # gloo's threads take its calls in turn: no two ranks' threads the same ones
MOST_OPERATORS = 2_000_000  # of 200 bytes each


class Span(NamedTuple):
    start_us: float
    end_us: float
    name: str
    thread: int
    is_call: bool
    size_bytes: int


def read_cpu_ops(path: Path, names: Names) -> Timeline:
    """The work of a rank's CPU. Raises ResultError for a damaged trace, and for one without
    operators."""
    spans, annotations = list[Span](), list[Annotation]()
    facts = read_events(path, lambda event: add(event, names, spans, annotations))
    if not spans:
        raise ResultError(f"{path} has neither the work of a device nor the operators of a CPU")
    spans = outermost(spans)
    texts = {text: place for place, text in enumerate(dict.fromkeys(each.name for each in spans))}
    return Timeline(
        path.name,
        names,
        [*texts],
        np.array([texts[each.name] for each in spans]),
        np.array([each.start_us for each in spans]),
        np.array([each.end_us for each in spans]),
        np.array([CALLS_STREAM if each.is_call else each.thread for each in spans]),
        np.array([each.size_bytes for each in spans]),
        np.zeros(len(spans), int),
        rank=facts.distributed_info.rank,
        ranks=facts.distributed_info.world_size,
        device="CPU",
        annotations=annotations,
    )


def add(event: Any, names: Names, spans: list[Span], annotations: list[Annotation]) -> None:
    """Raises ValueError for a damaged event, and for too many."""
    if event.get("cat") not in ("cpu_op", "user_annotation"):
        return
    each = msgspec.convert(event, Event)
    name, end_us = cut(each.name), each.ts + each.dur
    is_call = names.known(each.name) is not None
    if event["cat"] == "user_annotation" and not is_call:
        annotations.append(Annotation(name, each.ts, end_us))
    elif not name.startswith(QUEUES):
        size_bytes = message_of_operator(name, each.args).size_bytes if is_call else 0
        spans.append(Span(each.ts, end_us, name, each.tid, is_call, size_bytes))
    if len(spans) + len(annotations) > MOST_OPERATORS:
        raise ValueError(f"more than the {MOST_OPERATORS:,} operators that are read: profile less")


def outermost(spans: list[Span]) -> list[Span]:
    """In order of their start, without operators that others of their thread have called. Instead
    of an operator in which a call runs stand the operators that it has called."""
    calls = grouped(sorted(each for each in spans if each.is_call), lambda each: each.thread)
    starts_us = {thread: [each.start_us for each in of_one] for thread, of_one in calls.items()}
    kept, ends_us = list[Span](), dict[int, float]()
    for each in sorted(spans, key=lambda each: (each.start_us, -each.end_us)):
        of_thread = starts_us.get(each.thread, [])
        following = bisect_left(of_thread, each.start_us)
        has_call = following < len(of_thread) and of_thread[following] < each.end_us
        if each.start_us >= ends_us.get(each.thread, each.start_us) and (
            each.is_call or not has_call
        ):
            kept.append(each)
            ends_us[each.thread] = each.end_us
    return kept
