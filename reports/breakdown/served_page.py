"""The page of served figures: the step of one card, its ideal share, and the step by tensor with
what its calls cost in the engine."""

from collections.abc import Sequence

from reports.breakdown.bars import Bar, bars_html
from reports.breakdown.served import Served
from reports.breakdown.served_text import asked_of, one_name, served_rows, title_of, verdicts_of
from reports.kit.page import Banner, Page, Section

UNDIVIDED = "compute and idle"


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
        Bar(f"ideal: 1/{served.gpus} of it", {UNDIVIDED: ideal_ms}),
        Bar(f"{served.gpus} by tensor", parts_ms),
    ]


def served_page(served: Served, bars: Sequence[Bar]) -> Page:
    sentence, *others = verdicts_of(served)
    gain, (_, low, high) = served.step_one_us[0] / served.step_two_us[0], served.later_us
    role = "better" if gain > 1 else "worse"
    if low is not None and high is not None and low < 0 < high:
        role = "unsure"
    rows = [{"figure": name, "us [95 %]": text} for name, text in served_rows(served)]
    sections = [
        Section("A step", [bars_html(bars)], rows=rows),
        Section("What it means", others),
        Section("What the files do not say", asked_of(served)),
        Section("Noticed", served.notes),
    ]
    title = title_of(served)
    return Page(f"Wiretax: {title}", Banner(f"{gain:.2f}x", sentence, [title], role), sections)
