"""The bill of a decode step from served figures: what its calls cost in an engine, implied by the
steps of one card and of several by tensor, beside the same call alone.

What the implied cost contains beyond the call alone has three names: launches (the host comes too
late), waiting for the later card, and kernels of half the width that take more than half the
time."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from math import ceil, sqrt
from pathlib import Path

import numpy as np

from reports.advice.implied import calls_of_step, implied_us
from reports.advice.specs import ELEMENT_BYTES, Transformer, model_by_name, model_called, model_of
from reports.breakdown.alone import alone_of, baseline_of
from reports.breakdown.bill import Alone, CallBill
from reports.breakdown.served_results import BY_TENSOR, MOST_TOKENS, ServedResult, read_results
from wiretax.common.arguments import positive_number, whole_number
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError, content_of
from wiretax.record.stats import Interval, student_quantile

LEAST_RESULTS = 3  # of an interval, on each side
MOST_GPUS = 64
MOST_STEP_TOKENS = 1e6  # of all streams; engines take thousands
ALIKE = 1.1  # streams at once, and tokens of a step, whose ratio is below this


@dataclass
class Served:
    """Steps in us of one card, or of cards by layer, and of `gpus` cards by tensor, from which the
    rest follows, with 95 % intervals. A step makes `tokens_a_step` for a stream, and a step of one
    `tokens_of_one`. Once a step each card also sends `gather_bytes` of logits, in engines that
    gather them. Sizes are 0 where the streams are unknown, which are NaN then. `asked` are
    questions that the files leave open."""

    model: str
    engine: str
    gpus: int
    by_layer: bool
    ones_us: Sequence[float]
    twos_us: Sequence[float]
    n_calls: int
    size_bytes: int
    gather_bytes: int
    streams: float
    tokens_a_step: float
    tokens_of_one: float
    asked: list[str]
    notes: list[str]
    alone: Alone | None = None

    @property
    def step_one_us(self) -> Interval:
        return weighted((1, self.ones_us))

    @property
    def ideal_us(self) -> Interval:
        """Of one card's step the share of each card."""
        return weighted((1 / self.gpus, self.ones_us))

    @property
    def step_two_us(self) -> Interval:
        return weighted((1, self.twos_us))

    @property
    def implied_us(self) -> Interval:
        """What each call adds to the ideal step."""
        n = self.n_calls
        us = implied_us(self.step_two_us[0], self.step_one_us[0], self.gpus, n)
        _, low, high = weighted((1 / n, self.twos_us), (-1 / self.gpus / n, self.ones_us))
        return us, low, high

    @property
    def even_us(self) -> float:
        """The cost of a call at which both steps are equally long."""
        one_us = self.step_one_us[0]
        return implied_us(one_us, one_us, self.gpus, self.n_calls)

    @property
    def gain(self) -> float:
        """How many times as fast the cards decode by tensor."""
        steps = self.step_one_us[0] / self.step_two_us[0]
        return steps * self.tokens_a_step / self.tokens_of_one

    @property
    def is_undecided(self) -> bool:
        """Whether either step may be the longer one."""
        _, low, high = weighted((1, self.twos_us), (-1, self.ones_us))
        return low is not None and high is not None and low < 0 < high

    @property
    def rest_us(self) -> Interval | None:
        """What a call costs beyond the call alone. The ends are the worst of both intervals."""
        if not self.alone:
            return None
        middle, low, high = self.implied_us
        alone_us, least_us, most_us = self.alone.us
        if low is None or high is None:
            return middle - alone_us, None, None
        return middle - alone_us, low - (most_us or alone_us), high - (least_us or alone_us)


def add_served_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--two", metavar="FILE", type=Path, nargs="+", help="served figures of cards by tensor")
    model = parser.add_mutually_exclusive_group().add_argument
    model("--model", metavar="NAME", help="their model (by its name in the files)")
    model("--config", metavar="FILE", type=Path, help="or the config.json of a Hugging Face model")
    add(
        "--gpus",
        metavar="N",
        type=partial(whole_number, 2, most=MOST_GPUS),
        default=2,
        help="the cards of --two (%(default)s)",
    )
    add("--replay", choices=("graph", "eager"), help="how the engine launched a step")
    add(
        "--tokens-a-step",
        metavar="X",
        type=partial(positive_number, "tokens", int(MOST_TOKENS)),
        help="with a drafter: what a step makes for a stream",
    )
    for name, most, text in (
        ("--draft", 64, "tokens that a drafter proposes a step"),
        (
            "--calls",
            10**6,
            "all-reduces of a step, as counted (2 a layer; vLLM and SGLang one more)",
        ),
        ("--output-len", 10**7, "of vllm bench latency"),
        ("--batch-size", 10**6, "of vllm bench latency"),
    ):
        add(name, metavar="N", type=partial(whole_number, 1, most=most), help=text)


def read_served(arguments: argparse.Namespace) -> Served:
    """Raises ResultError for files that tell no step, or whose loads differ."""
    if not (arguments.one and arguments.two):
        lacking = "--two, of cards by tensor" if arguments.one else "--one, of one card or by layer"
        raise ResultError(f"served figures have two sides, and one is missing: {lacking}")
    one = [each for path in arguments.one for each in beside_tensor(read_results(path, arguments))]
    two = [each for path in arguments.two for each in by_tensor(read_results(path, arguments))]
    of_both = {each.path for each in one} & {each.path for each in two if each.split in BY_TENSOR}
    refuse_repeats([*arguments.one, *(path for path in arguments.two if path not in of_both)])
    check_sides(one, two, arguments.gpus)
    model = transformer_of(two[0], arguments)
    gpus, engine = arguments.gpus, two[0].engine
    usual_calls = calls_of_step(model, engine)
    streams, computed, made = (
        float(np.mean([getattr(each, name) for each in two]))
        for name in ("streams", "computed", "tokens")
    )
    tokens = 0.0 if np.isnan(streams * computed) else streams * computed
    if tokens > MOST_STEP_TOKENS:
        raise ResultError(f"{two[0].path}: no engine computes {tokens:.3g} tokens in a step")
    gather_bytes = 0
    if usual_calls > model.all_reduces:  # an engine that splits the embeddings, and so the logits
        gather_bytes = round(ceil(model.vocab / gpus) * ELEMENT_BYTES * tokens)
    replay = arguments.replay or two[0].load.get("launches")
    asked = list(dict.fromkeys(text for each in (*one, *two) for text in each.asked))
    if not replay:
        asked.append(
            "how the engine launched a step, where a graph's calls cost less: --replay graph or "
            "eager"
        )
    served = Served(
        model.name,
        engine,
        gpus,
        one[0].split == "layer",
        [each.step_us for each in one],
        [each.step_us for each in two],
        n_calls=arguments.calls or usual_calls,
        size_bytes=model.all_reduce_bytes(tokens),
        gather_bytes=gather_bytes,
        streams=streams,
        tokens_a_step=made,
        tokens_of_one=float(np.mean([each.tokens for each in one])),
        asked=asked,
        notes=notes_on(one, two),
    )
    if served.size_bytes:
        call = CallBill(
            "all_reduce",
            engine,
            served.size_bytes,
            served.n_calls,
            served.implied_us,
            is_graph=replay == "graph" if replay else None,
        )
        baseline = baseline_of(arguments, {gpus})
        served.alone = alone_of(call, gpus, baseline)
        served.notes += baseline.notes
    return served


def by_tensor(results: Sequence[ServedResult]) -> Sequence[ServedResult]:
    """Of a file with several split modes, as `llama-bench -sm none,layer,tensor` writes it, those
    by tensor; of another file all."""
    return [each for each in results if each.split in BY_TENSOR] or results


def beside_tensor(results: Sequence[ServedResult]) -> Sequence[ServedResult]:
    """Of such a file those of one card, or else by layer; of another file all."""
    of_one = [each for each in results if each.split == "none"]
    return of_one or [each for each in results if each.split not in BY_TENSOR] or results


def refuse_repeats(paths: Sequence[Path]) -> None:
    """Raises ResultError for a file that is given twice, also by another name."""
    seen = dict[bytes, Path]()
    for path in paths:
        before = seen.setdefault(sha256(content_of(path)).digest(), path)
        if before is not path:
            raise ResultError(f"{before} and {path} are the same result")


def check_sides(one: Sequence[ServedResult], two: Sequence[ServedResult], gpus: int) -> None:
    """Raises ResultError for results that are not of one load, or on the wrong side."""
    first = one[0]
    for each in (*one, *two):
        for name in dict.fromkeys([*first.load, *each.load]):
            values = [printable(side.load.get(name, "")) for side in (first, each)]
            if values[0] != values[1] and (name != "version" or all(values)):
                raise ResultError(
                    f"{first.path} and {each.path} are not of one load: {name} "
                    f"{values[0] or 'unset'} and {values[1] or 'unset'}"
                )
    for each in one:
        if each.split in BY_TENSOR or (each.gpus or 1) > 1:
            raise ResultError(f"{each.path} is by tensor: --one is of one card, or by layer")
    if len(modes := sorted({each.split for each in two})) > 1:
        raise ResultError(f"{two[0].path} has split modes {' and '.join(modes)}: keep one of them")
    for each in two:
        if each.split and each.split not in BY_TENSOR:
            raise ResultError(f"{each.path} has split mode {each.split}: --two is by tensor")
        if each.gpus not in (None, gpus):
            raise ResultError(f"{each.path} is of {each.gpus} cards: say --gpus {each.gpus}")


def transformer_of(result: ServedResult, arguments: argparse.Namespace) -> Transformer:
    """The model by --config, by --model, or by its name in the files. Raises ResultError if that is
    unknown, or another than they say."""
    if arguments.config:
        return model_of(arguments.config)
    name = result.load.get("model", "")
    known = model_called(name)
    if arguments.model:
        model = model_by_name(arguments.model)
        if known and known.name != model.name:
            raise ResultError(f"{result.path} is of {name}, not of {printable(arguments.model)}")
        return model
    # llama-bench's `llama 70B Q4_K - Medium` is of several models: the file's name says which.
    if model_of_file := model_called(result.file) or known:
        return model_of_file
    raise ResultError(f"{result.path} names no known model: say --model NAME or --config FILE")


def notes_on(one: Sequence[ServedResult], two: Sequence[ServedResult]) -> list[str]:
    """What was noticed in the results, and what their intervals are."""
    notes = list(dict.fromkeys(note for each in (*one, *two) for note in each.notes))
    fewer, more = sorted(float(np.mean([each.streams for each in side])) for side in (one, two))
    if more > ALIKE * fewer:
        notes.append(
            f"the loads differ: {fewer:.1f} and {more:.1f} streams decode at once, which a "
            "--max-concurrency that both reach makes alike"
        )
    made = [float(np.mean([each.tokens for each in side])) for side in (one, two)]
    if max(made) > ALIKE * min(made):
        notes.append(
            f"the drafters differ: a step makes {made[0]:.2f} and {made[1]:.2f} tokens for a "
            "stream, so that tokens gain otherwise than steps"
        )
    if min(len(one), len(two)) < LEAST_RESULTS:
        notes.append(
            f"no interval: it needs {LEAST_RESULTS} results a side, each of its own launch"
        )
    else:
        notes.append("intervals are over results, each of which should be of its own launch")
    return notes


def weighted(*terms: tuple[float, Sequence[float]]) -> Interval:
    """A weighted sum of means of independent values with its 95 % interval, by Welch's degrees of
    freedom (Biometrika 34, 1947), which a mean of fewer than LEAST_RESULTS has not."""
    middle = sum(weight * float(np.mean(values)) for weight, values in terms)
    if min(len(values) for _, values in terms) < LEAST_RESULTS:
        return middle, None, None
    variances = [
        weight**2 * float(np.var(values, ddof=1)) / len(values) for weight, values in terms
    ]
    total = sum(variances)
    if not total:
        return middle, middle, middle
    each = zip(variances, terms, strict=True)
    freedom = total**2 / sum(variance**2 / (len(values) - 1) for variance, (_, values) in each)
    half = float(student_quantile(freedom)) * sqrt(total)
    return middle, middle - half, middle + half
