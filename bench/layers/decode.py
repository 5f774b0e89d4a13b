"""The splits of a whole decode step, for `bench.decode`."""

from dataclasses import replace

import numpy as np

from bench.harness.iteration import idle_operation
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers.command import LayerOptions, require_mapped, scale_for
from bench.layers.steps import (
    ONE_RANK,
    Image,
    Split,
    Splits,
    Weights,
    hold_weights,
    open_inboxes,
    room_bytes,
)
from collectives.collective import DATATYPES, Array
from collectives.communicator import Disagreement
from collectives.layers import steps
from collectives.layers.fused import Bound, one_after_another
from collectives.layers.models import LAYERS, MODELS
from collectives.layers.steps import Net
from collectives.operation import Unsupported
from kernels.devices.device import DeviceError

TENSOR_FORMS = ("fused registered", "fused copied", "allreduce_rmsnorm registered",
                "allreduce_rmsnorm copied", "then_one_shot_pull registered",
                "then_one_shot_pull copied")


def prepare(options: LayerOptions, session: Session) -> Suite:
    """Every split of a step, for each number of chats. Raises Disagreement."""
    require_mapped(session)
    scale = scale_for(options.scale, session)
    held, whole_fits = layers_that_fit(options, float(scale), session)
    model, datatype = MODELS[options.model], DATATYPES[options.datatype]
    session.flight.note("draw the weights", text=options.model)
    with session.communicator.together(DeviceError, MemoryError):
        net = Net(session.world, model, float(scale), held, datatype, options.weights,
                  session.options.seed)
        weights = hold_weights(net, range(len(LAYERS) * model.layers), whole_fits)
    shape = {"model": options.model, "layers": model.layers, "hidden": model.hidden,
             "inner": list(net.inner.values()), "weights": options.weights, "scale": str(scale)}
    if held < model.layers:
        shape["layers_held"] = held
    suite = Suite()
    for slots in options.slots:
        session.flight.note("plan the splits", text=f"{slots} slots")
        size_bytes = slots * model.hidden * datatype.size_bytes
        splits = Splits(session, net, suite, {**shape, "slots": slots}, size_bytes)
        add_splits(splits, weights, slots, whole_fits)
    return suite


def layers_that_fit(options: LayerOptions, scale: float, session: Session) -> tuple[int, bool]:
    """The distinct layers that the device can hold, and whether it can hold all of them on one
    rank too. Raises Disagreement."""
    model, ranks = MODELS[options.model], session.communicator.size
    if model.layers % ranks:
        raise Disagreement(f"{model.layers} layers do not divide into {ranks} equal stages")
    columns = sum(model.columns(layer, ranks, scale) for layer in LAYERS)
    layer_bytes = columns * model.hidden * (1 if options.weights == "int8" else 2)
    room, copies = room_bytes(session), min(ranks, 2)  # a share of each layer, and a stage's layers
    held = min(model.layers, int(room / (copies * layer_bytes)))
    if held < ranks:
        raise Disagreement(f"a rank's share of a layer has {layer_bytes} B, and the memory has no "
                           f"room for {ranks}")
    return held, (copies + ranks) * model.layers * layer_bytes <= room


def add_splits(splits: Splits, weights: Weights, slots: int, whole_fits: bool) -> None:
    """Adds every split of a step for `slots` chats."""
    session, net, world = splits.session, splits.net, splits.session.world
    draw = np.random.default_rng([session.options.seed, slots])
    start = draw.standard_normal((slots, net.model.hidden))
    is_first = session.communicator.rank == 0
    expected = session.communicator.broadcast(steps.reference(net, start) if is_first else None)
    chat = steps.open_chat(net, slots)
    image: Image = [(chat.activations, steps.normed(start)), (chat.residual, start)]

    def by_tensor(form: str, variant: str) -> Bound:
        return steps.split_by_tensor(net, chat, weights.shares, form, variant)

    whole = Split(image, chat.residual, expected)
    splits.add_by_tensor(whole, by_tensor, TENSOR_FORMS, "then_library")
    splits.add(pipeline_split(net, weights.stage, start, expected))
    alone: Bound = Unsupported("the weights of all layers do not fit next to the other splits'")
    if whole_fits:
        alone = (one_after_another(world, *steps.stage(net, chat, weights.whole)) if is_first
                 else idle_operation(world, session.flight.watch))
    splits.add(replace(whole, algorithm="one_rank", bound=alone, ranks=(0,),
                       result=chat.residual if is_first else None))


def pipeline_split(net: Net, weights: dict[int, int], start: Array, expected: Array) -> Split:
    """A step in a pipeline. The chats form a group for each rank, or one each if they are fewer;
    rank 0 checks the first group's result. All ranks call it."""
    rank, ranks, slots = net.world.communicator.rank, net.world.communicator.size, len(start)
    groups = min(slots, ranks)
    if ranks == 1 or slots % groups:
        refusal = ONE_RANK if ranks == 1 else Unsupported(
            f"{slots} chats do not divide evenly into {groups} stages")
        return Split([], None, expected, "pipeline_parallel", refusal)
    tokens = slots // groups
    inboxes = open_inboxes(net, tokens * net.model.hidden * net.datatype.size_bytes)
    chats = [steps.open_chat(net, tokens) for _ in range(groups)]
    operation = steps.pipeline(net, chats, inboxes, weights)
    result, first = inboxes[-1].address, start[:tokens]
    if rank == 0 and slots != tokens:  # a chat's activations depend on its place in the batch
        expected = steps.reference(net, first)
    return Split([(result, first)], result if rank == 0 else None, expected[:tokens],
                 "pipeline_parallel", operation)
