"""A bill as text and as fields of JSON."""

from collections.abc import Mapping
from typing import Any

from reports.breakdown.bill import Bill, CallBill
from reports.breakdown.step_parts import PARTS
from reports.tables.sentences import interval_text, lay_out, number, plain_table, size_text
from wiretax.record.stats import Interval


def bill_text(bill: Bill) -> str:
    whole_us = bill.parts.whole()[0]
    rows = [
        {
            "part": part,
            "ms [95 %]": interval_text(in_ms(bill.parts.mean(part))),
            "%": f"{100 * bill.parts.mean(part)[0] / whole_us:.1f}",
        }
        for part in PARTS
    ]
    kinds = [
        {
            "call": name_of(each),
            "calls": str(each.n_calls),
            "transport us": interval_text(each.transport_us),
            "alone us": interval_text(each.alone.us) if each.alone else "-",
            "waiting us by rank": " ".join(number(us[0]) for us in each.waiting_us),
            "verdict": each.verdict,
        }
        for each in bill.calls
    ]
    tables = [(f"a step of {bill.parts.n_steps}", plain_table(rows[0], rows))]
    if kinds:
        tables.append(("the calls", plain_table(kinds[0], kinds)))
    else:
        bill.notes.append(f"no collective in {bill.parts.n_steps} steps")
    steps = [
        f"{name_of(each)}: {each.verdict}: {each.why}. Next: {each.next_step}."
        for each in bill.calls
    ]
    return lay_out([bill.title], [*bill.notes, *steps], tables, [])


def name_of(call: CallBill) -> str:
    size = f" {size_text(call.size_bytes)}" if call.size_bytes else ""
    return f"{call.collective}{size} ({call.by})"


def in_ms(us: Interval) -> Interval:
    middle, low, high = (None if each is None else each / 1e3 for each in us)
    return middle or 0.0, low, high


def bill_fields(bill: Bill) -> dict[str, Any]:
    """`calls` has figures of one call, the other figures are of one step; `intervals` has the 95 %
    interval of each by the name of its field, [low, high]."""
    spans = {"step_us": bill.parts.whole()}
    spans |= {f"{part}_us": bill.parts.mean(part) for part in PARTS}
    if bill.hidden_at_most_us:
        spans["hidden_at_most_us"] = bill.hidden_at_most_us
    return {
        "ranks": bill.ranks,
        "steps": bill.parts.n_steps,
        "tokens": bill.tokens,
        "hidden_at_most_us": None,
        **figures(spans),
        "calls": [call_fields(each) for each in bill.calls],
        "notes": bill.notes,
    }


def call_fields(call: CallBill) -> dict[str, Any]:
    spans = {"transport_us": call.transport_us}
    if call.alone:
        spans["alone_us"] = call.alone.us
    return {
        "collective": call.collective,
        "by": call.by,
        "size_bytes": call.size_bytes or None,
        "group": call.group,
        "stream": call.stream,
        "n_calls": call.n_calls,
        "is_bound": call.is_bound,
        "alone_us": None,
        "alone_source": call.alone.source if call.alone else None,
        **figures(spans),
        "waiting_us": [us[0] for us in call.waiting_us],
        "waiting_intervals": [us[1:] for us in call.waiting_us],
        "idle_us": [us[0] for us in call.idle_us],
        "last_share": call.last_share,
        "late_ranks": call.late_ranks,
        "verdict": call.verdict,
        "why": call.why,
        "next_step": call.next_step,
    }


def figures(spans: Mapping[str, Interval]) -> dict[str, Any]:
    """Each figure by its name, and the intervals of all."""
    figures: dict[str, Any] = {name: us[0] for name, us in spans.items()}
    return figures | {"intervals": {name: us[1:] for name, us in spans.items()}}
