"""The bill of served figures as text and as fields of JSON."""

from typing import Any

from reports.breakdown.served import Served
from reports.breakdown.text import figures
from reports.tables.sentences import interval_text, lay_out, number, plain_table, size_text

REST = "launch, waiting for the later card, smaller kernels"


def served_text(served: Served) -> str:
    table = plain_table(["", "us [95 %]"], served_rows(served))
    sentences = [*verdicts_of(served), *asked_of(served)]
    return lay_out([title_of(served)], served.notes, [("", table)], sentences)


def title_of(served: Served) -> str:
    n, one = served.gpus, one_name(served)
    title = f"{served.model} on {n} cards by tensor, beside {one}: {served.engine}"
    if served.streams > 1:
        title += f", {served.streams:.1f} streams at once"
    return title


def served_rows(served: Served) -> list[tuple[str, str]]:
    """Each figure in us with its interval, by what it is."""
    n = served.gpus
    size = f" of {size_text(served.size_bytes)}" if served.size_bytes else ""
    excess_us = served.step_two_us[0] - served.ideal_us[0]
    rows = [
        (f"step of {one_name(served)}", interval_text(served.step_one_us)),
        (f"1/{n} of it, the ideal", interval_text(served.ideal_us)),
        (f"step of {n} by tensor", interval_text(served.step_two_us)),
        (f"beyond the ideal, for {served.n_calls} calls{size}", signed(excess_us)),
        ("a call, as implied", interval_text(served.implied_us, signed)),
    ]
    if served.alone and served.rest_us:
        rows += [
            ("a call alone", interval_text(served.alone.us)),
            (f"the rest: {REST}", interval_text(served.rest_us, signed)),
        ]
    return rows


def asked_of(served: Served) -> list[str]:
    """What the files leave open, each a sentence."""
    return [f"Unknown: {text}." for text in served.asked]


def one_name(served: Served) -> str:
    return f"{served.gpus} by layer" if served.by_layer else "one card"


def signed(us: float) -> str:
    return number(us) if us >= 0 else f"-{number(-us)}"


def verdicts_of(served: Served) -> list[str]:
    """What it would take, and what the figures cannot be, each a sentence."""
    n, one, middle = served.gpus, one_name(served), served.implied_us[0]
    gain = served.step_one_us[0] / served.step_two_us[0]
    said = [
        f"{n} by tensor decode {gain:.2f} x as fast as {one}: a call costs {signed(middle)} us, "
        f"and at {number(served.even_us)} us they would be even."
    ]
    _, low, high = served.later_us
    if low is not None and high is not None and low < 0 < high:
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
            "The drafter's own calls are not counted, so a call costs less than that; vLLM's "
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
        **figures(spans),
        "asked": served.asked,
        "notes": [*served.notes, *verdicts_of(served)],
    }
