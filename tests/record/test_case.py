"""Blocks become cases. Each rule is compared with figures calculated by hand."""

import msgspec
import numpy as np
import pytest

from tests.calibration.synthetic import ar1
from tests.reports.synthetic_run import head_of, ranks_of
from wiretax.record.blocks import count_blocks
from wiretax.record.chain_links import ratio_with_link_error
from wiretax.record.schema import Block, CaseHeader, LinkBlock, Summary
from wiretax.record.stats import autocorrelation, median_interval
from wiretax.record.summarise import build_cases

pytestmark = pytest.mark.unit

SIZE = 65536
PLANNED = CaseHeader(
    collective="all_reduce",
    size_bytes=SIZE,
    count=SIZE // 4,
    datatype="float32",
    redop="sum",
    algorithm="two_shot",
    bound_parts={"hops": 2, "stages": [[SIZE / 2, 0], [0, SIZE]], "memory_bytes": 3 * SIZE},
)
LINK = LinkBlock(
    size_bytes=SIZE,
    round=0,
    copy_in_us=4.0,
    peer_read_us=6.0,
    memory_us=2.0,
    link_rtt_ns=(500.0, 500.0),
)


def blocks_of(times, rtt_ns=500.0, case=0, **fields):
    trips = np.broadcast_to(rtt_ns, len(times)).tolist()
    return [
        Block(
            case=case,
            block=turn,
            round=turn,
            n=100,
            time_us=time,
            link_rtt_ns=(trip, trip),
            n_wrong=0,
            **fields,
        )
        for turn, (time, trip) in enumerate(zip(times, trips, strict=True))
    ]


def build(blocks, *planned, size=2, links=()):
    run = head_of(planned or [PLANNED], benchmark="allreduce", world={"size": size})
    return build_cases(run, count_blocks(run, blocks), blocks, list(links))


def medians(cases):
    return [case.time_us and case.time_us.median for case in cases]


def test_bandwidth_and_bound_match_a_hand_calculation():
    [case] = build(blocks_of([20.0, 19.0, 21.0]), size=4, links=[LINK])
    assert case.alg_bw_gb_s == pytest.approx(65536 / 20e-6 / 1e9)
    assert case.bus_bw_gb_s == pytest.approx(65536 / 20e-6 / 1e9 * 1.5)
    # Two hops of 250 ns, then half a copy-in of 4 us and a read of 6 us; three copies of 2 us
    # through memory take less.
    assert case.bound_us == pytest.approx(0.5 + 2.0 + 6.0)
    assert case.share_of_bound == pytest.approx(8.5 / 20)
    assert not case.suspect


PUSHES = {"bound_parts": {**(PLANNED.bound_parts or {}), "pushes": True}}
CHAINED = {"mode": "chained", "calls": 160}


@pytest.mark.parametrize(
    ("planned", "link", "block", "expected_us"),
    [
        ({}, {"memory_us": 3.0}, {}, 0.5 + 9.0),
        # Non-temporal stores are the faster ones: 141 % of the bound on an EPYC.
        ({}, {"memory_us": 20.0, "memory_nt_us": 15.0}, {}, 0.5 + 45.0),
        # Half of a push, by the kernels' stores or by copy engines; the reads are local.
        (PUSHES, {"peer_read_us": 60.0, "memory_us": 0.0, "push_us": 5.0}, {}, 0.5 + 2.5),
        (PUSHES, {"memory_us": 0.0, "push_us": 5.0, "engine_us": 4.0}, {}, 0.5 + 2.0),
        (PUSHES, {"memory_us": 0.0}, {}, None),
        ({"bound_parts": {"memory_bytes": 3 * SIZE}}, {"memory_us": 3.0}, {}, 9.0),  # a stranger's
        # The chain alone, without collectives.
        (CHAINED, {}, {"chain_only_us": 1.25}, 8.5 + 1.25),
    ],
)
def test_the_bound_is_of_the_parts_that_an_algorithm_uses(planned, link, block, expected_us):
    links = [msgspec.structs.replace(LINK, **link)]
    planned = msgspec.structs.replace(PLANNED, **planned)
    [case] = build(blocks_of([200.0] * 3, **block), planned, links=links)
    assert case.bound_us == (expected_us and pytest.approx(expected_us))


GRAPH = {"method": {"graph": 1}, "world": {"size": 2, "ranks": ranks_of("NVIDIA H100")}}


def chain_of(times, links):
    """A case of a chain from a graph with these times of its blocks, and of its links."""
    run = head_of([msgspec.structs.replace(PLANNED, **CHAINED)], benchmark="allreduce", **GRAPH)
    blocks = blocks_of(times)
    for block, link in zip(blocks, links, strict=True):
        block.chain_only_us = link
    [case] = build_cases(run, count_blocks(run, blocks), blocks, [LINK])
    return case


def parts_of(case, name):
    """The median of a figure, and the ends of its interval."""
    figure = getattr(case, name)
    return figure.median, figure.ci_low, figure.ci_high


def test_a_chain_from_a_graph_is_less_the_link_of_its_lower_mode():
    """And so is its bound. Three of eight links are in the lower mode."""
    case = chain_of([30.0] * 8, [8.0, 2.0, 8.1, 2.2, 7.9, 8.0, 2.1, 8.2])
    assert (case.chain_only_us.median, case.chain_only_us.n_blocks) == (2.1, 3)
    assert medians([case]) == [30.0 - 2.1]
    assert case.with_link_us.median == 30.0
    assert case.bound_us == pytest.approx(8.5)
    assert case.share_of_bound == pytest.approx(8.5 / 27.9)
    assert case.alg_bw_gb_s == pytest.approx(65536 / 27.9e-6 / 1e9)


def test_the_error_of_a_link_is_in_the_interval_of_the_call():
    """Half-widths add up in quadrature; where the link has no interval, the call has none."""
    times = [30.0 + 0.1 * (7 * turn % 12) for turn in range(12)]
    links = [2.0 + 0.02 * (5 * turn % 12) for turn in range(12)]
    middle, low, high = np.array(median_interval(times))
    link, link_low, link_high = np.array(median_interval(links))
    case = chain_of(times, links)
    assert parts_of(case, "chain_only_us") == pytest.approx((link, link_low, link_high))
    assert parts_of(case, "time_us") == pytest.approx(
        (
            middle - link,
            middle - link - np.hypot(middle - low, link_high - link),
            middle - link + np.hypot(high - middle, link - link_low),
        )
    )
    assert parts_of(chain_of(times, [2.0] * 5 + [8.0] * 7), "time_us")[1:] == (None, None)


def test_the_error_of_a_link_moves_a_ratio_as_far_as_its_calls_differ():
    link = Summary(median=1.5, ci_low=1.4, ci_high=1.6)
    ratio = 2.0, 1.9, 2.1
    assert ratio_with_link_error(ratio, link, 3.0, 3.0) == pytest.approx(ratio)
    shift = 0.1 * (1 / 3 - 1 / 6)
    down, up = np.hypot(np.log(2.0 / 1.9), shift), np.hypot(np.log(2.1 / 2.0), shift)
    expected = 2.0, 2.0 * np.exp(-down), 2.0 * np.exp(up)
    assert ratio_with_link_error(ratio, link, 6.0, 3.0) == pytest.approx(expected)
    unknown = Summary(median=1.5)
    assert ratio_with_link_error(ratio, unknown, 6.0, 3.0) == (2.0, None, None)


def test_a_time_below_the_bound_is_suspect_unless_intervals_say_otherwise():
    parts = {"hops": 0, "stages": [[0, SIZE]]}
    planned = msgspec.structs.replace(PLANNED, bound_parts=parts)
    for start_us, step, spread, is_suspect in (
        (9.95, 1, 0.001, False),
        (9.5, 7, 0.001, True),
        (9.5, 7, 0.4, False),
    ):
        links = [
            msgspec.structs.replace(LINK, round=turn, memory_us=0.0, peer_read_us=10.0 * factor)
            for turn, factor in enumerate(np.linspace(1 - spread, 1, 12))
        ]
        times = blocks_of([start_us + 0.01 * (step * turn % 12) for turn in range(12)])
        [case] = build(times, planned, links=links)
        assert case.suspect is is_suspect


def test_figures_are_from_the_state_of_the_link_that_most_blocks_are_in():
    first = blocks_of([10.0] * 4 + [30.0] * 8, [100.0] * 4 + [540.0] * 8)
    second = blocks_of([11.0] * 9 + [33.0] * 7, [100.0] * 9 + [540.0] * 7, case=1)
    third = blocks_of([12.0] * 3, 100.0, case=2)
    # 16 blocks at 100 ns and 15 at 540 ns, although the first case has more at 540 ns.
    blocks = [*first, *second, *third]
    assert medians(build(blocks, *[PLANNED] * 3)) == [10.0, 11.0, 12.0]
    cases = build([*first, *second[9:], *third], *[PLANNED] * 3)
    assert medians(cases) == [30.0, 33.0, None]
    assert (cases[2].status, "another state" in (cases[2].reason or "")) == ("not measured", True)


def test_where_the_link_never_settles_every_block_counts():
    rng = np.random.default_rng(6)
    blocks = blocks_of([10.0] * 30)
    for block, trips in zip(blocks, np.exp(rng.uniform(4, 14, (30, 2))).tolist(), strict=True):
        block.link_rtt_ns = tuple(trips)
    run = head_of([PLANNED], benchmark="allreduce")
    for settled in (0, 1):  # blocks
        for block in blocks[:settled]:
            block.link_rtt_ns = (100.0, 100.0)
        counted = count_blocks(run, blocks)
        assert (counted.is_settled, counted.left_out, len(counted.by_case[0])) == (False, 0, 30)


def test_intervals_allow_for_the_correlation_of_blocks_over_all_cases():
    """Otherwise intervals would be too narrow wherever the machine drifts during a run."""
    rng, rho = np.random.default_rng(3), 0.8
    noise = ar1(rng.normal(size=(30, 12)), rho)
    times_us = (20 * np.exp(0.02 * noise)).tolist()
    blocks = [block for case, times in enumerate(times_us) for block in blocks_of(times, case=case)]
    estimate = autocorrelation(times_us)
    assert 0.7 < estimate < 0.9
    for case, times in zip(build(blocks, *[PLANNED] * 30), times_us, strict=True):
        assert case.time_us is not None
        interval = case.time_us.median, case.time_us.ci_low, case.time_us.ci_high
        assert interval == median_interval(times, rho=estimate) != median_interval(times)


def test_a_block_during_a_change_of_the_link_is_left_out_and_its_wrong_elements_count():
    blocks = blocks_of([10.0, 12.0] * 4 + [99.0])
    blocks[-1].link_rtt_ns = (500.0, 700.0)
    blocks[-1].n_wrong = 3
    [case] = build(blocks)
    assert medians([case]) == [11.0]
    assert (case.status, case.n_wrong) == ("wrong", 3)


@pytest.mark.parametrize(("n_wrong", "status"), [(5, "wrong"), (None, "ok")])
def test_only_a_right_result_has_a_bandwidth(n_wrong, status):
    blocks = blocks_of([10.0] * 3)
    for block in blocks[:1] if n_wrong else blocks:
        block.n_wrong = n_wrong
    [case] = build(blocks)
    assert (case.status, case.n_wrong, bool(case.reason)) == (status, n_wrong, bool(n_wrong))
    assert (case.bus_bw_gb_s is None) == (case.alg_bw_gb_s is None) == (status == "wrong")
