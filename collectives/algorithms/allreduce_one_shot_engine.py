"""One-shot all-reduce of two ranks by a GPU's copy engines, from 1 MiB on: no multiprocessor works
but for the sum, and no kernel waits. CUDA only; not measured yet between two GPUs.

A rank's engine copies the whole input into the peer's inbox; when the peer's has arrived, one
kernel sums. Without peer access the inbox is on the host: one engine copies pieces down into this
rank's, while the other fetches the peer's pieces up, so that both directions of the slot are busy.

CUDA's streams store and await two kinds of flags, whose values are constant in a graph. `taken`, on
its sender, is 1 from before a copy until the peer has summed; `arrived` is 1 from behind a copy
until the reader sees it. A rank raises `arrived` again only after `taken` fell, which the peer took
down after `arrived`. The flags work as well if the driver runs both streams one after the other: no
piece waits for anything but the peer's last launch."""

from collectives.binding import build_macros, without_gpus
from collectives.communicator import Refusal
from collectives.copy_engine import (
    BETWEEN_HOSTS,
    FLAGS_BYTES,
    LEAST_BYTES,
    arrival,
    engine_module,
    engine_of,
    inboxes,
)
from collectives.operation import (
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Limits,
    Operation,
    Unsupported,
    World,
)
from collectives.traffic import direct_traffic
from kernels.devices.device import PACK_BYTES, Step

LEAST_PIECE_BYTES = 512 << 10  # 10 us over a slot of PCIe 5, beside 2 or 3 us to start a copy
MOST_PIECES = 32


def _bind(world: World, case: CollectiveCase) -> Bound:
    peers, rank, size_bytes = world.mapped, world.communicator.rank, case.segment_bytes
    is_staged = peers.kind == "host_staged"
    arguments = peers.arguments(case.send, case.receive, case.count, 0)
    if is_staged and peers.locate(case.send, arguments.sends):
        return BETWEEN_HOSTS
    try:
        engine = engine_of(world, memops=True)
        rooms = inboxes(peers, "one_shot", size_bytes)
    except Refusal as refused:
        return Unsupported(str(refused))
    inbox = world.device.private(size_bytes) if is_staged else None
    # Flags lie in front of a room: `taken`, then an `arrived` for each piece.
    own, other = rooms[rank].address, rooms[1 - rank].address
    out, back = (own if is_staged else other) + FLAGS_BYTES, other + FLAGS_BYTES
    piece_bytes = size_bytes
    if is_staged:
        wanted_bytes = case.build.chunk_bytes or LEAST_PIECE_BYTES
        piece_bytes = max(wanted_bytes, -(-size_bytes // MOST_PIECES // PACK_BYTES) * PACK_BYTES)
    sends, receives = [engine.wait(own, 0), engine.store(own, 1)], list[Step]()
    for number, start in enumerate(range(0, size_bytes, piece_bytes), 1):
        moved_bytes = min(piece_bytes, size_bytes - start)
        sends.append(engine.copy(out + start, case.send + start, moved_bytes))
        sends.append(engine.store(other + 4 * number, 1))
        receives += arrival(engine, own + 4 * number)
        if inbox:
            receives.append(engine.copy(inbox.address + start, back + start, moved_bytes))
    steps = [*sends, *receives]
    if inbox:  # the sum, in place, must not overtake the copies of its input
        steps = [engine.beside(sends), *receives, engine.join()]
    arguments.sends[1 - rank] = inbox.address if inbox else own + FLAGS_BYTES
    blocks = world.device.blocks_for(size_bytes)
    kernel = engine_module(world, build_macros(world, case)).kernel("add_all", case.build.threads)
    steps.append(Step(kernel, arguments, min(blocks, case.build.blocks or blocks)))
    steps.append(engine.store(other, 0))
    return Operation(world.device.sequence(steps), keep=(rooms, inbox), ignores_nan=True)


def _refuses(world: World, case: CollectiveCase) -> Unsupported | None:
    if world.communicator.size != 2:
        return Unsupported("it is for two ranks", depends_on_size=True)
    return without_gpus(world, "copy engines; GPUs have them")


ALGORITHMS = {
    "all_reduce": (
        KernelAlgorithm(
            "one_shot_copy_engine",
            "one_shot of two ranks: a GPU's copy engine moves the input, CUDA's streams wait",
            _bind,
            direct_traffic,
            _refuses,
            pushes=True,
            swaps=(),
            limits=Limits(least_bytes=LEAST_BYTES),
            is_modelled=False,
            sums_in_rank_order=True,
        ),
    )
}
