"""The verdict of a kind of call: where its time goes in the engine, and what to do next.

A call costs its transport, what the ranks wait on average, and what every device idles beside it. A
verdict names the one that is clearly more than the others together; docs/breakdown-rules.md has the
whole rule."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from reports.breakdown.alone import to_measure
from reports.breakdown.bill import CallBill
from reports.breakdown.step_parts import LEAST_STEPS, StepParts, mean_interval
from reports.breakdown.timeline import Floats
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, counted, number, some
from wiretax.common.program import BENCH, REPORTS, RUN, on_ranks
from wiretax.record.stats import Interval

LEAST_CALLS = 20
# Times all else: without this part a call costs less than half, and two equal parts are mixed.
MAIN = 1.25
# Times the call alone. What a chain measures has the step from a graph's node to the next one,
# about 3 us of 15 to 40, and a kernel's time in a trace has not: equal calls are below 1.
SLOWER = 1.25
LATE = 0.5  # of what the others wait: ranks that are later by more than this are to blame
# What a late rank does longer than the others, by the parts of a step.
CAUSES = "compute", "idle"
NEXT_STEPS = {
    "transfer": "make fewer or smaller calls, or faster ones; {reports} advise compares splits, "
    "and this the algorithms: `{measure}`",
    "transfer, alone unknown": "measure the same call alone and add --run alone, which tells a "
    "slow call from a slow wire: `{measure} --out alone`",
    "transfer, no all-reduce": "measure the same call alone, which tells a slow call from a slow "
    "wire: `{measure}`",
    "slower than alone": "find what the call alone has not: other traffic on the link, another "
    "protocol (NCCL_DEBUG=INFO names it), kernels beside it, whose cost this measures: "
    "`{footprint}`",
    "waiting": "find out why {late} late: {doctor} compares clocks and power caps; this "
    "measures what a late rank costs: `{measure} --arrival-skew {late_us}us`",
    "waiting, host": "find out why {late} late: what else runs on its host's cores, and whether "
    "its threads are pinned; or replay decode from a graph",
    "waiting, early": "share the work out more evenly: a trace shows which kernels {early} not",
    "waiting, by turns": "no rank is to blame: look for what holds each host up now and then, such "
    "as threads that are not pinned or launches without a graph",
    "launch": "replay decode from a graph that contains the calls: vLLM without --enforce-eager, "
    "cudagraph_mode FULL_DECODE_ONLY; SGLang without --disable-cuda-graph",
    "mixed": "begin with the largest part; {doctor} shows links, clocks and power caps",
    "inconclusive": "profile more steps",
    "bound": "trace all ranks: the one that comes last shows the transport",
}


def judge(
    call: CallBill,
    transport_us: Floats,
    waiting_us: Floats,
    idle_us: Floats | None,
    parts: StepParts,
    ranks: Sequence[int],
    group_size: int,
) -> None:
    """Gives the bill of these calls its verdict, the late ranks, the reason and the next step. The
    times are means of a step's calls: transport (steps,), waiting (ranks, steps) and idle beside a
    call (ranks, steps), None if nobody knows. `parts` are of the steps; `ranks` are the numbers of
    the traced ranks, of `group_size` that the calls join."""
    late, early = ([], []) if call.is_bound else uneven_places(call.waiting_us)
    costs = {
        "transfer": transport_us,
        # If one rank is to blame, the calls end as much earlier as the others wait for it.
        "waiting": waiting_us.sum(axis=0) / (len(waiting_us) - len(late)),
    }
    if idle_us is not None:
        # A rank that idles longer than another comes late: the others wait for it.
        costs["launch"] = idle_us[idle_us.mean(axis=1).argmin()]
    lacks = lacking(call.n_calls, len(costs["transfer"]))
    call.verdict = "inconclusive" if lacks else verdict_of(call, costs)
    late = late if call.verdict in ("waiting", "mixed") else []
    call.late_ranks = [ranks[place] for place in late]
    words = {
        "measure": to_measure(
            call.collective, call.size_bytes or TOKEN_CALL_SIZE_BYTES, group_size, call.is_graph
        ),
        "footprint": on_ranks(group_size, "gemm_reduce_scatter --footprint"),
        "reports": f"{RUN}{REPORTS}",
        "doctor": f"{RUN}{BENCH}doctor",
        "late_us": f"{later_by([us[0] for us in call.waiting_us], late):.0f}",
        "late": ranks_text(call.late_ranks, "is", "are"),
        "early": ranks_text([ranks[place] for place in early], "has", "have"),
    }
    longer_us = {
        part: -later_by(us.mean(axis=1), late) for part, us in parts.us.items() if part in CAUSES
    }
    cause = max(longer_us, key=lambda part: longer_us[part])
    call.why = "; ".join([*lacks, *reasons(call, costs, late, early)])
    if late:
        share = 100 * sum(call.last_share[place] for place in late)
        call.why += f"; {words['late']} last in {share:.0f} %, by {words['late_us']} us"
    if late and longer_us[cause] > 0:
        verb = cause if len(late) > 1 else f"{cause}s"
        call.why += f", and {verb} {number(longer_us[cause])} us a step more than the others"
    is_early = early and call.verdict == "waiting"
    if is_early:
        waits_us = -later_by([us[0] for us in call.waiting_us], early)
        names = ranks_text([ranks[place] for place in early], "comes", "come")
        call.why += f"; {names} {number(waits_us)} us before the others"
    advice = "inconclusive" if lacks else "waiting, early" if is_early else advice_of(call, cause)
    call.next_step = NEXT_STEPS[advice].format_map(words)
    if lacks and call.is_bound:
        call.next_step += ", of all ranks"


def lacking(n_calls: int, n_steps: int) -> list[str]:
    """What there are too few of for a verdict."""
    found = {"call": (n_calls, LEAST_CALLS), "step": (n_steps, LEAST_STEPS)}
    return [
        f"{counted(n, what)}, and a verdict needs {least}"
        for what, (n, least) in found.items()
        if n < least
    ]


def verdict_of(call: CallBill, costs: Mapping[str, Floats]) -> str:
    """Of a bound, which transport does not exceed, and waiting not fall below, nothing is said that
    a lower transport refutes. `costs` are of a call, in us by step."""
    main = max(costs, key=lambda name: costs[name].mean())
    others_us = sum(costs.values()) - costs[main]
    least_us, most_us = ends(mean_interval(costs[main] - MAIN * others_us))
    if least_us <= 0:
        return "mixed" if most_us < 0 and not call.is_bound else "inconclusive"
    if main != "transfer":
        return main
    if not call.alone:
        return "inconclusive" if call.is_bound else "transfer"
    alone_us = SLOWER * ends(call.alone.us)[1]
    least_us, most_us = ends(call.transport_us)
    if most_us <= alone_us:
        return "transfer"
    return "slower than alone" if least_us > alone_us and not call.is_bound else "inconclusive"


def uneven_places(waiting_us: Sequence[Interval]) -> tuple[list[int], list[int]]:
    """The places of the ranks, at most half of them, that come later than all others on average,
    beyond chance: what a rank waits less than another, it comes later. Or else of those, fewer than
    half, that come earlier than all others."""
    order = sorted(range(len(waiting_us)), key=lambda place: waiting_us[place][0])
    least_us = LATE * sum(us[0] for us in waiting_us) / max(1, len(waiting_us) - 1)
    for n in range(1, len(order)):
        last, next_one = [waiting_us[place] for place in order[:n]], waiting_us[order[n]]
        is_sure = ends(next_one)[0] > max(ends(each)[1] for each in last)
        if is_sure and next_one[0] - last[-1][0] > least_us:
            is_late = n <= len(order) // 2
            return (sorted(order[:n]), []) if is_late else ([], sorted(order[n:]))
    return [], []


def later_by(us: Sequence[float] | Floats, late: Sequence[int]) -> float:
    """By how much the mean of the others is above that of these ranks; 0 without them."""
    others = [each for place, each in enumerate(us) if place not in late]
    return float(fmean(others) - fmean(us[place] for place in late)) if late else 0.0


def reasons(
    call: CallBill, costs: Mapping[str, Floats], late: Sequence[int], early: Sequence[int]
) -> Iterator[str]:
    words = "us of transport", "of waiting", "idle beside it"
    means = [f"{number(us.mean())} {word}" for us, word in zip(costs.values(), words, strict=False)]
    yield f"a call takes {', '.join(means[:-1])} and {means[-1]}"
    if call.alone:
        yield f"alone {number(call.alone.us[0])} us"
    if call.is_bound:
        yield "not all ranks were traced, so transport is at most this"
    elif call.verdict == "waiting" and not (late or early):
        low, high = (f"{100 * end(call.last_share):.0f}" for end in (min, max))
        yield f"by turns: each rank is last in {low} to {high} %"


def advice_of(call: CallBill, cause: str) -> str:
    """The key of NEXT_STEPS; `cause` is what the late ranks do longer."""
    if call.is_bound and call.verdict in ("waiting", "inconclusive"):
        return "bound"
    if call.verdict == "waiting" and not call.late_ranks:
        return "waiting, by turns"
    if call.verdict == "waiting" and cause == "idle":
        return "waiting, host"
    if call.verdict == "transfer" and not call.alone:
        is_reduced = call.collective == "all_reduce"
        return "transfer, alone unknown" if is_reduced else "transfer, no all-reduce"
    return call.verdict


def ranks_text(ranks: Sequence[int], one: str, several: str) -> str:
    """`rank 1 is`, `ranks 2, 3 are`, by these verbs."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} {one}"
    return f"ranks {some([*map(str, ranks)])} {several}"


def ends(interval: Interval) -> tuple[float, float]:
    """Of an interval; without one both are the value."""
    middle, low, high = interval
    return middle if low is None else low, middle if high is None else high
