"""A whole decode step: two dependent all-reduces a layer, split by tensor with our fused kernels and with the library's
all-reduce, in a pipeline, and on one rank. `mpirun -n 2 python -m bench.decode`"""

import ctypes
import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import psutil

from bench import cli, fused
from bench.measure import Bench
from bench.plan import Prepared
from bench.subject import Subject, nothing, on_device
from collectives import library, steps
from collectives.collective import DATATYPES, Array
from collectives.communicator import Disagreement
from collectives.fused import in_a_row
from collectives.models import LAYERS, MODELS
from collectives.operation import DeviceError, Operation, Pattern, Step, Unsupported, plain_arguments
from collectives.peer_buffer import register
from collectives.steps import Chat, Net
from reports.result import Planned

ABOUT = "Times a whole decode step: split by tensor, ours and the library's; in a pipeline; and on one rank."
MOST_SLOTS = 8
ROOM = 0.6  # of the memory that is free
TRIES = 5  # of each form, before one is chosen
# Of a result, in roots of its mean square: each of 160 sums is rounded to the wire's type, and the residual after it.
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.4}
TENSOR_FORMS = (("fused", "registered"), ("fused", "copied"), ("allreduce_rmsnorm", "registered"),
                ("allreduce_rmsnorm", "copied"), ("then_one_shot_pull", "registered"), ("then_one_shot_pull", "copied"))


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = fused.parser("decode", ABOUT)
    what = p.add_argument_group("what").add_argument
    fused.model_options(what, scaled=True)
    what("--slots", type=partial(cli.comma_separated, partial(cli.whole, 1, most=MOST_SLOTS)), default=[1, 2],
         metavar="A,B", help="chats at once, a token of each a step (1,2)")
    fused.wire_option(what, "half")
    fused.weights_option(what)
    return fused.finish(p, "decode", argv, graph=None)


def prepare(options: Namespace, bench: Bench) -> Prepared:
    """Every split of a step, for each number of chats. Raises Disagreement."""
    fused.mapped(bench)
    world, model = bench.world, MODELS[options.model]
    communicator, rank, ranks = world.communicator, world.communicator.rank, world.communicator.size
    factor, datatype = fused.scale_of(options, bench), DATATYPES[options.datatype]
    if model.layers % ranks and ranks > 1:
        raise Disagreement(f"{model.layers} layers make no {ranks} stages of as many each")
    weight_bytes = 1 if options.weights == "int8" else 2
    layer_bytes = sum(model.inner(layer, ranks, float(factor)) for layer in LAYERS) * model.hidden * weight_bytes
    splits = 2 if ranks > 1 else 1
    room = communicator.broadcast(room_bytes(bench) // (ranks if world.device.name == "cpu" else 1))
    held = min(model.layers, int(room / (splits * layer_bytes)))
    if held < ranks:
        raise Disagreement(f"a layer's {layer_bytes} B a rank are more than what is free")
    whole_fits = splits * model.layers * layer_bytes + ranks * model.layers * layer_bytes <= room
    bench.flight.note("draw the weights", text=options.model)
    planned, subjects = list[Planned](), dict[int, Subject]()
    with communicator.together(DeviceError, MemoryError):
        net = steps.net_of(world, model, float(factor), held, datatype, options.weights, options.seed)
        numbers, mine = range(len(LAYERS) * model.layers), len(LAYERS) * model.layers // ranks
        shares = steps.hold(net, numbers, rank, net.inner)
        columns = {layer: ranks * inner for layer, inner in net.inner.items()}
        stages = steps.hold(net, numbers[rank * mine : (rank + 1) * mine], 0, columns) if ranks > 1 else {}
        whole = steps.hold(net, numbers if rank == 0 and whole_fits else [], 0, columns)
    shape = {"model": options.model, "layers": model.layers, "hidden": model.hidden,
             "inner": [net.inner[layer] for layer in LAYERS], "weights": options.weights, "scale": str(factor)}
    shape |= {"layers_held": held} if held < model.layers else {}

    for slots in options.slots:
        bench.flight.note("plan the splits", text=f"{slots} slots")
        start = np.random.default_rng([options.seed, slots]).standard_normal((slots, model.hidden))
        size = slots * model.hidden * datatype.size_bytes
        right = communicator.broadcast(steps.reference(net, start) if rank == 0 else None)
        chat = steps.open_chat(net, slots)

        def add(algorithm: str, bound: Operation | Unsupported, image: Sequence[tuple[int, Array]], result: int | None,
                wanted: Array, slots: int = slots, size: int = size, **words: Any) -> None:
            reason = bound.reason if isinstance(bound, Unsupported) else None
            planned.append(Planned(
                collective="decode", shape={**shape, "slots": slots}, size_bytes=size,
                count=size // datatype.size_bytes, datatype=datatype.name, redop="sum", algorithm=algorithm,
                memory=memory_kind(bench), status="unsupported" if reason else "ok", reason=reason, **words))
            if isinstance(bound, Operation):
                number = len(planned) - 1
                text = f"{algorithm} {slots} slots"
                subjects[number] = subject(bench, net, number, text, bound, image, result, wanted)

        begun = [(chat.activations, steps.normed(start)), (chat.residual, start)]
        add("compute", steps.split_by_tensor(net, chat, shares, "compute", "copied"), begun, None, right)
        chosen, fastest, variant = tensor(bench, net, chat, shares, begun)
        add("tensor_parallel", fastest, begun, chat.residual, right, chosen=chosen, variant=variant)
        for way in library._variants(world):
            add("tensor_parallel_library", steps.split_by_tensor(net, chat, shares, "then_library", way), begun,
                chat.residual, right, library=library.library_name(world), variant=way)
        add("pipeline_parallel", *pipeline(bench, net, slots, stages, start, right))
        reason = None if whole_fits else "all weights on one rank do not fit beside the others"
        alone = in_one(net, chat, whole) if rank == 0 and whole_fits else Operation(*idle(bench))
        add("one_rank", Unsupported(reason) if reason else alone, begun, chat.residual if rank == 0 else None, right)
        if not reason:
            subjects[len(planned) - 1].ranks = (0,)
    return planned, subjects, {}


def idle(bench: Bench) -> tuple[Step, Callable[[], None]]:
    step = nothing(bench.world, bench.flight.watch)
    return step, bench.world.device.caller(step)


def room_bytes(bench: Bench) -> float:
    """What weights may take of this host's memory, or of this GPU's."""
    facts = bench.world.device.facts
    return ROOM * float(facts["memory_bytes"] if "memory_bytes" in facts else psutil.virtual_memory().available)


def memory_kind(bench: Bench) -> str:
    assert not isinstance(bench.world.peers, Unsupported)
    return bench.world.peers.kind


def in_one(net: Net, chat: Chat, weights: dict[int, int]) -> Operation:
    """A step on this rank alone."""
    return in_a_row(net.world, steps.stage(net, chat, weights))


def tensor(bench: Bench, net: Net, chat: Chat, weights: dict[int, int],
           image: Sequence[tuple[int, Array]]) -> tuple[str, Operation, str]:
    """The fastest of the forms of a step split by tensor, in a few tries apart from what is reported: its name, itself
    and its variant. All ranks call it."""
    found: dict[tuple[str, str], tuple[float, Operation]] = {}
    communicator = bench.world.communicator
    for form, variant in TENSOR_FORMS:
        bound = steps.split_by_tensor(net, chat, weights, form, variant)
        if isinstance(bound, Unsupported):
            continue
        times_s = []
        for _ in range(TRIES):
            write(bench, net, image)
            communicator.barrier()
            begun_s = time.perf_counter()
            bound.call()
            times_s.append(max(communicator.all_gather(time.perf_counter() - begun_s)))
        found[form, variant] = (float(np.median(times_s)), bound)
    form, variant = communicator.broadcast(min(found, key=lambda name: found[name][0]))
    names = {"fused": "gemv_allreduce", "allreduce_rmsnorm": "allreduce_rmsnorm"}
    return names.get(form, form), found[form, variant][1], variant


def write(bench: Bench, net: Net, image: Sequence[tuple[int, Array]]) -> None:
    """What a step begins with, into the device's memory."""
    for address, values in image:
        held = on_device(bench.world, net.datatype.encode(values))
        copy = plain_arguments(0, held.address, address, values.size, bench.flight.watch)
        kernels = bench.world.device.compile("link_probe", {"WORLD": "1", "ELEMENT": net.datatype.element})
        bench.world.device.caller(Step(kernels.kernel("copy_local"), copy))()


def pipeline(bench: Bench, net: Net, slots: int, weights: dict[int, int], start: Array,
             right: Array) -> tuple[Operation | Unsupported, Sequence[tuple[int, Array]], int | None, Array]:
    """A step in a pipeline, whose chats go in as many groups as there are ranks, if there are so many: itself, what it
    begins with, and where the first group's result lies, on rank 0, and what that has to be. All ranks call it."""
    world, ranks = net.world, net.world.communicator.size
    if ranks == 1:
        return Unsupported("one rank makes no pipeline"), [], None, right
    groups = min(slots, ranks)
    if slots % groups:
        return Unsupported(f"{slots} chats do not go into {groups} stages evenly"), [], None, right
    tokens = slots // groups
    size = tokens * net.model.hidden * net.datatype.size_bytes
    assert not isinstance(world.peers, Unsupported)
    inboxes = [register(world.communicator, world.device, world.peers, size) for _ in range(ranks)]
    chats = [steps.open_chat(net, tokens) for _ in range(groups)]
    net.keep.append(inboxes)
    first = start[:tokens]
    operation = steps.pipeline(net, chats, inboxes, weights)
    rank = world.communicator.rank
    wanted = steps.reference(net, first) if rank == 0 and slots != tokens else right[:tokens]
    return operation, [(inboxes[-1].address, first)], inboxes[-1].address if rank == 0 else None, wanted


def subject(bench: Bench, net: Net, number: int, text: str, operation: Operation, image: Sequence[tuple[int, Array]],
            result: int | None, right: Array) -> Subject:
    """Writes what a step begins with; then the step; then its result is read. That is checked once against float64, and
    bit by bit against the first one from then on. All ranks call it. Raises Disagreement where the first is wrong."""
    world, watch, datatype, device = bench.world, bench.flight.watch, net.datatype, bench.world.device
    prepares = []
    for address, values in image:
        stored = datatype.encode(values)
        held = on_device(world, stored)
        net.keep.append(held)
        pattern = Pattern(address, held.address, 1, stored.nbytes, stored.nbytes, 1, datatype.size_bytes, 0,
                          ctypes.addressof(watch))
        step = Step(device.compile("timed_loop", {}).kernel("write_pattern"), pattern, device.blocks_for(stored.nbytes))
        prepares.append(Operation(step, device.caller(step)))
    prepare = in_a_row(world, prepares) if prepares else Operation(*idle(bench))
    none, wrong, size = nothing(world, watch), device.private(8), right.size * datatype.size_bytes
    prepare.call()
    world.communicator.barrier()
    operation.call()
    world.communicator.barrier()
    said = None
    check = consume = none
    if result is not None:
        first = device.private(size)
        kernels = device.compile("link_probe", {"WORLD": "1", "ELEMENT": datatype.element})
        copy = plain_arguments(0, result, first.address, right.size, watch)
        device.caller(Step(kernels.kernel("copy_local"), copy))()
        got = datatype.decode(first.read().view(datatype.storage)[: right.size].reshape(right.shape))
        scale = float(np.sqrt(np.mean(right**2)))
        worst = float(np.max(np.abs(got - right))) / scale
        if not worst <= TOLERANCE[datatype.name]:
            said = f"{text} is off by {worst:.2g} of its result's root mean square: no step to be timed"
        pattern = Pattern(result, first.address, 1, size, size, 1, datatype.size_bytes, wrong.address,
                          ctypes.addressof(watch))
        check = Step(device.compile("timed_loop", {}).kernel("count_wrong"), pattern, device.blocks_for(size))
        consume = Step(kernels.kernel("read_own"), plain_arguments(0, result, result, right.size, watch))
        net.keep += [first, kernels]
    if complaint := world.communicator.first_word(said):
        raise Disagreement(complaint)
    checked = any(world.communicator.all_gather(result is not None))
    return Subject(number, text, prepare.step, operation, consume, check, wrong=wrong if checked else None,
                   keep=[net, prepare])


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.command import start

    start("decode", parse(), prepare, started_s)
