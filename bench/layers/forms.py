"""What all layers' benchmarks share: options, and the forms of a case."""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from bench.harness.iteration import Buffers, Iteration, Segments, checked_iteration, nothing
from bench.harness.parser import changes_cases, listed, name_among, whole
from bench.harness.session import Session
from bench.harness.suite import Axes, Suite, bind_cases, of_features
from bench.layers.lateness import lateness_file
from collectives.collective import DATATYPE_ALIASES
from collectives.layers.fused import WEIGHTS
from collectives.layers.fused_forms import FUSED, contender_forms
from collectives.layers.overlap import OVERLAPPED
from collectives.models import MODELS
from collectives.operation import Algorithm, CollectiveCase, Operation
from wiretax.record.case import FUSED_STABLE

FORMS = FUSED | OVERLAPPED
CPU_SCALE = Fraction(1, 64)  # of a layer's columns, because a CPU computes slowly
USUAL = "then_library", "then_auto", "fused", "fused_push"
WIRE = "float32", "float16", "bfloat16"  # types of elements there


def fraction(text: str) -> Fraction:
    """`1`, `1/64` or `0.25`."""
    is_number = re.fullmatch(r"\d{1,9}(/[1-9]\d{0,8}|\.\d{1,9})?", text)
    if not is_number or not 0 < Fraction(text) <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a fraction such as 1/64, above 0 and at most 1"
        )
    return Fraction(text)


@dataclass(frozen=True)
class LayerOptions:
    """The cases of a run. `tokens`, for which each command has its own option, are the sizes of
    batches. `scale` None: by the device. `layers` 0: all. Without `algorithms` the usual forms."""

    model: str = changes_cases(
        ["--model"],
        type=partial(name_among, "model", [*MODELS]),
        default="llama-3.1-70b",
        metavar="NAME",
        help="such as qwen3-32b; see collectives/models.toml (%(default)s)",
    )
    hidden: int = changes_cases(
        ["--hidden"],
        **whole(1, most=1 << 20),
        default=0,
        help="elements of a token (the model's)",
    )
    scale: Fraction | None = changes_cases(
        ["--scale"],
        type=fraction,
        metavar="N",
        help="shrink the matrices' columns, but no message (1/64 on a CPU, 1 on a GPU)",
    )
    tokens: Sequence[int] = ()
    weights: str = changes_cases(
        ["--weights"],
        type=partial(name_among, "type of weights", [*WEIGHTS], aliases=DATATYPE_ALIASES),
        default="half",
        metavar="TYPE",
        help="half, bfloat16 or int8 with a scale a row (%(default)s)",
    )
    footprint: bool = changes_cases(
        ["--footprint"],
        default=False,
        help="time what the matmul and the collective lose to each other, each alone and beside "
        "the other, in place of the usual forms",
    )
    stable: bool = changes_cases(
        ["--stable"],
        default=False,
        help="also time the form whose bits are the same at 1, 2, 4 and 8 ranks, and print what it "
        "costs",
    )
    layers: int = changes_cases(
        ["--layers"],
        **whole(1, most=1000),
        default=0,
        help="timed layers, a multiple of the ranks (%(default)s)",
    )
    datatype: str = changes_cases(
        ["-d", "--datatype"],
        type=partial(name_among, "datatype", WIRE, aliases=DATATYPE_ALIASES),
        default="float",
        metavar="TYPE",
        help="type on the wire: float, half or bfloat16 (%(default)s)",
    )
    lateness: Any = changes_cases(
        ["--lateness"],
        type=lateness_file,
        metavar="FILE",
        help="also with ranks as late at each call as this file says (breakdown --save-lateness), "
        "and what a step gains without it",
    )
    # By name, until `named_algorithms` finds them.
    algorithms: Sequence[Algorithm] = changes_cases(
        ["--algorithm"],
        **listed(str),
        default=(),
        help="fused, then_library or then_ALGORITHM, next to compute (all that suit the size)",
    )


def scale_for(options: LayerOptions, session: Session) -> Fraction:
    return options.scale or (CPU_SCALE if session.world.device.is_cpu else Fraction(1))


def bind_forms(
    session: Session,
    options: LayerOptions,
    cases: Iterable[CollectiveCase],
    contents: Callable[[Any], tuple[Segments, Segments]],
    keep: object,
    for_library: Callable[[CollectiveCase], CollectiveCase] = lambda case: case,
    buffers: Buffers | None = None,
) -> Suite:
    """Compute alone, and the requested forms, or the library, `auto` and fused, the stable one with
    `--stable`, and those of contenders; `for_library(case)` is the case on the library's own
    buffers, `contents(case)` what it begins and ends with, `keep` what it points into; margins of
    `buffers` are checked, too. All ranks call it. Raises Refusal."""

    def iteration(case: CollectiveCase, operation: Operation, chain_calls: int) -> Iteration:
        owner = buffers or keep
        made = checked_iteration(session.world, case, operation, *contents(case), owner)
        made.keep.append(keep)
        return made

    forms = FORMS[session.options.command]
    usual = () if options.footprint else [forms[name] for name in USUAL if name in forms]
    world = session.world.node or session.world
    chosen = options.algorithms or [form for form in usual if form.by_default(world)]
    contenders = contender_forms(session.options.command, of_features(session))
    added = [*([forms[FUSED_STABLE]] if options.stable else []), *contenders]
    listed = list(dict.fromkeys([forms["compute"], *chosen, *added]))
    # A form that does not support a size is listed with its reason.
    axes = Axes(lambda size_bytes: listed, requested=True, mode="isolated", for_library=for_library)
    suite = bind_cases(session, axes, cases, iteration)
    suite.named = [form.name for form in [*options.algorithms, *added]]
    for number, made in suite.iterations.items():
        header = suite.headers[number]
        made.group = str(header.shape)
        if header.algorithm == "compute":  # it sums nothing, so its result is partial
            made.check, made.wrong = nothing(session.world), None
    return suite
