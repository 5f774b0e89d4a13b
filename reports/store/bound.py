"""The lower bound of a case's time, from the measured parts of the machine.

The bound adds a flag hop (half a round trip) for each hop of the algorithm, the launch, and the
longer of two times: moving the data between ranks, and moving the data through the memory system.
A chain adds the measured chain without collectives.
"""

from collections.abc import Mapping, Sequence

from reports.store.case import BETWEEN_RANKS
from reports.store.schema import Case, LinkBlock, Run
from reports.store.stats import median_interval

Terms = dict[str, float]  # microseconds by name


def set_bound(case: Case, run: Run, links: Sequence[LinkBlock]) -> None:
    """Fills in the bound of a measured case, from link blocks of its size. Leaves the bound empty
    if a needed part is not measured."""
    assert case.time_us
    parts = run.cases[case.case].bound_parts
    if parts is None:
        return
    store = "push" if parts.get("pushes") else "copy_in"
    # An algorithm that pushes reads at home, so its reads do not count.
    stages = [(stored_bytes, 0 if store == "push" else read_bytes)
              for stored_bytes, read_bytes in parts.get("stages", [])]
    amounts = {"hop": parts.get("hops", 0), store: sum(stored for stored, _ in stages),
               "peer_read": sum(read for _, read in stages), "memory": parts.get("memory_bytes", 0)}
    medians_us, lows_us = dict.fromkeys(amounts, 0.0), dict.fromkeys(amounts, 0.0)
    for name in (name for name, amount in amounts.items() if amount):
        cost_us = _cost_us(name, links, case.size_bytes)
        if cost_us is None:
            return
        medians_us[name], lows_us[name] = cost_us
    terms, low_terms = (_terms(amounts, stages, costs_us) for costs_us in (medians_us, lows_us))
    # The parts exclude stamping and launching, which the time contains once for all its calls.
    launch_us = 0.0 if run.clock_shared else run.link.get("overhead_us", 0.0) / case.calls
    terms["launch"] = low_terms["launch"] = launch_us
    if chain := case.chain_only_us:
        terms["chain_only"] = chain.median
        low_terms["chain_only"] = chain.median if chain.ci_low is None else chain.ci_low
    case.bound_us, case.bound_parts_us = _total_us(terms), terms
    if case.time_us.median > 0:
        case.share_of_bound = case.bound_us / case.time_us.median
    high = case.time_us.ci_high
    case.suspect = high is not None and _total_us(low_terms) > high


def _cost_us(name: str, links: Sequence[LinkBlock], size_bytes: int) -> tuple[float, float] | None:
    """The cost of a hop, or of a byte of another part: the median and the low end of its interval.
    None if the part was not measured."""
    if name == "hop":
        times_us, units = [trip / 1e3 for link in links for trip in link.link_rtt_ns or ()], 2
    else:
        values = [getattr(link, f"{name}_us") for link in links]
        times_us, units = [value for value in values if value is not None], size_bytes
    if not times_us or not units:
        return None
    median, low, _ = median_interval(times_us)
    return median / units, (median if low is None else low) / units


def _terms(amounts: Mapping[str, float], stages: Sequence[tuple[float, float]],
           cost_us: Terms) -> Terms:
    """The terms of the bound. A stage stores and reads in one pass, so only the slower of the two
    counts, under its name."""
    terms = {name: 0.0 if name in BETWEEN_RANKS else amount * cost_us[name]
             for name, amount in amounts.items()}
    store = "push" if "push" in amounts else "copy_in"
    for stored_bytes, read_bytes in stages:
        store_us, read_us = stored_bytes * cost_us[store], read_bytes * cost_us["peer_read"]
        terms[store if store_us >= read_us else "peer_read"] += max(store_us, read_us)
    return terms


def _total_us(terms: Terms) -> float:
    between_ranks = sum(terms.get(name, 0.0) for name in BETWEEN_RANKS)
    moving = max(between_ranks, terms["memory"])
    return terms["hop"] + terms["launch"] + moving + terms.get("chain_only", 0.0)
