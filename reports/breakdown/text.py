"""What a bill says: its finding, its rows, its sentences, and its fields of JSON."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.breakdown.bars import LEAST_MS
from reports.breakdown.bill import Bill, CallBill
from reports.breakdown.halves import halves_fields
from reports.breakdown.step_parts import PARTS, interval_fields
from reports.tables.sentences import counted, interval_text, number, size_text, some
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable
from wiretax.record.stats import Interval

MOST_RANKS = 2  # whose waiting stands in a row; of more the ends
MOST_LETTERS = 16  # of a group's name
LATE_IDLES = 2  # times as long as any other rank: its idle time is why it comes late
NOTABLE = 0.1  # below this share of a step no part but compute is the finding


def finding(bill: Bill) -> str:
    """The largest part of a step beside compute, and why: `41 % of a step of 12.3 ms is waiting:
    rank 1 comes last in 98 % of calls, by 45.1 us`."""
    us = {part: bill.parts.mean(part)[0] for part in bill.parts.us}
    part = max(us.keys() - {"compute"}, key=lambda name: (us[name], name))
    notable_us = NOTABLE * sum(us.values())
    if part == "transport" and costliest(bill)[0].verdict == "waiting":
        # A late rank does not wait, so that the mean over ranks is below what the others wait.
        part = "waiting" if us["waiting"] > notable_us else part
    if us[part] < notable_us:
        part = "compute"
    text = f"{percent(bill, part)} % of a step of {ms_text(bill.parts.whole())} ms is {part}"
    if not bill.calls:
        return f"no collective in {counted(bill.parts.n_steps, 'step')}; {text}"
    if part in ("transport", "waiting") and any(call.is_bound for call in bill.calls):
        bound = "at least" if part == "waiting" else "at most"
        return f"{bound} {text}, as far as traces of {len(bill.ranks)} of the ranks show"
    if part == "transport":
        n_calls = [call.n_calls for call in bill.calls]
        mean_us = np.average([call.transport_us[0] for call in bill.calls], weights=n_calls)
        return f"{text}: {per_step(sum(n_calls), bill)} calls of {number(mean_us)} us"
    if part == "waiting":
        return f"{text}: {late_text(bill)}"
    if part == "idle":
        return f"{text}: {idle_text(bill)}"
    return f"{text}: calls run beside other work" if part == "overlap" else text


def late_text(bill: Bill) -> str:
    """`rank 1 comes last in 98 % of calls, by 45.1 us`: by the mean wait of the other ranks."""
    costly = costliest(bill)[0]
    if costly.verdict == "waiting" and not costly.late_ranks:
        return "no single rank holds the others up"
    weights = [call.n_calls for call in bill.calls]
    last = np.average([call.last_share for call in bill.calls], axis=0, weights=weights)
    waits_us = [sum(us[0] for us in call.waiting_us) for call in bill.calls]
    by_us = np.average(waits_us, weights=weights) / max(len(bill.ranks) - 1, 1)
    rank = bill.ranks[int(last.argmax())]
    return f"rank {rank} comes last in {100 * last.max():.0f} % of calls, by {number(by_us)} us"


def idle_text(bill: Bill) -> str:
    """Whose device idles, if it is that of ranks for which the others wait."""
    late = [bill.ranks.index(rank) for call in bill.calls for rank in call.late_ranks]
    idle_us = bill.parts.us["idle"].sum(axis=1)
    if late and idle_us[late].min() > LATE_IDLES * np.delete(idle_us, late).max(initial=0.0):
        ranks = some([*dict.fromkeys(f"rank {bill.ranks[place]}" for place in late)])
        return f"the device of {ranks} has nothing to run, and the others wait for it"
    return "the device has nothing to run"


def per_step(n_calls: int, bill: Bill) -> str:
    """The calls of a step; `64`, and a mean as `63.5`."""
    mean = n_calls / bill.parts.n_steps
    return f"{mean:.0f}" if mean.is_integer() else number(mean)


def facts(bill: Bill) -> list[str]:
    """What was profiled, how many steps these are the means of, and whose calls these are."""
    steps = counted(bill.parts.n_steps, "step")
    if bill.tokens:
        steps += f" of {counted(bill.tokens, 'token')}"
    if bill.steps_by:
        steps += f" cut by {bill.steps_by}"
    libraries = [*dict.fromkeys(call.by for call in bill.calls)]
    whose = [f"calls of {some(libraries)}"] if libraries else []
    return ["; ".join([printable(bill.title), steps, *whose])]


def part_rows(bill: Bill) -> list[dict[str, str]]:
    """A row for each part of a step, and one for the whole."""
    rows = [
        {
            "part": part,
            "ms [95 %]": ms_text(bill.parts.mean(part), True),
            "%": percent(bill, part),
        }
        for part in bill.parts.us
    ]
    return [*rows, {"part": "step", "ms [95 %]": ms_text(bill.parts.whole(), True), "%": "100"}]


def call_rows(bill: Bill) -> list[dict[str, str]]:
    """A row for each kind of call, the costliest first."""
    names = names_of(bill.calls)
    return [
        {
            "call": names[id(call)],
            "calls\na step": per_step(call.n_calls, bill),
            "transport\nus [95 %]": ("<= " if call.is_bound else "")
            + interval_text(call.transport_us),
            "alone\nus": number(call.alone.us[0]) if call.alone else "-",
            "waiting us\nby rank": waiting_text(call),
            "verdict": call.verdict,
        }
        for call in costliest(bill)
    ]


def waiting_text(call: CallBill) -> str:
    """Of each rank, or the least and the most of many."""
    waits_us = [us[0] for us in call.waiting_us]
    if len(waits_us) > MOST_RANKS:
        return f"{number(min(waits_us))} to {number(max(waits_us))}"
    return (">= " if call.is_bound else "") + " ".join(map(number, waits_us))


def next_steps(bill: Bill) -> list[str]:
    """A sentence for each verdict, on the costliest of its calls, what a step would save, and the
    sources of calls alone."""
    names = names_of(bill.calls)
    steps = []
    for verdict, own in grouped(costliest(bill), lambda call: call.verdict).items():
        whose = some([names[id(call)] for call in own])
        why = f"of the first, {own[0].why}" if len(own) > 1 else own[0].why
        steps.append(f"{verdict} ({whose}): {why}. Next: {own[0].next_step}.")
    us = bill.parts.hidden_at_most()
    if us and us[0] > 0:
        share = us[0] / (bill.parts.whole()[0] or 1.0)  # of an empty step
        saved = f"{ms_text(us, True)} ms, {100 * share:.1f} %, of a step"
        steps.append(
            f"If each call ran beside the compute after it, that would save at most {saved}."
        )
    sources = dict.fromkeys(call.alone.source for call in bill.calls if call.alone)
    return steps + [f"Alone: {source}." for source in sources]


def noticed(bill: Bill) -> list[str]:
    """The notes, without those whose command a next step has."""
    advised = {command_at_end(step)[1] for step in next_steps(bill)} - {""}
    return [note for note in bill.notes if command_at_end(note)[1] not in advised]


def command_at_end(sentence: str) -> tuple[str, str]:
    """The words before the command that a sentence ends with, and the command, or an empty one."""
    found = re.search(r" `([^`]+)`\.?$", sentence)
    return (sentence[: found.start()], found[1]) if found else (sentence, "")


def names_of(calls: Sequence[CallBill], has_size: bool = True) -> dict[int, str]:
    """The name of each kind by its id(): `all_reduce 16 KiB`, and the library, the group and the
    stream where kinds of one name differ in them."""

    def kind(call: CallBill) -> str:
        has_known = has_size and call.size_bytes
        return f"{call.collective} {size_text(call.size_bytes)}" if has_known else call.collective

    names = dict[int, str]()
    for name, own in grouped(calls, kind).items():
        libraries, groups, streams = (
            {getattr(call, field) for call in own} for field in ("by", "group", "stream")
        )
        for call in own:
            words = [name]
            if len(libraries) > 1:
                words.append(f"({call.by})")
            if len(groups) > 1:
                words.append(f"group {call.group[:MOST_LETTERS] or '?'}")
            if len(streams) > 1:
                words.append(f"stream {call.stream}")
            names[id(call)] = printable(" ".join(words))
    return names


def costliest(bill: Bill) -> list[CallBill]:
    """The kinds of calls, those first that take most time in all."""
    return sorted(bill.calls, key=cost_us, reverse=True)


def cost_us(call: CallBill) -> float:
    """What all its calls take, with their waiting as the mean over ranks."""
    waits_us = [us[0] for us in call.waiting_us]
    return call.n_calls * (call.transport_us[0] + sum(waits_us) / len(waits_us))


def percent(bill: Bill, part: str) -> str:
    whole_us = bill.parts.whole()[0] or 1.0  # of an empty step
    share = 100 * bill.parts.mean(part)[0] / whole_us
    return f"{share:.0f}" if share >= 9.5 else f"{share:.1f}"


def ms_text(us: Interval, has_ends: bool = False) -> str:
    """An interval in us, in ms, with or without its ends."""
    if us[0] < 1e3 * LEAST_MS:
        return "0"
    middle, low, high = (None if each is None else each / 1e3 for each in us)
    return interval_text((middle or 0.0, low, high)) if has_ends else number(middle)


def bill_fields(bill: Bill) -> dict[str, Any]:
    """`calls` has figures of one call, the other figures are of one step; `intervals` has the 95 %
    interval of each by the name of its field, [low, high]."""
    spans = {"step_us": bill.parts.whole()}
    spans |= {f"{part}_us": bill.parts.mean(part) for part in bill.parts.us}
    if hidden_us := bill.parts.hidden_at_most():
        spans["hidden_at_most_us"] = hidden_us
    return {
        "finding": finding(bill),
        "ranks": bill.ranks,
        "steps": bill.parts.n_steps,
        "tokens": bill.tokens,
        "hidden_at_most_us": None,
        **dict.fromkeys(("step_us", *(f"{part}_us" for part in PARTS))),
        **interval_fields(spans),
        "calls": [call_fields(each) for each in bill.calls],
        "halves": halves_fields(bill.halves) if bill.halves else None,
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
        "is_graph": call.is_graph,
        "alone_us": None,
        "alone_source": call.alone.source if call.alone else None,
        **interval_fields(spans),
        "waiting_us": [us[0] for us in call.waiting_us],
        "waiting_intervals": [us[1:] for us in call.waiting_us],
        "idle_us": [us[0] for us in call.idle_us],
        "last_share": call.last_share,
        "late_ranks": call.late_ranks,
        "verdict": call.verdict,
        "why": call.why,
        "next_step": call.next_step,
    }
