"""The chain from a graph: what GPUs do when a model decodes, so the first table of their runs. Its
times are shown less the links of the chain, the kernels that make the next input."""

from math import inf

from msgspec.structs import replace

from wiretax.record.schema import LEAST_US, Block, Result
from wiretax.record.summarise import build_cases

TIMES = "time_us", "total_us", "mean_us"


def leads(result: Result) -> bool:
    """Whether the chain is the first table, and isolated calls, which contain two stamps and an
    empty launch, the second."""
    is_chained = any(case.mode == "chained" and case.time_us for case in result.cases)
    return is_chained and bool(result.run.gpus and result.run.method.get("graph"))


def without_links(result: Result) -> Result:
    """The run as it is shown: where the chain leads, its calls less a link. A run that is already
    so stays as it is."""
    links_us = _links_us(result) if leads(result) else {}
    if not links_us:
        return result

    by_case = {
        number: [_block(block, links_us.get(number, 0.0)) for block in blocks]
        for number, blocks in result.counted.by_case.items()
    }
    counted = replace(result.counted, by_case=by_case)
    built = build_cases(result.run, counted, result.blocks, result.link_blocks)
    # What the run says of a case that is wrong, or was not measured, stands.
    cases = [
        again if case.case in links_us and case.status == again.status == "ok" else case
        for case in result.cases
        for again in [built[case.case]]
    ]
    return replace(result, cases=cases, counted=counted)


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


def _block(block: Block, link_us: float) -> Block:
    if not link_us:
        return block

    less = {
        name: max(us - link_us, LEAST_US)
        for name in TIMES
        if (us := getattr(block, name)) is not None
    }
    return replace(block, chain_only_us=None, **less)
