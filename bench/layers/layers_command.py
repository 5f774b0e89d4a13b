"""The command lines of compute and communication together, and their start."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from bench.harness.feature import Feature, add_features, requested
from bench.harness.options import RunOptions, add_run_options, named_algorithms, rank_parser
from bench.harness.parser import CASES, Option, fill, listed
from bench.harness.run import RunInProgress, RunPolicy, measure, unfinished
from bench.harness.session import Session, start
from bench.harness.suite import Suite
from bench.layers import fused_cases, overlap_cases, step_splits, traced_steps
from bench.layers.forms import FORMS, LayerOptions
from collectives.layers.overlap import CHUNKS, NO_STABLE_MATMUL, OVERLAPPED
from wiretax.common.arguments import whole_number
from wiretax.common.launched import launched_ranks
from wiretax.common.program import on_ranks

up_to_4096, up_to_8 = (partial(whole_number, 1, most=most) for most in (4096, 8))
# Many short blocks close in time, so that a disturbance hits both sides of a difference.
ROUNDS = 256
HIDES = "one after the other, to show how much communication the compute does not hide."
SPLIT = "split by tensor, with our kernels and with the library's,"
MATMULS = *OVERLAPPED, "prefill"  # a vendor's


def counts(number: Callable[[str], int], default: str, text: str, flag: str = "--tokens") -> Option:
    """The option for `LayerOptions.tokens`."""
    return Option(
        CASES,
        [flag],
        **listed(number),
        default=default,
        help=f"{text} (%(default)s)",
    )


def tokens_of_matmul(text: str) -> int:
    unit = max(CHUNKS) * (launched_ranks() or 1)
    tokens = whole_number(1, text, 1 << 16)
    if tokens % unit:
        raise argparse.ArgumentTypeError(
            f"{tokens} is not a multiple of {unit}: of {max(CHUNKS)} chunks times the ranks"
        )
    return tokens


def until_time_is_up(run: RunInProgress, active: list[int], rounds: int) -> list[int]:
    """As many rounds as fit, unless -n limits them: a difference of two times needs more."""
    if run.session.options.iterations:
        return unfinished(run, active, rounds)
    return active if rounds < ROUNDS else []


DIFFERENCES = RunPolicy(ROUNDS, until_time_is_up)


@dataclass(frozen=True)
class Command:
    """`tokens` is its option for the sizes of batches, `options` are others that not all layers
    have; `defaults` of options and `texts` of their help are its own."""

    about: str
    prepare: Callable[[LayerOptions, Session], Suite]
    tokens: Option
    options: Sequence[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    policy: RunPolicy = DIFFERENCES


def matmul_command(about: str) -> Command:
    return Command(
        f"Times {about}, overlapped and {HIDES}",
        overlap_cases.prepare,
        counts(
            tokens_of_matmul,
            "256,1024,4096",
            "tokens of a prefill, in multiples of 8 chunks times the ranks",
        ),
        ["scale", "footprint"],
        # On a CPU an iteration of 4,096 tokens takes 0.1 s; a difference needs a dozen blocks.
        defaults={"model": "llama-3.1-8b", "max_time_s": 240.0},
    )


COMMANDS = {
    "allreduce_rmsnorm": Command(
        f"Times all-reduce + residual + RMSNorm, fused and {HIDES}",
        fused_cases.prepare_norm,
        counts(up_to_4096, "1,16,256,2048", "tokens at once"),
        ["hidden", "stable"],
        # A round of all forms with 2048 tokens takes two CPU cores 5 s; 60 s hold too few.
        defaults={"max_time_s": 120.0},
        texts={
            "algorithms": "fused, fused_push (by default on GPUs), then_library or then_ALGORITHM, "
            "next to compute (all that suit the size)"
        },
    ),
    "gemv_allreduce": Command(
        f"Times GEMV + all-reduce, fused and {HIDES}",
        fused_cases.prepare_gemv,
        counts(up_to_8, "1", "chats that decode at once, with a token each"),
        ["scale", "weights", "stable"],
    ),
    "gemm_reduce_scatter": matmul_command("matmul + reduce-scatter"),
    "allgather_gemm": matmul_command("all-gather + matmul"),
    "decode": Command(
        f"Times a whole decode step of a model: {SPLIT} and as a pipeline.",
        step_splits.prepare,
        counts(up_to_8, "1,2", "chats that decode at once, with a token per step each", "--slots"),
        ["scale", "weights", "stable", "lateness"],
        defaults={"datatype": "half", "graph": None},
        texts={"graph": "launch from a graph, GPUs only (where the device has graphs)"},
        policy=RunPolicy(trace=traced_steps.trace),
    ),
    "prefill": Command(
        f"Times a prefill step of a model: {SPLIT} with sequence parallelism, and as a pipeline.",
        step_splits.prepare,
        Option(
            CASES,
            ["--tokens"],
            type=lambda text: [up_to_4096(text)],
            default=(),
            metavar="N",
            help="tokens of the chunk (as many as make a message of 32M: for a 70B model 2048 in "
            "16 bits, 1024 in float)",
        ),
        ["scale", "layers"],
        # The checked iteration warms up, and an iteration takes a quarter of a second.
        defaults={"layers": 4, "max_time_s": 110.0, "warmup": 0},
        policy=RunPolicy(trace=traced_steps.trace),
    ),
}


def parse(name: str, features: Sequence[type[Feature]] = ()) -> tuple[RunOptions, LayerOptions]:
    command, forms = COMMANDS[name], FORMS.get(name)
    example = f"{on_ranks(2, name)} --model llama-3.1-8b"
    parser = rank_parser(name, command.about, example, "the results so far are stored")
    named = ["algorithms"] if forms else []
    unstable = ["stable"] if name in MATMULS else []  # taken, and refused in words
    names = "model", *command.options, "datatype", *named, *unstable
    parser.add(LayerOptions, *names, tokens=command.tokens)
    parser.set_help(**dict.fromkeys(unstable, argparse.SUPPRESS))
    add_features(parser, features)
    add_run_options(parser, "iterations", "graph", "graph_nodes", "max_time_s", "samples")
    parser.set_defaults(**command.defaults)
    iterations = "timed iterations per case, in 12 blocks; 0: as many as fit the time (%(default)s)"
    parser.set_help(iterations=iterations, **command.texts)
    namespace = parser.parse_args()
    if unstable and namespace.stable:
        parser.error(f"--stable: {NO_STABLE_MATMUL}")
    if forms:
        namespace.algorithms = named_algorithms(parser, forms, namespace.algorithms)
    parser.require_ranks()
    run_options = fill(RunOptions, namespace, features=requested(features, namespace))
    return run_options, fill(LayerOptions, namespace)


def main(name: str, features: Sequence[type[Feature]] = ()) -> NoReturn:
    run_options, layer_options = parse(name, features)

    def prepare(session: Session) -> Suite:
        world = session.world
        _ = (world.node or world).mapped  # refused here, before anything is allocated
        return COMMANDS[name].prepare(layer_options, session)

    start(run_options, lambda session: measure(session, prepare, COMMANDS[name].policy))
