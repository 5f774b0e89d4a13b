"""The parts that a collective is made of, timed at each size: the bound comes from them."""

import numpy as np

from bench.harness.iteration import Buffers, Iteration, empty_iteration, nothing
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.harness.timing import measure_link, perform, times_us
from collectives.operation import Operation, Unsupported
from collectives.peer_buffer import PeerBuffer, probe_kernels
from kernels.devices.device import Counts, DeviceError, Step

WORD_BYTES = 4  # an element of link_probe.cu


def add_link_parts(session: Session, suite: Suite, buffers: Buffers) -> None:
    """Adds the link's parts at each size that the suite measures, where memory is mapped. Raises
    Disagreement."""
    sizes = {suite.headers[number].size_bytes for number in suite.iterations}
    if isinstance(session.world.peers, Unsupported):
        return
    with session.communicator.together(DeviceError):
        for size in sorted(size for size in sizes if size >= WORD_BYTES):
            suite.link_parts[size] = link_parts(session, buffers, size)


def link_parts(session: Session, buffers: Buffers, size_bytes: int) -> dict[str, Iteration]:
    """The parts at one size: copy into a slab, read a peer's new data, copy through memory; and,
    if peers are far, store into a peer's slab.

    As in an all-reduce, a slot is stored into after the peer has read it and read after the peer
    has stored into it, and the caches also hold a send and a receive buffer. Beyond two chunks the
    slots would be stored into again before a peer has read them, so two chunks are timed and the
    result is scaled.
    """
    world, watch = session.world, session.flight.watch
    assert isinstance(world.peers, PeerBuffer)
    device, copied_bytes = world.device, size_bytes // WORD_BYTES * WORD_BYTES
    macros = {"SEVERAL_PAGES": "1"} if copied_bytes >= device.far_bytes else {}
    kernels = probe_kernels(device, world.communicator.size, **macros)
    chunk_bytes = device.most_chunk_bytes
    through_slab = min(copied_bytes, 2 * chunk_bytes)

    def step(entry: str, timed_bytes: int, blocks: int) -> Step:
        assert isinstance(world.peers, PeerBuffer)
        arguments = world.peers.arguments(buffers.send.address, buffers.receive.address,
                                          timed_bytes // WORD_BYTES, chunk_bytes)
        return Step(kernels.kernel(entry), arguments, blocks)

    def part(timed: Step, prepare: Step, consume: Step, timed_bytes: int) -> Iteration:
        operation = Operation(timed, device.caller(timed))
        return Iteration(-1, f"link {timed.kernel.name} {size_bytes} B", prepare, operation,
                         consume, idle, scale=size_bytes / timed_bytes, keep=[buffers])

    idle, blocks = nothing(world, watch), device.blocks_for(chunk_bytes)
    copy_in, read_peer, use_buffers = (
        step(entry, through_slab, blocks) for entry in ("copy_in", "read_peer", "copy_local"))
    copy_local = step("copy_local", copied_bytes, device.blocks_for(copied_bytes))
    parts = {"copy_in_us": part(copy_in, read_peer, use_buffers, through_slab),
             "peer_read_us": part(read_peer, copy_in, use_buffers, through_slab),
             "memory_us": part(copy_local, idle, idle, copied_bytes)}
    if not device.near_peers:
        push_out = step("push_out", through_slab, blocks)
        parts["push_us"] = part(push_out, idle, use_buffers, through_slab)
    return parts


def link_ceilings(session: Session, suite: Suite) -> dict[str, float]:
    """The bandwidths of the parts at the largest size, and the time of an empty collective, which
    the session keeps as its overhead where ranks share no clock; on rank 0."""
    if not suite.link_parts:
        return {}
    world, flight = session.world, session.flight
    flight.note("empty launches", text="")
    empty = perform(session, empty_iteration(world, flight.watch), Counts(20, 100))
    gathered = session.communicator.gather(empty)
    overhead_us = 0.0
    if gathered is not None:
        overhead_us = float(np.median(times_us(gathered, world.clock_shared).time))
        session.overhead_us = 0.0 if world.clock_shared else overhead_us
    size = max(suite.link_parts)
    for part in suite.link_parts[size].values():
        part.count = 20
    record = measure_link(session, suite.link_parts[size], size, -1)
    if record is None:
        return {}
    parts_us = {"copy_in": record.copy_in_us, "push": record.push_us,
                "peer_read": record.peer_read_us, "memory": record.memory_us}
    ceilings: dict[str, float] = {"size_bytes": size, "overhead_us": overhead_us}
    for name, time_us in parts_us.items():
        if time_us:
            ceilings[f"{name}_gb_s"] = size / time_us / 1e3
    if record.link_rtt_ns:
        ceilings["round_trip_ns"] = max(record.link_rtt_ns)
    return ceilings
