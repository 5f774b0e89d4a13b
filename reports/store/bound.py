"""The lower bound of a case's time, from the measured parts of the machine.

The bound adds a flag hop (half a round trip) for each hop of the algorithm, the launch, and the
longer of two times: moving the data between ranks, and moving the data through the memory system.
A chain adds the measured chain without collectives.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reports.store.case import BETWEEN_RANKS, LinkStates, round_trip_ns
from reports.store.schema import Case, CaseHeader, LinkBlock, Run
from reports.store.stats import median_interval

Terms = dict[str, float]  # microseconds by name


def set_bound(case: Case, run: Run, link_blocks: Sequence[LinkBlock], state: int | None,
              states: LinkStates) -> None:
    """Fills in the bound of a measured case, from the link blocks of its size. Link blocks in the
    state of the case take precedence. Leaves the bound empty if a needed part is not measured."""
    assert case.time_us
    header = run.cases[case.case]
    links = [link for link in link_blocks if link.size_bytes == case.size_bytes]
    same_state = [] if state is None else [
        link for link in links if _link_state(link, states) == state]
    needs = _needs(header)
    costs = _part_costs_us(needs, same_state or links, case.size_bytes)
    if header.bound_parts is None or costs is None:
        return
    terms, low_terms = (_terms(header.bound_parts, needs, part_us) for part_us in costs)
    # The parts exclude stamping and launching, which the time contains once for all its calls.
    launch_us = 0.0 if run.clock_shared else run.link.get("overhead_us", 0.0) / case.calls
    terms["launch"] = low_terms["launch"] = launch_us
    if case.chain_only_us:
        chain = case.chain_only_us
        terms["chain_only"] = chain.median
        low_terms["chain_only"] = chain.median if chain.ci_low is None else chain.ci_low
    case.bound_us, case.bound_parts_us = _total_us(terms), terms
    if case.time_us.median > 0:
        case.share_of_bound = case.bound_us / case.time_us.median
    high = case.time_us.ci_high
    case.suspect = high is not None and _total_us(low_terms) > high


def _needs(header: CaseHeader) -> dict[str, bool]:
    """The parts of the machine in the order of the bound's terms, and whether the case uses them.
    An algorithm that pushes reads at home, so its reads do not count."""
    parts: dict[str, Any] = header.bound_parts or {}
    stages, pushes = parts.get("stages", []), bool(parts.get("pushes"))
    return {"hop": bool(parts.get("hops")),
            "push" if pushes else "copy_in": any(stored for stored, _ in stages),
            "peer_read": not pushes and any(read for _, read in stages),
            "memory": bool(parts.get("memory_bytes"))}


def _part_costs_us(needs: dict[str, bool], links: Sequence[LinkBlock],
                   size_bytes: int) -> tuple[Terms, Terms] | None:
    """The cost of a hop, and of a byte in each other part: the medians, and the low ends of their
    intervals. None if a part that the case needs was not measured."""
    medians, lows = dict.fromkeys(needs, 0.0), dict.fromkeys(needs, 0.0)
    for name in (name for name, is_needed in needs.items() if is_needed):
        if name == "hop":
            pairs = [link.link_rtt_ns for link in links if link.link_rtt_ns]
            times_us, units = [trip / 1e3 for pair in pairs for trip in pair], 2
        else:
            values = [getattr(link, f"{name}_us") for link in links]
            times_us, units = [value for value in values if value is not None], size_bytes
        if not times_us or not units:
            return None
        median, low, _ = median_interval(times_us)
        medians[name], lows[name] = median / units, (median if low is None else low) / units
    return medians, lows


def _terms(parts: dict[str, Any], needs: dict[str, bool], part_us: Terms) -> Terms:
    """The terms of the bound. A stage stores and reads in one pass, so only the slower of the two
    counts, under its name."""
    terms = dict.fromkeys(needs, 0.0)
    terms["hop"] = parts.get("hops", 0) * part_us["hop"]
    terms["memory"] = parts.get("memory_bytes", 0) * part_us["memory"]
    store = "push" if "push" in needs else "copy_in"
    for stored_bytes, read_bytes in parts.get("stages", []):
        store_us = stored_bytes * part_us[store]
        read_us = read_bytes * part_us["peer_read"]
        terms[store if store_us >= read_us else "peer_read"] += max(store_us, read_us)
    return terms


def _total_us(terms: Terms) -> float:
    between_ranks = sum(terms.get(name, 0.0) for name in BETWEEN_RANKS)
    moving = max(between_ranks, terms["memory"])
    return terms["hop"] + terms["launch"] + moving + terms.get("chain_only", 0.0)


def _link_state(link: LinkBlock, states: LinkStates) -> int | None:
    """The state with the nearest round trip; None if the link changed between the probes."""
    trip_ns = round_trip_ns(link)
    if trip_ns is None:
        return None
    if not states.rtt_ns or not trip_ns:
        return 0
    return int(np.argmin(np.abs(np.log(states.rtt_ns) - np.log(trip_ns))))
