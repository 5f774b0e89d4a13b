"""The cases of gemm_reduce_scatter and allgather_gemm, and the choice of the number of chunks."""

from collections.abc import Iterator

import numpy as np

from bench.harness.iteration import Iteration, Segments, checked_iteration
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers import fused
from bench.layers.forms import LayerOptions, bind_forms, fastest, scale_for
from collectives.collective import DATATYPES
from collectives.layers import overlap
from collectives.layers.models import COLUMN_LAYERS, LAYERS, MODELS
from collectives.operation import CollectiveCase, Operation
from kernels.devices.device import Memory

REPEATS = 8  # of a table, one a token: 4,096 tokens' tables have 4.6 MB


class Matmuls:
    """All buffers, and each overlapped case's iterations by chunks. Raises Refusal."""

    def __init__(self, options: LayerOptions, session: Session) -> None:
        self.options, self.session, self.world = options, session, session.world
        self.collective = overlap.COLLECTIVE[session.options.command]
        self.model, self.datatype = MODELS[options.model], DATATYPES[options.datatype]
        self.scale = scale_for(options, session)
        world, ranks, reduces = self.world, session.communicator.size, self.collective.reduces
        # Of each layer: the dimension of its matrix that the ranks share.
        self.widths = {
            layer: self.model.columns(layer, ranks, float(self.scale))
            for layer in (LAYERS if reduces else COLUMN_LAYERS)
        }
        size, hidden, most_tokens = self.datatype.size_bytes, self.model.hidden, max(options.tokens)
        with world.communicator.all_or_none():
            self.between, part = (
                world.library.allocate(world, tokens * hidden * size)
                for tokens in (most_tokens, most_tokens // ranks)
            )
            other = world.device.private(most_tokens * max(self.widths.values()) * size)
            # The compute alone reads ungathered activations here, and zeros would be faster.
            some = self.datatype.encode(np.arange(1.0, 4.0))
            self.between.write(np.resize(some, most_tokens * hidden))
        self.send, self.receive = (other, part) if reduces else (part, other)
        self.weights: list[Memory] = []
        self.by_chunks: list[dict[int, Iteration]] = []

    def cases(self) -> Iterator[CollectiveCase]:
        collective, hidden, size = self.collective, self.model.hidden, self.datatype.size_bytes
        communicator, seed = self.world.communicator, self.session.options.seed
        for layer, width in self.widths.items():
            inner, columns = (width, hidden) if collective.reduces else (hidden, width)
            # Transposed, so that the result has a period too.
            values = fused.matrix(columns, inner, communicator.rank, seed).T
            with communicator.all_or_none():
                weights = self.world.device.store(self.datatype.encode(values))
            self.weights.append(weights)
            for tokens in self.options.tokens:
                shape = {
                    "model": self.options.model,
                    "layer": layer,
                    "tokens": tokens,
                    "hidden": hidden,
                    "inner" if collective.reduces else "columns": width,
                    "scale": str(self.scale),
                }
                yield overlap.MatmulCase(
                    collective,
                    tokens // communicator.size * hidden,
                    self.datatype,
                    "sum" if collective.reduces else "none",
                    self.send.address,
                    self.receive.address,
                    shape=shape,
                    size_bytes=tokens * hidden * size,
                    tokens=tokens,
                    inner=inner,
                    columns=columns,
                    weights=weights.address,
                    between=self.between.address,
                )

    def iteration(self, case: CollectiveCase, operation: Operation, chain_calls: int) -> Iteration:
        if not isinstance(operation, overlap.Overlapped):
            return self.iteration_of(case, operation, 1)
        self.by_chunks.append(
            {
                chunks: self.iteration_of(case, in_chunks, chunks)
                for chunks, in_chunks in operation.by_chunks.items()
            }
        )
        return self.by_chunks[-1][1]

    def iteration_of(self, case: CollectiveCase, operation: Operation, chunks: int) -> Iteration:
        assert isinstance(case, overlap.MatmulCase)
        communicator, seed = self.session.communicator, self.session.options.seed
        rank, ranks = communicator.rank, communicator.size
        drawn = fused.drawn_activations(ranks, case.tokens, seed)
        if case.collective.reduces:
            rows = overlap.own_tokens(rank, ranks, case.tokens, chunks)
            inputs, outputs = drawn[rank], fused.summed_products(case.inner, drawn, seed)[rows]
        else:
            inputs = np.split(drawn[0], ranks)[rank]
            outputs = fused.products(case.inner, drawn[0], rank, seed)
        encode, size = case.datatype.encode, case.datatype.size_bytes
        contents = (
            Segments(case.send, case.inner * size, encode(inputs)),
            Segments(case.receive, case.columns * size, encode(outputs)),
        )
        return checked_iteration(self.world, case, operation, contents, self, REPEATS)


def prepare(options: LayerOptions, session: Session) -> Suite:
    """The cases, each overlapped one in its fastest number of chunks. Raises Refusal."""
    overlap.require_matmul(session.world, DATATYPES[options.datatype])
    matmuls = Matmuls(options, session)
    forms = overlap.OVERLAPPED[session.options.command]
    suite = bind_forms(session, forms, options, matmuls.cases(), matmuls.iteration)
    for by_chunks in matmuls.by_chunks:
        first = by_chunks[1]
        session.flight.note("try numbers of chunks", case=first.number, text=first.text)
        chunks = fastest(session, by_chunks)
        best = by_chunks[chunks]
        best.number, best.text, best.schedule = first.number, first.text, first.schedule
        suite.headers[best.number].chosen = "1 chunk" if chunks == 1 else f"{chunks} chunks"
        suite.iterations[best.number] = best
    for header in suite.headers:  # a case counts the elements of one rank
        header.count *= session.communicator.size
    return suite
