"""Reads traces of torch.profiler: Kineto's Chrome trace, as JSON or compressed by gzip."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ijson
import numpy as np

from reports.breakdown.kernel_names import Names
from reports.breakdown.timeline import Annotation, Timeline
from wiretax.common.untrusted import printable

WORK = "kernel", "gpu_memcpy", "gpu_memset"
ANNOTATIONS = "user_annotation", "gpu_user_annotation"
LAUNCHES = "cuda_runtime", "cuda_driver"
GZIP = b"\x1f\x8b"


def read_kineto(path: Path, names: Names) -> Timeline:
    """The work of a rank's device. Raises ResultError for another file."""
    rows = list[tuple[float, float, int, int, int, int, int]]()
    launches = dict[int, float]()  # of a correlation, in us
    texts, groups = dict[str, int](), {"": 0}
    annotations, facts = list[Annotation](), dict[str, Any]()
    for key, value in parts_of(path):
        if key != "traceEvents.item":
            facts[key] = value
        elif value.get("cat") in ANNOTATIONS:
            start_us, on_device = float(value["ts"]), value["cat"] == "gpu_user_annotation"
            step = printable(value["name"])
            end_us = start_us + float(value["dur"])
            annotations.append(Annotation(step, start_us, end_us, on_device))
        elif value.get("cat") in LAUNCHES:
            launches[value.get("args", {}).get("correlation", -1)] = float(value["ts"])
        elif value.get("cat") in WORK:
            start_us, more = float(value["ts"]), value.get("args", {})
            text = texts.setdefault(value["name"], len(texts))
            group = groups.setdefault(str(more.get("Process Group Name", "")), len(groups))
            stream = int(more.get("stream", 0))
            launch = int(more.get("correlation", -1))
            end_us = start_us + float(value["dur"])
            rows.append((start_us, end_us, text, stream, 0, group, launch))
    rows.sort()
    starts_us, ends_us, name, stream, size_bytes, group, launch_ids = np.array(rows).T
    world = facts.get("distributedInfo", {})
    devices = facts.get("deviceProperties", [{}])
    return Timeline(
        path.name,
        names,
        [*texts],
        name.astype(int),
        starts_us,
        ends_us,
        stream.astype(int),
        size_bytes.astype(int),
        group.astype(int),
        [*groups],
        world.get("rank"),
        world.get("world_size"),
        devices[0].get("name", ""),
        annotations,
        launches_us=np.array([launches.get(int(each), np.nan) for each in launch_ids]),
        members={
            str(each.get("pg_name")): each["ranks"]
            for each in world.get("pg_config", [])
            if isinstance(each, dict) and each.get("ranks")
        },
    )


def parts_of(path: Path) -> Iterator[tuple[str, Any]]:
    """The events and the facts of the head, one after another: a trace may be larger than the
    memory."""
    with opened(path) as file:
        for event in ijson.items(file, "traceEvents.item", use_float=True):
            yield "traceEvents.item", event
    with opened(path) as file:
        for key, value in ijson.kvitems(file, "", use_float=True):
            if key in ("distributedInfo", "deviceProperties"):
                yield key, value


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as raw:
        is_packed = raw.read(len(GZIP)) == GZIP
        raw.seek(0)
        with gzip.open(raw) if is_packed else raw as file:
            yield file  # type: ignore[misc]
