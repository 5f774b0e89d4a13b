"""Run by mpirun: back-to-back launches of mixed algorithms, types, operations, sizes and alignments, from an epoch near
2^32.

`stress_ranks.py LAUNCHES SEED [device=NAME] [memory=KIND] [timeout_s=N] [nt] [ntr] [ALGORITHM|KERNEL ...]`, of
all-reduces or fused kernels; rank 0 prints a JSON line {"launches", "wrong_elements", ...}. With `nt`, stores into the
slab bypass the caches; with `ntr`, stores into the receive buffer do. Over the kernels of a negative control
(tests/kernels/broken_kernels.py), the same loop must find wrong elements.

The soak's Dealer draws the launches of plain collectives. All ranks make the same launches in the same random order,
each rank with its own data and random delays. No barrier separates two launches.
"""

import json
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.features.soak import COUNTS, MARGIN_BYTES, Dealer, Launch, SoakOptions, delay_steps
from bench.harness.iteration import Buffers, Segments, checked_iteration, nothing
from bench.harness.options import RunOptions
from bench.harness.session import Session
from bench.harness.watchdog import FlightRecord
from bench.layers import fused
from bench.layers.experts import combined_rows, row_tables
from bench.machine.placement import Place
from collectives.algorithm import ALGORITHMS, BETWEEN_HOSTS, named
from collectives.allreduce_packets import SENTINEL
from collectives.collective import COLLECTIVES, DATATYPES, Collective, Datatype
from collectives.experts.alltoall_routed import ALGORITHMS as ROUTED
from collectives.experts.alltoall_routed import RoutedCase, make_tables
from collectives.experts.routing import draw as draw_routes
from collectives.layers.fused import COLLECTIVE, FUSED, Gemv, GemvCase, Norm, NormCase
from collectives.operation import Algorithm, Case, Operation
from collectives.peer_buffer import PeerBuffer, set_epoch
from collectives.quantized import ALGORITHMS as QUANTIZED
from collectives.quantized import DATATYPES as QUANTIZED_DATATYPES
from kernels.devices.device import Action, Counts
from tests.ranks.world import connect

START_EPOCH = 2**32 - 5
PLAIN_LAUNCHES = 24
CHUNKS = "", "", "", "+32K"  # of a message that passes through the slots in many steps
STREAMS = {"nt": "STREAM_SLAB", "ntr": "STREAM_RECEIVE"}
Make = Callable[[Session, random.Random], Launch]


def main(launches: int, seed: int, settings: dict[str, str], names: list[str]) -> None:
    session = open_session(
        seed, settings, {macro: int(word in names) for word, macro in STREAMS.items()}
    )
    names = [name for name in names if name not in STREAMS]
    world, communicator, watch = session.world, session.communicator, session.flight.watch
    draw = random.Random(seed)
    made: list[Make] = [routed_launch] * 6 if not names else []
    made += [make for name, make in FUSED_LAUNCHES.items() if name in names or not names] * 5
    hand = [make(session, draw) for make in made]
    plain = [name for name in names if name not in FUSED]
    if plain or not names:
        hand += plain_launches(session, draw, plain)

    assert isinstance(world.peers, PeerBuffer)
    set_epoch(world.peers, START_EPOCH)
    communicator.barrier()
    actions, idle = program(session, hand, launches), nothing(world)
    middle = len(actions) // launches * (launches // 2)
    for part in (
        actions[:middle],
        actions[middle:],
    ):  # in the first part, all steps are new to a GPU's stream
        world.device.run(part, idle, Counts(1, 0), watch)
    wrong_elements = sum(launch.wrong().elements for launch in hand)
    everyone = communicator.all_gather((watch.iteration, wrong_elements, bool(watch.timed_out)))
    if communicator.rank == 0:
        by_rank = list(zip(*everyone, strict=True))
        print(
            json.dumps(
                {
                    "launches": min(by_rank[0]),
                    "wrong_elements": sum(by_rank[1]),
                    "timed_out": any(by_rank[2]),
                }
            )
        )


def open_session(seed: int, settings: dict[str, str], macros: dict[str, int]) -> Session:
    """Open the session of a command that stores no run, over every sharing mode and with shared GPUs."""
    timeout_s, device = float(settings.get("timeout_s", 30)), settings.get("device", "cpu")
    world, watch = connect(timeout_s, device, settings.get("memory", "auto"), **macros)
    flight = FlightRecord("", None, world.communicator.rank, timeout_s, {})
    flight.watch = watch
    options = RunOptions("stress", timeout_s, seed=seed, device=device, keeps_run=False)
    return Session(options, world, flight, Place(False, [], None))


def program(session: Session, hand: Sequence[Launch], launches: int) -> list[Action]:
    """The actions of `launches` launches from `hand`, in one random order for all ranks, with delays of this rank."""
    seed, rank = session.options.seed, session.communicator.rank
    order, delays = random.Random(seed * 2 + 1), random.Random(seed * 1000 + rank + 1)
    late = delay_steps(session.world, delays)
    return [
        action
        for launch in order.choices(hand, k=launches)
        for action in launch.actions(delays.choice(late))
    ]


def plain_launches(session: Session, draw: random.Random, names: list[str]) -> list[Launch]:
    """Launches of the named all-reduces, or of every algorithm of every collective."""
    world = session.world
    assert isinstance(world.peers, PeerBuffer)
    room = world.communicator.size * 8 * max(COUNTS) + MARGIN_BYTES
    send, receive = (world.peers.register(room) for _ in range(2))
    buffers = Buffers(send, receive, session.options.seed)
    # One type and operation for each collective, drawn by the seed: the protocol does not depend on them, and each pair
    # needs a build.
    types = [
        datatype
        for datatype in DATATYPES.values()
        if datatype.is_float or SENTINEL.name not in names
    ]
    datatypes = {name: draw.choice(types) for name in COLLECTIVES}
    redops = {
        name: draw.choice(["sum", "avg" if datatype.is_float else "max"])
        for name, datatype in datatypes.items()
    }
    lossy = {algorithm.name for algorithm in QUANTIZED}
    hand = []
    for _ in range(PLAIN_LAUNCHES):
        collective = COLLECTIVES[draw.choice(list(COLLECTIVES) if not names else ["all_reduce"])]
        datatype, algorithms = datatypes[collective.name], ALGORITHMS[collective.name]
        other = {"library", *(each.name for each in BETWEEN_HOSTS[collective.name])}
        fitting = [
            name
            for name in algorithms
            if name not in other
            and (datatype.name in QUANTIZED_DATATYPES or name not in lossy)
            and (datatype.is_float or name != SENTINEL.name)
            and not name.endswith(("copy_engine", "multimem"))
        ]
        name = draw.choice(names or fitting)
        if not names and name != "auto":
            name += draw.choice(CHUNKS)
        launch = dealt(
            session,
            draw,
            buffers,
            named(algorithms, name),
            collective,
            datatype,
            redops[collective.name],
        )
        hand.append(launch)
    return hand


def dealt(
    session: Session,
    draw: random.Random,
    buffers: Buffers,
    algorithm: Algorithm,
    collective: Collective,
    datatype: Datatype,
    redop: str,
) -> Launch:
    soak = SoakOptions(collective, 0.0, 1, 1, [datatype], [redop], [algorithm])
    dealer = Dealer(session, soak, draw, buffers)
    launch = dealer.launch(algorithm, datatype, redop, draw.choice(COUNTS))
    assert launch, f"{algorithm.name} {datatype.name} {redop}"
    return launch


def layer_launch(
    session: Session,
    algorithm: Algorithm,
    case: Case,
    contents: tuple[Segments, Segments],
    keep: Any,
) -> Launch:
    """A launch that first writes its inputs and then checks its outputs; `contents` gives both."""
    operation = algorithm.bind(session.world, case)
    assert isinstance(operation, Operation), operation
    iteration = checked_iteration(session.world, case, operation, contents, (operation, keep))
    iteration.text = algorithm.name
    return Launch(case, iteration)


def registered(session: Session, sizes: dict[str, int]) -> dict[str, Any]:
    """The addresses of new buffers of these sizes in bytes, which all ranks map."""
    world = session.world
    assert isinstance(world.peers, PeerBuffer)
    memories = {name: world.peers.register(size) for name, size in sizes.items()}
    return {name: memory.address for name, memory in memories.items()}


def routed_launch(session: Session, draw: random.Random) -> Launch:
    """A round trip of tokens over experts that leave them unchanged."""
    world, seed = session.world, session.options.seed
    rank, ranks = world.communicator.rank, world.communicator.size
    datatype = DATATYPES[draw.choice(["float32", "bfloat16"])]
    top_k, hidden = draw.choice([1, 2, 3]), draw.choice([31, 248, 1024])
    tokens, skew = draw.choice([1, 5, 64, 500]), draw.choice(["uniform", "zipf:1.5", "hot:3"])
    routes = draw_routes(skew, ranks, 8, tokens, top_k, draw.randrange(1 << 30))
    row_bytes = hidden * datatype.size_bytes
    assert isinstance(world.peers, PeerBuffer)
    sizes = (tokens * row_bytes, tokens * row_bytes, tokens * top_k * row_bytes)
    send, receive, rows = (world.peers.register(size) for size in sizes)
    tables = make_tables(world, routes, rows, row_bytes)
    algorithm = draw.choice([algorithm for algorithm in ROUTED if algorithm.name != "library"])
    case = RoutedCase(
        COLLECTIVES["alltoall"],
        hidden,
        datatype,
        "none",
        send.address,
        receive.address,
        variant=draw.choice(algorithm.variants(world)),
        shape={"way": "round_trip"},
        tables=tables,
    )
    values = row_tables(tokens, [seed])
    at_experts = [values[routes.rows_of(expert_rank)[0]] for expert_rank in range(ranks)]
    is_home = routes.home == rank
    contents = (
        Segments(send.address, row_bytes, datatype.encode(values)[is_home]),
        Segments(
            receive.address,
            row_bytes,
            datatype.encode(combined_rows(routes, datatype, at_experts)[is_home]),
        ),
    )
    return layer_launch(session, algorithm, case, contents, (send, receive, tables))


def norm_launch(session: Session, draw: random.Random) -> Launch:
    """All-reduce, residual and RMSNorm of rows with one mean of squares."""
    world, seed, form = session.world, session.options.seed, FUSED["allreduce_rmsnorm"]["fused"]
    rank, ranks = world.communicator.rank, world.communicator.size
    datatype = DATATYPES[("float32", "bfloat16", "float16")[seed % 3]]
    hidden = draw.choice([1, 31, 248, 1024, 8192])
    count = draw.choice([1, 3, 9, 40]) * hidden
    size = count * datatype.size_bytes
    parts, residual, total = fused.tables_of_norm(datatype, ranks, seed)
    buffers = registered(session, {"send": 2 * size, "receive": 2 * size})
    weight = world.device.store(datatype.encode(np.full(hidden, fused.NORM_WEIGHT)))
    case = NormCase(
        COLLECTIVE["allreduce_rmsnorm"],
        count,
        datatype,
        "sum",
        **buffers,
        variant=draw.choice(form.variants(world)),
        summed=0,
        norm=Norm(
            hidden=hidden,
            residual=buffers["send"] + size,
            residual_out=buffers["receive"] + size,
            weight=weight.address,
        ),
    )
    contents = (
        Segments(case.send, size, datatype.encode(np.stack([parts[rank], residual]))),
        Segments(case.receive, size, datatype.encode(np.stack([fused.normed(total), total]))),
    )
    launch = layer_launch(session, form, case, contents, weight)
    if by_link := launch.iteration.by_link:
        launch.iteration.operation = draw.choice(list(by_link.values()))
    return launch


def gemv_launch(session: Session, draw: random.Random) -> Launch:
    """A matrix of +1 and -1 times a few tokens, and the all-reduce."""
    world, seed, form = session.world, session.options.seed, FUSED["gemv_allreduce"]["fused"]
    rank, ranks = world.communicator.rank, world.communicator.size
    datatype = DATATYPES[("float32", "float16", "bfloat16")[seed % 3]]
    tokens, hidden, inner = 1 + seed % 8, draw.choice([64, 320, 2048]), draw.choice([64, 128, 320])
    inputs = fused.drawn_activations(ranks, tokens, seed)
    outputs = fused.summed_products(inner, inputs, seed) * fused.ROW_SCALE
    weights = world.device.store(fused.matrix(hidden, inner, rank, seed).astype(np.int8))
    scales = world.device.store(np.full(hidden, fused.ROW_SCALE, np.float32))
    row_bytes = inner * datatype.size_bytes, hidden * datatype.size_bytes
    buffers = registered(
        session, {"send": 4, "receive": tokens * row_bytes[1], "activations": tokens * row_bytes[0]}
    )
    layer = Gemv(
        hidden=hidden,
        inner=inner,
        weights=weights.address,
        row_scales=scales.address,
        activations=buffers.pop("activations"),
        stride=inner,
        copies=1,
    )
    case = GemvCase(
        COLLECTIVE["gemv_allreduce"],
        tokens * hidden,
        datatype,
        "sum",
        **buffers,
        variant=draw.choice(form.variants(world)),
        layer=layer,
        tokens=tokens,
        weight_type="int8",
    )
    contents = (
        Segments(layer.activations, row_bytes[0], datatype.encode(inputs[rank])),
        Segments(case.receive, row_bytes[1], datatype.encode(outputs)),
    )
    return layer_launch(session, form, case, contents, (weights, scales))


FUSED_LAUNCHES: dict[str, Make] = {"allreduce_rmsnorm": norm_launch, "gemv_allreduce": gemv_launch}


if __name__ == "__main__":
    pairs = dict(word.split("=") for word in sys.argv[3:] if "=" in word)
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        pairs,
        [word for word in sys.argv[3:] if "=" not in word],
    )
