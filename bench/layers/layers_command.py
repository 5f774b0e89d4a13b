"""The command lines of compute and communication together, and their start."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NoReturn

from bench.harness import options
from bench.harness.feature import Feature
from bench.harness.options import AddOption, RunOptions, comma_separated, name_among
from bench.harness.run import RunInProgress, RunPolicy, measure, unfinished
from bench.harness.session import Session, start
from bench.harness.suite import Suite
from bench.layers import fused_cases, overlap_cases, step_splits
from bench.layers.forms import FORMS, LayerOptions
from collectives.collective import DATATYPE_ALIASES
from collectives.layers.fused import WEIGHTS
from collectives.layers.overlap import CHUNKS
from collectives.models import MODELS
from wiretax.common.arguments import whole_number
from wiretax.common.launched import launched_ranks
from wiretax.common.program import on_ranks

WIRE = "float32", "float16", "bfloat16"  # types of elements there
up_to_4096, up_to_8 = (partial(whole_number, 1, most=most) for most in (4096, 8))
# Many short blocks close in time, so that a disturbance hits both sides of a difference.
ROUNDS = 256
HIDES = "one after the other, to show how much communication the compute does not hide."
SPLIT = "split by tensor, with our kernels and with the library's,"
Option = Callable[[AddOption], object]


def scale(text: str) -> Fraction:
    """`1`, `1/64` or `0.25`."""
    is_number = re.fullmatch(r"\d{1,9}(/[1-9]\d{0,8}|\.\d{1,9})?", text)
    if not is_number or not 0 < Fraction(text) <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a fraction such as 1/64, above 0 and at most 1"
        )
    return Fraction(text)


def option(*flags: str, **settings: Any) -> Option:
    return lambda add: add(*flags, **settings)


def counts(flag: str, number: Callable[[str], int], default: str, text: str) -> Option:
    return option(
        flag,
        dest="tokens",
        type=partial(comma_separated, number),
        default=default,
        metavar="A,B",
        help=f"{text} ({default})",
    )


def tokens_of_matmul(text: str) -> int:
    unit = max(CHUNKS) * (launched_ranks() or 1)
    tokens = whole_number(1, text, 1 << 16)
    if tokens % unit:
        raise argparse.ArgumentTypeError(
            f"{tokens} is not a multiple of {unit}: of {max(CHUNKS)} chunks times the ranks"
        )
    return tokens


SCALE = option(
    "--scale",
    type=scale,
    metavar="N",
    help="shrink the matrices' columns, but no message (1/64 on a CPU, 1 on a GPU)",
)
WEIGHT_TYPE = option(
    "--weights",
    default="float16",
    metavar="TYPE",
    type=partial(name_among, "type of weights", list(WEIGHTS), aliases=DATATYPE_ALIASES),
    help="half, bfloat16 or int8 with a scale a row (half)",
)


def until_time_is_up(run: RunInProgress, active: list[int], rounds: int) -> list[int]:
    """As many rounds as fit, unless -n limits them: a difference of two times needs more."""
    if run.session.options.iterations:
        return unfinished(run, active, rounds)
    return active if rounds < ROUNDS else []


DIFFERENCES = RunPolicy(ROUNDS, until_time_is_up)


@dataclass(frozen=True)
class Command:
    """`options` are its own; `model`, `datatype`, `graph`, `warmup`: defaults."""

    about: str
    prepare: Callable[[LayerOptions, Session], Suite]
    options: Sequence[Option]
    model: str = "llama-3.1-70b"
    datatype: str = "float"
    policy: RunPolicy = DIFFERENCES
    max_time_s: float = 60.0
    graph: int | None = 0
    warmup: int | None = None


def matmul_command(about: str) -> Command:
    return Command(
        f"Times {about}, overlapped and {HIDES}",
        overlap_cases.prepare,
        (
            SCALE,
            counts(
                "--tokens",
                tokens_of_matmul,
                "256,1024,4096",
                "tokens of a prefill, in multiples of 8 chunks times the ranks",
            ),
            option(
                "--footprint",
                action="store_true",
                help="time what the matmul and the collective lose to each other, each alone and "
                "beside the other, in place of the usual forms",
            ),
        ),
        "llama-3.1-8b",
        # On a CPU an iteration of 4,096 tokens takes 0.1 s; a difference needs a dozen blocks.
        max_time_s=240.0,
    )


COMMANDS = {
    "allreduce_rmsnorm": Command(
        f"Times all-reduce + residual + RMSNorm, fused and {HIDES}",
        fused_cases.prepare_norm,
        (
            option(
                "--hidden",
                type=partial(whole_number, 1, most=1 << 20),
                metavar="N",
                help="elements of a token (the model's)",
            ),
            counts("--tokens", up_to_4096, "1,16,256,2048", "tokens at once"),
        ),
        # A round of all forms with 2048 tokens takes two CPU cores 5 s; 60 s hold too few.
        max_time_s=120.0,
    ),
    "gemv_allreduce": Command(
        f"Times GEMV + all-reduce, fused and {HIDES}",
        fused_cases.prepare_gemv,
        (
            SCALE,
            counts("--tokens", up_to_8, "1", "chats that decode at once, with a token each"),
            WEIGHT_TYPE,
        ),
    ),
    "gemm_reduce_scatter": matmul_command("matmul + reduce-scatter"),
    "allgather_gemm": matmul_command("all-gather + matmul"),
    "decode": Command(
        f"Times a whole decode step of a model: {SPLIT} and as a pipeline.",
        step_splits.prepare,
        (
            SCALE,
            counts(
                "--slots", up_to_8, "1,2", "chats that decode at once, with a token per step each"
            ),
            WEIGHT_TYPE,
        ),
        datatype="half",
        policy=RunPolicy(),
        graph=None,
    ),
    "prefill": Command(
        f"Times a prefill step of a model: {SPLIT} with sequence parallelism, and as a pipeline.",
        step_splits.prepare,
        (
            SCALE,
            option(
                "--tokens",
                type=lambda text: [up_to_4096(text)],
                metavar="N",
                help="tokens of the chunk (as many as make a message of 32M: for a "
                "70B model 2048 in 16 bits, 1024 in float)",
            ),
            option(
                "--layers",
                type=partial(whole_number, 1, most=1000),
                default=4,
                metavar="N",
                help="timed layers, a multiple of the ranks (4)",
            ),
        ),
        policy=RunPolicy(),
        max_time_s=110.0,
        # The checked iteration warms up, and an iteration takes a quarter of a second.
        warmup=0,
    ),
}


def parse(name: str, features: Sequence[type[Feature]] = ()) -> tuple[RunOptions, LayerOptions]:
    command, forms, models = COMMANDS[name], FORMS.get(name), list(MODELS)
    example = f"{on_ranks(2, name)} --model llama-3.1-8b"
    parser, what, how, output = options.rank_parser(
        name, command.about, example, "the results so far are stored"
    )
    what(
        "--model",
        type=partial(name_among, "model", models),
        default=command.model,
        metavar="NAME",
        help=f"{', '.join(models)} ({command.model})",
    )
    for add_to in command.options:
        add_to(what)
    what(
        "-d",
        "--datatype",
        default=command.datatype,
        metavar="TYPE",
        type=partial(name_among, "datatype", WIRE, aliases=DATATYPE_ALIASES),
        help=f"type on the wire: float, half or bfloat16 ({command.datatype})",
    )
    if forms:
        options.add_algorithms(
            what,
            "fused, then_library or then_ALGORITHM, next to compute (all that suit the size)",
        )
    for feature in features:
        feature.add_options(what)
    options.add_iterations(how, "as many as fit the time", command.graph)
    options.add_run_options(how, command.max_time_s)
    options.add_samples(output)
    namespace = parser.parse_args()
    if forms:
        namespace.algorithm = options.named_algorithms(parser, forms, namespace.algorithm)
    parser.require_ranks()
    fields = {
        field: value
        for field, value in vars(namespace).items()
        if field in LayerOptions.__dataclass_fields__ and value is not None
    }
    active = [found for each in features if (found := each.parse(namespace))]
    run_options = options.run_options(namespace, warmup=command.warmup, features=active)
    return run_options, LayerOptions(**fields)


def main(name: str, features: Sequence[type[Feature]] = ()) -> NoReturn:
    run_options, layer_options = parse(name, features)

    def prepare(session: Session) -> Suite:
        world = session.world
        _ = (world.node or world).mapped  # refused here, before anything is allocated
        return COMMANDS[name].prepare(layer_options, session)

    start(run_options, lambda session: measure(session, prepare, COMMANDS[name].policy))
