"""The routed all-to-all: a batch of tokens to the ranks of their experts (dispatch), what the experts give back to the
tokens' own ranks (combine), and both in a row over experts that change nothing (round_trip)."""

from argparse import Namespace
from collections.abc import Iterable
from functools import partial

import numpy as np

from bench.harness import sweep, verify
from bench.harness.iteration import Buffers, Subject, subject_with
from bench.harness.options import MOST_BYTES
from bench.harness.plan import Prepared, Work, link_parts, plan_cases
from bench.harness.timing import Bench
from collectives.collective import DATATYPES, Shape
from collectives.communicator import Disagreement
from collectives.experts.alltoall_routed import ALGORITHMS, WAYS, RoutedCase, Tables, make_tables, record_bytes
from collectives.experts.routing import Array, Routes, draw, most_rows
from collectives.library import mpi as library
from collectives.operation import Case, DeviceError, Operation, Watch, World, plain_arguments
from reports.result import Planned

REPEATS = 8  # of a row's table: rows are many


def prepare(options: Namespace, bench: Bench) -> Prepared:
    """The cases of every skew. Raises Disagreement where a rank would get more than a buffer holds."""
    world, ranks, datatype = bench.world, bench.world.communicator.size, DATATYPES[options.datatype]
    row_bytes = options.hidden * datatype.size_bytes
    rows_of = {skew: most_rows(skew, ranks, options.experts, options.tokens, options.top_k) for skew in options.skew}
    worst = max(rows_of, key=lambda skew: rows_of[skew])
    size = -(-options.tokens // ranks) * row_bytes
    if max(size, rows_of[worst] * row_bytes) > MOST_BYTES:
        raise Disagreement(f"with {worst} a rank gets {rows_of[worst]} rows of {row_bytes} B, and a buffer has "
                           f"{MOST_BYTES >> 30} GiB at most")
    batches = {}
    for skew in options.skew:
        bench.flight.note("draw the routes", text=skew.partition(":")[0])
        batches[skew] = draw(skew, ranks, options.experts, options.tokens, options.top_k, options.seed)
    with world.communicator.together(DeviceError, MemoryError):
        send, receive, rows = (library.allocate(world, n) for n in (size, size, rows_of[worst] * row_bytes))
    tables = {}
    for skew, routes in batches.items():
        with world.communicator.together(DeviceError, MemoryError):
            tables[skew] = make_tables(world, routes, rows, record_bytes(row_bytes, options.top_k))
    buffers = Buffers(send, receive, options.seed)

    def works() -> Iterable[Work]:
        shapes = [{"way": way, "experts": options.experts, "top_k": options.top_k, "tokens": options.tokens,
                   "hidden": options.hidden} for way in WAYS]
        for at in sweep.disturbed(shapes, options.arrival_skew, options.beside):
            for skew, routes in batches.items():
                way, shape = at["way"], {**at, "skew": routes.skew}
                source, target = {"dispatch": (send, rows), "combine": (rows, receive)}.get(way, (send, receive))

                def case(variant: str, source: int = source.address, target: int = target.address,
                         shape: Shape = shape, of: Tables = tables[skew]) -> Case:
                    return RoutedCase(options.collective, options.hidden, datatype, "none", source, target,
                                      variant=variant, shape=shape, tables=of)

                yield Work(shape, size, size // datatype.size_bytes, case,
                           partial(subject_of, world, bench.flight.watch, options.seed, buffers),
                           routes.imbalance() | {"leaving_bytes": [int(n) * row_bytes for n in leaving(routes, way)]},
                           sweep.CHAIN_ROUND_TRIPS)

    planned, subjects = plan_cases(options, bench, {a.name: a for a in ALGORITHMS}, works())
    return planned, subjects, link_parts(bench, buffers, planned, subjects)


def leaving(routes: Routes, way: str) -> Array:
    """How many rows leave each rank for others, (ranks,)."""
    there, back = routes.between.sum(axis=1), routes.between.sum(axis=0)
    return np.asarray({"dispatch": there, "combine": back, "round_trip": there + back}[way])


def subject_of(world: World, watch: Watch, seed: int, buffers: Buffers, number: int, planned: Planned, case: Case,
               operation: Operation) -> Subject:
    """Tokens are written and what their experts get is checked; or that is written, and what tokens get back."""
    assert isinstance(case, RoutedCase)
    routes, datatype, rank = case.tables.routes, case.datatype, world.communicator.rank
    mine, tokens = routes.home == rank, verify.row_tables(datatype, len(routes.chosen), [seed])
    given = [verify.row_tables(datatype, len(routes.rows_of(d)[0]), [seed, d]) for d in range(routes.ranks)]
    if case.shape["way"] == "dispatch":
        tables = tokens[mine], tokens[routes.rows_of(rank)[0]]
    elif case.shape["way"] == "combine":
        tables = given[rank], datatype.decode(verify.combined_rows(routes, datatype, given))[mine]
    else:
        result = tokens
        for _ in range(planned.calls):
            before, experts = result, [result[routes.rows_of(d)[0]] for d in range(routes.ranks)]
            result = datatype.decode(verify.combined_rows(routes, datatype, experts))
            if np.array_equal(before, result):
                break
        tables = tokens[mine], result[mine]
    chained = planned.mode == "chained"
    consume = plain_arguments(rank, case.send, case.receive, len(tables[1]) * case.count, watch)
    encoded = (datatype.encode(tables[0]), datatype.encode(tables[1]))
    subject = subject_with(world, watch, number, planned, case, operation, encoded,
                           "chain_link" if chained else "read_own", consume, REPEATS)
    subject.keep.append(buffers)
    return subject
