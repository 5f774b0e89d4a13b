"""bench.alltoall --experts: sends a batch of tokens to the ranks of their experts (dispatch), their
results back (combine), or does both over experts that change nothing (round_trip)."""

import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product

import numpy as np

from bench.harness import verify
from bench.harness.iteration import Iteration, Segments, checked_iteration, consume_step
from bench.harness.options import SizeOptions, SweepOptions
from bench.harness.parser import Parser, changes_cases, fill, listed, whole
from bench.harness.session import Session
from bench.harness.suite import Axes, Suite, bind_cases
from bench.layers.routes import MOST_TOKENS, PREFIX, digest_of, read_routes
from collectives.collective import DATATYPES, Array, Datatype, Shape
from collectives.communicator import Mistake, Refusal
from collectives.experts import routing
from collectives.experts.alltoall_routed import ALGORITHMS, FLAT, WAYS, RoutedCase, make_tables
from collectives.experts.routing import Routes
from collectives.operation import CollectiveCase, Operation

MOST_BYTES = 1 << 30  # MPI_Alltoallv has 32-bit offsets
CHAIN_ROUND_TRIPS = 58  # of one token of DeepSeek-V3: its layers with experts


def skew_name(text: str) -> str:
    """`uniform`, `zipf:1.2` or `file:routes.csv`."""
    if not re.fullmatch(rf"uniform|zipf:\d{{1,2}}(\.\d+)?|{PREFIX}.+", text, re.DOTALL):
        raise ArgumentTypeError(
            f"{text!r} is not a skew such as uniform or zipf:1.2, nor a file such as "
            f"{PREFIX}routes.csv"
        )
    return text


expert_option = partial(changes_cases, group="experts")


@dataclass(frozen=True)
class ExpertOptions:
    """A batch: `tokens` of all ranks that choose `top_k` of `experts` with each `skew`. A file of
    routes has its own `tokens` and `top_k`, which the other skews take."""

    experts: int = expert_option(
        ["--experts"],
        **whole(1, most=routing.MOST_EXPERTS),
        help="route tokens to N experts on all ranks, and back",
    )
    top_k: int = expert_option(
        ["--top-k"],
        **whole(1, most=routing.MOST_CHOICES),
        default=2,
        help="with --experts: experts per token (%(default)s)",
    )
    tokens: int = expert_option(
        ["--tokens"],
        **whole(1, most=MOST_TOKENS),
        default=1024,
        help="with --experts: tokens of all ranks (%(default)s)",
    )
    hidden: int = expert_option(
        ["--hidden"],
        **whole(1, most=1 << 20),
        default=4096,
        help="with --experts: elements per token (%(default)s)",
    )
    skew: Sequence[str] = expert_option(
        ["--skew"],
        **listed(skew_name),
        default="uniform,zipf:1.2",
        help="with --experts: how unevenly tokens choose them: uniform, zipf:S, or file:ROUTES, a "
        "file with a line of experts for each token (%(default)s)",
    )


def add_options(parser: Parser) -> None:
    """Adds the options of a batch. Their values are None where the command line lacks them: without
    --experts none of them may be there."""
    parser.add_groups("experts")
    parser.add(ExpertOptions)
    parser.none_if_absent = [each.name for each in fields(ExpertOptions)]


def parse(parser: Parser, namespace: Namespace) -> ExpertOptions | None:
    """The batch of a routed all-to-all, None without --experts. Bad input ends the program."""
    values = {
        name: value
        for name in parser.none_if_absent
        if (value := getattr(namespace, name)) is not None
    }
    if namespace.experts is None:
        for name in values:
            parser.error(f"--{name.replace('_', '-')} is for a routed all-to-all: add --experts N")
        return None
    batch = ExpertOptions(**values)
    has_file = any(skew.startswith(PREFIX) for skew in batch.skew)
    first, *others = (DATATYPES[name] for name in namespace.datatypes)
    has_sizes = namespace.sizes or fill(SizeOptions, namespace) != SizeOptions()
    mistakes = {
        "with --experts -d takes one of float, half, bfloat16 and double": (
            others or first.float8 or not first.is_float
        ),
        f"--top-k {batch.top_k} is more than the {batch.experts} experts": (
            batch.top_k > batch.experts and not has_file
        ),
        "a file of routes has tokens and experts per token: leave out --tokens and --top-k": (
            has_file and not {"tokens", "top_k"}.isdisjoint(values)
        ),
        "with --experts the size is --tokens times --hidden: leave out the sizes": has_sizes,
        "--experts goes without --list, --contender and --kernel": (
            namespace.contenders or not namespace.keeps_run
        ),
    }
    for mistake, is_made in mistakes.items():
        if is_made:
            parser.error(mistake)
    return batch


def prepare(batch: ExpertOptions, sweep: SweepOptions, session: Session) -> Suite:
    """The cases of every way and skew. Raises Refusal if a buffer would be too large."""
    world, ranks, seed = session.world, session.communicator.size, session.options.seed
    datatype = DATATYPES[sweep.datatypes[0]]
    row_bytes = batch.hidden * datatype.size_bytes
    batch, files = with_files(batch, session)
    batches: dict[str, Routes] = {}
    for skew in batch.skew:
        session.flight.note("draw the routes", text=skew)
        batches[skew] = (
            routing.split(files[skew], ranks, batch.experts, seed)
            if skew in files
            else routing.draw(skew, ranks, batch.experts, batch.tokens, batch.top_k, seed)
        )
    most_rows = max(int(routes.rows["rank"].max()) for routes in batches.values())
    tokens_bytes, rows_bytes = -(-batch.tokens // ranks) * row_bytes, most_rows * row_bytes
    if max(tokens_bytes, rows_bytes) > MOST_BYTES:
        raise Refusal(
            f"a rank gets up to {most_rows} rows of {row_bytes} B, and a "
            f"buffer has {MOST_BYTES >> 30} GiB at most"
        )
    with world.communicator.all_or_none():
        send, receive, rows = (
            world.allocate(size_bytes) for size_bytes in (tokens_bytes, tokens_bytes, rows_bytes)
        )
        tables = {
            skew: make_tables(world, routes, rows, row_bytes) for skew, routes in batches.items()
        }
    shapes: Sequence[Shape] = [{"way": way, **vars(batch)} for way in WAYS]
    for feature in session.options.features:
        shapes = feature.shapes(shapes)

    def cases() -> Iterator[CollectiveCase]:
        """Each way with each skew: `send` to the experts' rows, rows to `receive`, or both."""
        for shape, (skew, of_skew) in product(shapes, tables.items()):
            yield RoutedCase(
                sweep.collective,
                batch.hidden,
                datatype,
                "none",
                (rows if shape["way"] == "combine" else send).address,
                (rows if shape["way"] == "dispatch" else receive).address,
                shape={**shape, "skew": skew},  # one of the batch's
                size_bytes=send.size_bytes,
                routes=batches[skew],
                routing=of_skew,
            )

    known = {algorithm.base: algorithm for algorithm in (*ALGORITHMS, FLAT)}
    listed = [
        replace(known[each.base], build=each.build) for each in sweep.algorithms or ALGORITHMS
    ]
    axes = Axes(
        lambda size_bytes: listed,
        bool(sweep.algorithms),
        sweep.mode,
        chain_calls=CHAIN_ROUND_TRIPS,
    )
    make_iteration = partial(routed_iteration, session, (send, receive))
    suite = bind_cases(session, axes, cases(), make_iteration)
    for header in suite.headers:
        routes, way = batches[header.shape["skew"]], header.shape["way"]
        dispatched, combined = routes.between.sum(axis=1), routes.between.sum(axis=0)
        sums = {"dispatch": dispatched, "combine": combined, "round_trip": dispatched + combined}
        leaving_bytes = (sums[way] * row_bytes).tolist()
        header.routing = {**routes.imbalance(), "leaving_bytes": leaving_bytes}
        header.count = tokens_bytes // datatype.size_bytes
    return suite


def with_files(batch: ExpertOptions, session: Session) -> tuple[ExpertOptions, dict[str, Array]]:
    """The batch as its files say, which it names by their digests; and what tokens chose in each.
    Raises Mistake."""
    files, skews = dict[str, Array](), list[str]()
    for skew in batch.skew:
        if skew.startswith(PREFIX):
            session.flight.note("read the routes")
            chosen = read_routes(session.communicator, skew, batch.experts)
            skew = digest_of(chosen)
            files[skew] = chosen
        skews.append(skew)
    shapes = [chosen.shape for chosen in files.values()]
    for tokens, top_k in shapes:
        if (tokens, top_k) != shapes[0]:
            raise Mistake(
                f"--skew has files of {shapes[0][0]} tokens with {shapes[0][1]} experts and of "
                f"{tokens} with {top_k}: a run has one batch"
            )
        batch = replace(batch, tokens=tokens, top_k=top_k)
    return replace(batch, skew=tuple(dict.fromkeys(skews))), files


def routed_iteration(
    session: Session, keep: object, case: RoutedCase, operation: Operation, chain_calls: int
) -> Iteration:
    sent, expected = source_and_target(
        case.routes,
        case.datatype,
        case.shape["way"],
        max(1, chain_calls),
        session.options.seed,
        session.communicator.rank,
    )
    iteration = checked_iteration(
        session.world,
        case,
        operation,
        Segments(case.send, case.segment_bytes, case.datatype.encode(sent)),
        Segments(case.receive, case.segment_bytes, case.datatype.encode(expected)),
        keep,
    )
    if chain_calls:
        iteration.chain_calls, count = chain_calls, len(expected) * case.count
        iteration.consume = consume_step(session.world, case, "chain_link", count)
    return iteration


def source_and_target(
    routes: Routes, datatype: Datatype, way: str, calls: int, seed: int, rank: int
) -> tuple[Array, Array]:
    """A rank's source, and its target after `calls` calls: a period of each row, (rows, 31)."""
    is_home = routes.home == rank
    at_experts = [routes.rows_of(expert_rank)[0] for expert_rank in range(routes.ranks)]
    tokens = row_tables(len(routes.chosen), [seed])
    if way == "dispatch":
        return tokens[is_home], tokens[at_experts[rank]]
    if way == "combine":
        rows = [row_tables(len(of_rank), [seed, r]) for r, of_rank in enumerate(at_experts)]
        return rows[rank], combined_rows(routes, datatype, rows)[is_home]
    result = tokens
    for _ in range(calls):
        before, rows = result, [result[of_rank] for of_rank in at_experts]
        result = combined_rows(routes, datatype, rows)
        if np.array_equal(before, result):
            break
    return tokens[is_home], result[is_home]


def row_tables(rows: int, seed: list[int]) -> Array:
    """One period of each row, decoded, (rows, 31); hardly any two rows are equal. They begin with
    -0, which a sum keeps only if it starts from -0."""
    drawn = np.random.default_rng(seed).integers(1, verify.PERIOD + 1, (rows, verify.PERIOD))
    tables = drawn.astype(np.float64)
    tables[:, 0] = -0.0
    return tables


def combined_rows(routes: Routes, datatype: Datatype, rows: Sequence[Array]) -> Array:
    """The weighted sum of every token's rows, (tokens, 31), from the rows of all ranks' experts. A
    rank rounds its part of a token to the type before it sends it."""
    total = np.full((len(routes.chosen), verify.PERIOD), -0.0)
    for rank, of_rank in enumerate(rows):
        token, choice = routes.rows_of(rank)
        part = np.full_like(total, -0.0)
        np.add.at(part, token, routes.weights[token, choice, None].astype(np.float64) * of_rank)
        rounded = datatype.rounded(part)
        total += np.where(routes.home[:, None] == rank, part, rounded)
    return datatype.rounded(total)
