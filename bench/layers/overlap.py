"""The cases of gemm_reduce_scatter and allgather_gemm, and the choice of the number of chunks."""

from collections.abc import Iterator

import numpy as np

from bench.harness.iteration import Iteration, Segments, checked_iteration
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers import fused
from bench.layers.forms import LayerOptions, bind_forms, fastest, scale_for
from collectives.collective import DATATYPES, Array
from collectives.layers import overlap
from collectives.models import COLUMN_LAYERS, LAYERS, MODELS
from collectives.operation import CollectiveCase, Operation, World

REPEATS = 8  # of a table, one a token: 4,096 tokens' tables have 4.6 MB


def source_and_target(
    world: World, case: overlap.MatmulCase, chunks: int, seed: int
) -> tuple[Array, Array]:
    """One period of each token's activations that a rank begins with, and of its results."""
    drawn = fused.drawn_activations(world.ranks, case.tokens, seed)
    if case.collective.reduces:
        rows = overlap.own_tokens(world.rank, world.ranks, case.tokens, chunks)
        return drawn[world.rank], fused.summed_products(case.inner, drawn, seed)[rows]
    outputs = fused.products(case.inner, drawn[0], world.rank, seed)
    return np.split(drawn[0], world.ranks)[world.rank], outputs


def prepare(options: LayerOptions, session: Session) -> Suite:
    """The cases, each overlapped one in its fastest number of chunks. Raises Refusal."""
    world, seed, datatype = session.world, session.options.seed, DATATYPES[options.datatype]
    model, scale, device = MODELS[options.model], scale_for(options, session), world.device
    overlap.require_matmul(world, datatype)
    collective = overlap.COLLECTIVE[session.options.command]
    reduces, hidden, size = collective.reduces, model.hidden, datatype.size_bytes
    most_tokens = max(options.tokens)
    # Of each layer: the dimension of its matrix that the ranks share.
    widths = {
        layer: model.columns(layer, world.ranks, float(scale))
        for layer in (LAYERS if reduces else COLUMN_LAYERS)
    }
    with world.communicator.all_or_none():
        between, part = (
            world.library.allocate(world, tokens * hidden * size)
            for tokens in (most_tokens, most_tokens // world.ranks)
        )
        other = device.private(most_tokens * max(widths.values()) * size)
        # The compute alone reads ungathered activations here, and zeros would be faster.
        between.write(np.resize(datatype.encode(np.arange(1.0, 4.0)), most_tokens * hidden))
    send, receive = (other, part) if reduces else (part, other)
    keep = [between, send, receive]
    by_chunks: list[dict[int, Iteration]] = []  # of each overlapped case

    def cases() -> Iterator[CollectiveCase]:
        for layer, width in widths.items():
            inner, columns = (width, hidden) if reduces else (hidden, width)
            # Transposed, so that the result has a period too.
            values = fused.matrix(columns, inner, world.rank, seed).T
            with world.communicator.all_or_none():
                weights = device.store(datatype.encode(values))
            keep.append(weights)
            for tokens in options.tokens:
                shape = {
                    "model": options.model,
                    "layer": layer,
                    "tokens": tokens,
                    "hidden": hidden,
                    "inner" if reduces else "columns": width,
                    "scale": str(scale),
                }
                yield overlap.MatmulCase(
                    collective,
                    tokens // world.ranks * hidden,
                    datatype,
                    "sum" if reduces else "none",
                    send.address,
                    receive.address,
                    shape=shape,
                    size_bytes=tokens * hidden * size,
                    tokens=tokens,
                    inner=inner,
                    columns=columns,
                    weights=weights.address,
                    between=between.address,
                )

    def in_chunks(case: CollectiveCase, operation: Operation, chunks: int) -> Iteration:
        assert isinstance(case, overlap.MatmulCase)
        source, target = source_and_target(world, case, chunks, seed)
        return checked_iteration(
            world,
            case,
            operation,
            Segments(case.send, case.inner * size, datatype.encode(source)),
            Segments(case.receive, case.columns * size, datatype.encode(target)),
            keep,
            REPEATS,
        )

    def iteration(case: CollectiveCase, operation: Operation, chain_calls: int) -> Iteration:
        if not isinstance(operation, overlap.Overlapped):
            return in_chunks(case, operation, 1)
        each = operation.by_chunks.items()
        by_chunks.append({chunks: in_chunks(case, bound, chunks) for chunks, bound in each})
        return by_chunks[-1][1]

    suite = bind_forms(session, options, cases(), iteration)
    for candidates in by_chunks:
        first = candidates[1]
        session.flight.note("try numbers of chunks", case=first.number, text=first.text)
        chunks = fastest(session, candidates)
        best = candidates[chunks]
        best.number, best.text, best.group = first.number, first.text, first.group
        suite.headers[best.number].chosen = "1 chunk" if chunks == 1 else f"{chunks} chunks"
        suite.iterations[best.number] = best
    for header in suite.headers:  # a case counts the elements of one rank
        header.count *= world.ranks
    return suite
