"""NVIDIA's axioms allow no stale data in the PTX of our kernels, and allow it without any part of
the protocol."""

from collections.abc import Callable, Sequence
from functools import cache

import pytest

from tests.kernels.gpu_builds import compiled
from tests.kernels.kernel_code import kernels_in
from tests.kernels.ptx_model import INITIAL, Event, Litmus, Place, allowed
from tests.kernels.ptx_trace import Thread, arguments, run
from tests.launch import few

SYS, GPU = "sys", "gpu"


def w(location, order="weak", scope=SYS, value=1):
    return Event("W", location, value, order, scope)


def r(location, value, order="weak", scope=SYS):
    return Event("R", location, value, order, scope)


def fence(scope=SYS):
    return Event("F", order="acq_rel", scope=scope)


BARRIER = Event("B")
APART = [Place(0), Place(1), Place(2), Place(3)]  # on GPUs of their own
ONE_GPU = [Place(0, block) for block in range(4)]


def message(release, acquire):
    """MP: the data is written before the flag, the flag is read before the data; is stale data
    allowed?"""
    return [
        [w("data"), *release, w("flag", "relaxed")],
        [r("flag", 1, "relaxed"), *acquire, r("data", 0)],
    ]


LITMUS = {  # {name: (the threads, their places, whether the weak outcome is allowed)}
    "MP": (message([], []), APART, True),
    "MP, fences": (message([fence()], [fence()]), APART, False),
    "MP, one fence": (message([fence()], []), APART, True),
    "MP, fences of a GPU, two GPUs": (message([fence(scope=GPU)], [fence(scope=GPU)]), APART, True),
    "MP, release and acquire": (
        [[w("data"), w("flag", "release")], [r("flag", 1, "acquire"), r("data", 0)]],
        APART,
        False,
    ),
    "CoRR": ([[w("a", "relaxed")], [r("a", 1, "relaxed"), r("a", 0, "relaxed")]], APART, False),
    "a barrier, one block": (
        [[w("a"), BARRIER], [BARRIER, r("a", 0)]],
        [Place(0), Place(0)],
        False,
    ),
    "a barrier, two blocks": ([[w("a"), BARRIER], [BARRIER, r("a", 0)]], ONE_GPU, True),
    "atomic additions": (
        [[r("a", 0, "relaxed", GPU), w("a", "relaxed", GPU)._replace(updates=True)]] * 2,
        ONE_GPU,
        False,
    ),
}


@pytest.mark.parametrize("name", LITMUS)
def test_the_axioms_decide_the_classic_tests(name):
    threads, places, weak = LITMUS[name]
    assert allowed(threads, places) == weak


# The kernels, as (file, kernel, elements, bytes of a chunk): two ranks of one block of two threads.
# With chunks of two packs, the third chunk overwrites the first chunk's slot.
KERNELS = {
    "push": ("allreduce_one_shot", "one_shot_push", 8, 4096),
    "push, three chunks": ("allreduce_one_shot", "one_shot_push", 24, 32),
    "pull": ("allreduce_one_shot", "one_shot_pull", 8, 4096),
    "two-shot": ("allreduce_two_shot", "two_shot", 16, 4096),
    "packets": ("allreduce_one_shot_ll", "one_shot_ll", 8, 4096),
    "sentinel": ("allreduce_one_shot_sentinel", "one_shot_sentinel", 16, 4096),
}


@cache
def traced(name: str, architecture: str) -> tuple[list[Thread], list[Place]]:
    stem, kernel, count, chunk_bytes = KERNELS[name]
    lines = kernels_in(compiled(stem, architecture).text, architecture)[kernel]
    return run(lines, [arguments(rank, 2, count, chunk_bytes) for rank in range(2)], 2, {})


Change = Callable[[Event, int], Event | None]  # takes an event and the number of barriers before it


def data_reads(threads: Sequence[Thread]) -> list[tuple[Thread, int]]:
    """The weak reads of what other threads write, as (thread, index)."""
    writers: dict[object, set[int]] = {}
    for thread in threads:
        for event in thread.events:
            if event.kind == "W":
                writers.setdefault(event.location, set()).add(thread.number)
    return [
        (thread, i)
        for thread in threads
        for i, event in enumerate(thread.events)
        if event.kind == "R"
        and event.order == "weak"
        and writers.get(event.location, set()) - {thread.number}
    ]


def stale_reads(
    threads: Sequence[Thread], places: Sequence[Place], change: Change = lambda event, _: event
) -> list[object]:
    """The locations of the data reads that may return another write than the one that the protocol
    means.

    Each read is looked at alone, with all waits: weak reads of other threads order nothing.
    """
    stale: list[object] = []
    for reader, index in data_reads(threads):
        read = reader.events[index]
        kept = list[list[Event]]()
        names: dict[tuple[int, int], int] = {}
        for thread in threads:
            events, barriers = list[Event](), 0
            for i, event in enumerate(thread.events):
                chosen = thread is reader and i == index
                changed = event if chosen else change(event, barriers)
                barriers += event.kind == "B"
                written = event.kind == "W" and event.location == read.location
                if changed and (chosen or written or event.order != "weak" or event.kind == "B"):
                    names[thread.number, i] = len(events)
                    events.append(changed)
            kept.append(events)
        litmus = Litmus(kept, places)
        n_initial = sum(event.thread == INITIAL for event in litmus.events)
        starts = [n_initial + sum(map(len, kept[:n])) for n in range(len(kept))]
        writer, number = reader.sources[index]
        initial = next(
            i for i, event in enumerate(litmus.events) if event.location == read.location
        )
        wanted = initial if writer == INITIAL else starts[writer] + names[writer, number]
        at = starts[reader.number] + names[reader.number, index]
        if any(sources[at] != wanted for sources in litmus.executions()):
            stale.append(read.location)
    return stale


@pytest.mark.parametrize("architecture", few(["sm_90", "sm_80"], 1))
@pytest.mark.parametrize("name", KERNELS)
def test_the_axioms_allow_no_stale_data(name, architecture):
    threads, places = traced(name, architecture)
    assert len(data_reads(threads)) >= (2 if name in ("packets", "sentinel") else 4)
    assert not stale_reads(threads, places)
    fences = [event for thread in threads for event in thread.events if event.kind == "F"]
    assert {event.order for event in fences} <= {"acquire"}, "a fence that the axioms do not need"


REMOVED: dict[str, Change] = {
    "release": lambda event, _: (
        event._replace(order="relaxed") if event.order == "release" else event
    ),
    "system scope of the acquire": lambda event, _: (
        event._replace(scope="gpu") if event.order == "acquire" else event
    ),
    "the barrier before the flag": lambda event, barriers: (
        None if event.kind == "B" and barriers == 0 else event
    ),
}


@pytest.mark.parametrize("part", REMOVED)
def test_the_axioms_allow_stale_data_without_a_part(part):
    assert stale_reads(*traced("push", "sm_90"), REMOVED[part])
