"""The flag protocol of the kernels holds under a weak memory model, and no longer does when any part of it is left out.

This is the negative control for what x86 hardware cannot get wrong. A user would miss sums that are right a million
times and then, on a card with weaker ordering than the developer's, are not.
"""

from collections.abc import Callable

import pytest

from tests.memory_model import (
    BLOCK_BARRIER,
    FENCE_SYSTEM,
    Op,
    Thread,
    await_acquire,
    await_relaxed,
    check,
    load,
    store,
    store_release,
)

# How many launches in a row it takes for the part's absence to show.
PARTS = {
    "WITHOUT_FENCE_SYSTEM": 1,
    "WITHOUT_BLOCK_BARRIER_BEFORE_FLAG": 1,
    "WITHOUT_RELEASE": 1,
    "WITHOUT_ACQUIRE": 1,
    "WITHOUT_BLOCK_BARRIER_AFTER_WAIT": 1,
    "WITHOUT_EPOCH_FLIP": 2,
    "WITHOUT_EPOCH": 2,
}


def reached(epoch: int, bits: int) -> Callable[[int], bool]:
    """Whether a flag has come to the epoch, by the sign of the difference modulo 2^bits, as the kernels compare."""
    return lambda flag: (flag - epoch) % (1 << bits) < 1 << (bits - 1)


def at_least(epoch: int) -> Callable[[int], bool]:
    return lambda flag: flag >= epoch


def one_shot_push(n_launches: int, without: str = "", first_epoch: int = 1, bits: int = 32) -> list[Thread]:
    """Two ranks, a block of two threads each: a thread pushes its word, then reads what the peer's other one pushed.

    Thread 0 signals the peer, and the thread with the peer's number waits for it, as in the kernels.
    """
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        for thread in range(2):
            ops: list[Op] = []
            for launch in range(1, n_launches + 1):
                epoch = (first_epoch + launch - 1) % (1 << bits)
                half = 0 if without == "WITHOUT_EPOCH_FLIP" else epoch & 1
                signal = store if without == "WITHOUT_RELEASE" else store_release
                wait = await_relaxed if without == "WITHOUT_ACQUIRE" else await_acquire
                until = at_least(epoch) if without == "WITHOUT_MODULAR_COMPARE" else reached(epoch, bits)
                if without == "WITHOUT_EPOCH":
                    epoch, until = 1, at_least(1)
                ops.append(store(("slab", peer, half, thread), launch))
                if without != "WITHOUT_FENCE_SYSTEM":
                    ops.append(FENCE_SYSTEM)
                if without != "WITHOUT_BLOCK_BARRIER_BEFORE_FLAG":
                    ops.append(BLOCK_BARRIER)
                if thread == 0:
                    ops.append(signal(("flag", peer), epoch))
                if thread == peer:
                    ops.append(wait(("flag", rank), until=until))
                if without != "WITHOUT_BLOCK_BARRIER_AFTER_WAIT":
                    ops.append(BLOCK_BARRIER)
                ops.append(load(("slab", rank, half, 1 - thread), launch))
            threads.append(Thread(rank, ops))
    return threads


def test_the_whole_protocol_holds_in_every_execution():
    # Three launches in a row: the third writes the half of the slab that the first one used.
    outcome = check(one_shot_push(3))
    assert outcome.error is None, outcome.trace
    assert outcome.n_states > 10_000


@pytest.mark.parametrize(("part", "n_launches"), PARTS.items())
def test_the_protocol_without_a_part_reads_a_wrong_value(part, n_launches):
    outcome = check(one_shot_push(n_launches, without=part))
    assert outcome.error is not None
    assert outcome.error.startswith("wrong value"), outcome.error
    assert "slab" in outcome.trace[-1]


def test_the_epoch_may_wrap_around():
    # Flags of three bits, epochs 7, 0, 1. Each flag starts at the epoch before the first.
    initial = {("flag", rank): 6 for rank in range(2)}
    assert check(one_shot_push(3, first_epoch=7, bits=3), initial).error is None
    plain = check(one_shot_push(3, without="WITHOUT_MODULAR_COMPARE", first_epoch=7, bits=3), initial)
    assert plain.error is not None
    assert plain.error.startswith("wrong value")


def two_shot(n_chunks: int, n_launches: int = 1, slots: int = 2, without: str = "") -> list[Thread]:
    """Two ranks: in a beat each copies a chunk in, sums the chunk before, and gathers the one before that.

    By itself it would do without the epoch's two halves; it shares the slab with the one-shot form, which would not.
    """
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        for launch in range(1, n_launches + 1):
            half = launch & 1
            for beat in range(n_chunks + 2):
                if beat > 0 and without != "WITHOUT_WAIT":
                    ops.append(await_acquire(("flag", rank), until=at_least(100 * launch + beat)))
                if beat < n_chunks:
                    ops.append(store(("input", rank, half, beat % slots), 100 * launch + beat))
                if 1 <= beat <= n_chunks:
                    chunk = beat - 1
                    ops.append(load(("input", peer, half, chunk % slots), 100 * launch + chunk))
                    ops.append(store(("sums", rank, half, chunk % slots), 100 * launch + chunk))
                if beat >= 2:
                    chunk = beat - 2
                    ops.append(load(("sums", peer, half, chunk % slots), 100 * launch + chunk))
                if beat < n_chunks + 1:
                    ops += [FENCE_SYSTEM, store_release(("flag", peer), 100 * launch + beat + 1)]
        threads.append(Thread(rank, ops))
    return threads


def test_two_shots_beats_hold_with_two_slots():
    assert check(two_shot(3)).error is None
    assert check(two_shot(1, n_launches=3)).error is None


@pytest.mark.parametrize(
    "broken",
    [{"n_chunks": 2, "slots": 1}, {"n_chunks": 1, "without": "WITHOUT_WAIT"}],
    ids=["one slot", "without the wait"],
)
def test_two_shots_beats_fail_without_a_part(broken):
    assert check(two_shot(**broken)).error is not None


def ring_beats(n_beats: int, slots: int = 2, without: str = "") -> list[Thread]:
    """Three ranks: in a beat each fills a slot of its right neighbour's inbox and reads what came from the left."""
    threads = []
    for rank in range(3):
        left, right = (rank - 1) % 3, (rank + 1) % 3
        ops: list[Op] = []
        for beat in range(n_beats):
            if beat > 0:
                if without != "WITHOUT_WAIT_LEFT":
                    ops.append(await_acquire(("flag", rank, left), until=at_least(beat)))
                if without != "WITHOUT_WAIT_RIGHT":
                    ops.append(await_acquire(("flag", rank, right), until=at_least(beat)))
                ops.append(load(("inbox", rank, (beat - 1) % slots), beat))
            if beat < n_beats - 1:
                ops.append(store(("inbox", right, beat % slots), beat + 1))
                ops += [FENCE_SYSTEM, store_release(("flag", left, rank), beat + 1)]
                ops.append(store_release(("flag", right, rank), beat + 1))
        threads.append(Thread(rank, ops))
    return threads


def test_the_rings_beats_hold_with_two_slots_and_both_neighbours():
    assert check(ring_beats(4)).error is None


@pytest.mark.parametrize(
    "broken",
    [{"slots": 1}, {"without": "WITHOUT_WAIT_LEFT"}, {"without": "WITHOUT_WAIT_RIGHT"}],
    ids=["one slot", "without waiting for the left", "without waiting for the right"],
)
def test_the_rings_beats_fail_without_a_part(broken):
    assert check(ring_beats(4, **broken)).error is not None


def message(signal: list[Op], wait: list[Op]) -> list[Thread]:
    return [Thread(0, [store("data", 1), *signal]), Thread(1, [*wait, load("data", 1)])]


SIGNALS = {
    "release": ([store_release("flag", 1)], True),
    "fence": ([FENCE_SYSTEM, store("flag", 1)], True),
    "nothing": ([store("flag", 1)], False),
}
WAITS = {
    "acquire": ([await_acquire("flag", until=at_least(1))], True),
    "fence": ([await_relaxed("flag", until=at_least(1)), FENCE_SYSTEM], True),
    "nothing": ([await_relaxed("flag", until=at_least(1))], False),
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("signal", SIGNALS)
def test_model_passes_a_message_only_where_both_sides_order_it(signal, wait):
    (signal_ops, signal_orders), (wait_ops, wait_orders) = SIGNALS[signal], WAITS[wait]
    assert (check(message(signal_ops, wait_ops)).error is None) == (signal_orders and wait_orders)


@pytest.mark.parametrize(("signal", "holds"), [(store_release, True), (store, False)])
def test_model_lets_a_store_overtake_a_read_that_no_release_holds_back(signal, holds):
    reader = Thread(0, [load("data", 0), signal("flag", 1)])
    writer = Thread(1, [await_acquire("flag", until=at_least(1)), store("data", 1)])
    assert (check([reader, writer]).error is None) == holds


def test_model_shows_a_store_to_its_own_block_behind_a_barrier_and_to_no_other():
    def writer_and_reader(block_of_reader: int) -> list[Thread]:
        return [Thread(0, [store("data", 1), BLOCK_BARRIER]), Thread(block_of_reader, [BLOCK_BARRIER, load("data", 1)])]

    assert check(writer_and_reader(0)).error is None
    assert check(writer_and_reader(1)).error is not None


def test_model_never_shows_a_location_going_back():
    reader = Thread(1, [await_relaxed("data", until=at_least(2)), load("data", 2)])
    assert check([Thread(0, [store("data", 1), store("data", 2)]), reader]).error is None


@pytest.mark.parametrize("ops", [[await_acquire("flag", until=at_least(1))], [store("flag", 1), BLOCK_BARRIER]])
def test_model_finds_a_deadlock(ops):
    assert check([Thread(0, ops), Thread(0, [])]).error == "deadlock"
