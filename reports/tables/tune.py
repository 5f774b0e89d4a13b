"""The results of `bench.tune`: the best variant for each size, in each state of the link."""

from statistics import median
from typing import Any

from reports.store.case import costs_in, find_states
from reports.store.schema import Result
from reports.tables.headline import Point, headline
from reports.tables.sentences import lay_out, number, plain_table, size_text, spoken

FINALISTS = 4
LEAST_BLOCKS = 3  # of a finalist in a state of the link
ENOUGH_BLOCKS = 12  # enough for a finalist, however many another one has


def winners(result: Result) -> list[Any]:
    """The best of `tried` candidates by `variant`, `size_bytes` and state of the link, with a flag
    round trip of `link_rtt_ns`: `name` and `cost_us`, and those of the next, NaN without. Quantised
    candidates have their own winner, if it is faster than the exact one."""
    import pandas as pd  # not at the top: only rank 0 of bench.tune looks for winners

    heat = ["variant", "size_bytes", "link_rtt_ns", "is_lossy"]
    states = find_states(result.blocks)
    rows = []
    for state, rtt_ns in enumerate(states.rtt_ns) if states.rtt_ns else [(states.longest, 1.0)]:
        costs_us = costs_in(result.blocks, states.of_block, state)
        rows += [(case.variant, case.size_bytes, rtt_ns, case.snr_db is not None, case.algorithm,
                  len(costs_us[case.case]), median(costs_us[case.case].values()))
                 for case in result.cases if case.status == "ok" and case.case in costs_us]
    frame = pd.DataFrame(rows, columns=[*heat, "name", "blocks", "cost_us"])
    frame["is_lossy"] = frame.is_lossy.astype(bool)
    blocks = frame.groupby(heat).blocks
    frame["tried"] = blocks.transform("size")
    # Early losers have few blocks: the best of them would be luck.
    frame = frame[frame.blocks >= (blocks.transform("max") / 2).clip(LEAST_BLOCKS, ENOUGH_BLOCKS)]
    exact_us = frame.cost_us.where(~frame.is_lossy)
    exact_us = exact_us.groupby([frame[name] for name in heat[:-1]]).transform("min")
    frame = frame[~frame.is_lossy | (frame.cost_us < exact_us)].sort_values([*heat, "cost_us"])
    frame[["next_name", "next_us"]] = frame.groupby(heat)[["name", "cost_us"]].shift(-1)
    return [*frame.groupby(heat).head(1).itertuples(index=False)]


def render(result: Result) -> str:
    """One line for each size, variant and state of the link; ends with a newline."""
    head = ["the best in each state of the link (a flag's round trip); us of a call: up to",
            "512 KiB one of 160 dependent ones, beyond alone with the reading of its result"]
    rows = [[size_text(best.size_bytes), best.variant, f"{best.link_rtt_ns:.0f}",
             number(best.cost_us), best.name, str(best.tried),
             f"{best.next_name} {best.next_us / best.cost_us:.2f}x" if best.next_us > 0 else "-"]
            for best in winners(result)]
    table = plain_table({"size": 8, "variant": 10, "link ns": 7, "us": 8, "best": 22, "tried": 5,
                         "next": 0}, rows)
    return lay_out(result, head, [("", table)], [], headline=headline([result], points))


def points(result: Result) -> list[Point]:
    """The headline's figures: the best at the smallest and the largest size, beside the next."""
    best = sorted(winners(result), key=lambda each: each.size_bytes)
    return [Point(size_text(each.size_bytes), each.cost_us, "us",
                  each.next_us / each.cost_us if each.next_us > 0 else None,
                  spoken(str(each.next_name)))
            for each in (*best[:1], *best[1:][-1:])]
