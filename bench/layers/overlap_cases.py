"""The cases of gemm_reduce_scatter and allgather_gemm."""

from collections.abc import Iterator

import numpy as np

from bench.harness.iteration import Segments, checked_iteration
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.layers import fused_cases
from bench.layers.footprint import add_footprint
from bench.layers.forms import LayerOptions, bind_forms, scale_for
from collectives.collective import DATATYPES
from collectives.layers import overlap
from collectives.models import COLUMN_LAYERS, LAYERS, MODELS
from collectives.operation import CollectiveCase


def prepare(options: LayerOptions, session: Session) -> Suite:
    """The cases. Raises Refusal."""
    world, seed, datatype = session.world, session.options.seed, DATATYPES[options.datatype]
    rank, ranks = world.rank, world.ranks
    model, scale, device = MODELS[options.model], scale_for(options, session), world.device
    overlap.require_matmul(world, datatype)
    collective = overlap.COLLECTIVE[session.options.command]
    reduces, hidden, size = collective.reduces, model.hidden, datatype.size_bytes
    most_tokens = max(options.tokens)
    # Of each layer: the dimension of its matrix that the ranks share.
    widths = {
        layer: model.columns(layer, ranks, scale)
        for layer in (LAYERS if reduces else COLUMN_LAYERS)
    }
    with world.communicator.all_or_none():
        between, part = (
            world.allocate(tokens * hidden * size) for tokens in (most_tokens, most_tokens // ranks)
        )
        other = device.private(most_tokens * max(widths.values()) * size)
        # The compute alone reads ungathered activations here, and zeros would be faster.
        between.write(np.resize(datatype.encode(np.arange(1.0, 4.0)), most_tokens * hidden))
    send, receive = (other, part) if reduces else (part, other)
    keep, listed = [between, send, receive], list[overlap.MatmulCase]()

    def cases() -> Iterator[CollectiveCase]:
        for layer, width in widths.items():
            inner, columns = (width, hidden) if reduces else (hidden, width)
            # Transposed, so that the result has a period too.
            values = fused_cases.matrix(columns, inner, rank, seed).T
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
                case = overlap.MatmulCase(
                    collective,
                    tokens // ranks * hidden,
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
                listed.append(case)
                yield case

    def contents(case: overlap.MatmulCase) -> tuple[Segments, Segments]:
        drawn = fused_cases.drawn_activations(ranks, case.tokens, seed)
        if reduces:  # one of `ranks` equal parts of each chunk
            _, chunks = overlap.VARIANTS.get(case.variant, ("", 1))
            parts = np.split(fused_cases.summed_products(case.inner, drawn, seed), chunks * ranks)
            source, target = drawn[rank], np.concatenate(parts[rank::ranks])
        else:
            source = np.split(drawn[0], ranks)[rank]
            target = fused_cases.products(case.inner, drawn[0], rank, seed)
        return (
            Segments(case.send, case.inner * size, datatype.encode(source)),
            Segments(case.receive, case.columns * size, datatype.encode(target)),
        )

    suite = bind_forms(session, options, cases(), contents, keep)
    for header in suite.headers:  # a case counts the elements of one rank
        header.count *= ranks
    if options.footprint and not suite.is_cut_short:
        add_footprint(
            session,
            suite,
            listed,
            lambda case, operation: checked_iteration(
                world, case, operation, *contents(case), keep
            ),
        )
    return suite
