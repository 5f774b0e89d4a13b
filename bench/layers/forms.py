"""What all layers' benchmarks share: options, and the forms of a case."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from bench.harness.iteration import Iteration, Segments, checked_iteration, nothing
from bench.harness.session import Session
from bench.harness.suite import Axes, Suite, bind_cases, of_features
from collectives.layers.fused import FUSED, peer_forms
from collectives.layers.overlap import OVERLAPPED
from collectives.operation import Algorithm, CollectiveCase, Operation

FORMS = FUSED | OVERLAPPED
CPU_SCALE = Fraction(1, 64)  # of a layer's columns, because a CPU computes slowly
USUAL = "then_library", "then_auto", "fused"


@dataclass(frozen=True)
class LayerOptions:
    """The cases of a run: `tokens` are the sizes of batches, `layers` the timed layers (0: all).
    `scale` None: by the device. Without `algorithm` the usual forms. `hidden` 0: the model's.
    `footprint`: what a matmul and a collective lose to each other, not the usual forms."""

    datatype: str
    model: str
    tokens: Sequence[int] = ()
    scale: Fraction | None = None
    hidden: int = 0
    layers: int = 0
    weights: str = "float16"
    footprint: bool = False
    algorithm: Sequence[Algorithm] = ()


def scale_for(options: LayerOptions, session: Session) -> Fraction:
    return options.scale or (CPU_SCALE if session.world.device.is_cpu else Fraction(1))


def bind_forms(
    session: Session,
    options: LayerOptions,
    cases: Iterable[CollectiveCase],
    contents: Callable[[Any], tuple[Segments, Segments]],
    keep: object,
    for_library: Callable[[CollectiveCase], CollectiveCase] = lambda case: case,
) -> Suite:
    """Compute alone, and the requested forms, or the library, `auto` and fused, and those of peers;
    `for_library(case)` is the case on the library's own buffers, `contents(case)` what it begins
    and ends with, `keep` what it points into. All ranks call it. Raises Refusal."""

    def iteration(case: CollectiveCase, operation: Operation, chain_calls: int) -> Iteration:
        return checked_iteration(session.world, case, operation, *contents(case), keep)

    forms = FORMS[session.options.command]
    usual = () if options.footprint else USUAL
    chosen = options.algorithm or [forms[name] for name in usual]
    peers = peer_forms(session.options.command, of_features(session))
    listed = list(dict.fromkeys([forms["compute"], *chosen, *peers]))
    # A form that does not support a size is listed with its reason.
    axes = Axes(lambda size_bytes: listed, requested=True, mode="isolated", for_library=for_library)
    suite = bind_cases(session, axes, cases, iteration)
    suite.named = [form.name for form in [*options.algorithm, *peers]]
    for number, made in suite.iterations.items():
        header = suite.headers[number]
        made.group = str(header.shape)
        if header.algorithm == "compute":  # it sums nothing, so its result is partial
            made.check, made.wrong = nothing(session.world), None
    return suite
