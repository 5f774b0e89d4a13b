"""Events of a Chrome trace as Kineto's output_json.cpp writes them, in rows of numbers."""

import re
from array import array
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from reports.breakdown.call_messages import (
    GIVEN_WHOLE,
    CallArgs,
    Message,
    cut,
    message_of_kernel,
    message_of_operator,
)
from reports.breakdown.timeline import Annotation

# Categories; until torch 1.11 some were written with capitals.
WORK = "kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset"
LAUNCHES = "cuda_runtime", "cuda_driver", "xpu_runtime", "xpu_driver", "Runtime"
OPERATORS = "cpu_op", "user_annotation", "Operator"
RECORD = "record_param_comms"  # the operator that has Kineto's facts of a call
ANNOTATIONS = "user_annotation", "gpu_user_annotation"
# Counters that tell why a rank is late, such as `AvgGpuCoreFrequencyMHz` of Intel's profiler, which
# sets them to 0 after each kernel.
CLOCKS = re.compile("frequency|power|throttl|temperature", re.IGNORECASE)
# Kineto repeats Intel's kernels with their counters under such names (XpuptiScopeProfilerHandlers).
REPEATED = "metrics: "

WORK_COLUMNS, LAUNCH_COLUMNS, OPERATOR_COLUMNS = 7, 3, 4
NONE = -1  # no correlation
# Bounds for a trace that is made to fill the memory: 1 GB of an ordinary one has 4 million numbers.
MOST_NUMBERS = 40_000_000
MOST_ANNOTATIONS = 1_000_000
MOST_NAMES = 20_000  # of kernels and groups; a trace has hundreds
MOST_US = 1e30  # beyond all times, also in ns
Whole = Annotated[int, msgspec.Meta(ge=-(1 << 53), le=1 << 53)]
Us = Annotated[float, msgspec.Meta(ge=-MOST_US, le=MOST_US)]


class Span(msgspec.Struct):
    name: str
    ts: Us
    dur: Annotated[float, msgspec.Meta(ge=0, le=MOST_US)]
    tid: Whole = 0


class LaunchArgs(msgspec.Struct):
    correlation: Whole = NONE


class Launch(Span):
    args: LaunchArgs = msgspec.field(default_factory=LaunchArgs)


class EventArgs(CallArgs):
    stream: Whole | None = None
    device: Whole | None = None
    correlation: Whole = NONE


class Event(Span):
    """Work of a device, or an operator."""

    pid: Whole = 0
    args: EventArgs = msgspec.field(default_factory=EventArgs)


@dataclass
class Found:
    """What the events tell, by rows of numbers; times in us as the trace has them.

    | rows | columns |
    |---|---|
    | work | start, duration, name, stream, device, message, correlation |
    | launches | correlation, thread, start |
    | operators | thread, start, end, message |"""

    texts: dict[str, int] = field(default_factory=dict)
    messages: dict[Message, int] = field(default_factory=lambda: {Message(): 0})
    annotations: list[Annotation] = field(default_factory=list)
    work: "array[float]" = field(default_factory=lambda: array("d"))
    launches: "array[float]" = field(default_factory=lambda: array("d"))
    operators: "array[float]" = field(default_factory=lambda: array("d"))
    clocks: dict[str, tuple[float, int]] = field(default_factory=dict)  # sum and number

    def add(self, event: Any) -> None:
        """Raises ValueError for a damaged event that matters, and for too many."""
        if not isinstance(event, dict):
            raise ValueError("it is no object")
        category, name = event.get("cat"), str(event.get("name"))
        if category in WORK and not name.startswith(REPEATED):
            self.add_work(msgspec.convert(event, Event))
        elif category in LAUNCHES:
            launch = msgspec.convert(event, Launch)
            if launch.args.correlation != NONE:
                self.launches.extend((launch.args.correlation, launch.tid, launch.ts))
        elif category in OPERATORS and (GIVEN_WHOLE.search(name) or name == RECORD):
            self.add_operator(msgspec.convert(event, Event))
        if category in ANNOTATIONS and not name.startswith("nccl:"):  # a call is no step
            span, on_device = msgspec.convert(event, Span), category != "user_annotation"
            each = Annotation(cut(span.name), span.ts, span.ts + span.dur, on_device)
            self.annotations.append(each)

        if event.get("ph") == "C":
            self.add_counters(event.get("args"))

        n_numbers = len(self.work) + len(self.launches) + len(self.operators)
        if n_numbers > MOST_NUMBERS or len(self.annotations) > MOST_ANNOTATIONS:
            raise ValueError("it is one more than are read of a trace: profile fewer steps")
        if len(self.texts) + len(self.messages) + len(self.clocks) > MOST_NAMES:
            raise ValueError(f"more than the {MOST_NAMES:,} names that are read of a trace")

    def add_work(self, event: Event) -> None:
        args = event.args
        row = (
            event.ts,
            event.dur,
            self.texts.setdefault(cut(event.name), len(self.texts)),
            event.tid if args.stream is None else args.stream,
            event.pid if args.device is None else args.device,
            self.messages.setdefault(message_of_kernel(args), len(self.messages)),
            args.correlation,
        )
        self.work.extend(row)

    def add_counters(self, values: Any) -> None:
        for name, value in msgspec.convert(values, dict[str, Any]).items():
            if value and CLOCKS.search(name):
                total, n = self.clocks.get(cut(name), (0.0, 0))
                self.clocks[cut(name)] = total + msgspec.convert(value, Us), n + 1

    def add_operator(self, event: Event) -> None:
        if event.name == RECORD:
            message = message_of_kernel(event.args)
        else:
            message = message_of_operator(event.name, event.args)
        if message != Message():
            number = self.messages.setdefault(message, len(self.messages))
            self.operators.extend((event.tid, event.ts, event.ts + event.dur, number))
