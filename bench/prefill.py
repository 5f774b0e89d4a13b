"""A chunk of a prompt through a whole model: two dependent all-reduces a layer, split by tensor with our kernels and
with the library's all-reduce, by tensor and sequence, in a pipeline, and on one rank.
`mpirun -n 2 python -m bench.prefill`

A few of the layers are timed, and the step is scaled up from them.
"""

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
from bench.layers.overlap import no_matmul
from bench.layers.steps import Image, fastest, idle, plan, subject
from collectives.collective import DATATYPES, Array
from collectives.communicator import Disagreement
from collectives.layers import prefill, steps
from collectives.layers.models import LAYERS, MODELS
from collectives.library import mpi as library
from collectives.operation import DeviceError, Operation, Unsupported
from collectives.peer_buffer import register
from reports.result import Planned

ABOUT = "Times a prefill step: split by tensor, ours and the library's; by sequence; in a pipeline; on one rank."
MESSAGE_BYTES = 32 << 20  # of an all-reduce: 2,048 tokens of 8,192 elements of 16 bits
MAX_TIME_S = 110.0
FORMS = ("two_shot registered", "two_shot copied", "allreduce_rmsnorm registered", "allreduce_rmsnorm copied")


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = fused.parser("prefill", ABOUT)
    what = p.add_argument_group("what").add_argument
    fused.model_options(what, scaled=True)
    what("--tokens", type=partial(cli.whole, 1, most=fused.MOST_TOKENS), default=None, metavar="N",
         help="of the chunk (so many that 32M are reduced: of a 70B model 2048 in 16 bits, 1024 in float)")
    what("--layers", type=partial(cli.whole, 1, most=1000), default=4, metavar="N",
         help="that are timed, a whole multiple of the ranks (4)")
    fused.wire_option(what)
    options = fused.finish(p, "prefill", argv, MAX_TIME_S)
    model, element_bytes = MODELS[options.model], DATATYPES[options.datatype].size_bytes
    options.warmup_iters = 0  # what is checked first warms up, and an iteration takes a quarter of a second
    options.tokens = options.tokens or MESSAGE_BYTES // (model.hidden * element_bytes)
    if model.layers % options.layers:
        p.error(f"--layers {options.layers}: the {model.layers} of {options.model} are no whole multiple of that")
    return options


def prepare(options: Namespace, bench: Bench) -> Prepared:
    """Every split of a step. Raises Disagreement."""
    fused.mapped(bench)
    world, model, tokens = bench.world, MODELS[options.model], options.tokens
    communicator, rank, ranks = world.communicator, world.communicator.rank, world.communicator.size
    factor, datatype = fused.scale_of(options, bench), DATATYPES[options.datatype]
    if reason := no_matmul(options, bench):
        raise Disagreement(reason)
    for what, count in (("--layers", options.layers), ("--tokens", tokens)):
        if count % ranks:
            raise Disagreement(f"{what} {count}: not a whole multiple of {ranks} ranks")
    size, scale = tokens * model.hidden * datatype.size_bytes, model.layers / options.layers
    bench.flight.note("draw the weights", text=options.model)
    with communicator.together(DeviceError, MemoryError):
        net = steps.net_of(world, model, float(factor), options.layers, datatype, datatype.name, options.seed)
        numbers = range(len(LAYERS) * options.layers)
        mine = list(numbers)[rank * len(numbers) // ranks : (rank + 1) * len(numbers) // ranks]
        columns = {layer: ranks * inner for layer, inner in net.inner.items()}
        shares, stages = steps.hold(net, numbers, rank, net.inner), steps.hold(net, mine, 0, columns)
        whole = steps.hold(net, numbers if rank == 0 else [], 0, columns)
    shape = {"model": options.model, "layers": model.layers, "timed_layers": options.layers, "tokens": tokens,
             "hidden": model.hidden, "inner": [net.inner[layer] for layer in LAYERS], "weights": datatype.name,
             "scale": str(factor)}
    start = np.random.default_rng(options.seed).standard_normal((tokens, model.hidden))
    bench.flight.note("reference", text="")
    right = communicator.broadcast(prefill.reference(net, start, numbers) if rank == 0 else None)
    planned, subjects = list[Planned](), dict[int, Subject]()
    own_rows = slice(rank * tokens // ranks, (rank + 1) * tokens // ranks)

    def add(algorithm: str, bound: Operation | Unsupported, image: Image, result: int | None, wanted: Array,
            once: Operation | None = None, **words: Any) -> None:
        bench.flight.note("plan the splits", text=algorithm)
        planned.append(plan(bench, net, "prefill", algorithm, shape, size, bound, **words))
        if isinstance(bound, Operation):
            subjects[len(planned) - 1] = subject(bench, net, len(planned) - 1, algorithm, bound, image, result, wanted,
                                                 scale, world.device.name == "cpu", once)

    with communicator.together(DeviceError, MemoryError):
        chat = steps.open_chat(net, tokens)
        own = library.allocate(world, 2 * size // ranks)
    begun = [(chat.activations, steps.normed(start)), (chat.residual, start)]
    add("compute", prefill.split_by_tensor(net, chat, shares, "compute", "copied"), begun, None, right)
    forms = {name: prefill.split_by_tensor(net, chat, shares, *name.split()) for name in FORMS}
    chosen, _, variant = fastest(bench, net, begun, forms).partition(" ")
    add("tensor_parallel", forms[f"{chosen} {variant}"], begun, chat.residual, right, chosen=chosen, variant=variant)
    for way in library.LIBRARY.variants(world):
        add("tensor_parallel_library", prefill.split_by_tensor(net, chat, shares, "library", way), begun,
            chat.residual, right, library=library.library_name(world), variant=way)
    by_sequence = prefill.split_by_sequence(net, chat, shares, own, "copied")
    add("sequence_parallel", by_sequence, begun, chat.residual + rank * size // ranks, right[own_rows])
    if ranks == 1:
        add("pipeline_parallel", Unsupported("one rank makes no pipeline"), [], None, right)
    else:
        assert not isinstance(world.peers, Unsupported)
        inboxes = [register(communicator, world.device, world.peers, size) for _ in range(ranks)]
        net.keep.append(inboxes)
        # As few of the bytes are handed on as layers are timed, and both are scaled up; right is what all make.
        cut = prefill.pipeline(net, chat, inboxes, stages, 1 / scale)
        add("pipeline_parallel", cut, [(inboxes[-1].address, start)], inboxes[-1].address if rank == 0 else None,
            right, once=prefill.pipeline(net, chat, inboxes, stages))
    alone = prefill.in_turn(net, prefill.stage(net, chat, whole)) if rank == 0 else idle(bench)
    add("one_rank", alone, begun, chat.residual if rank == 0 else None, right)
    subjects[len(planned) - 1].ranks = (0,)
    return planned, subjects, {}


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    start("prefill", parse(), prepare, started_s)
