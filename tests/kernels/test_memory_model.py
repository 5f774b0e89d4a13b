"""The kernels' flag protocol is correct under a weak memory model, and fails when any part of the protocol is removed.

x86 hardware cannot show these failures. Without this test, a kernel could give right sums a million times on the
developer's card and wrong sums on a card with weaker ordering.
"""

from collections.abc import Callable, Iterable

import pytest

from tests.kernels.memory_model import (
    BLOCK_BARRIER,
    FENCE_SYSTEM,
    Location,
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
from tests.launch import SLOW_TEST

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
    return [
        FENCE_SYSTEM,
        *(store_release(("flag", peer, rank), stamp(launch, step)) for peer in peers),
    ]


def wait(
    rank: int, peers: Iterable[int], launch: int, step: int, compare: Compare = reached
) -> list[Op]:
    return [
        await_acquire(("flag", rank, peer), until=compare(stamp(launch, step))) for peer in peers
    ]


def turn_of(launch: int, step: int, n_steps: int = 2) -> int:
    """The turn of sync.h; `n_steps` steps make a turn. The turn jumps where the epoch wraps, in the second launch."""
    return (FIRST_EPOCH + launch) % 8 // 2 + step // n_steps


def place_between(writer: int, reader: int, pushes: bool, turn: int) -> tuple[int, int]:
    """The slab and slot of sync.h for the data of one reader, with SWAP."""
    return (reader, writer) if pushes != bool(turn & 1) else (writer, reader)


def slab_in_turn(writer: int, turn: int, ranks: int) -> int:
    """The slab of sync.h for the data of all readers, or of a ring's neighbour, with SWAP."""
    return (writer - turn) % ranks


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
        threads = [
            Thread(thread.block, [op for op in ops if op])
            for thread, ops in zip(threads, left, strict=True)
        ]
    return threads


def outcome_of(threads: list[Thread]) -> Outcome:
    flags = {
        op.location
        for thread in threads
        for op in thread.ops
        if op.location and op.location[0] == "flag"
    }
    return check(threads, dict.fromkeys(flags, NEVER))


def one_shot(
    launches: int, flips: bool = True, counts: bool = True, half_barriers: str = "both"
) -> list[Thread]:
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


def exchange(
    direction: str,
    launches: int,
    chunks: int = 1,
    words: int = 1,
    slots: int = 2,
    flips: bool = True,
    compare: Compare = reached,
) -> list[Thread]:
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
                ops += [
                    *signal(rank, [peer], launch, step + 1),
                    *wait(rank, [peer], launch, step + 1, compare),
                ]
                ops += [load(("slab", origin, *place, word), value) for word in range(words)]
        threads.append(Thread(rank, ops))
    return threads


def swapped_exchange(
    direction: str,
    launches: int,
    chunks: int = 1,
    ranks: int = 2,
    slots: int = 2,
    flips: bool = True,
    n_steps: int = 2,
) -> list[Thread]:
    """exchange.h with SWAP. `direction`: push and pull give each reader its own data, shared gives all readers the
    same."""

    def place(writer: int, reader: int, launch: int, step: int) -> Location:
        turn = turn_of(launch, step, n_steps)
        slab = (
            (slab_in_turn(writer, turn, ranks), 0)
            if direction == "shared"
            else place_between(writer, reader, direction == "push", turn)
        )
        return ("slab", *slab, launch & 1 if flips else 0, step % slots)

    threads = []
    for rank in range(ranks):
        peers = [(rank + d) % ranks for d in range(1, ranks)]
        ops: list[Op] = []
        for launch in range(launches):
            for step in range(chunks):
                value = 10 * launch + step + 1
                readers = peers[:1] if direction == "shared" else peers
                ops += [store(place(rank, peer, launch, step), value) for peer in readers]
                ops += [
                    *signal(rank, peers, launch, step + 1),
                    *wait(rank, peers, launch, step + 1),
                ]
                ops += [load(place(peer, rank, launch, step), value) for peer in peers]
        threads.append(Thread(rank, ops))
    return threads


def ping_pong(
    chunks: int,
    launches: int = 1,
    slots: int = 2,
    swaps: bool = True,
    pushes: bool = False,
    waits_for_slot: bool = True,
    flips: bool = True,
    legs: int = 2,
    takes_late: bool = False,
) -> list[Thread]:
    """sendrecv.cu: rank 0 sends a message by chunks, with two `legs` rank 1 sends an answer. With `swaps` both pass
    through the same slots; the answer's sender has read them. One way, a launch goes on after the last but one. A
    receiver stores into slots that the same sender uses again, before its signal, or, if it `takes_late`, after it."""
    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        for launch in range(launches):
            ops += signal(rank, [peer], launch, 1)
            first_slot = launch // 2 * chunks if swaps and legs == 1 else 0
            for leg in range(legs):
                owner = (leg if not pushes else 1 - leg) ^ (swaps and leg == 1)
                for chunk in range(chunks):
                    done, value = 2 + leg * chunks + chunk, 10 * launch + leg * chunks + chunk + 1
                    place = (
                        "slab",
                        owner,
                        launch & 1 if flips else 0,
                        (first_slot + chunk) % slots,
                    )
                    if rank == leg:
                        ops += (
                            wait(rank, [peer], launch, done - slots)
                            if chunk >= slots and waits_for_slot
                            else []
                        )
                        ops.append(store(place, value))
                    else:
                        ops += [*wait(rank, [peer], launch, done), load(place, value)]
                    takes = rank != leg and swaps and (legs == 1 or chunk + slots < chunks)
                    taken = [store(place, 0)] if takes else []
                    told = signal(rank, [peer], launch, done)
                    ops += [*told, *taken] if takes_late else [*taken, *told]
            ops += wait(rank, [peer], launch, 1)
        threads.append(Thread(rank, ops))
    return threads


def packets(
    launches: int, flips: bool = True, torn: bool = False, any_epoch: bool = False
) -> list[Thread]:
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
            ops += (
                [await_acquire("sent twice", until=bool)]
                if (rank, launch) == (0, 0) and launches > 1
                else []
            )
            ops.append(
                await_relaxed(("packet", rank, half), until=bool if any_epoch else mark.__eq__)
            )
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
            [
                store(("slab", peer), launch + 1),
                *signal(rank, [peer], launch, 1),
                *wait(rank, [peer], launch, 1),
                load(("slab", rank), launch + 1),
            ]
            for launch in (0, 2)
        )
        between = [send(("packet", peer), 1), await_packet(("packet", rank), until=bool)]
        threads.append(Thread(rank, [*first, *boundary, *between, *boundary, *third]))
    return threads


def sentinel(
    launches: int,
    boundary: Iterable[Op] = (FENCE_SYSTEM,),
    ordered: bool = False,
    halves: int = 2,
    resets: str = "own launch",
) -> list[Thread]:
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


def two_shot(
    n_chunks: int,
    launches: int = 1,
    slots: int = 2,
    pushes: bool = False,
    over_users: bool = False,
    swaps: bool = False,
) -> list[Thread]:
    """Two ranks: in each beat a rank copies a chunk in, sums the previous chunk, and gathers the chunk before the
    previous one. `pushes`: inputs and sums go into the peer's slab; `over_users`: the sums into the peer's receive
    buffer, which its user writes before a launch and reads after it.

    Two-shot alone does not need the epoch's two halves. The one-shot form needs them and uses the same slab. `swaps`:
    the writers of a place change as in two_shot.h with SWAP.
    """

    def input_place(writer: int, owner: int, launch: int, chunk: int) -> Location:
        slab = ((owner if pushes else writer), writer if pushes else owner)
        return (
            "input",
            *(place_between(writer, owner, pushes, turn_of(launch, chunk)) if swaps else slab),
        )

    def sums_place(owner: int, reader: int, launch: int, chunk: int) -> Location:
        turn = turn_of(launch, chunk) if swaps else 0
        return (
            "sums",
            *(
                place_between(owner, reader, True, turn)
                if pushes
                else (slab_in_turn(owner, turn, 2), 0)
            ),
        )

    threads = []
    for rank, peer in ((0, 1), (1, 0)):
        ops: list[Op] = []
        for launch in range(launches):
            ops += [store(("user", rank, chunk), -1) for chunk in range(n_chunks) if over_users]
            for beat in range(n_chunks + 2):
                half, value = launch & 1, 10 * launch + beat + 1
                ops += wait(rank, [peer], launch, beat) if beat > 0 else []
                if beat < n_chunks:
                    ops.append(
                        store((*input_place(rank, peer, launch, beat), half, beat % slots), value)
                    )
                if 1 <= beat <= n_chunks:
                    slot = half, (beat - 1) % slots
                    ops.append(load((*input_place(peer, rank, launch, beat - 1), *slot), value - 1))
                    place = (*sums_place(rank, peer, launch, beat - 1), *slot)
                    ops.append(store(("user", peer, beat - 1) if over_users else place, value - 1))
                if beat >= 2 and not over_users:
                    ops.append(
                        load(
                            (*sums_place(peer, rank, launch, beat - 2), half, beat % slots),
                            value - 2,
                        )
                    )
                ops += signal(rank, [peer], launch, beat + 1) if beat < n_chunks + 1 else []
            ops += [
                load(("user", rank, chunk), 10 * launch + chunk + 1)
                for chunk in range(n_chunks)
                if over_users
            ]
        threads.append(Thread(rank, ops))
    return threads


def ring(
    n_beats: int, slots: int = 2, waits_for: str = "left right", swaps: bool = False
) -> list[Thread]:
    """Three ranks: in each beat a rank fills a slot of its right neighbour's inbox and reads the left neighbour's data.
    The first beat signals every peer; with three ranks all peers are neighbours. `swaps`: the inboxes change slabs, so
    that a rank fills what it has read."""

    def inbox(rank: int, beat: int) -> Location:
        return ("inbox", slab_in_turn(rank, turn_of(0, beat), 3) if swaps else rank, beat % slots)

    threads = []
    for rank in range(3):
        neighbours = {"left": (rank - 1) % 3, "right": (rank + 1) % 3}
        ops: list[Op] = []
        for beat in range(n_beats):
            if beat > 0:
                ops += wait(rank, [neighbours[side] for side in waits_for.split()], 0, beat)
                ops.append(load(inbox(rank, beat - 1), beat))
            if beat < n_beats - 1:
                ops.append(store(inbox(neighbours["right"], beat), beat + 1))
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
            ops += (
                [*signal(rank, [peer], launch, 1), *wait(rank, [peer], launch, 1)]
                if says_come
                else []
            )
            ops.append(load(("buffer", peer), launch + 1))
            ops += (
                [*signal(rank, [peer], launch, 2), *wait(rank, [peer], launch, 2)]
                if says_done
                else []
            )
        threads.append(Thread(rank, ops))
    return threads


def direct(
    launches: int,
    ranks: int = 2,
    in_place: bool = False,
    says_come: bool = True,
    says_done: bool = True,
) -> list[Thread]:
    """two_shot_direct: each rank reads its segment in all send buffers and stores the sum into all receive buffers.
    Users write their buffers before a launch, and read the sums after it."""
    receive = "send" if in_place else "receive"
    threads = []
    for rank in range(ranks):
        peers = [other for other in range(ranks) if other != rank]
        ops: list[Op] = []
        for launch in range(launches):
            value = 10 * launch + 1
            ops += [
                store((buffer, rank, segment), value)
                for buffer in dict.fromkeys(("send", receive))
                for segment in range(ranks)
            ]
            ops += (
                [*signal(rank, peers, launch, 1), *wait(rank, peers, launch, 1)]
                if says_come
                else []
            )
            ops += [load(("send", peer, rank), value) for peer in peers]
            ops += [store((receive, each, rank), value + 1) for each in range(ranks)]
            ops += (
                [*signal(rank, peers, launch, 2), *wait(rank, peers, launch, 2)]
                if says_done
                else []
            )
            ops += [load((receive, rank, segment), value + 1) for segment in range(ranks)]
        threads.append(Thread(rank, ops))
    return threads


def blocks(
    launches: int, last: int, ticket: bool = True, barrier: bool = True, own_flags: bool = True
) -> list[Thread]:
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
                    ops += (
                        [store_release(("flag", peer, flag), stamp(launch, 1))]
                        if flag == block
                        else []
                    )
                    ops += [await_acquire(("flag", rank, flag), until=reached(stamp(launch, 1)))]
                    ops.append(load(("slab", rank, launch & 1, block), launch + 1))
                ops += [BLOCK_BARRIER] if barrier else []
                if block == last:
                    ops += (
                        [await_relaxed(("ticket", rank), until=at_least(launch + 1))]
                        if ticket
                        else []
                    )
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
    "swap by push": swapped_exchange("push", 3),
    "swap by pull": swapped_exchange("pull", 4),
    "swap of five chunks by push": swapped_exchange("push", 1, chunks=5),
    "swap of three chunks by pull, launch after launch": swapped_exchange("pull", 2, chunks=3),
    "swap of a shared slab": swapped_exchange("shared", 2, chunks=3),
    "swap of a shared slab, three ranks": swapped_exchange("shared", 1, ranks=3),
    # A rank that writes what only it has read needs no second slot. The slabs that ranks share need it, and so do the
    # forms without SWAP.
    "swap over one slot, in turns of one step": swapped_exchange(
        "push", 1, chunks=4, slots=1, n_steps=1
    ),
    "ping-pong over the same slots": ping_pong(3),
    "ping-pong over the same slots by push": ping_pong(3, pushes=True),
    "ping-pong over the same slots, launch after launch": ping_pong(1, launches=3),
    "one way, slots in turn": ping_pong(3, slots=2, legs=1),
    "one way, launch after launch": ping_pong(2, launches=4, slots=3, legs=1),
    "one way, launch after launch by push": ping_pong(2, launches=4, slots=3, legs=1, pushes=True),
    "packets": packets(3),
    "packets between two others, as a GPU's launches": packets_between_two_others(
        [FENCE_SYSTEM], ordered=False
    ),
    "packets between two others, as a CPU's calls": packets_between_two_others([], ordered=True),
    "sentinel, as a GPU's launches": sentinel(4),
    "sentinel, as a CPU's calls": sentinel(4, boundary=(), ordered=True),
    "sentinel, reset in the next launch, with three buffers": sentinel(
        5, halves=3, resets="next launch"
    ),
    "two-shot": two_shot(3),
    "two-shot, launch after launch": two_shot(1, launches=3),
    "two-shot by push": two_shot(3, pushes=True),
    "two-shot by push, launch after launch": two_shot(1, launches=3, pushes=True),
    "two-shot by push, over users' buffers": two_shot(2, launches=2, pushes=True, over_users=True),
    "two-shot with swap": two_shot(3, swaps=True),
    "two-shot with swap, launch after launch": two_shot(1, launches=3, swaps=True),
    "two-shot with swap by push": two_shot(3, pushes=True, swaps=True),
    "two-shot with swap by push, launch after launch": two_shot(
        1, launches=3, pushes=True, swaps=True
    ),
    "ring": ring(4),
    "ring with swap": ring(4, swaps=True),
    "direct": direct(1),
    "direct in place": direct(2, in_place=True),
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

LONG = {
    "swap of a shared slab, three ranks and chunks": swapped_exchange(
        "shared", 1, ranks=3, chunks=3
    ),
    "swap of a shared slab, three ranks and launches": swapped_exchange("shared", 3, ranks=3),
    "two-shot with swap, five chunks": two_shot(5, swaps=True),
    "two-shot with swap by push, five chunks": two_shot(5, pushes=True, swaps=True),
    "ring with swap, five beats": ring(5, swaps=True),
    "direct, two launches": direct(2),
}

# {the removed part: (the protocol without it, the error)}
FAILS = {
    "one-shot: fence": (without(one_shot(1), "fence"), "wrong value"),
    "one-shot: release": (without(one_shot(1), "release"), "wrong value"),
    "one-shot: acquire": (without(one_shot(1), "acquire"), "wrong value"),
    "one-shot: wait": (without(one_shot(1), "wait"), "wrong value"),
    "one-shot: block barrier before the flag": (
        one_shot(1, half_barriers="after the wait"),
        "wrong value",
    ),
    "one-shot: block barrier after the wait": (
        one_shot(1, half_barriers="before the flag"),
        "wrong value",
    ),
    "one-shot: epoch flip": (one_shot(2, flips=False), "wrong value"),
    "push: comparing modulo": (exchange("push", 2, compare=at_least), "wrong value"),
    "one-shot: epoch": (one_shot(3, counts=False), "wrong value"),
    "two words: fence and release": (
        without(exchange("push", 1, words=2), "fence", "release"),
        "wrong value",
    ),
    "two words: acquire": (without(exchange("push", 1, words=2), "acquire"), "wrong value"),
    "packets: epoch flip": (packets(2, flips=False), "deadlock"),
    "packets: epoch": (packets(3, any_epoch=True), "wrong value"),
    "packets: one store": (packets(1, torn=True), "wrong value"),
    "packets between two others: order": (
        packets_between_two_others([], ordered=False),
        "wrong value",
    ),
    "sentinel: reset": (sentinel(3, resets="never"), "wrong value"),
    "sentinel: epoch flip": (sentinel(2, halves=1), "wrong value"),
    "sentinel: order between launches": (sentinel(4, boundary=()), "wrong value"),
    "sentinel: three buffers for a reset in the next launch": (
        sentinel(3, resets="next launch"),
        "deadlock",
    ),
    "swap: epoch flip": (swapped_exchange("push", 3, flips=False), "wrong value"),
    "swap of a shared slab: epoch flip": (
        swapped_exchange("shared", 2, ranks=3, flips=False),
        "wrong value",
    ),
    "swap in turns of two steps: second slot": (
        swapped_exchange("push", 1, chunks=2, slots=1),
        "wrong value",
    ),
    "swap of a shared slab in turns of one step: second slot": (
        swapped_exchange("shared", 1, chunks=2, ranks=3, slots=1, n_steps=1),
        "wrong value",
    ),
    "one way: waiting for a free slot": (
        ping_pong(3, slots=2, legs=1, waits_for_slot=False),
        "wrong value",
    ),
    "one way: slots taken over before the signal": (
        ping_pong(2, slots=1, legs=1, takes_late=True),
        "wrong value",
    ),
    "ping-pong over the same slots: taken over before the signal": (
        ping_pong(3, takes_late=True),
        "wrong value",
    ),
    "one way: epoch flip": (ping_pong(1, launches=2, slots=1, legs=1, flips=False), "wrong value"),
    "ping-pong over the same slots: waiting for a free slot": (
        ping_pong(3, waits_for_slot=False),
        "wrong value",
    ),
    "two-shot with swap: one slot": (two_shot(3, slots=1, swaps=True), "wrong value"),
    "two-shot with swap by push: one slot": (
        two_shot(3, slots=1, pushes=True, swaps=True),
        "wrong value",
    ),
    "ring with swap: one slot": (ring(4, slots=1, swaps=True), "wrong value"),
    "ring with swap: waiting for the left": (ring(4, waits_for="right", swaps=True), "wrong value"),
    "direct: saying that one has come": (direct(1, says_come=False), "wrong value"),
    "direct: saying that one is done": (direct(1, says_done=False), "wrong value"),
    "direct in place: saying that one has come": (
        direct(1, in_place=True, says_come=False),
        "wrong value",
    ),
    "direct in place: saying that one is done": (
        direct(1, in_place=True, says_done=False),
        "wrong value",
    ),
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
    **{
        f"{name}: {' and '.join(parts)}": (without(threads, *parts), "wrong value")
        for name, threads in (
            ("push", exchange("push", 1)),
            ("pull", exchange("pull", 1)),
            ("three chunks", exchange("push", 1, chunks=3)),
            ("two-shot", two_shot(1)),
            ("two-shot by push", two_shot(1, pushes=True)),
            ("into users' buffers", two_shot(1, pushes=True, over_users=True)),
            ("ring", ring(3)),
            ("users' buffers", registered(1)),
            ("swap", swapped_exchange("pull", 1)),
            ("two-shot with swap", two_shot(1, swaps=True)),
            ("ring with swap", ring(3, swaps=True)),
            ("ping-pong over the same slots", ping_pong(1)),
            ("direct", direct(1)),
        )
        for parts in (("fence", "release"), ("acquire",), ("wait",))
    },
    **{
        f"{direction}: {part}": (threads, "wrong value")
        for direction in ("push", "pull")
        for part, threads in (
            ("epoch flip", exchange(direction, 2, flips=False)),
            ("one slot", exchange(direction, 1, chunks=2, slots=1)),
        )
    },
}


@pytest.mark.parametrize("name", [*HOLDS, *(pytest.param(name, marks=SLOW_TEST) for name in LONG)])
def test_a_protocol_is_correct_in_every_execution(name):
    outcome = outcome_of((HOLDS | LONG)[name])
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
        return [
            Thread(0, [store("data", 1), BLOCK_BARRIER]),
            Thread(block_of_reader, [BLOCK_BARRIER, load("data", 1)]),
        ]

    assert check(writer_and_reader(0)).error is None
    assert check(writer_and_reader(1)).error is not None


def test_model_never_returns_an_older_value_of_a_location():
    reader = Thread(1, [await_relaxed("data", until=at_least(2)), load("data", 2)])
    assert check([Thread(0, [store("data", 1), store("data", 2)]), reader]).error is None


@pytest.mark.parametrize(
    "ops", [[await_acquire("flag", until=at_least(1))], [store("flag", 1), BLOCK_BARRIER]]
)
def test_model_finds_a_deadlock(ops):
    assert check([Thread(0, ops), Thread(0, [])]).error == "deadlock"
