"""The page of served figures, which is also their text: the step of one card, its ideal share, and
the step by tensor with what its calls cost in the engine. And their fields of JSON."""

from collections.abc import Sequence
from typing import Any

from reports.breakdown.bars import Bar, bars_html
from reports.breakdown.breakdown_page import cell
from reports.breakdown.served import Served
from reports.breakdown.step_parts import interval_fields
from reports.kit.page import Banner, Page, Section
from reports.tables.sentences import capitalised, interval_text, number, size_text

UNDIVIDED = "compute and idle"
REST = "launch, waiting, smaller kernels"


def served_bars(served: Served) -> list[Bar]:
    """What the calls cost alone is a part of its own, if it is known. A step by tensor that is
    shorter than the ideal has no parts."""
    one_ms, ideal_ms, two_ms = (
        us[0] / 1e3 for us in (served.step_one_us, served.ideal_us, served.step_two_us)
    )
    excess_ms = two_ms - ideal_ms
    parts_ms = {UNDIVIDED: min(ideal_ms, two_ms), "calls, implied": max(0.0, excess_ms)}
    if served.alone:
        alone_ms = served.n_calls * served.alone.us[0] / 1e3
        if alone_ms < excess_ms:
            rest_ms = excess_ms - alone_ms
            parts_ms = {UNDIVIDED: ideal_ms, "calls alone": alone_ms, "the rest": rest_ms}
    return [
        Bar(one_name(served), {UNDIVIDED: one_ms}),
        Bar(f"the ideal, 1/{served.gpus} of it", {UNDIVIDED: ideal_ms}),
        Bar(f"{served.gpus} by tensor", parts_ms),
    ]


def served_page(served: Served, bars: Sequence[Bar]) -> Page:
    title = (
        f"{served.model} on {served.gpus} cards by tensor, beside {one_name(served)}: "
        f"{served.engine}"
    )
    if served.streams > 1:
        title += f", {served.streams:.1f} streams at once"
    sentence, *others = verdicts_of(served)
    role = "better" if served.gain > 1 else "worse"
    sections = [
        Section("A step", [bars_html(bars)], rows=served_rows(served)),
        Section("What it means", others),
        Section("What the files do not say", [f"Unknown: {text}." for text in served.asked]),
        Section(
            "Noticed",
            [cell(f"{capitalised(note).removesuffix('.')}.") for note in served.notes],
        ),
    ]
    banner = Banner(
        f"{served.gain:.2f}x", sentence, [title], "unsure" if served.is_undecided else role
    )
    return Page(f"Wiretax: {title}", banner, sections)


def served_rows(served: Served) -> list[dict[str, str]]:
    """Each figure in us with its interval."""
    n = served.gpus
    size = f" of {size_text(served.size_bytes)}" if served.size_bytes else ""
    excess_us = served.step_two_us[0] - served.ideal_us[0]
    texts = {
        f"step of {one_name(served)}": interval_text(served.step_one_us),
        f"1/{n} of it, the ideal": interval_text(served.ideal_us),
        f"step of {n} by tensor": interval_text(served.step_two_us),
        f"beyond the ideal, for {served.n_calls} calls{size}": number(excess_us),
        "a call, as implied": interval_text(served.implied_us),
    }
    if served.alone and served.rest_us:
        texts["a call alone"] = interval_text(served.alone.us)
        texts[f"the rest: {REST}"] = interval_text(served.rest_us)
    return [{"figure": name, "us [95 %]": text} for name, text in texts.items()]


def one_name(served: Served) -> str:
    return f"{served.gpus} by layer" if served.by_layer else "one card"


def verdicts_of(served: Served) -> list[str]:
    """What it would take, and what the figures cannot be, each a sentence."""
    n, one, middle = served.gpus, one_name(served), served.implied_us[0]
    said = [
        f"{n} by tensor decode {served.gain:.2f} x as fast as {one}: a call costs "
        f"{number(middle)} us, and at {number(served.even_us)} us they would be even."
    ]
    if served.is_undecided:
        said.append("Which is faster is undecided: repeat both with more launches.")
    if middle < 0:
        said.append(
            "The step became shorter than its share, so calls cost less than nothing: something "
            "else changed than the split."
        )
    elif served.alone and served.rest_us and served.rest_us[0] < 0:
        said.append(
            "A call costs less than alone: it runs beside other work, or is another kernel."
        )
    elif served.alone:
        step_us = served.ideal_us[0] + served.n_calls * served.alone.us[0]
        said.append(
            f"With calls as cheap as alone it would be {served.step_one_us[0] / step_us:.2f} x."
        )
    if served.alone:
        said.append(f"Alone: {served.alone.source}.")
    if served.by_layer:
        said.append("Hand-offs between layers make the implied cost too small.")
    if served.gather_bytes:
        said.append(
            f"In it too: the gather of the logits, {size_text(served.gather_bytes)} from each card "
            "once a step."
        )
    if served.tokens_a_step > 1:
        said.append(
            "The drafter's own calls are not included, so a call costs less than that; vLLM's "
            "use_local_argmax_reduction spares its gathers of logits (vllm-project/vllm#39419)."
        )
    return said


def served_fields(served: Served) -> dict[str, Any]:
    spans = {
        "step_one_us": served.step_one_us,
        "ideal_us": served.ideal_us,
        "step_two_us": served.step_two_us,
        "implied_us": served.implied_us,
    }
    if served.alone and served.rest_us:
        spans |= {"alone_us": served.alone.us, "rest_us": served.rest_us}
    return {
        "model": served.model,
        "gpus": served.gpus,
        "n_calls": served.n_calls,
        "size_bytes": served.size_bytes or None,
        "gather_bytes": served.gather_bytes or None,
        "streams": served.streams,
        "tokens_a_step": served.tokens_a_step,
        "even_us": served.even_us,
        "alone_us": None,
        "rest_us": None,
        "alone_source": served.alone.source if served.alone else None,
        **interval_fields(spans),
        "asked": served.asked,
        "notes": [*served.notes, *verdicts_of(served)],
    }
