"""Reads traces of rocprofv3: `rocprofv3 --kernel-trace --memory-copy-trace --output-format json`.

Of its formats, JSON has a published schema, source/docs/rocprofv3-schema.json of rocprofiler-sdk in
ROCm/rocm-systems. Its default, rocpd, is newer, and the columns of its CSV have changed.

| fields | from |
|---|---|
| all below but these two | the schema, in which they stand alike in October 2024 and August 2025 |
| `product_name` of an agent | the source, cxx/serialization/save.hpp |
| `stream_id`, HIP's stream; older records have the hardware's queue alone | stream_info.hpp |"""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from reports.breakdown.kernel_names import Names
from reports.breakdown.timeline import Timeline
from wiretax.common.untrusted import open_file, printable, read_bytes
from wiretax.record.result import NOT_JSON, ResultError

KEY = b'"rocprofiler-sdk-tool"'
MOST_BYTES = 1_200_000_000  # which takes 2 GB of memory
GPU = 2  # rocprofiler_agent_type_t of rocprofiler-sdk/fwd.h


Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Handle(msgspec.Struct, gc=False):
    handle: int


class Agent(msgspec.Struct):
    id: Handle
    type: int
    product_name: str = ""


class Symbol(msgspec.Struct):
    kernel_id: int
    formatted_kernel_name: str = ""


class DispatchInfo(msgspec.Struct, gc=False):
    agent_id: Handle
    queue_id: Handle
    kernel_id: int


class Dispatch(msgspec.Struct, gc=False):
    start_timestamp: Number
    end_timestamp: Number
    dispatch_info: DispatchInfo
    stream_id: Handle | None = None


class Copy(msgspec.Struct, gc=False):
    start_timestamp: Number
    end_timestamp: Number
    src_agent_id: Handle
    dst_agent_id: Handle
    bytes: Number = 0
    stream_id: Handle | None = None


class Records(msgspec.Struct):
    kernel_dispatch: list[Dispatch] = []
    memory_copy: list[Copy] = []


class Process(msgspec.Struct):
    agents: list[Agent]
    kernel_symbols: list[Symbol]
    buffer_records: Records


class Output(msgspec.Struct, rename={"processes": KEY.decode().strip('"')}):
    processes: list[Process]


Row = tuple[int, int, str, str, int]  # from and until in ns, name, stream, bytes


def is_rocprof(path: Path) -> bool:
    """Whether a file begins as rocprofv3's JSON does. One that cannot be read is none: the next
    reader says why."""
    try:
        with open_file(path) as file:
            return KEY in file.read(1000)
    except OSError:
        return False


def read_rocprof(path: Path, names: Names) -> list[Timeline]:
    """The work of each GPU of a process, in their order. Raises ResultError for another file."""
    process = process_of(path)
    gpus = {each.id.handle: each.product_name for each in process.agents if each.type == GPU}
    symbols = {each.kernel_id: each.formatted_kernel_name for each in process.kernel_symbols}
    rows: dict[int, list[Row]] = {handle: [] for handle in gpus}
    for each in process.buffer_records.kernel_dispatch:
        info = each.dispatch_info
        stream = f"{each.stream_id.handle}" if each.stream_id else f"queue {info.queue_id.handle}"
        name = symbols.get(info.kernel_id, "")
        row = each.start_timestamp, each.end_timestamp, name, stream, 0
        rows.setdefault(info.agent_id.handle, []).append(row)
    busy = [handle for handle, own in rows.items() if own]
    if not busy:
        raise ResultError(f"{path} has no kernels: rocprofv3 traces them with --kernel-trace")

    for copy in process.buffer_records.memory_copy:
        ends = copy.src_agent_id.handle, copy.dst_agent_id.handle
        source, target = ("D" if end in gpus else "H" for end in ends)
        is_between = source == target == "D" and ends[0] != ends[1]
        name = "Memcpy PtoP" if is_between else f"Memcpy {source}to{target}"
        stream = f"{copy.stream_id.handle}" if copy.stream_id else "copies"
        row = copy.start_timestamp, copy.end_timestamp, name, stream, copy.bytes
        rows.setdefault(ends[0] if source == "D" else ends[1], []).append(row)
    timelines = [timeline_of(path, names, rows[handle], gpus.get(handle, "")) for handle in busy]
    if len(timelines) > 1:
        for rank, timeline in enumerate(timelines):
            timeline.rank, timeline.ranks = rank, len(timelines)
    return timelines


def process_of(path: Path) -> Process:
    """The only process of the file. Raises ResultError."""
    try:
        content = read_bytes(path, most_bytes=MOST_BYTES)
        processes = msgspec.json.decode(content, type=Output).processes
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from error
    except NOT_JSON as error:
        why = printable(str(error))
        raise ResultError(f"{path} is no whole trace of rocprofv3: {why}") from None
    if len(processes) != 1:
        raise ResultError(f"{path} has {len(processes)} processes: rocprofv3 writes a file of each")
    return processes[0]


def timeline_of(path: Path, names: Names, rows: list[Row], device: str) -> Timeline:
    """Of one GPU."""
    whole = sorted(row for row in rows if row[0] <= row[1])
    if not whole:
        raise ResultError(f"{path}: every kernel ends before it begins")

    texts, streams = dict[str, int](), dict[str, int]()
    numbers = [
        (
            start,
            end,
            texts.setdefault(name, len(texts)),
            streams.setdefault(stream, len(streams)),
            n,
        )
        for start, end, name, stream, n in whole
    ]
    starts_ns, ends_ns, name, stream, size_bytes = np.array(numbers, np.int64).T
    lost = len(rows) - len(whole)
    return Timeline(
        path.name,
        names,
        [*texts],
        name,
        (starts_ns - starts_ns[0]) / 1e3,
        (ends_ns - starts_ns[0]) / 1e3,
        stream,
        size_bytes,
        np.zeros(len(whole), np.int64),
        device=printable(device),
        notes=[f"{path.name}: {lost} kernels or copies end before they begin"] if lost else [],
    )
