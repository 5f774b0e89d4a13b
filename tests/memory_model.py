"""Tries every order that a weak memory could give to a small flag protocol, and finds the one that breaks it.

No test on x86 can show that a missing release or acquire breaks a protocol: the processor orders those accesses anyway.
Here a thread is a short list of operations, and `check` searches all executions of a few threads, depth first, each
state once, for a load that returns what it must not, or for a state from which nothing can go on.

The memory is multi-copy atomic: a location is one list of the values it has held, the same for all. It is weak thus:
- An operation may run before an earlier one of its thread unless `_stays_after` says otherwise.
- A store waits in its block's buffer, seen by that block at once and by others once it drains. Any may drain next,
  except past an earlier one to the same location, or past one of its own thread with a fence between the two.
- A load may return any value since its thread's view of that location, as from a cache that nobody has invalidated.
  An acquire or a fence moves the thread's view of every location up to now; a block barrier shares views in the block.
- A release drains after all earlier stores of its thread, and after those of other threads in the block that had been
  fenced before a block barrier between them. Unfenced ones it does not carry: more cautious than PTX, whose release
  does, because a device that keeps one buffer a thread (as non-temporal stores on x86 do) would not.
- A block barrier waits for all threads of the block and orders their accesses among themselves, for nobody else.

Not covered: stores that reach some readers before others, scopes narrower than the system, a GPU's proxies, compilers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

Location = Any  # hashable, such as ("flag", rank)
READS, STORES = ("load", "await_acquire", "await_relaxed"), ("store", "store_release")


class Op(NamedTuple):
    """One operation of a thread. There is a short form for each kind, such as `store(location, value)`."""
    kind: str
    location: Location = None
    value: int = 0  # what a store writes, or the only value that a load may return
    until: Callable[[int], bool] | None = None  # what an await waits for


class Thread(NamedTuple):
    block: int
    ops: Sequence[Op]


class Pending(NamedTuple):
    """A store that has not drained. `after` names those that must drain first, by (thread, index of the op)."""
    name: tuple[int, int]
    location: Location
    value: int
    after: frozenset[tuple[int, int]]
    carried_by: str  # whose later stores wait for it: "nobody", its "thread" once fenced, the "block" after a barrier


class Cell(NamedTuple):
    """The values of one location that somebody may still read, oldest first, and each reader's view: an index."""
    values: tuple[int, ...]
    views: tuple[tuple[int, int], ...]  # (thread, index), for the threads of the blocks that read it


class State(NamedTuple):
    done: tuple[int, ...]  # one bit an operation, for each thread
    buffer: tuple[Pending, ...]
    memory: tuple[tuple[Location, Cell], ...]


class Outcome(NamedTuple):
    error: str | None  # None: every execution ends, and every load returns what it must
    trace: list[str]  # the steps to the error
    n_states: int


store, store_release, load = partial(Op, "store"), partial(Op, "store_release"), partial(Op, "load")
await_acquire, await_relaxed = partial(Op, "await_acquire"), partial(Op, "await_relaxed")
FENCE_SYSTEM, BLOCK_BARRIER = Op("fence_system"), Op("block_barrier")


def check(threads: Sequence[Thread], initial: Mapping[Location, int] | None = None) -> Outcome:
    """Searches all executions from `initial` (0 where it names no value) for an error."""
    memory = {}
    for location in dict.fromkeys(op.location for thread in threads for op in thread.ops if op.location is not None):
        reading = {thread.block for thread in threads for op in thread.ops
                   if op.location == location and op.kind in READS}
        views = tuple((t, 0) for t, thread in enumerate(threads) if thread.block in reading)
        memory[location] = Cell(((initial or {}).get(location, 0),), views)
    start = State((0,) * len(threads), (), tuple(memory.items()))
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    stack, error, trace = [start], None, list[str]()
    while stack and not error:
        state = stack.pop()
        steps = _steps(threads, state)
        error = None if steps or state.done == tuple((1 << len(thread.ops)) - 1 for thread in threads) else "deadlock"
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
    """Whether `later` must wait for `earlier` of the same thread. Stores stay behind any await: none is guessed."""
    return (later.kind in ("fence_system", "block_barrier", "store_release")
            or earlier.kind in ("fence_system", "block_barrier", "await_acquire")
            or later.location == earlier.location or (earlier.kind == "await_relaxed" and later.kind == "store"))


def _ready(ops: Sequence[Op], done: int) -> list[int]:
    waiting = [i for i in range(len(ops)) if not done >> i & 1]
    end = next((n for n, i in enumerate(waiting) if ops[i].kind == "block_barrier"), len(waiting)) + 1
    return [i for n, i in enumerate(waiting[:end]) if not any(_stays_after(ops[i], ops[j]) for j in waiting[:n])]


def _steps(threads: Sequence[Thread], state: State) -> list[tuple[str, State | None]]:
    """(label, next state) for all that can happen next; no state where a load can return a wrong value.

    A step that loses nothing by being first is returned alone. To postpone a barrier, a fence or an await whose thread
    has nothing earlier to do could only move views on, and so make fewer values readable. To postpone a store that its
    own block does not see could only find stores gone that it would have had to follow anyway.
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
            own = [entry.value for entry in state.buffer if entry.location == op.location and entry.name[0] in mates]
            cell = dict(state.memory)[op.location]
            readable = (own[-1],) if own else cell.values[dict(cell.views)[t]:]
        wrong = [value for value in readable if value != op.value] if op.kind == "load" else []
        if wrong:
            return [(f"{label} {op.location} returns {wrong[0]}, not {op.value}", None)]
        if op.kind == "block_barrier" or (op.until and not any(map(op.until, readable))):
            continue
        step = f"{label} {op.location or ''} {op.value if op.kind in STORES else ''}", _run(threads, state, t, i)
        # Unseen is a store to where nobody in the block reads, and nobody else in it writes.
        unseen = not any(other.location == op.location and (u != t or other.kind in READS)
                         for u in mates for other in threads[u].ops)
        if unseen if op.kind in STORES else op.kind != "load" and i == ready[t][0]:
            return [step]
        steps.append(step)
    return steps + [(f"drained: {entry.location} = {entry.value}", _drain(threads, state, entry))
                    for entry in state.buffer if not entry.after]


def _run(threads: Sequence[Thread], state: State, t: int, i: int) -> State:
    op, buffer, memory = threads[t].ops[i], state.buffer, dict(state.memory)
    if op.kind in STORES:
        release = op.kind == "store_release"
        earlier = [entry for entry in buffer if threads[entry.name[0]].block == threads[t].block]
        after = frozenset(
            entry.name for entry in earlier if entry.location == op.location
            or (entry.name[0] == t and entry.name[1] < i and (release or entry.carried_by != "nobody"))
            or (release and entry.carried_by == "block"))
        buffer = (*buffer, Pending((t, i), op.location, op.value, after, "nobody"))
    if op.until:
        cell, view = memory[op.location], dict(memory[op.location].views)[t]  # from now on it reads nothing older
        read = next((k for k in range(view, len(cell.values)) if op.until(cell.values[k])), view)
        memory[op.location] = _seen(cell, [t], read)
    if op.kind == "fence_system":
        buffer = tuple(entry._replace(carried_by="thread") if entry.name[0] == t and entry.carried_by == "nobody"
                       else entry for entry in buffer)
    if op.kind in ("fence_system", "await_acquire"):
        memory = {location: _seen(cell, [t], len(cell.values) - 1) for location, cell in memory.items()}
    done = tuple(bits | 1 << i if u == t else bits for u, bits in enumerate(state.done))
    return State(done, buffer, tuple(memory.items()))


def _barrier(state: State, at: Mapping[int, int]) -> State:
    """`at` gives for each thread of the block the index of its barrier."""
    buffer = tuple(entry._replace(carried_by="block") if entry.name[0] in at and entry.carried_by == "thread"
                   else entry for entry in state.buffer)
    newest = {location: max((view for t, view in cell.views if t in at), default=0) for location, cell in state.memory}
    memory = tuple((location, _seen(cell, at, newest[location])) for location, cell in state.memory)
    done = tuple(bits | 1 << at[t] if t in at else bits for t, bits in enumerate(state.done))
    return State(done, buffer, memory)


def _drain(threads: Sequence[Thread], state: State, drained: Pending) -> State:
    """The value becomes the newest for all; the threads of its own block can no longer read an older one."""
    buffer = tuple(entry._replace(after=entry.after - {drained.name}) for entry in state.buffer if entry != drained)
    members = [t for t, thread in enumerate(threads) if thread.block == threads[drained.name[0]].block]
    memory = dict(state.memory)
    values, views = memory[drained.location]
    memory[drained.location] = _seen(Cell((*values, drained.value), views), members, len(values))
    return State(state.done, buffer, tuple(memory.items()))


def _seen(cell: Cell, movers: Collection[int], view: int) -> Cell:
    """The cell after some threads' views have moved, without the values that nobody can read any more."""
    if len(cell.values) == 1:
        return cell
    views = {t: view if t in movers else old for t, old in cell.views}
    oldest = min(views.values(), default=len(cell.values) - 1)
    return Cell(cell.values[oldest:], tuple((t, index - oldest) for t, index in views.items()))
