"""The splits of a whole step, for `bench.decode` and `bench.prefill`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bench import STARTED_S
from bench.harness.iteration import nothing
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers.forms import LayerOptions, scale_for
from bench.layers.lateness import come_late, digest_of, require_room
from bench.layers.step_cases import Form, StepCases
from bench.layers.traced_steps import PARTS
from collectives.binding import fastest, run_sequence
from collectives.collective import DATATYPES, Array
from collectives.communicator import Mistake, Refusal
from collectives.layers import model_step
from collectives.layers.fused import WEIGHTS
from collectives.layers.model_step import TokenBatch
from collectives.layers.overlap import require_matmul
from collectives.layers.step_weights import StepWeights
from collectives.models import LAYERS, MODELS
from collectives.operation import ONE_HOST, Bound, Operation, Unsupported
from collectives.registry import LIBRARY
from kernels.devices.device import Step
from kernels.devices.shared_memory import available_bytes
from reports.tables.sentences import number
from wiretax.common.program import typed
from wiretax.record.case import TENSOR, TENSOR_LIBRARY, TENSOR_STABLE
from wiretax.record.lateness_file import Lateness as LateUs

MEMORY_SHARE = 0.6  # of the free memory, for matrices
FIRST_STEPS = 10  # of a batch, at least: each split is checked, and forms are tried
TRIES = 5  # of each form; the first one warms up
MESSAGE_BYTES = 32 << 20  # of a prefill's all-reduce: 2,048 tokens of 8,192 elements of 16 bits
FUSED_FORMS = {
    "decode": ("gemv_allreduce", "allreduce_rmsnorm"),
    "prefill": ("allreduce_rmsnorm",),
}


def prepare(options: LayerOptions, session: Session) -> Suite:
    """Every split of a step, for each size of a batch. Raises Refusal."""
    model, datatype = MODELS[options.model], DATATYPES[options.datatype]
    world, communicator, ranks = session.world, session.communicator, session.world.ranks
    is_prefill = session.options.command == "prefill"
    layers, batches = options.layers or model.layers, options.tokens
    if model.layers % layers:
        raise Mistake(
            f"--layers {layers}: the {model.layers} layers of {options.model} are not a multiple "
            "of it"
        )
    if layers % ranks:
        raise Refusal(f"{layers} layers do not divide into {ranks} equal stages")
    if is_prefill:
        require_matmul(world, datatype)
        batches = batches or [MESSAGE_BYTES // (model.hidden * datatype.size_bytes)]
    # As many distinct matrices as fit, of a rank's GPU, or of a rank's part of its host: the least
    # of all ranks. Each rank holds a share of each layer, and a stage's layers.
    weight_type = datatype if is_prefill else WEIGHTS[options.weights]
    scale, device = scale_for(options, session), world.device
    columns = sum(model.columns(layer, ranks, scale) for layer in LAYERS)
    layer_bytes = columns * model.hidden * weight_type.size_bytes
    host_bytes = available_bytes() / len(communicator.node_gather(None))
    free_bytes = device.facts.get("memory_bytes", 0) / device.sharers or host_bytes
    room_bytes = MEMORY_SHARE * min(communicator.all_gather(free_bytes))
    held = min(layers, int(room_bytes / (min(ranks, 2) * layer_bytes)))
    if held < ranks:
        raise Refusal(
            f"a rank's share of a layer has {layer_bytes} B, and the memory has no room for {ranks}"
        )
    session.flight.note("draw the weights", text=options.model)
    with communicator.all_or_none():
        weights = StepWeights(
            world,
            model,
            layers,
            held,
            scale,
            datatype,
            weight_type,
            is_prefill,
            session.options.seed,
        )
    shape = {
        "model": options.model,
        "layers": model.layers,
        "hidden": model.hidden,
        "inner": list(weights.inner.values()),
        "weights": weight_type.name,
        "scale": str(scale),
    }
    if is_prefill:
        shape["timed_layers"] = layers
    if held < layers:
        shape["layers_held"] = held
    late_us = communicator.broadcast(options.lateness)
    suite = Suite(named=[TENSOR_STABLE] if options.stable else [])
    for tokens in batches:
        session.flight.note("plan the splits", text=f"{tokens} tokens")
        with communicator.all_or_none():
            batch = TokenBatch(weights, tokens)
        require_time(session, batch, len(batches) - batches.index(tokens))
        if late_us is not None:
            require_room(late_us, len(LAYERS) * layers, FIRST_STEPS, session.options.max_time_s)
        draw = np.random.default_rng([session.options.seed, tokens])
        start = draw.standard_normal((tokens, model.hidden))
        expected = model_step.reference(weights, start) if world.rank == 0 else None
        expected = communicator.broadcast(expected)
        step_shape = {**shape, "tokens" if is_prefill else "slots": tokens}
        splits = SplitCases(session, batch, step_shape, suite, start, expected)
        splits.add_by_tensor(late_us, options.stable)
        if is_prefill:
            splits.add_by_sequence()
        # As many groups as ranks, or fewer if they would not be equal.
        most = 1 if is_prefill else ranks
        splits.add_pipeline(max(n for n in range(1, most + 1) if tokens % n == 0))
    return suite


def require_time(session: Session, batch: TokenBatch, n_batches: int) -> None:
    """Raises Refusal if the time would be over before a split is timed, by the time of one layer:
    a model can be too large for a slow device. So many batches are to come, with this one."""
    first = batch.weights.shares[: len(LAYERS)]
    layer = run_sequence(session.world, batch.layers_alone(first))
    if isinstance(layer, Unsupported):  # each split says so
        return
    layer_us = session.world.device.time_us(layer.step, 3, session.world.watch)
    own_s = batch.weights.layers * layer_us / 1e6, time.monotonic() - STARTED_S
    step_s, passed_s = np.max(session.communicator.all_gather(own_s), axis=0)
    counted_s = passed_s - session.uncounted_s()
    left_s = session.options.max_time_s - counted_s
    if left_s < FIRST_STEPS * step_s:
        # Each batch is planned as this one was; pilots and blocks take about twice as long. On two
        # busy cores 10 s were over before the first of two: of 40 s the second had none, of 60 s
        # both had blocks.
        enough_s = np.ceil(3 * n_batches * (counted_s + FIRST_STEPS * step_s))
        raise Refusal(
            f"time ran out: a step takes about {number(step_s)} s here, {FIRST_STEPS} or more come "
            f"before the first timed one, and {max(0, left_s):.0f} s are left: shrink the matrices "
            f"with --scale, or give it about {typed('--max-time', f'{enough_s:.0f}')}"
        )


@dataclass(frozen=True)
class SplitCases(StepCases):
    """Adds the splits of one batch. `start` is the residual before the step, `expected` after it,
    (tokens, hidden). All ranks call each method. Raises WrongResult."""

    start: Array
    expected: Array

    def add_by_tensor(self, late_us: LateUs | None, stable: bool) -> None:
        """Each leaves the whole result on each rank; with `stable` one has the same bits at other
        numbers of ranks."""
        batch, residual = self.batch, self.batch.residual
        normed = model_step.normed(self.start)
        prepare = self.prepare({batch.activations: normed, residual: self.start})
        world = self.session.world
        shares = batch.layers_alone(batch.weights.shares)
        self.add("compute", run_sequence(world, shares), prepare)
        unfused, plain = self.fastest(self.forms_by_tensor(["auto"]))
        fused = () if world.node else FUSED_FORMS[self.session.options.command]
        forms = {plain: unfused, **self.forms_by_tensor(fused)}
        bound, (name, variant) = self.fastest(forms) if fused else (unfused, plain)
        chosen = getattr(bound, "choice", None) or name
        end = prepare, (residual, self.expected)
        self.add(TENSOR, bound, *end, chosen=chosen, variant=variant)
        self.trace(plain, self.operations(plain), *end)
        if stable:
            self.add_stable(*end)
        for variant in LIBRARY.variants_in(world):
            bound = model_step.split_by_tensor(batch, "library", variant)
            library = world.library.name
            self.add(TENSOR_LIBRARY, bound, *end, library=library, variant=variant)
            form = "library", variant
            self.trace(form, self.operations(form), *end)
        if late_us is not None:
            self.add_late(plain, late_us, *end)

    def add_stable(self, prepare: Step, end: tuple[int, Array]) -> None:
        """The split whose layers all have the same bits at 1, 2, 4 and 8 ranks, in its fastest
        form."""
        if self.session.world.node:
            self.add(TENSOR_STABLE, ONE_HOST, prepare, end)
            return
        forms = {
            (name, "copied"): model_step.split_by_tensor(self.batch, name, "copied")
            for name in model_step.STABLE_FORMS
        }
        bound, (name, variant) = self.fastest(forms)
        self.add(TENSOR_STABLE, bound, prepare, end, chosen=name, variant=variant)

    def add_late(self, form: Form, late_us: LateUs, prepare: Step, end: tuple[int, Array]) -> None:
        """The unfused split with ranks as late as a file says, and with the same launches that wait
        for nothing."""
        weights, calls = self.batch.weights, len(self.batch.weights.shares)
        seed = self.session.options.seed, self.batch.tokens
        for name, us in (
            (f"tensor_parallel_late+{digest_of(late_us)}", late_us),
            ("tensor_parallel_on_time", np.zeros_like(late_us)),
        ):
            late = come_late(self.session.world, us, calls, seed, weights.keep)
            operations = self.operations(form, late)
            bound = run_sequence(self.session.world, operations)
            chosen = getattr(bound, "choice", None) or form[0]
            self.add(name, bound, prepare, end, chosen=chosen, variant=form[1])
            if us is late_us:
                self.trace(form, operations, prepare, end, ", late")

    def operations(self, form: Form, late: Sequence[Operation] = ()) -> list[Bound]:
        """Those of a split by tensor; a rank that comes late has its product later."""
        operations = model_step.operations_by_tensor(self.batch, *form)
        for call, delay in enumerate(late):
            behind = [operations[PARTS * call], delay]
            operations[PARTS * call] = run_sequence(self.session.world, behind)
        return operations

    def forms_by_tensor(self, names: Sequence[str]) -> dict[Form, Bound]:
        return {
            form: model_step.split_by_tensor(self.batch, *form)
            for form in product(names, ("registered", "copied"))
            if form != ("gemv_allreduce", "registered")  # its parts are stored into slabs
        }

    def add_by_sequence(self) -> None:
        """Each leaves the residual of its own tokens on each rank."""
        batch, residual, world = self.batch, self.batch.residual, self.session.world
        normed = model_step.normed(self.start)
        prepare = self.prepare({batch.activations: normed, residual: self.start})
        own, end = residual + world.rank * batch.size_bytes // world.ranks, None
        if batch.tokens % world.ranks == 0:
            end = own, np.split(self.expected, world.ranks)[world.rank]
        forms = {
            ("auto", variant): model_step.split_by_sequence(batch, "auto", variant)
            for variant in ("registered", "copied")
        }
        bound, (name, variant) = self.fastest(forms)
        chosen = getattr(bound, "choice", None) or name
        self.add("sequence_parallel", bound, prepare, end, chosen=chosen, variant=variant)
        for variant in LIBRARY.variants_in(world):
            bound = model_step.split_by_sequence(batch, "library", variant)
            library = world.library.name
            self.add(
                "sequence_parallel_library", bound, prepare, end, library=library, variant=variant
            )

    def fastest(self, forms: Mapping[Form, Bound]) -> tuple[Bound, Form]:
        """The fastest of these forms, and its name and variant."""
        steps = {form: each.step for form, each in forms.items() if isinstance(each, Operation)}
        best = [*forms][-1]
        if steps:
            best = fastest(self.session.world, steps, TRIES, 1)
        return forms[best], best

    def add_pipeline(self, groups: int) -> None:
        """The batch in equal groups; rank 0 checks the first one's result. If only some layers are
        timed, only their share of the residual is handed on; the check hands on all of it."""
        weights, world, tokens = self.batch.weights, self.session.world, len(self.start) // groups
        is_first = world.rank == 0
        if world.ranks == 1:
            refusal = Unsupported("one rank makes no pipeline")
            self.add("pipeline_parallel", refusal, nothing(world))
            return
        inbox = world.device.private if world.node else world.mapped.register
        inboxes = [inbox(self.batch.size_bytes // groups) for _ in range(world.ranks)]
        weights.keep.append(inboxes)
        batches = [TokenBatch(weights, tokens) for _ in range(groups)]
        checked = model_step.pipeline(batches, inboxes) if self.scale > 1 else None
        assert not isinstance(checked, Unsupported)
        first, expected, result = self.start[:tokens], self.expected, inboxes[-1].address
        if is_first and groups > 1:  # a token's activations depend on its place in the batch
            expected = model_step.reference(weights, first)
        self.add(
            "pipeline_parallel",
            model_step.pipeline(batches, inboxes, 1 / self.scale),
            self.prepare({result: first}),
            (result, expected[:tokens]) if is_first else None,
            checked,
        )
