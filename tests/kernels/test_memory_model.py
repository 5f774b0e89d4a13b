"""The kernels' flag protocol is correct under a weak memory model, and fails when any part of the protocol is removed.

x86 hardware cannot show these failures. Without this test, a kernel could give right sums a million times on the
developer's card and wrong sums on a card with weaker ordering.
"""

from collections.abc import Callable, Iterable

import pytest

from tests.kernels.memory_model import (
    BLOCK_BARRIER,
    FENCE_SYSTEM,
    Op,
    Outcome,
    Thread,
    await_acquire,
    await_relaxed,
    check,
    load,
    store,
    store_release,
)

BITS = 6  # bits of a stamp: a 3-bit epoch above a 3-bit step; the kernels use 32 and 32
FIRST_EPOCH = 7  # the second launch then has epoch 0
NEVER = (FIRST_EPOCH - 1) << 3  # the initial stamp of all flags


Compare = Callable[[int], Callable[[int], bool]]  # takes the wanted stamp


def at_least(epoch: int) -> Callable[[int], bool]:
    return lambda flag: flag >= epoch


def stamp(launch: int, step: int) -> int:
    return ((FIRST_EPOCH + launch) << 3 | step) % (1 << BITS)


def reached(wanted: int) -> Callable[[int], bool]:
    """A flag has reached a stamp if their difference modulo 2^BITS is not negative, as in the kernels."""
    return lambda flag: (flag - wanted) % (1 << BITS) < 1 << (BITS - 1)


def signal(rank: int, peers: Iterable[int], launch: int, step: int) -> list[Op]:
    """The signal of sync.h, for a block of one thread. The fence stands for hand_over_stores."""
    return [FENCE_SYSTEM, *(store_release(("flag", peer, rank), stamp(launch, step)) for peer in peers)]


def wait(rank: int, peers: Iterable[int], launch: int, step: int, compare: Compare = reached) -> list[Op]:
    return [await_acquire(("flag", rank, peer), until=compare(stamp(launch, step))) for peer in peers]


REMOVALS: dict[str, Callable[[Op], Op | None]] = {
    "fence": lambda op: None if op.kind == "fence_system" else op,
    "release": lambda op: op._replace(kind="store") if op.kind == "store_release" else op,
    "acquire": lambda op: op._replace(kind="await_relaxed") if op.kind == "await_acquire" else op,
    "wait": lambda op: None if op.until else op,
    "barriers": lambda op: None if op.kind == "block_barrier" else op,
}


def without(threads: list[Thread], *parts: str) -> list[Thread]:
    """Remove or weaken every operation of these kinds in the threads."""
    for part in parts:
        left = [[REMOVALS[part](op) for op in thread.ops] for thread in threads]
        threads = [Thread(thread.block, [op for op in ops if op]) for thread, ops in zip(threads, left, strict=True)]
    return threads


def outcome_of(threads: list[Thread]) -> Outcome:
    flags = {op.location for thread in threads for op in thread.ops if op.location and op.location[0] == "flag"}
    return check(threads, dict.fromkeys(flags, NEVER))


def one_shot(launches: int, flips: bool = True, counts: bool = True, half_barriers: str = "both") -> list[Thread]:
    """Two ranks push; each has a block of two threads. A thread pushes its word, then reads the word that the peer's
    other thread pushed. As in the kernels, thread 0 signals the peer, and the thread with the peer's number waits for
    the signal."""
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        for thread in range(2):
            ops: list[Op] = []
            for launch in range(launches):
                half, epoch = launch & 1 if flips else 0, launch if counts else 0
                ops += [store(("slab", peer, half, thread), launch + 1), FENCE_SYSTEM]
                ops += [BLOCK_BARRIER] if half_barriers in ("both", "before the flag") else []
                ops += signal(rank, [peer], epoch, 1)[1:] if thread == 0 else []
                ops += wait(rank, [peer], epoch, 1) if thread == peer else []
                ops += [BLOCK_BARRIER] if half_barriers in ("both", "after the wait") else []
                ops.append(load(("slab", rank, half, 1 - thread), launch + 1))
            threads.append(Thread(rank, ops))
    return threads


def exchange(direction: str, launches: int, chunks: int = 1, words: int = 1, slots: int = 2,
             flips: bool = True, compare: Compare = reached) -> list[Thread]:
    """exchange.h: two ranks exchange data chunk by chunk, through the reader's slab (push) or their own slab (pull).
    With two words, a pack is two accesses, in either order."""
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        to, origin = (peer, rank) if direction == "push" else (rank, peer)
        ops: list[Op] = []
        for launch in range(launches):
            for step in range(chunks):
                place, value = (launch & 1 if flips else 0, step % slots), 10 * launch + step + 1
                ops += [store(("slab", to, *place, word), value) for word in range(words)]
                ops += [*signal(rank, [peer], launch, step + 1), *wait(rank, [peer], launch, step + 1, compare)]
                ops += [load(("slab", origin, *place, word), value) for word in range(words)]
        threads.append(Thread(rank, ops))
    return threads


def packets(launches: int, flips: bool = True, torn: bool = False, any_epoch: bool = False) -> list[Thread]:
    """allreduce_one_shot_ll.cu: one relaxed store writes a packet of data and epoch, and the reader waits until the
    epoch is equal. `torn`: two stores write the packet, first the data, then the epoch."""
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        for launch in range(launches):
            half, mark = launch & 1 if flips else 0, launch + 1
            ops += [store(("data", peer, half), mark)] if torn else []
            ops.append(store(("packet", peer, half), mark))
            # Rank 0 looks for its first packet only after rank 1 has sent its second packet. The search never delays a
            # reader, so without this order it would always find the first packet in rank 0's view.
            ops += [store_release("sent twice", 1)] if (rank, launch) == (1, 1) else []
            ops += [await_acquire("sent twice", until=bool)] if (rank, launch) == (0, 0) and launches > 1 else []
            ops.append(await_relaxed(("packet", rank, half), until=bool if any_epoch else mark.__eq__))
            # Otherwise one access both waits for the packet and reads its data, so the data cannot be wrong.
            if torn or any_epoch:
                ops.append(load(("data" if torn else "packet", rank, half), mark))
        threads.append(Thread(rank, ops))
    return threads


def packets_between_two_others(boundary: list[Op], ordered: bool) -> list[Thread]:
    """A launch of packets between two launches that push into the same half of the slab. `boundary`: the operations
    that order a rank's launches; `ordered`: packets use release and acquire."""
    send, await_packet = (store_release, await_acquire) if ordered else (store, await_relaxed)
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        first, third = (
            [store(("slab", peer), launch + 1), *signal(rank, [peer], launch, 1), *wait(rank, [peer], launch, 1),
             load(("slab", rank), launch + 1)] for launch in (0, 2))
        between = [send(("packet", peer), 1), await_packet(("packet", rank), until=bool)]
        threads.append(Thread(rank, [*first, *boundary, *between, *boundary, *third]))
    return threads


def sentinel(launches: int, boundary: Iterable[Op] = (FENCE_SYSTEM,), ordered: bool = False, halves: int = 2,
             resets: str = "own launch") -> list[Thread]:
    """allreduce_one_shot_sentinel.cu: a word that is not 0 has arrived, and its reader writes 0 back, in its own launch
    or, as other implementations do, in the next launch."""
    send, await_word = (store_release, await_acquire) if ordered else (store, await_relaxed)
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        for launch in range(launches):
            word, last = ("word", rank, launch % halves), ("word", rank, (launch - 1) % halves)
            ops.append(send(("word", peer, launch % halves), launch + 1))
            ops += [send(last, 0)] if resets == "next launch" and launch else []
            ops += [await_word(word, until=bool), load(word, launch + 1)]
            ops += [send(word, 0)] if resets == "own launch" else []
            ops += boundary
        threads.append(Thread(rank, ops))
    return threads


def two_shot(n_chunks: int, launches: int = 1, slots: int = 2, pushes: bool = False,
             over_users: bool = False) -> list[Thread]:
    """Two ranks: in each beat a rank copies a chunk in, sums the previous chunk, and gathers the chunk before the
    previous one. `pushes`: inputs and sums go into the peer's slab; `over_users`: the sums into the peer's receive
    buffer, which its user writes before a launch and reads after it.

    Two-shot alone does not need the epoch's two halves. The one-shot form needs them and uses the same slab.
    """
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        writes, reads = (peer, rank) if pushes else (rank, peer)
        for launch in range(launches):
            ops += [store(("user", rank, chunk), -1) for chunk in range(n_chunks) if over_users]
            for beat in range(n_chunks + 2):
                half, value = launch & 1, 10 * launch + beat + 1
                ops += wait(rank, [peer], launch, beat) if beat > 0 else []
                if beat < n_chunks:
                    ops.append(store(("input", writes, half, beat % slots), value))
                if 1 <= beat <= n_chunks:
                    ops.append(load(("input", reads, half, (beat - 1) % slots), value - 1))
                    place = ("user", peer, beat - 1) if over_users else ("sums", writes, half, (beat - 1) % slots)
                    ops.append(store(place, value - 1))
                if beat >= 2 and not over_users:
                    ops.append(load(("sums", reads, half, beat % slots), value - 2))
                ops += signal(rank, [peer], launch, beat + 1) if beat < n_chunks + 1 else []
            ops += [load(("user", rank, chunk), 10 * launch + chunk + 1) for chunk in range(n_chunks) if over_users]
        threads.append(Thread(rank, ops))
    return threads


def ring(n_beats: int, slots: int = 2, waits_for: str = "left right") -> list[Thread]:
    """Three ranks: in each beat a rank fills a slot of its right neighbour's inbox and reads the left neighbour's data.
    The first beat signals every peer; with three ranks all peers are neighbours."""
    threads = []
    for rank in range(3):
        neighbours = {"left": (rank - 1) % 3, "right": (rank + 1) % 3}
        ops: list[Op] = []
        for beat in range(n_beats):
            if beat > 0:
                ops += wait(rank, [neighbours[side] for side in waits_for.split()], 0, beat)
                ops.append(load(("inbox", rank, (beat - 1) % slots), beat))
            if beat < n_beats - 1:
                ops.append(store(("inbox", neighbours["right"], beat % slots), beat + 1))
                ops += signal(rank, neighbours.values(), 0, beat + 1)
        threads.append(Thread(rank, ops))
    return threads


def registered(launches: int, says_come: bool = True, says_done: bool = True) -> list[Thread]:
    """in_users_buffers of exchange.h: each rank writes its buffer, the peer reads the buffer in place, and the rank
    writes it again."""
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        for launch in range(launches):
            ops.append(store(("buffer", rank), launch + 1))
            ops += [*signal(rank, [peer], launch, 1), *wait(rank, [peer], launch, 1)] if says_come else []
            ops.append(load(("buffer", peer), launch + 1))
            ops += [*signal(rank, [peer], launch, 2), *wait(rank, [peer], launch, 2)] if says_done else []
        threads.append(Thread(rank, ops))
    return threads


def blocks(launches: int, last: int, ticket: bool = True, barrier: bool = True, own_flags: bool = True) -> list[Thread]:
    """leave_launch of sync.h: two ranks of two blocks. Each block has its own word and its own flag from the peer's
    block of the same number. Every block reads its rank's epoch on entry. The block `last` sees by the ticket that it
    is the last, and advances the epoch. The next launch of a stream begins when the epoch has advanced."""
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        for block in range(2):
            flag = block if own_flags else 0
            ops: list[Op] = []
            for launch in range(launches):
                ops.append(await_acquire(("epoch", rank), until=at_least(launch)))
                if launches == 1:
                    ops.append(load(("epoch", rank), launch))
                else:
                    ops.append(store(("slab", peer, launch & 1, block), launch + 1))
                    ops += [store_release(("flag", peer, flag), stamp(launch, 1))] if flag == block else []
                    ops += [await_acquire(("flag", rank, flag), until=reached(stamp(launch, 1)))]
                    ops.append(load(("slab", rank, launch & 1, block), launch + 1))
                ops += [BLOCK_BARRIER] if barrier else []
                if block == last:
                    ops += [await_relaxed(("ticket", rank), until=at_least(launch + 1))] if ticket else []
                    ops.append(store(("epoch", rank), launch + 1))
                else:
                    ops.append(store(("ticket", rank), launch + 1))
            threads.append(Thread(2 * rank + block, ops))
    return threads[:2] if launches == 1 else threads


HOLDS = {
    "one-shot, blocks of two threads": one_shot(3),
    "exchange by push": exchange("push", 3),
    "exchange by pull": exchange("pull", 3),
    "exchange of packs in two words": exchange("push", 2, words=2),
    "exchange of three chunks by push": exchange("push", 1, chunks=3),
    "exchange of three chunks by pull": exchange("pull", 1, chunks=3),
    "packets": packets(3),
    "packets between two others, as a GPU's launches": packets_between_two_others([FENCE_SYSTEM], ordered=False),
    "packets between two others, as a CPU's calls": packets_between_two_others([], ordered=True),
    "sentinel, as a GPU's launches": sentinel(4),
    "sentinel, as a CPU's calls": sentinel(4, boundary=(), ordered=True),
    "sentinel, reset in the next launch, with three buffers": sentinel(5, halves=3, resets="next launch"),
    "two-shot": two_shot(3),
    "two-shot, launch after launch": two_shot(1, launches=3),
    "two-shot by push": two_shot(3, pushes=True),
    "two-shot by push, launch after launch": two_shot(1, launches=3, pushes=True),
    "two-shot by push, over users' buffers": two_shot(2, launches=2, pushes=True, over_users=True),
    "ring": ring(4),
    "over users' buffers": registered(3),
    "blocks of a launch, the first of them last": blocks(1, 0),
    "blocks of a launch, the second of them last": blocks(1, 1),
    "blocks of two launches": blocks(2, 0),
    # A release orders all earlier stores of the same thread, so a block of one thread needs no fence in this model. On
    # x86 a release does not order non-temporal stores; sync.h keeps the fence for them.
    "exchange without the fence": without(exchange("push", 3), "fence"),
    "two-shot without the fence": without(two_shot(3), "fence"),
    "ring without the fence": without(ring(3), "fence"),
    "over users' buffers without the fence": without(registered(3), "fence"),
    # A fence before the flag in the same thread has the effect of the flag's release.
    "exchange without the release": without(exchange("push", 3), "release"),
}

# {the removed part: (the protocol without it, the error)}
FAILS = {
    "one-shot: fence": (without(one_shot(1), "fence"), "wrong value"),
    "one-shot: release": (without(one_shot(1), "release"), "wrong value"),
    "one-shot: acquire": (without(one_shot(1), "acquire"), "wrong value"),
    "one-shot: wait": (without(one_shot(1), "wait"), "wrong value"),
    "one-shot: block barrier before the flag": (one_shot(1, half_barriers="after the wait"), "wrong value"),
    "one-shot: block barrier after the wait": (one_shot(1, half_barriers="before the flag"), "wrong value"),
    "one-shot: epoch flip": (one_shot(2, flips=False), "wrong value"),
    "push: comparing modulo": (exchange("push", 2, compare=at_least), "wrong value"),
    "one-shot: epoch": (one_shot(3, counts=False), "wrong value"),
    "two words: fence and release": (without(exchange("push", 1, words=2), "fence", "release"), "wrong value"),
    "two words: acquire": (without(exchange("push", 1, words=2), "acquire"), "wrong value"),
    "packets: epoch flip": (packets(2, flips=False), "deadlock"),
    "packets: epoch": (packets(3, any_epoch=True), "wrong value"),
    "packets: one store": (packets(1, torn=True), "wrong value"),
    "packets between two others: order": (packets_between_two_others([], ordered=False), "wrong value"),
    "sentinel: reset": (sentinel(3, resets="never"), "wrong value"),
    "sentinel: epoch flip": (sentinel(2, halves=1), "wrong value"),
    "sentinel: order between launches": (sentinel(4, boundary=()), "wrong value"),
    "sentinel: three buffers for a reset in the next launch": (sentinel(3, resets="next launch"), "deadlock"),
    "two-shot: one slot": (two_shot(2, slots=1), "wrong value"),
    "two-shot by push: one slot": (two_shot(2, slots=1, pushes=True), "wrong value"),
    "ring: one slot": (ring(4, slots=1), "wrong value"),
    "ring: waiting for the left": (ring(4, waits_for="right"), "wrong value"),
    "ring: waiting for the right": (ring(4, waits_for="left"), "wrong value"),
    "users' buffers: saying that one has come": (registered(1, says_come=False), "wrong value"),
    "users' buffers: saying that one is done": (registered(2, says_done=False), "wrong value"),
    "blocks: a flag for each": (blocks(2, 0, own_flags=False), "wrong value"),
    "blocks: ticket": (blocks(1, 0, ticket=False), "wrong value"),
    "blocks: block barrier before the ticket": (blocks(1, 0, barrier=False), "wrong value"),
    **{f"{name}: {' and '.join(parts)}": (without(threads, *parts), "wrong value") for name, threads in (
        ("push", exchange("push", 1)), ("pull", exchange("pull", 1)), ("three chunks", exchange("push", 1, chunks=3)),
        ("two-shot", two_shot(1)), ("two-shot by push", two_shot(1, pushes=True)),
        ("into users' buffers", two_shot(1, pushes=True, over_users=True)), ("ring", ring(3)),
        ("users' buffers", registered(1)))
       for parts in (("fence", "release"), ("acquire",), ("wait",))},
    **{f"{direction}: {part}": (threads, "wrong value") for direction in ("push", "pull") for part, threads in (
        ("epoch flip", exchange(direction, 2, flips=False)), ("one slot", exchange(direction, 1, chunks=2, slots=1)))},
}


@pytest.mark.parametrize("name", HOLDS)
def test_a_protocol_is_correct_in_every_execution(name):
    outcome = outcome_of(HOLDS[name])
    assert outcome.error is None, outcome.trace
    assert outcome.n_states > (10_000 if name == "one-shot, blocks of two threads" else 10)


@pytest.mark.parametrize("name", FAILS)
def test_a_protocol_fails_without_a_part(name):
    threads, error = FAILS[name]
    outcome = outcome_of(threads)
    assert outcome.error is not None
    assert outcome.error.startswith(error), outcome.error


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
def test_model_passes_a_message_only_if_both_sides_order_it(signal, wait):
    (signal_ops, signal_orders), (wait_ops, wait_orders) = SIGNALS[signal], WAITS[wait]
    assert (check(message(signal_ops, wait_ops)).error is None) == (signal_orders and wait_orders)


@pytest.mark.parametrize(("signal", "holds"), [(store_release, True), (store, False)])
def test_model_lets_a_store_overtake_a_read_without_a_release(signal, holds):
    reader = Thread(0, [load("data", 0), signal("flag", 1)])
    writer = Thread(1, [await_acquire("flag", until=at_least(1)), store("data", 1)])
    assert (check([reader, writer]).error is None) == holds


def test_model_shows_a_store_behind_a_barrier_to_its_own_block_alone():
    def writer_and_reader(block_of_reader: int) -> list[Thread]:
        return [Thread(0, [store("data", 1), BLOCK_BARRIER]), Thread(block_of_reader, [BLOCK_BARRIER, load("data", 1)])]

    assert check(writer_and_reader(0)).error is None
    assert check(writer_and_reader(1)).error is not None


def test_model_never_returns_an_older_value_of_a_location():
    reader = Thread(1, [await_relaxed("data", until=at_least(2)), load("data", 2)])
    assert check([Thread(0, [store("data", 1), store("data", 2)]), reader]).error is None


@pytest.mark.parametrize("ops", [[await_acquire("flag", until=at_least(1))], [store("flag", 1), BLOCK_BARRIER]])
def test_model_finds_a_deadlock(ops):
    assert check([Thread(0, ops), Thread(0, [])]).error == "deadlock"
