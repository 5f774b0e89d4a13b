"""Searches every order that a weak memory allows for a small flag protocol, and finds the order
that breaks it.

No test on x86 can show that a missing release or acquire breaks a protocol, because the processor
orders those accesses anyway. Here a thread is a short list of operations. `check` searches all
executions of a few threads depth first, visits each state once, and looks for a load with a wrong
value and for a deadlock.

The memory is multi-copy atomic: each location has one list of its past values, the same for all
threads. The memory is weak in these ways:
- An operation may run before an earlier operation of its thread unless `_stays_after` forbids it.
- A store waits in its block's buffer. Its block sees the store at once; other blocks see it after
  it drains. Any store may drain next, except before an earlier store to the same location, or
  before an earlier store of the same thread with a fence between the two.
- A load may return any value since its thread's view of that location, as from a cache that no
  thread has invalidated. An acquire or a fence moves the thread's view of every location to the
  newest value; a block barrier shares views within the block.
- A release drains after all earlier stores of its thread, and after stores of other threads in the
  block that were fenced before a block barrier between them. A release does not carry unfenced
  stores of other threads. PTX's release does; AMD's does not, and there the wait of drain_stores
  is this fence.
- A block barrier waits for all threads of the block and orders only their accesses.

The model does not cover stores that reach some readers before others, scopes narrower than the
system, a GPU's proxies, or compilers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

Location = Any  # hashable, such as ("flag", rank)
READS, STORES = ("load", "await_acquire", "await_relaxed"), ("store", "store_release")


class Op(NamedTuple):
    """One operation of a thread. Each kind has a short form, such as `store(location, value)`."""

    kind: str
    location: Location = None
    value: int = 0  # the value that a store writes, or the only value that a load may return
    until: Callable[[int], bool] | None = None  # the condition that an await waits for


class Thread(NamedTuple):
    block: int
    ops: Sequence[Op]


class Pending(NamedTuple):
    """A store that has not drained. `after` lists the stores that must drain first, by (thread,
    index of the op)."""

    name: tuple[int, int]
    location: Location
    value: int
    after: frozenset[tuple[int, int]]
    # Later stores of "nobody", its "thread" (once fenced) or its "block" (after a barrier) wait.
    carried_by: str


class Cell(NamedTuple):
    """The values of one location that some thread may still read, oldest first, and each reader's
    view: an index."""

    values: tuple[int, ...]
    views: tuple[
        tuple[int, int], ...
    ]  # (thread, index), for the threads of the blocks that read it


class State(NamedTuple):
    done: tuple[int, ...]  # for each thread, one bit per operation
    buffer: tuple[Pending, ...]
    memory: tuple[tuple[Location, Cell], ...]


class Outcome(NamedTuple):
    error: str | None  # None: every execution ends, and every load returns the expected value
    trace: list[str]  # the steps to the error
    n_states: int


store, store_release, load = partial(Op, "store"), partial(Op, "store_release"), partial(Op, "load")
await_acquire, await_relaxed = partial(Op, "await_acquire"), partial(Op, "await_relaxed")
FENCE_SYSTEM, BLOCK_BARRIER = Op("fence_system"), Op("block_barrier")


def check(threads: Sequence[Thread], initial: Mapping[Location, int] | None = None) -> Outcome:
    """Search all executions from `initial` (default value: 0) for an error."""
    memory = {}
    for location in dict.fromkeys(
        op.location for thread in threads for op in thread.ops if op.location is not None
    ):
        reading = {
            thread.block
            for thread in threads
            for op in thread.ops
            if op.location == location and op.kind in READS
        }
        views = tuple((t, 0) for t, thread in enumerate(threads) if thread.block in reading)
        memory[location] = Cell(((initial or {}).get(location, 0),), views)
    start = State((0,) * len(threads), (), tuple(memory.items()))
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    stack, error, trace = [start], None, list[str]()
    while stack and not error:
        state = stack.pop()
        steps = _steps(threads, state)
        error = (
            None
            if steps or state.done == tuple((1 << len(thread.ops)) - 1 for thread in threads)
            else "deadlock"
        )
        for label, following in steps:
            if following is None:
                error, trace = f"wrong value: {label}", [label]
            elif following not in came_from:
                came_from[following] = (state, label)
                stack.append(following)
    while error and (step := came_from[state]) is not None:
        state, trace = step[0], [step[1], *trace]
    return Outcome(error, trace, len(came_from))


def _stays_after(later: Op, earlier: Op) -> bool:
    """Whether `later` must wait for `earlier` of the same thread. No store runs before an earlier
    await."""
    return (
        later.kind in ("fence_system", "block_barrier", "store_release")
        or earlier.kind in ("fence_system", "block_barrier", "await_acquire")
        or later.location == earlier.location
        or (earlier.kind == "await_relaxed" and later.kind == "store")
    )


def _ready(ops: Sequence[Op], done: int) -> list[int]:
    waiting = [i for i in range(len(ops)) if not done >> i & 1]
    end = (
        next((n for n, i in enumerate(waiting) if ops[i].kind == "block_barrier"), len(waiting)) + 1
    )
    return [
        i
        for n, i in enumerate(waiting[:end])
        if not any(_stays_after(ops[i], ops[j]) for j in waiting[:n])
    ]


def _steps(threads: Sequence[Thread], state: State) -> list[tuple[str, State | None]]:
    """(label, next state) for every possible next step; None stands for a load with a wrong value.

    A step that loses nothing by running first is returned alone. A thread that postpones a barrier,
    a fence or an await without earlier work could only advance views, and so make fewer values
    readable. A thread that postpones a store unseen by its block could only let other stores drain
    that this store must follow anyway.
    """
    ready = [_ready(thread.ops, done) for thread, done in zip(threads, state.done, strict=True)]
    for block in {thread.block for thread in threads}:
        members = [t for t, thread in enumerate(threads) if thread.block == block]
        if all(ready[t] and threads[t].ops[ready[t][0]].kind == "block_barrier" for t in members):
            return [(f"block {block}: barrier", _barrier(state, {t: ready[t][0] for t in members}))]
    steps: list[tuple[str, State | None]] = []
    for t, i in [(t, i) for t, indices in enumerate(ready) for i in indices]:
        op = threads[t].ops[i]
        label = f"block {threads[t].block}, thread {t}, op {i}: {op.kind}"
        mates = [u for u, thread in enumerate(threads) if thread.block == threads[t].block]
        readable: tuple[int, ...] = ()
        if op.kind in READS:
            own = [
                entry.value
                for entry in state.buffer
                if entry.location == op.location and entry.name[0] in mates
            ]
            cell = dict(state.memory)[op.location]
            readable = (own[-1],) if own else cell.values[dict(cell.views)[t] :]
        wrong = [value for value in readable if value != op.value] if op.kind == "load" else []
        if wrong:
            return [(f"{label} {op.location} returns {wrong[0]}, not {op.value}", None)]
        if op.kind == "block_barrier" or (op.until and not any(map(op.until, readable))):
            continue
        step = (
            f"{label} {op.location or ''} {op.value if op.kind in STORES else ''}",
            _run(threads, state, t, i),
        )
        # A store is unseen if no thread of the block reads its location and no other thread of the
        # block writes there.
        unseen = not any(
            other.location == op.location and (u != t or other.kind in READS)
            for u in mates
            for other in threads[u].ops
        )
        if unseen if op.kind in STORES else op.kind != "load" and i == ready[t][0]:
            return [step]
        steps.append(step)
    return steps + [
        (f"drained: {entry.location} = {entry.value}", _drain(threads, state, entry))
        for entry in state.buffer
        if not entry.after
    ]


def _run(threads: Sequence[Thread], state: State, t: int, i: int) -> State:
    op, buffer, memory = threads[t].ops[i], state.buffer, dict(state.memory)
    if op.kind in STORES:
        release = op.kind == "store_release"
        earlier = [entry for entry in buffer if threads[entry.name[0]].block == threads[t].block]
        after = frozenset(
            entry.name
            for entry in earlier
            if entry.location == op.location
            or (
                entry.name[0] == t
                and entry.name[1] < i
                and (release or entry.carried_by != "nobody")
            )
            or (release and entry.carried_by == "block")
        )
        buffer = (*buffer, Pending((t, i), op.location, op.value, after, "nobody"))
    if op.until:
        # The thread reads no older value from now on.
        cell, view = memory[op.location], dict(memory[op.location].views)[t]
        read = next((k for k in range(view, len(cell.values)) if op.until(cell.values[k])), view)
        memory[op.location] = _seen(cell, [t], read)
    if op.kind == "fence_system":
        buffer = tuple(
            entry._replace(carried_by="thread")
            if entry.name[0] == t and entry.carried_by == "nobody"
            else entry
            for entry in buffer
        )
    if op.kind in ("fence_system", "await_acquire"):
        memory = {
            location: _seen(cell, [t], len(cell.values) - 1) for location, cell in memory.items()
        }
    done = tuple(bits | 1 << i if u == t else bits for u, bits in enumerate(state.done))
    return State(done, buffer, tuple(memory.items()))


def _barrier(state: State, at: Mapping[int, int]) -> State:
    """`at` maps each thread of the block to the index of its barrier."""
    buffer = tuple(
        entry._replace(carried_by="block")
        if entry.name[0] in at and entry.carried_by == "thread"
        else entry
        for entry in state.buffer
    )
    newest = {
        location: max((view for t, view in cell.views if t in at), default=0)
        for location, cell in state.memory
    }
    memory = tuple((location, _seen(cell, at, newest[location])) for location, cell in state.memory)
    done = tuple(bits | 1 << at[t] if t in at else bits for t, bits in enumerate(state.done))
    return State(done, buffer, memory)


def _drain(threads: Sequence[Thread], state: State, drained: Pending) -> State:
    """The value becomes the newest for all; the threads of the store's block can no longer read an
    older value."""
    buffer = tuple(
        entry._replace(after=entry.after - {drained.name})
        for entry in state.buffer
        if entry != drained
    )
    members = [
        t for t, thread in enumerate(threads) if thread.block == threads[drained.name[0]].block
    ]
    memory = dict(state.memory)
    values, views = memory[drained.location]
    memory[drained.location] = _seen(Cell((*values, drained.value), views), members, len(values))
    return State(state.done, buffer, tuple(memory.items()))


def _seen(cell: Cell, movers: Collection[int], view: int) -> Cell:
    """The cell after some threads' views have moved, without the values that no thread can read any
    more."""
    if len(cell.values) == 1:
        return cell
    views = {t: view if t in movers else old for t, old in cell.views}
    oldest = min(views.values(), default=len(cell.values) - 1)
    return Cell(cell.values[oldest:], tuple((t, index - oldest) for t, index in views.items()))
