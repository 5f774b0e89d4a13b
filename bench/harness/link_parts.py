"""The parts that a collective is made of, timed at each size: the bound comes from them."""

import numpy as np

from bench.harness.iteration import Buffers, Iteration, idle_operation, nothing
from bench.harness.session import Session
from bench.harness.timing import measure_link, perform, times_us
from collectives.operation import Operation
from collectives.peer_buffer import PeerBuffer, probe_kernels
from kernels.devices.device import Counts, Step

WORD_BYTES = 4  # an element of link_probe.cu
PARTS = ("copy_in", "push", "peer_read", "memory")


def link_parts(session: Session, buffers: Buffers, size_bytes: int) -> dict[str, Iteration]:
    """The parts at one size: copy into a slab, read a peer's new data, copy through memory; and,
    if peers are far, store into a peer's slab. Raises DeviceError.

    As in an all-reduce, a slot is stored into after the peer has read it and read after the peer
    has stored into it, and the caches also hold a send and a receive buffer. Beyond two chunks the
    slots would be stored into again before a peer has read them, so two chunks are timed and the
    result is scaled.
    """
    world, device, peers = session.world, session.world.device, session.world.peers
    assert isinstance(peers, PeerBuffer)
    copied_bytes, chunk_bytes = size_bytes // WORD_BYTES * WORD_BYTES, device.most_chunk_bytes
    through_slab = min(copied_bytes, 2 * chunk_bytes)
    macros = {"SEVERAL_PAGES": "1"} if copied_bytes >= device.far_bytes else {}
    kernels = probe_kernels(device, world.communicator.size, **macros)

    def step(entry: str, timed_bytes: int, pass_bytes: int) -> Step:
        arguments = peers.arguments(buffers.send.address, buffers.receive.address,
                                    timed_bytes // WORD_BYTES, chunk_bytes)
        return Step(kernels.kernel(entry), arguments, device.blocks_for(pass_bytes))

    def part(timed: Step, prepare: Step, consume: Step, timed_bytes: int) -> Iteration:
        operation = Operation(timed, device.caller(timed))
        return Iteration(-1, f"link {timed.kernel.name} {size_bytes} B", prepare, operation,
                         consume, idle, scale=size_bytes / timed_bytes, keep=[buffers])

    idle = nothing(world, session.flight.watch)
    copy_in, read_peer, push_out, use_buffers = (
        step(entry, through_slab, chunk_bytes)
        for entry in ("copy_in", "read_peer", "push_out", "copy_local"))
    copy_local = step("copy_local", copied_bytes, copied_bytes)
    parts = {"copy_in_us": part(copy_in, read_peer, use_buffers, through_slab),
             "peer_read_us": part(read_peer, copy_in, use_buffers, through_slab),
             "memory_us": part(copy_local, idle, idle, copied_bytes)}
    if not device.near_peers:
        parts["push_us"] = part(push_out, idle, use_buffers, through_slab)
    return parts


def link_ceilings(session: Session, parts: dict[int, dict[str, Iteration]]) -> dict[str, float]:
    """The bandwidths of the parts at the largest size, and the time of an empty collective, which
    the session keeps as its overhead where ranks share no clock; on rank 0."""
    if not parts:
        return {}
    world, flight = session.world, session.flight
    flight.note("empty launches", text="")
    idle = nothing(world, flight.watch)
    empty = Iteration(-1, "nothing", idle, idle_operation(world, flight.watch), idle, idle)
    gathered = session.communicator.gather(perform(session, empty, Counts(20, 100)))
    overhead_us = 0.0
    if gathered is not None:
        overhead_us = float(np.median(times_us(gathered, world.clock_shared).time))
        session.overhead_us = 0.0 if world.clock_shared else overhead_us
    size = max(parts)
    for part in parts[size].values():
        part.count = 20
    record = measure_link(session, parts[size], size, -1)
    if record is None:
        return {}
    ceilings: dict[str, float] = {"size_bytes": size, "overhead_us": overhead_us}
    for name in PARTS:
        if time_us := getattr(record, f"{name}_us"):
            ceilings[f"{name}_gb_s"] = size / time_us / 1e3
    if record.link_rtt_ns:
        ceilings["round_trip_ns"] = max(record.link_rtt_ns)
    return ceilings
