"""The chain from a graph: what GPUs do when a model decodes, so the first table of their runs. Its
times are shown less the links of the chain, the kernels that make the next input."""

from dataclasses import replace
from math import inf

import msgspec

from reports.store.schema import LEAST_US, Block, Case, Result, Summary

TIMES = "time_us", "total_us"


def leads(result: Result) -> bool:
    """Whether the chain is the first table, and isolated calls, which contain two stamps and an
    empty launch, the second."""
    is_chained = any(case.mode == "chained" and case.time_us for case in result.cases)
    return is_chained and bool(result.run.gpus and result.run.method.get("graph"))


def without_links(result: Result) -> Result:
    """The run as it is shown: where the chain leads, its calls less a link. A run that is already
    so stays as it is."""
    if not leads(result):
        return result

    counted, links_us = result.counted, _links_us(result)
    by_case = {
        number: [_block(block, links_us.get(number, 0.0)) for block in blocks]
        for number, blocks in counted.by_case.items()
    }
    return replace(
        result,
        cases=[_case(case, links_us.get(case.case, 0.0)) for case in result.cases],
        counted=replace(counted, by_case=by_case),
    )


def _links_us(result: Result) -> dict[int, float]:
    """The time of a link by the number of the chained case.

    All rows of a size have the same link, and the least time of any of their blocks counts: nothing
    holds the ranks together while links run alone, and on a shared card those of 1 MiB took 2.2 us
    in some blocks and 8 us in others, more than a whole call with its link."""
    group_of = {
        case.case: (case.size_bytes, case.datatype, case.in_place, str(case.shape))
        for case in result.cases
        if case.mode == "chained" and case.chain_only_us
    }
    least_us = dict[tuple[object, ...], float]()
    for number, group in group_of.items():
        for block in result.counted.by_case.get(number, ()):
            if block.chain_only_us is not None:
                least_us[group] = min(block.chain_only_us, least_us.get(group, inf))
    return {number: least_us.get(group, 0.0) for number, group in group_of.items()}


def _less(us: float | None, link_us: float) -> float | None:
    return None if us is None else max(us - link_us, LEAST_US)


def _block(block: Block, link_us: float) -> Block:
    times = {name: _less(getattr(block, name), link_us) for name in TIMES}
    return msgspec.structs.replace(block, **times) if link_us else block


def _case(case: Case, link_us: float) -> Case:
    if not link_us or not case.time_us:
        return case

    times = {name: _summary(getattr(case, name), link_us) for name in TIMES}
    shown = msgspec.structs.replace(case, chain_only_us=None, **times)
    assert shown.time_us
    longer = case.time_us.median / shown.time_us.median
    for name in ("alg_bw_gb_s", "bus_bw_gb_s"):
        if (bandwidth := getattr(case, name)) is not None:
            setattr(shown, name, bandwidth * longer)
    if case.bound_us is not None and case.chain_only_us:
        shown.bound_us = _less(case.bound_us, case.chain_only_us.median)  # which it contains
        shown.share_of_bound = (shown.bound_us or 0.0) / shown.time_us.median
    return shown


def _summary(summary: Summary | None, link_us: float) -> Summary | None:
    if summary is None:
        return None

    counts = {"n", "n_blocks"}
    values = {
        name: _less(getattr(summary, name), link_us)
        for name in summary.__struct_fields__
        if name not in counts
    }
    return msgspec.structs.replace(summary, **values)
