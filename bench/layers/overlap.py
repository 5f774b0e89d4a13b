"""What gemm_reduce_scatter and allgather_gemm have in common: their command lines, their data, their cases, and the
choice of a number of chunks."""

from argparse import Namespace
from collections.abc import Iterable, Sequence

import numpy as np

from bench.harness import verify
from bench.harness.iteration import Subject
from bench.harness.plan import Prepared, Work, plan_cases
from bench.harness.timing import Bench, run, times_us
from bench.layers import fused
from collectives.collective import DATATYPES, Array
from collectives.communicator import Disagreement, launched_ranks
from collectives.layers.models import COLUMN_LAYERS, LAYERS, MODELS
from collectives.layers.overlap import (
    CHUNKS,
    COLLECTIVE,
    OVERLAPPED,
    MatmulCase,
    Overlapped,
    own_tokens,
    reason_against,
)
from collectives.library import mpi as library
from collectives.operation import Case, DeviceError, Memory, Operation
from reports.result import Planned

MAX_TIME_S = 240.0  # on a CPU an iteration of 4,096 tokens takes 0.1 s, and a difference wants a dozen blocks of each
TRIES = 3  # of each number of chunks, after one that warms up
REPEATS = 8  # of a table, one a token: 4,096 tokens' have 4.6 MB
NO_CORE = ("No core is free beside each rank: fused communicates a chunk between two matmuls, where it hides nothing; "
           "what it gains or loses is by smaller pieces.")


def parse(command: str, about: str, argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = fused.parser(command, about)
    what = p.add_argument_group("what").add_argument
    fused.model_options(what, scaled=True, default="llama-3.1-8b")
    fused.counts_option(what, 1 << 16, "256,1024,4096", "of a prefill, whole multiples of 8 chunks times the ranks")
    fused.wire_option(what)
    fused.algorithms_option(what, OVERLAPPED[command])
    options = fused.finish(p, command, argv, MAX_TIME_S)
    options.op = "sum" if COLLECTIVE[command].reduces else "none"
    if uneven := uncuttable(options.tokens, launched_ranks() or 1):
        p.error(f"--tokens {uneven}")
    return options


def no_matmul(options: Namespace, bench: Bench) -> str | None:
    """Why the vendor's matmuls cannot be launched as asked for; None where they can."""
    if options.cudagraph and bench.world.device.name == "cuda":
        return "-G: CuPy lets no call of cuBLAS into a graph"
    return reason_against(bench.world, options.datatype)


def uncuttable(counts: Sequence[int], ranks: int) -> str | None:
    """A sentence on the first number of tokens that is not whole in each rank's part of each chunk."""
    unit = max(CHUNKS) * ranks
    return next((f"{tokens}: not a whole multiple of {unit}, which {max(CHUNKS)} chunks for {ranks} ranks take"
                 for tokens in counts if tokens % unit), None)


def prepare(command: str, options: Namespace, bench: Bench) -> Prepared:
    """The cases. A rank's matrix, transposed, is one of fused.py: what comes out repeats every 31 elements too."""
    fused.mapped(bench)
    world, datatype, model = bench.world, DATATYPES[options.datatype], MODELS[options.model]
    collective, on_cpu = COLLECTIVE[command], world.device.name == "cpu"
    rank, ranks, factor = world.communicator.rank, world.communicator.size, fused.scale_of(options, bench)
    if reason := no_matmul(options, bench) or uncuttable(options.tokens, ranks):
        raise Disagreement(reason)
    if on_cpu and bench.free_core is None:
        bench.notes.append(NO_CORE)
    hidden, most = model.hidden, max(options.tokens)
    of_layer, layers = (model.inner, LAYERS) if collective.reduces else (model.outputs, COLUMN_LAYERS)
    widths = {layer: of_layer(layer, ranks, float(factor)) for layer in layers}
    row_bytes = hidden * datatype.size_bytes
    with world.communicator.together(DeviceError, MemoryError):
        between, part = (library.allocate(world, n * row_bytes) for n in (most, most // ranks))
        other = world.device.private(most * max(widths.values()) * datatype.size_bytes)
        # Where the compute alone reads them, activations like those that are gathered: zeros are faster.
        between.write(np.resize(datatype.encode(np.arange(1.0, 4.0)), most * hidden))
    send, receive = (other, part) if collective.reduces else (part, other)
    tried: dict[int, dict[int, Subject]] = {}

    def works() -> Iterable[Work]:
        for layer, width in widths.items():
            inner, columns = (width, hidden) if collective.reduces else (hidden, width)
            values, _ = fused.matrix(columns, inner, rank, options.seed)
            with world.communicator.together(DeviceError, MemoryError):
                weights = world.device.private(values.size * datatype.size_bytes)
                weights.write(datatype.encode(values.T))
            periods = [fused.matrix(1, inner, r, options.seed)[1] for r in range(ranks)]
            for tokens in options.tokens:
                own = tokens // ranks
                seed = [options.seed, tokens]
                drawn = np.random.default_rng(seed).integers(1, 4, (ranks, tokens, verify.PERIOD)).astype(float)
                if collective.reduces:
                    result = np.sum([fused.products(periods[r], inner, drawn[r]) for r in range(ranks)], axis=0)
                    sides = (send.address, tokens, inner * datatype.size_bytes), (receive.address, own, row_bytes)
                    into = drawn[rank]
                else:
                    result = fused.products(periods[rank], inner, drawn[0])
                    sides = (send.address, own, row_bytes), (receive.address, tokens, columns * datatype.size_bytes)
                    into = drawn[0, rank * own : (rank + 1) * own]
                shape = {"model": options.model, "layer": layer, "tokens": tokens, "hidden": hidden,
                         "inner" if collective.reduces else "columns": width, "scale": str(factor)}

                def case(variant: str, tokens: int = tokens, inner: int = inner, columns: int = columns,
                         shape: dict[str, object] = shape, weights: Memory = weights) -> Case:
                    return MatmulCase(collective, tokens // ranks * hidden, datatype, options.op, send.address,
                                      receive.address, variant=variant, shape=shape, tokens=tokens, inner=inner,
                                      columns=columns, weights=weights.address, between=between.address,
                                      core=bench.free_core)

                def subject(number: int, planned: Planned, case: Case, operation: Operation, tokens: int = tokens,
                            sides: tuple[fused.Side, fused.Side] = sides, into: Array = into,
                            result: Array = result, weights: Memory = weights) -> Subject:
                    def one(chunks: int, operation: Operation) -> Subject:
                        rows = own_tokens(rank, ranks, tokens, chunks) if collective.reduces else slice(None)
                        return fused.subject(bench, sides, [datatype.encode(t) for t in (into, result[rows])],
                                             [send, receive, between, weights], number, planned, case, operation,
                                             REPEATS, on_cpu)

                    if not isinstance(operation, Overlapped):
                        return one(1, operation)
                    tried[number] = {chunks: one(chunks, its) for chunks, its in operation.by_chunks.items()}
                    return tried[number][1]

                yield Work(shape, tokens * row_bytes, tokens * hidden, case, subject)

    fused.forms_for(OVERLAPPED[command], options, [tokens * row_bytes for tokens in options.tokens], bench)
    planned, subjects = plan_cases(options, bench, OVERLAPPED[command], works())
    for number, by_chunks in tried.items():
        bench.flight.note("try numbers of chunks", case=number, text=subjects[number].text)
        chunks = fastest(bench, by_chunks)
        planned[number].chosen, subjects[number] = f"{chunks} chunk{'s' * (chunks > 1)}", by_chunks[chunks]
    return planned, subjects, {}


def fastest(bench: Bench, by_chunks: dict[int, Subject]) -> int:
    """The number of chunks whose slowest rank takes least, by rank 0's word, with the reading of the result. All are
    tried in turn, so that a moment's disturbance hits each."""
    costs_us: dict[int, list[float]] = {chunks: [] for chunks in by_chunks}
    for _ in range(1 + TRIES):
        for chunks, subject in by_chunks.items():
            stamps = bench.world.communicator.all_gather(run(bench, subject, 0, 1, 0))
            found = times_us(stamps, bench.clock_shared)
            costs_us[chunks].append(float(found["time"][0] + found["after"][0]))
    return int(bench.world.communicator.broadcast(min(costs_us, key=lambda chunks: np.median(costs_us[chunks][1:]))))
