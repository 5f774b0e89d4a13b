"""A whole decode step: two dependent all-reduces a layer, split by tensor with our fused kernels and with the library's
all-reduce, in a pipeline, and on one rank. `mpirun -n 2 python -m bench.decode`"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.harness import options as cli
from bench.harness.iteration import Subject
from bench.harness.plan import Prepared
from bench.harness.timing import Bench
from bench.layers import fused
from bench.layers.steps import Image, fastest, idle, plan, room_bytes, subject
from collectives.collective import DATATYPES, Array
from collectives.communicator import Disagreement
from collectives.layers import steps
from collectives.layers.fused import in_a_row
from collectives.layers.models import LAYERS, MODELS
from collectives.layers.steps import Chat, Net
from collectives.library import mpi as library
from collectives.operation import DeviceError, Operation, Unsupported
from collectives.peer_buffer import register
from reports.result import Planned

ABOUT = "Times a whole decode step: split by tensor, ours and the library's; in a pipeline; and on one rank."
MOST_SLOTS = 8
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
    if model.layers % ranks:
        raise Disagreement(f"{model.layers} layers make no {ranks} stages of as many each")
    layer_bytes = sum(model.inner(layer, ranks, float(factor)) for layer in LAYERS) * model.hidden * (
        1 if options.weights == "int8" else 2)
    room, splits = room_bytes(bench), min(ranks, 2)  # a share of every layer, and every share of a stage's layers
    held = min(model.layers, int(room / (splits * layer_bytes)))
    if held < ranks:
        raise Disagreement(f"a layer has {layer_bytes} B of weights a rank, and there is no room for {ranks}")
    whole_fits = (splits + ranks) * model.layers * layer_bytes <= room
    bench.flight.note("draw the weights", text=options.model)
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

    planned, subjects = list[Planned](), dict[int, Subject]()
    for slots in options.slots:
        bench.flight.note("plan the splits", text=f"{slots} slots")
        start = np.random.default_rng([options.seed, slots]).standard_normal((slots, model.hidden))
        size = slots * model.hidden * datatype.size_bytes
        right = communicator.broadcast(steps.reference(net, start) if rank == 0 else None)
        chat = steps.open_chat(net, slots)

        def add(algorithm: str, bound: Operation | Unsupported, image: Image, result: int | None, wanted: Array,
                slots: int = slots, size: int = size, **words: Any) -> None:
            planned.append(plan(bench, net, "decode", algorithm, {**shape, "slots": slots}, size, bound, **words))
            if isinstance(bound, Operation):
                number, text = len(planned) - 1, f"{algorithm} {slots} slots"
                subjects[number] = subject(bench, net, number, text, bound, image, result, wanted)

        begun = [(chat.activations, steps.normed(start)), (chat.residual, start)]
        add("compute", steps.split_by_tensor(net, chat, shares, "compute", "copied"), begun, None, right)
        chosen, variant, operation = tensor(bench, net, chat, shares, begun)
        add("tensor_parallel", operation, begun, chat.residual, right, chosen=chosen, variant=variant)
        for way in library.LIBRARY.variants(world):
            add("tensor_parallel_library", steps.split_by_tensor(net, chat, shares, "then_library", way), begun,
                chat.residual, right, library=library.library_name(world), variant=way)
        add("pipeline_parallel", *pipeline(bench, net, slots, stages, start, right))
        alone = in_a_row(world, steps.stage(net, chat, whole)) if whole else idle(bench)
        add("one_rank", alone if whole_fits else Unsupported("all weights do not fit beside what the others take"),
            begun, chat.residual if rank == 0 else None, right)
        if whole_fits:
            subjects[len(planned) - 1].ranks = (0,)
    return planned, subjects, {}


def tensor(bench: Bench, net: Net, chat: Chat, weights: dict[int, int], image: Image) -> tuple[str, str, Operation]:
    """The fastest form of a step split by tensor: its name, its variant and itself. All ranks call it."""
    found = {f"{form} {variant}": steps.split_by_tensor(net, chat, weights, form, variant)
             for form, variant in TENSOR_FORMS}
    name = fastest(bench, net, image, found)
    form, _, variant = name.partition(" ")
    operation = found[name]
    assert isinstance(operation, Operation)
    return "gemv_allreduce" if form == "fused" else form, variant, operation


def pipeline(bench: Bench, net: Net, slots: int, weights: dict[int, int], start: Array,
             right: Array) -> tuple[Operation | Unsupported, Image, int | None, Array]:
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


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    start("decode", parse(), prepare, started_s)
