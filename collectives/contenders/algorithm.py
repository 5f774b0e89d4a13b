"""An algorithm from a contender's file: our buffers, clock and checks around its function.

A shipped file whose project fails is refused with the project's words. A user's file that fails
ends the run, and names the line: whoever wrote it wants to know."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

from collectives.binding import python_operation
from collectives.communicator import Mistake
from collectives.contenders.file import ContenderFile, read
from collectives.contenders.interface import ContenderCase, ContenderWorld, Refused
from collectives.contenders.kernel import read_kernel
from collectives.operation import Algorithm, Bound, CollectiveCase, Operation, Unsupported, World
from collectives.registry import LIBRARY
from kernels.devices.device import DeviceError

ENTRIES = 4  # of a call in a GPU's stream, unless the function has an attribute `entries`
EMPTY_CALLS = 1000

T = TypeVar("T")
load = cache(ContenderFile.load)  # once a process, on however many sets of ranks it is started
During = Callable[[str], AbstractContextManager[None]]  # records the step that a rank is in
# Steps of the flight record. Each rank loads alone, and gets more time for it.
LOAD, CALL = "load the contender", "call the contender"


def open_contenders(
    world: World, names: Sequence[str], notes: list[str], during: During
) -> dict[str, Algorithm]:
    """The algorithms of these files by name. The first case of a file of Python starts it on the
    ranks of `world`, and the first that it can perform adds to `notes` sentences for the head of
    the run, once. All ranks call it. Raises Mistake on all ranks."""
    ranks = world.communicator
    with ranks.all_or_none(Mistake):
        python = [read(name) for name in names if not name.endswith(".cu")]
        kernels = [read_kernel(name) for name in names if name.endswith(".cu")]
    contents = [(file.path.name, file.digest) for file in python]
    contents += [(f"{kernel.base}.cu", kernel.about) for kernel in kernels]
    every = ranks.all_gather(contents)
    for rank, theirs in enumerate(every):
        if changed := sorted({*theirs} - {*every[0]}):
            raise Mistake(
                f"{changed[0][0]} has other content on {ranks.rank_name(rank)} than on "
                f"{ranks.rank_name(0)}"
            )
    contenders = {file.name: algorithm_of(file, world, notes, during) for file in python}
    contenders |= {kernel.base: kernel for kernel in kernels}
    if len(contenders) < len(names):
        raise Mistake("two files have the same name, which names their algorithm")
    return contenders


def notes_on(file: ContenderFile, world: World, notes: Sequence[str]) -> Iterator[str]:
    """Sentences for the head of the run on a file of Python, on which `notes` has none. All ranks
    call it."""
    if world.communicator.broadcast(any(file.identity in note for note in notes)):
        return
    if world.device.is_cpu:  # a GPU's clock runs behind the calls
        step = python_operation(world, "an empty call", lambda: None, str).step
        with world.communicator.all_or_none():  # otherwise a rank without its kernels leaves here
            world.device.finish_builds()
        median_us = world.device.time_us(step, EMPTY_CALLS, world.watch)
        call_us = max(world.communicator.all_gather(median_us))
        yield (
            f"An empty Python function takes {call_us:.2f} us here (median of {EMPTY_CALLS} calls "
            f"from the same loop); every time of {file.identity} has such a call in it."
        )
    if file.contender.unverified:
        yield (
            f"{file.contender.title} is unverified: its file follows the package's interface, and "
            "has never run on a GPU."
        )


def algorithm_of(file: ContenderFile, world: World, notes: list[str], during: During) -> Algorithm:
    """All ranks call it."""
    call = LOAD if file.is_shipped else CALL  # projects compile in their first calls
    contender, versions = file.contender, world.communicator.all_gather(file.version)
    refusal = file.reason_against_world(world, versions)
    sentences = notes_on(file, world, notes)  # a generator, which gives them once

    @cache
    def started() -> ContenderWorld | Unsupported:
        if refusal:
            return Unsupported(refusal)
        with during(LOAD):  # no rank begins to talk to the others before all have loaded it
            module = result_or_reason(file, world, partial(load, file))
        if isinstance(module, Unsupported):
            return module
        with during(call):
            return result_or_reason(file, world, partial(ContenderWorld, world, module))

    def bind(world: World, case: CollectiveCase) -> Bound:
        ranks = started()
        if isinstance(ranks, Unsupported):
            return ranks
        if reason := file.reason_against(case):
            return Unsupported(reason)
        with during(call):
            operation = result_or_reason(file, world, lambda: bound(file, world, case, ranks))
        if not isinstance(operation, Unsupported):
            notes.extend(sentences)
        return operation

    return Algorithm(
        file.name,
        file.identity,
        bind,
        LIBRARY.moves,
        variants=contender.variants,
        contender=file.identity,
        contender_collectives=contender.collectives,
    )


def bound(
    file: ContenderFile, world: World, case: CollectiveCase, ranks: ContenderWorld
) -> Operation:
    """The case's operation, performed once as the run will: the first call loads and connects."""
    given = ContenderCase(ranks, world, case)
    digest = given.digest_of_layer()
    function = ranks.file.bind(given)
    if not callable(function):
        raise TypeError(f"bind returns {type(function).__name__}, no function")
    entries = getattr(function, "entries", ENTRIES)
    operation = python_operation(
        world, file.contender.title, function, file.sentence_about, entries
    )
    step = replace(operation.step, after_capture=getattr(function, "after_capture", None))
    own = getattr(function, "buffers", None)
    own_case = replace(case, send=own[0], receive=own[1]) if own else None
    world.device.caller(step)()
    if world.graph and not operation.failure():
        world.device.caller(world.device.replayed(step))()
    if failure := operation.failure():
        world.watch.stop = 0
        raise DeviceError(failure)
    if given.digest_of_layer() != digest:
        raise DeviceError(f"{file.identity} changes its weights or its activations")
    return replace(operation, step=step, own_case=own_case)


def result_or_reason(file: ContenderFile, world: World, work: Callable[[], T]) -> T | Unsupported:
    """The work's result; or on all ranks the reason of the rank that refused first, or of a shipped
    file failed: the others may only have timed out. Raises Mistake on all ranks, and DeviceError on
    the rank where a user's file fails: there others may wait for this one."""
    result: T | Unsupported = Unsupported("")
    failure: tuple[float, str] | None = None
    with world.communicator.all_or_none(Mistake):
        try:
            result = work()
        except Mistake:
            raise
        except Refused as refusal:
            failure = time.monotonic(), str(refusal)
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, DeviceError) else file.sentence_about(error)
            if not file.is_shipped:
                raise DeviceError(text) from error
            failure = time.monotonic(), text
    failures = world.communicator.all_gather(failure)
    if not (failed := [(*failure, rank) for rank, failure in enumerate(failures) if failure]):
        return result
    _, text, rank = min(failed)
    is_everywhere = {failure and failure[1] for failure in failures} == {text}
    return Unsupported(text if is_everywhere else f"rank {rank}: {text}")
