"""The verdict of a kind of call: where its time goes in the engine, and what to do next."""

from reports.breakdown.bill import CallBill
from reports.breakdown.step_parts import StepParts

LEAST_CALLS = 20
# A part has the verdict if it is more than this share of what the calls cost.
MAIN_SHARE = 0.5
SLOWER = 1.25  # times the call alone
NEXT_STEPS = {
    "transfer": "The wire costs what it costs alone: fewer or smaller calls, or a faster link.",
    "waiting": "Find out why that rank is late: its clock, its power cap, its share of the work.",
    "launch": "The device waits for the host: replay decode from a graph.",
    "slower than alone": "Look for contention with other traffic, and at protocol and size.",
    "mixed": "No single part dominates: begin with the largest.",
    "inconclusive": "Profile more steps.",
}


def judge(call: CallBill, parts: StepParts, n_calls: int) -> str:
    """The verdict of these calls; `n_calls` are those of all kinds in the steps of `parts`."""
    if call.n_calls < LEAST_CALLS:
        return "inconclusive"
    costs_us = {
        "transfer": call.transport_us[0],
        "waiting": sum(each[0] for each in call.waiting_us) / len(call.waiting_us),
        "launch": parts.mean("idle")[0] * parts.n_steps / n_calls,
    }
    main = max(costs_us, key=lambda name: costs_us[name])
    if costs_us[main] <= MAIN_SHARE * sum(costs_us.values()):
        return "mixed"
    is_slow = call.alone and call.transport_us[0] > SLOWER * call.alone.us[0]
    return "slower than alone" if main == "transfer" and is_slow else main
