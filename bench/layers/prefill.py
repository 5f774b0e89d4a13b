"""The splits of a whole prefill step, for `bench.prefill`."""

from dataclasses import replace

import numpy as np

from bench.harness.iteration import idle_operation
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers.command import LayerOptions, require_mapped, scale_for
from bench.layers.overlap import require_matmul
from bench.layers.steps import ONE_RANK, Image, Split, Splits, Weights, hold_weights, open_inboxes
from collectives.collective import DATATYPES, Array
from collectives.communicator import Disagreement
from collectives.layers import prefill, steps
from collectives.layers.fused import Bound, one_after_another
from collectives.layers.models import LAYERS, MODELS
from collectives.layers.overlap import runs_in_python
from collectives.operation import Operation
from kernels.devices.device import DeviceError

FORMS = ("two_shot registered", "two_shot copied", "allreduce_rmsnorm registered",
         "allreduce_rmsnorm copied")


def prepare(options: LayerOptions, session: Session) -> Suite:
    """Every split of a step. Raises Disagreement."""
    require_mapped(session)
    world, ranks, model = session.world, session.communicator.size, MODELS[options.model]
    (tokens,), datatype = options.tokens, DATATYPES[options.datatype]
    require_matmul(session, datatype)
    for flag, count in (("--layers", options.layers), ("--tokens", tokens)):
        if count % ranks:
            raise Disagreement(f"{flag} {count}: not a multiple of {ranks} ranks")
    scale, numbers = scale_for(options.scale, session), range(len(LAYERS) * options.layers)
    session.flight.note("draw the weights", text=options.model)
    with session.communicator.together(DeviceError, MemoryError):
        net = steps.Net(world, model, float(scale), options.layers, datatype, datatype.name,
                        session.options.seed)
        weights = hold_weights(net, numbers)
    shape = {"model": options.model, "layers": model.layers, "timed_layers": options.layers,
             "tokens": tokens, "hidden": model.hidden, "inner": list(net.inner.values()),
             "weights": datatype.name, "scale": str(scale)}
    draw = np.random.default_rng(session.options.seed)
    start = draw.standard_normal((tokens, model.hidden))
    session.flight.note("reference", text="")
    is_first = session.communicator.rank == 0
    result = prefill.reference(net, start, numbers) if is_first else None
    splits = Splits(session, net, Suite(), shape, tokens * model.hidden * datatype.size_bytes,
                    model.layers / options.layers, runs_in_python(world))
    add_splits(splits, weights, start, session.communicator.broadcast(result))
    return splits.suite


def add_splits(splits: Splits, weights: Weights, start: Array, expected: Array) -> None:
    """Adds every split of the step from the residual `start`, (tokens, hidden)."""
    session, net, world = splits.session, splits.net, splits.session.world
    rank, ranks, tokens = session.communicator.rank, session.communicator.size, len(start)
    with session.communicator.together(DeviceError, MemoryError):
        chat = steps.open_chat(net, tokens)
        own = world.library.allocate(world, 2 * splits.size_bytes // ranks)
    image: Image = [(chat.activations, steps.normed(start)), (chat.residual, start)]

    def by_tensor(form: str, variant: str) -> Bound:
        return prefill.split_by_tensor(net, chat, weights.shares, form, variant)

    whole = Split(image, chat.residual, expected)
    splits.add_by_tensor(whole, by_tensor, FORMS, "library")
    own_rows = slice(rank * tokens // ranks, (rank + 1) * tokens // ranks)
    own_residual = chat.residual + rank * splits.size_bytes // ranks
    splits.add(Split(image, own_residual, expected[own_rows], "sequence_parallel",
                     prefill.split_by_sequence(net, chat, weights.shares, own)))
    splits.add(pipeline_split(splits, chat, weights.stage, start, expected))
    alone: Bound = idle_operation(world, session.flight.watch)
    if rank == 0:
        stage = steps.stage(net, chat, weights.whole, prefill.matmul)
        alone = one_after_another(world, *stage, join=prefill.join)
    splits.add(replace(whole, algorithm="one_rank", bound=alone, ranks=(0,),
                       result=chat.residual if rank == 0 else None))


def pipeline_split(splits: Splits, chat: steps.Chat, weights: dict[int, int], start: Array,
                   expected: Array) -> Split:
    """The step in a pipeline. Since only some layers are timed, only their share of the residual is
    handed on, and `scale` covers both; the check hands on all of it. All ranks call it."""
    net, communicator = splits.net, splits.session.communicator
    if communicator.size == 1:
        return Split([], None, expected, "pipeline_parallel", ONE_RANK)
    inboxes = open_inboxes(net, splits.size_bytes)
    timed = prefill.pipeline(net, chat, inboxes, weights, 1 / splits.scale)
    whole = prefill.pipeline(net, chat, inboxes, weights)
    assert isinstance(whole, Operation)
    result = inboxes[-1].address
    return Split([(result, start)], result if communicator.rank == 0 else None, expected,
                 "pipeline_parallel", timed, once=whole)
