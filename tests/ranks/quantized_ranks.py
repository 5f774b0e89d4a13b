"""Run by mpirun: checks quantised all-reduces of random and adversarial data against numpy's result and against fp64.

`quantized_ranks.py EXAMPLES SEED [device=NAME] [memory=KIND] [nt]`. With `nt`, stores into the slab bypass the caches.
"""

import sys

import numpy as np

from collectives.algorithm import ALGORITHMS
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, Operation, Unsupported
from collectives.peer_buffer import set_epoch
from collectives.quantized import ALGORITHMS as QUANTIZED
from collectives.quantized import BLOCK
from tests.ranks.world import ROUNDING, connect, launch

SPITEFUL = np.array(
    [0.0, -0.0, 1e-45, -1e-40, 6e-8, 2.0**-6, 1e-3, 1.0, -448.0, 65504.0, 3e6, 1e30, np.inf, np.nan]
)
ERROR = {
    "int8": 0.5 / 127,
    "fp8": 2.0**-4,
    "int4": 0.5 / 7,
}  # of one code, relative to the largest value of its block
MOST = 300_000
NAMES = [algorithm.name for algorithm in QUANTIZED]


def drawn(draw, datatype, ranks, count):
    """Stored values of all ranks: blocks of normal values, with an outlier, of zeros, or with values from SPITEFUL."""
    values = draw.normal(size=(ranks, count // BLOCK, BLOCK)) * 10.0 ** draw.integers(
        -9, 5, (ranks, count // BLOCK, 1)
    )
    kind = draw.integers(0, 8, (count // BLOCK, 1))
    values[:, :, 3] *= np.where(kind[:, 0] == 1, 1000.0, 1.0)
    values = np.where(kind == 2, draw.choice([0.0, -0.0], values.shape), values)
    at_most = draw.integers(1, len(SPITEFUL) + 1, (count // BLOCK, 1))
    chosen = SPITEFUL[(draw.random(values.shape) * at_most).astype(int)]
    values = np.where(kind == 3, chosen, values)
    with np.errstate(over="ignore"):
        return datatype.encode(values.reshape(ranks, count))


def problem(name, datatype, redop, sent, got, expected_sum):
    blocks = datatype.decode(sent).reshape(len(sent), -1, BLOCK)
    with np.errstate(all="ignore"):
        want = datatype.encode(expected_sum(blocks)).reshape(-1)
    alike = (got == want) | (np.isnan(datatype.decode(got)) & np.isnan(datatype.decode(want)))
    if not alike.all():
        at = int(np.argmin(alike))
        return f"element {at} is {datatype.decode(got)[at]!r}, and numpy has {datatype.decode(want)[at]!r}"
    with np.errstate(all="ignore"):
        exact = blocks.sum(0) / (len(sent) if redop == "avg" else 1)
        largest = np.abs(blocks).max(-1).sum(0) / (len(sent) if redop == "avg" else 1)
        # Each input's error, plus the error of the sum. A scale exceeds its unrounded value by up to 2^-10 or 2^-24.
        bound = (
            ERROR[name] * 2.1 * largest
            + len(sent) * 3e-5
            + ROUNDING[datatype.name] * 2 * np.abs(exact).max(-1)
        )
        values = datatype.decode(got).reshape(exact.shape)
        finite = np.isfinite(values) & np.isfinite(exact)
        off = np.where(finite, np.abs(values - exact), 0) > bound[:, None]
    if off.any():
        return f"elements {np.argwhere(off)[:3].tolist()} are further from fp64 than {name} allows"
    plausible = np.isfinite(values) & ~np.isfinite(blocks).all((0, 2))[:, None]
    return "a block with a NaN or an infinity came back as numbers" if plausible.any() else None


def main(examples: int, seed: int, device: str, memory: str, stream_slab: bool) -> None:
    world, watch = connect(30.0, device, memory)
    ranks, rank = world.communicator.size, world.communicator.rank
    draw = np.random.default_rng(seed)
    room = 4 * MOST + 64
    send, receive = world.device.private(room), world.device.private(room)
    assert not isinstance(world.peers, Unsupported)
    set_epoch(world.peers, 2**32 - 3)
    world.communicator.barrier()
    for example in range(examples):
        name = NAMES[example % len(NAMES)]
        datatype = DATATYPES[("float32", "float16", "bfloat16")[draw.integers(3)]]
        redop, in_place = ("sum", "avg")[draw.integers(2)], bool(draw.random() < 0.3)
        count = (0, 1, 2, 3, 5, 40, int(draw.integers(1, MOST // BLOCK)))[draw.integers(7)] * BLOCK
        shift = int(draw.integers(0, 4)) * datatype.size_bytes
        sent = drawn(draw, datatype, ranks, count)
        target = send if in_place else receive
        receive.write(np.full(room, 0xA5, np.uint8))
        send.write(np.full(room, 0xA5, np.uint8))
        send.write(np.ascontiguousarray(sent[rank]).view(np.uint8), shift)
        at = shift if in_place else int(draw.integers(0, 4)) * datatype.size_bytes
        case = Case(
            COLLECTIVES["all_reduce"],
            count,
            datatype,
            redop,
            send.address + shift,
            target.address + at,
            in_place,
            build=Build(stream_slab, chunk_bytes=[None, 1 << 10, 64 << 10][example % 3]),
        )
        operation = ALGORITHMS["all_reduce"][name].bind(world, case)
        assert isinstance(operation, Operation), operation
        expected_sum = operation.expected_sum
        assert expected_sum
        launch(world.device, operation.step, 1 if in_place else 2)
        size = count * datatype.size_bytes
        whole = target.read()
        got: np.ndarray = whole[at : at + size].view(datatype.storage)
        around = np.concatenate([whole[:at], whole[at + size : room]])
        wire = name.removeprefix("two_shot_")
        error = problem(wire, datatype, redop, sent, got, expected_sum) if count else None
        error = error or ("wrote around the receive buffer" if (around != 0xA5).any() else None)
        error = error or (f"rank {watch.peer} never came" if watch.timed_out else None)
        everyone = world.communicator.all_gather((error, got.tobytes()))
        error = next((word for word, _ in everyone if word), None)
        error = error or (
            "ranks got different bits" if len({bits for _, bits in everyone}) > 1 else None
        )
        assert not error, (
            f"{name} {datatype.name} {redop} count {count} shift {shift} in place {in_place}: {error}"
        )
    if rank == 0:
        print(f"{examples} examples right on {ranks} ranks")


if __name__ == "__main__":
    settings = dict(word.split("=") for word in sys.argv[3:] if "=" in word)
    placement = settings.get("device", "cpu"), settings.get("memory", "auto")
    main(int(sys.argv[1]), int(sys.argv[2]), *placement, "nt" in sys.argv[3:])
