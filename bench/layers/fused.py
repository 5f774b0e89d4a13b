"""What the fused benchmarks have in common: their command lines, their data, and their cases: the compute alone, the
same and then a collective, and both in one launch."""

import argparse
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np

from bench.harness import options as cli
from bench.harness import verify
from bench.harness.iteration import Subject, nothing, on_device, pattern_of
from bench.harness.plan import Prepared, Work, plan_cases
from bench.harness.run import Manner, Session, unfinished
from bench.harness.timing import Bench
from collectives.auto import built
from collectives.collective import COLLECTIVES, DATATYPE_ALIASES, DATATYPES, Array, Datatype
from collectives.communicator import Disagreement, launched_rank
from collectives.layers.fused import COLLECTIVE, EPSILON, FUSED, WEIGHTS, GemvCase, NormCase
from collectives.layers.models import LAYERS, MODELS
from collectives.library import mpi as library
from collectives.operation import (
    WRONG_BYTES,
    Algorithm,
    Build,
    Case,
    DeviceError,
    Memory,
    Operation,
    Step,
    Unsupported,
    World,
    plain_arguments,
)
from reports.result import Planned

CPU_SCALE = 1 / 64  # of a layer's columns, where a CPU has to do what a GPU would
WEIGHT_BYTES = 256 << 20  # of copies of a matrix: more than any last-level cache keeps
ROUNDS = 256  # short blocks close together: what a neighbour of the machine does goes into both sides of a difference
MOST_TOKENS = 4096
MOST_BATCH = 8
NORM_WEIGHT = 1.5
# Round trips of a flag in the two states of an EPYC's link. In the first plain stores were the faster ones, in the
# second such around the caches: of 32 KiB after a GEMV, 3 us were exposed in place of 10.
PLAIN_NS, STREAMS_NS = 100.0, 500.0
SUMMED = 8.0  # what residuals and sums add up to, or its negative: then the mean of squares is the same everywhere


def parser(command: str, about: str) -> cli.Parser:
    """The parser of `python -m bench.<command>`, without what is the command's own."""
    return cli.parser_of_ranks(
        command, about,
        f"example:\n  mpirun -n 2 python -m bench.{command} --model llama-3.1-8b\n\nexit status:\n  0 fine; 1 a result "
        "was wrong or a rank was lost; 2 the command line;\n  3 this machine cannot run that; 130 interrupted, what "
        "was measured is kept")


def scale(text: str) -> Fraction:
    """`1`, `1/64` or `0.25`."""
    if not re.fullmatch(r"\d{1,9}(/[1-9]\d{0,8}|\.\d{1,9})?", text) or not 0 < Fraction(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction such as 1/64, above 0 and at most 1")
    return Fraction(text)


def model_options(what: cli.Add, scaled: bool, default: str = "llama-3.1-70b") -> None:
    """Which model's layers."""
    what("--model", type=partial(cli.one_of, "model", list(MODELS)), default=default, metavar="NAME",
         help=f"{', '.join(list(MODELS)[:-1])} or {list(MODELS)[-1]} ({default})")
    if scaled:
        what("--scale", type=scale, default=None, metavar="N",
             help="shrinks the matrices' columns, and no message (1/64 on a CPU, 1 on a GPU)")


def wire_option(what: cli.Add, default: str = "float") -> None:
    floats = [name for name, datatype in DATATYPES.items() if datatype.is_float and name != "float64"]
    what("-d", "--datatype", type=partial(cli.one_of, "datatype", floats, aliases=DATATYPE_ALIASES),
         default=DATATYPE_ALIASES[default], metavar="TYPE", help=f"on the wire: float, half or bfloat16 ({default})")


def weights_option(what: cli.Add) -> None:
    what("--weights", type=partial(cli.one_of, "type of weights", list(WEIGHTS), aliases=DATATYPE_ALIASES),
         default="float16", metavar="TYPE", help="half, bfloat16 or int8 with a scale a row (half)")


def counts_option(what: cli.Add, most: int, default: str, text: str) -> None:
    what("--tokens", type=partial(cli.comma_separated, partial(cli.whole, 1, most=most)), metavar="A,B",
         default=[int(n) for n in default.split(",")], help=f"{text} ({default})")


def algorithms_option(what: cli.Add, forms: Mapping[str, Algorithm]) -> None:
    what("--algorithm", type=partial(cli.comma_separated, partial(cli.algorithm, forms)), default=None, metavar="A,B",
         help="fused, then_library and then_ALGORITHM beside compute (all that suit the size)")


def finish(p: cli.Parser, command: str, argv: Sequence[str] | None, max_time_s: float = 60.0,
           graph: int | None = 0) -> Namespace:
    """Adds how every benchmark runs, and parses; or ends the process with status 2 and one sentence."""
    how, where = (p.add_argument_group(title).add_argument for title in ("how", "output"))
    how("-n", "--iters", type=partial(cli.whole, 0), default=0, metavar="N",
        help="timed iterations a case, in 12 blocks; 0: as many as fit the time (0)")
    how("-G", "--cudagraph", type=partial(cli.whole, 0), default=graph, metavar="N",
        help=f"launch from a graph, GPUs only ({'where there are any' if graph is None else graph})")
    cli.run_options(how, max_time_s)
    where("--format", choices=("table", "csv"), default="table", metavar="FORMAT", help="table or csv (table)")
    where("--long", action="store_true", help="a table row for each form and variant")
    cli.lean_option(where)
    cli.output_options(where)
    p.set_defaults(beside=None, slowed_percent=None, list=False, check=1, warmup_iters=None, dispatch="native",
                   output_file=None, mpi_thread_level=None, tuned="none", op="sum", mode="isolated", lossy=None)
    options = p.parse_args(argv)
    if launched_rank() is None:
        p.error(f"this is one process, and a collective needs ranks: mpirun -n 2 python -m bench.{command}")
    return options


def mapped(bench: Bench) -> None:
    """Raises Disagreement where a fused kernel has no peers' memory to store into."""
    if isinstance(bench.world.peers, Unsupported):
        raise Disagreement(f"a fused kernel needs its peers' memory, and {bench.world.peers.reason}")


def scale_of(options: Namespace, bench: Bench) -> Fraction:
    """What was asked for, or what the device can do."""
    return options.scale or (Fraction(CPU_SCALE) if bench.world.device.name == "cpu" else Fraction(1))


def forms_for(forms: Mapping[str, Algorithm], options: Namespace, sizes: Iterable[int], bench: Bench) -> None:
    """Makes `options.algorithm` say, for each size, which forms are measured: what was asked for, and the compute
    alone; else all but those that nobody would take at that size. On a CPU, whose memory is near to all, pushing is
    pulling, and packets with a flag each are slower: 9 us exposed at 32 KiB, where the others have 1.4."""
    def wanted(size_bytes: int) -> list[str]:
        far = bench.world.device.name != "cpu" and size_bytes < 256 << 10
        left_out = {"ring", *(["two_shot"] if size_bytes < 256 << 10 else []),
                    *([] if far else ["one_shot_ll", "one_shot_push"])}
        return ["compute", *(options.algorithm or [name for name in forms
                                                   if name.removeprefix("then_") not in left_out])]

    options.algorithm = {size: list(dict.fromkeys(wanted(size))) for size in sizes}


def following_link(form: Algorithm) -> Algorithm:
    """The form, which on a CPU takes plain or streaming stores as the state of the link wants it, unless a build is
    asked for."""
    def bind(world: World, case: Case) -> Operation | Unsupported:
        plain = form.bind(world, case)
        if world.device.name != "cpu" or case.build != Build() or isinstance(plain, Unsupported):
            return plain
        streaming = built(form, "nt")
        streams = streaming.bind(world, case)
        if isinstance(streams, Unsupported):
            return plain
        plain, streams = replace(plain, chosen=form.name), replace(streams, chosen=streaming.name)
        return replace(plain, by_link={PLAIN_NS: plain, STREAMS_NS: streams})

    return form if form.name in ("compute", "then_library") else replace(form, bind=bind)


FORMS = {kernel: {form.name: following_link(form) for form in forms.values()} for kernel, forms in FUSED.items()}


def tables_of_norm(datatype: Datatype, ranks: int, seed: int) -> tuple[Array, Array, Array]:
    """One period, decoded, of each rank's part, (ranks, 31); of the residual; of what they add up to, which is a number
    or its negative."""
    parts = verify.sent(COLLECTIVES["all_reduce"], datatype, "sum", ranks, seed)[:, 0]
    summed = SUMMED * np.random.default_rng(seed).choice([-1.0, 1.0], verify.PERIOD)
    return parts, summed - parts.sum(axis=0), summed


def normed(values: Array) -> Array:
    """The RMS norm of a row of these values, all alike in size, as the kernel computes it in fp32."""
    one = np.float32(1)
    factor = one / np.sqrt(np.float32(SUMMED * SUMMED) + np.float32(EPSILON))
    return np.asarray(values.astype(np.float32) * factor * np.float32(NORM_WEIGHT))


def prepare_norm(options: Namespace, bench: Bench) -> Prepared:
    """The cases of allreduce_rmsnorm."""
    mapped(bench)
    world, datatype, hidden = bench.world, DATATYPES[options.datatype], options.hidden
    rank, ranks = world.communicator.rank, world.communicator.size
    size = max(options.tokens) * hidden * datatype.size_bytes
    with world.communicator.together(DeviceError, MemoryError):
        send, receive, summed = (library.allocate(world, n * size) for n in (2, 2, 1))
        weight = on_device(world, datatype.encode(np.full(hidden, NORM_WEIGHT)))
        codes, scales = (world.device.private(max(options.tokens) * row) for row in (hidden, 4))
    parts, residual, total = tables_of_norm(datatype, ranks, options.seed)
    tables = [datatype.encode(np.stack(two)) for two in ((parts[rank], residual), (normed(total), total))]
    keep = [send, receive, summed, weight, codes, scales]

    def works() -> Iterable[Work]:
        for tokens in options.tokens:
            count = tokens * hidden
            size = count * datatype.size_bytes
            shape = {"model": options.model, "tokens": tokens, "hidden": hidden, "output": options.output}
            shape = {name: said for name, said in shape.items() if said}

            def case(variant: str, count: int = count, size: int = size, shape: dict[str, object] = shape) -> Case:
                return NormCase(COLLECTIVE["allreduce_rmsnorm"], count, datatype, "sum", send.address, receive.address,
                                variant=variant, shape=shape, hidden=hidden, residual=send.address + size,
                                residual_out=receive.address + size, weight=weight.address, summed=summed.address,
                                quantized=options.output, codes=codes.address, scales=scales.address)

            sides = (send.address, 2, size), (receive.address, 2, size)
            yield Work(shape, size, count, case, partial(subject, bench, sides, tables, keep))

    forms_for(FUSED["allreduce_rmsnorm"], options, [n * hidden * datatype.size_bytes for n in options.tokens], bench)
    return *plan_cases(options, bench, FORMS["allreduce_rmsnorm"], works()), {}


def signs(inner: int) -> Array:
    """By which each period of a row is multiplied, so that all that add up come to one period or two."""
    periods = inner // verify.PERIOD
    found = np.where(np.arange(periods) % 2, -1.0, 1.0)
    if periods % 2 == 0:
        found[-1] = 1.0
    return found


def matrix(hidden: int, inner: int, rank: int, seed: int) -> tuple[Array, Array]:
    """A rank's weights, (hidden, inner), each row the one before shifted by one, with a period of 31 that is +1 and -1;
    and that period. What no whole period fills is 0. Then what comes out is a row's number and the iteration's, added,
    in a table with the same period."""
    period = np.random.default_rng([seed, rank]).choice([-1.0, 1.0], verify.PERIOD)
    shifted = np.stack([np.roll(period, shift) for shift in range(verify.PERIOD)])
    row = np.zeros((verify.PERIOD, inner))
    filled = len(signs(inner)) * verify.PERIOD
    row[:, :filled] = np.tile(shifted, filled // verify.PERIOD) * np.repeat(signs(inner), verify.PERIOD)
    return row[np.arange(hidden) % verify.PERIOD], period


def products(period: Array, inner: int, activations: Array) -> Array:
    """One period of what a rank's matrix makes of each token's activations, (tokens, 31)."""
    shifts = (np.arange(verify.PERIOD)[:, None] + np.arange(verify.PERIOD)) % verify.PERIOD
    return np.asarray(signs(inner).sum() * (activations[:, shifts] @ period))


def encoded_weights(weights: Array, weight_type: str) -> Array:
    """Weights as they are stored."""
    return weights.astype(np.int8) if weight_type == "int8" else DATATYPES[weight_type].encode(weights)


ROW_SCALE = 0.5  # of int8 weights: exact in every type


def prepare_gemv(options: Namespace, bench: Bench) -> Prepared:
    """The cases of gemv_allreduce."""
    mapped(bench)
    world, datatype, model = bench.world, DATATYPES[options.datatype], MODELS[options.model]
    rank, ranks, factor = world.communicator.rank, world.communicator.size, scale_of(options, bench)
    hidden, most = model.hidden, max(options.tokens) * model.hidden * datatype.size_bytes
    inner = {layer: model.inner(layer, ranks, float(factor)) for layer in LAYERS}
    row_scale = ROW_SCALE if options.weights == "int8" else 1.0
    with world.communicator.together(DeviceError, MemoryError):
        send, receive = (library.allocate(world, most) for _ in range(2))
        scales = on_device(world, np.full(hidden, row_scale, np.float32))
        activations = world.device.private(max(options.tokens) * max(inner.values()) * datatype.size_bytes)
    keep: list[Memory] = [send, receive, scales, activations]

    def works() -> Iterable[Work]:
        for layer, columns in inner.items():
            values, _ = matrix(hidden, columns, rank, options.seed)
            stored = encoded_weights(values, options.weights)
            copies = 1 if world.device.name == "cpu" else max(1, WEIGHT_BYTES // stored.nbytes)
            with world.communicator.together(DeviceError, MemoryError):
                weights = world.device.private(copies * stored.nbytes)
                for copy in range(copies):
                    weights.write(stored, copy * stored.nbytes)
            for tokens in options.tokens:
                count = tokens * hidden
                drawn = np.random.default_rng([options.seed, tokens]).integers(1, 4, (ranks, tokens, verify.PERIOD))
                each = [products(matrix(1, columns, r, options.seed)[1], columns, drawn[r].astype(float)) * row_scale
                        for r in range(ranks)]
                tables = [datatype.encode(drawn[rank].astype(float)), datatype.encode(np.sum(each, axis=0))]
                shape = {"model": options.model, "layer": layer, "tokens": tokens, "hidden": hidden, "inner": columns,
                         "weights": options.weights, "scale": str(factor)}

                def case(variant: str, count: int = count, tokens: int = tokens, columns: int = columns,
                         shape: dict[str, object] = shape, weights: Memory = weights, copies: int = copies) -> Case:
                    return GemvCase(COLLECTIVE["gemv_allreduce"], count, datatype, "sum", send.address,
                                    receive.address, variant=variant, shape=shape, hidden=hidden, inner=columns,
                                    tokens=tokens, weight_type=options.weights, weights=weights.address,
                                    row_scales=scales.address, activations=activations.address, stride=columns,
                                    copies=copies)

                sides = ((activations.address, tokens, columns * datatype.size_bytes),
                         (receive.address, tokens, hidden * datatype.size_bytes))
                measured = partial(subject, bench, sides, tables, [*keep, weights])
                yield Work(shape, count * datatype.size_bytes, count, case, measured)

    forms_for(FUSED["gemv_allreduce"], options, [n * hidden * datatype.size_bytes for n in options.tokens], bench)
    return *plan_cases(options, bench, FORMS["gemv_allreduce"], works()), {}


Side = tuple[int, int, int]  # of a buffer: its address, its segments, and the bytes of each


def subject(bench: Bench, sides: tuple[Side, Side], tables: Sequence[Array], keep: Sequence[Memory], number: int,
            planned: Planned, case: Case, operation: Operation, repeats: int = verify.REPEATS,
            from_python: bool = False) -> Subject:
    """Writes what goes in, as the layer before would; then the operation; then what comes out is read, and checked. The
    compute alone, which sums nothing, is not checked."""
    world, watch, datatype = bench.world, bench.flight.watch, case.datatype
    device, (sent, right) = world.device, (on_device(world, verify.repeated(table, repeats)) for table in tables)
    wrong, loop = device.private(WRONG_BYTES), device.compile("iteration", {})
    into, out = (pattern_of(datatype, *side, memory, wrong, watch, repeats)
                 for side, memory in zip(sides, (sent, right), strict=True))
    _, segments, segment_bytes = sides[1]
    reading = plain_arguments(world.communicator.rank, case.send, case.receive,
                              segments * segment_bytes // datatype.size_bytes, watch)
    read = device.compile("link_probe", {"WORLD": str(world.communicator.size), "ELEMENT": datatype.element})
    blocks, alone = device.blocks_for(segments * segment_bytes), planned.algorithm == "compute"
    check = nothing(world, watch) if alone else Step(loop.kernel("count_wrong"), out, blocks)
    write, consume = Step(loop.kernel("write_pattern"), into, blocks), Step(read.kernel("read_own"), reading, blocks)
    return Subject(number, f"{planned.algorithm} {planned.size_bytes} B", write, operation, consume, check,
                   wrong=None if alone else wrong, group=str(planned.shape), keep=[sent, right, *keep],
                   from_python=from_python, by_link=operation.by_link)


def go_on(session: Session, active: list[int], rounds: int) -> list[int]:
    """All have as many rounds as fit, unless so many iterations were asked for: a difference of two needs more of them
    than either."""
    if session.options.iters:
        return unfinished(session, active, rounds)
    return active if rounds < ROUNDS else []


MANNER = Manner(ROUNDS, 12, go_on)
