"""The benchmarks of a matmul that overlaps with a collective, gemm_reduce_scatter and
allgather_gemm: their command line, data, cases, and the choice of the number of chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from bench.harness.iteration import Iteration, Segments
from bench.harness.options import RunOptions
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers import command, fused
from bench.layers.command import LayerOptions
from collectives.collective import DATATYPES, Datatype
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
    runs_in_python,
)
from collectives.operation import Case, Operation
from kernels.devices.device import DeviceError, Memory

# On a CPU an iteration of 4,096 tokens takes 0.1 s, and a difference needs a dozen blocks of each.
MAX_TIME_S = 240.0
REPEATS = 8  # of a table, one a token: 4,096 tokens' tables have 4.6 MB
NO_CORE = ("No core is free for each rank's communication: fused communicates a chunk between two "
           "matmuls, which hides nothing; it gains or loses only by smaller pieces.")


def parse(name: str, about: str,
          argv: Sequence[str] | None = None) -> tuple[RunOptions, LayerOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    parser, add = command.parser_for(name, about)
    command.add_model(add, scaled=True, default="llama-3.1-8b")
    command.add_counts(add, "--tokens", 1 << 16, "256,1024,4096",
                       "of a prefill; multiples of 8 chunks times the ranks")
    command.add_wire(add)
    command.add_algorithms(add, OVERLAPPED[name])
    parsed = command.finish(parser, argv, MAX_TIME_S)
    if mistake := uneven(parsed[1].tokens, launched_ranks() or 1):
        parser.error(mistake)
    return parsed


def uneven(counts: Sequence[int], ranks: int) -> str | None:
    """A sentence on the first number of tokens that cannot be cut evenly; None if all can."""
    unit = max(CHUNKS) * ranks
    for tokens in counts:
        if tokens % unit:
            return (f"--tokens {tokens}: not a multiple of {unit}, which {max(CHUNKS)} chunks for "
                    f"{ranks} ranks need")
    return None


def require_matmul(session: Session, datatype: Datatype) -> None:
    """Raises Disagreement if the vendor's matmuls cannot run as requested."""
    reason = reason_against(session.world, datatype)
    if session.options.graph and session.world.device.name == "cuda":
        reason = "-G: CuPy cannot capture cuBLAS in a graph"
    if reason:
        raise Disagreement(reason)


@dataclass
class Matmuls:
    """The buffers of all cases, and for each overlapped case its iterations by number of chunks."""

    session: Session
    options: LayerOptions
    scale: Fraction
    widths: dict[str, int]  # of a layer: the dimension of its matrix that the ranks share
    send: Memory
    receive: Memory
    between: Memory
    weights: list[Memory] = field(default_factory=list)
    by_chunks: list[dict[int, Iteration]] = field(default_factory=list)

    def cases(self) -> Iterator[Case]:
        """Every layer with every number of tokens."""
        world, options = self.session.world, self.options
        collective = COLLECTIVE[self.session.options.command]
        datatype = DATATYPES[options.datatype]
        hidden, rank = MODELS[options.model].hidden, world.communicator.rank
        redop = "sum" if collective.reduces else "none"
        for layer, width in self.widths.items():
            inner, columns = (width, hidden) if collective.reduces else (hidden, width)
            # Transposed, so that the result has a period too.
            values = fused.matrix(columns, inner, rank, self.session.options.seed).T
            with world.communicator.together(DeviceError, MemoryError):
                weights = world.device.private(values.size * datatype.size_bytes)
                weights.write(datatype.encode(values))
            self.weights.append(weights)
            for tokens in options.tokens:
                shape = {"model": options.model, "layer": layer, "tokens": tokens,
                         "hidden": hidden, "inner" if collective.reduces else "columns": width,
                         "scale": str(self.scale)}
                yield MatmulCase(
                    collective, tokens // world.communicator.size * hidden, datatype, redop,
                    self.send.address, self.receive.address, shape=shape,
                    size_bytes=tokens * hidden * datatype.size_bytes, tokens=tokens, inner=inner,
                    columns=columns, weights=weights.address, between=self.between.address,
                    core=self.session.place.beside)

    def iteration(self, case: Case, operation: Operation, chain_calls: int) -> Iteration:
        if not isinstance(operation, Overlapped):
            return self.iteration_of(case, operation, 1)
        self.by_chunks.append({chunks: self.iteration_of(case, in_chunks, chunks)
                               for chunks, in_chunks in operation.by_chunks.items()})
        return self.by_chunks[-1][1]

    def iteration_of(self, case: Case, operation: Operation, chunks: int) -> Iteration:
        """The iteration of an operation in this many chunks."""
        assert isinstance(case, MatmulCase)
        communicator, seed = self.session.communicator, self.session.options.seed
        rank, ranks, tokens = communicator.rank, communicator.size, case.tokens
        drawn = fused.drawn_activations(ranks, tokens, seed)
        if case.collective.reduces:
            rows = own_tokens(rank, ranks, tokens, chunks)
            inputs, outputs = drawn[rank], fused.summed_products(case.inner, drawn, seed)[rows]
        else:
            own = tokens // ranks
            inputs = drawn[0, rank * own : (rank + 1) * own]
            outputs = fused.products(fused.period(rank, seed), case.inner, drawn[0])
        encode, size = case.datatype.encode, case.datatype.size_bytes
        contents = (Segments(case.send, case.inner * size, encode(inputs)),
                    Segments(case.receive, case.columns * size, encode(outputs)))
        iteration = fused.layer_iteration(self.session, case, operation, contents, self, REPEATS)
        iteration.from_python = runs_in_python(self.session.world)
        return iteration


def prepare(options: LayerOptions, session: Session) -> Suite:
    """The cases, each overlapped one in its best number of chunks. Raises Disagreement."""
    command.require_mapped(session)
    world, datatype = session.world, DATATYPES[options.datatype]
    name, model, ranks = session.options.command, MODELS[options.model], world.communicator.size
    require_matmul(session, datatype)
    if mistake := uneven(options.tokens, ranks):
        raise Disagreement(mistake)
    if world.device.near_peers and session.place.beside is None:
        session.notes.append(NO_CORE)
    scale, reduces = command.scale_for(options.scale, session), COLLECTIVE[name].reduces
    layers = LAYERS if reduces else COLUMN_LAYERS
    widths = {layer: model.columns(layer, ranks, float(scale)) for layer in layers}
    row_bytes, most_tokens = model.hidden * datatype.size_bytes, max(options.tokens)
    with world.communicator.together(DeviceError, MemoryError):
        between, part = (world.library.allocate(world, rows * row_bytes)
                         for rows in (most_tokens, most_tokens // ranks))
        other = world.device.private(most_tokens * max(widths.values()) * datatype.size_bytes)
        # The compute alone reads ungathered activations here, and zeros would be faster.
        between.write(np.resize(datatype.encode(np.arange(1.0, 4.0)), most_tokens * model.hidden))
    send, receive = (other, part) if reduces else (part, other)
    matmuls = Matmuls(session, options, scale, widths, send, receive, between)
    suite = fused.bind_forms(session, OVERLAPPED[name], options.algorithm, matmuls.cases(),
                             matmuls.iteration)
    choose_chunks(session, suite, matmuls.by_chunks)
    for header in suite.headers:  # a case counts the elements of one rank
        header.count *= ranks
    return suite


def choose_chunks(session: Session, suite: Suite,
                  overlapped: Sequence[dict[int, Iteration]]) -> None:
    """Gives each overlapped case its fastest number of chunks."""
    for by_chunks in overlapped:
        first = by_chunks[1]
        session.flight.note("try numbers of chunks", case=first.number, text=first.text)
        chunks = fused.fastest(session, by_chunks)
        best = by_chunks[chunks]
        best.number, best.text, best.group = first.number, first.text, first.group
        suite.headers[best.number].chosen = f"{chunks} chunk{'s' * (chunks > 1)}"
        suite.iterations[best.number] = best
