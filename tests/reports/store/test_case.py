"""Blocks become cases. Each rule is compared with figures calculated by hand."""

from typing import Any

import msgspec
import numpy as np
import pytest

from reports.store.build import build_cases
from reports.store.case import counted_blocks, find_states
from reports.store.schema import Block, Case, CaseHeader, LinkBlock, Run
from reports.store.stats import autocorrelation, median_interval
from tests.reports.synthetic_run import write_run

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


def run_of(*planned: CaseHeader, size: int = 2) -> Run:
    return Run(
        run_id="r",
        benchmark="allreduce",
        version="0",
        argv=[],
        seed=1,
        machine_id="m",
        software_id="s",
        environment={},
        world={"size": size},
        cases=list(planned),
    )


def blocks_of(
    times: list[float], rtt_ns: float | list[float] = 500.0, case: int = 0, **fields: Any
) -> list[Block]:
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


def only(cases: list[Case]) -> Case:
    assert len(cases) == 1
    return cases[0]


def test_the_counted_blocks_make_the_figures_of_each_case():
    """Of a case in the run's longest state, of one that was never in it, and of one whose link always changed."""
    blocks = blocks_of([20.0, 9.0, 22.0, 21.0, 23.0], [500.0, 100.0, 500.0, 500.0, 500.0])
    blocks += blocks_of([7.0, 5.0], 100.0, case=1)
    mixed = blocks_of([30.0, 50.0], case=2)
    for block in mixed:
        block.link_rtt_ns = 100.0, 500.0
    blocks += mixed
    cases, counted = (
        build_cases(run_of(PLANNED, PLANNED, PLANNED), blocks, []),
        counted_blocks(blocks),
    )
    assert [case.state for case in cases] == ["run", "own", "mixed"]
    assert {case: [block.time_us for block in of_case] for case, of_case in counted.items()} == {
        0: [20.0, 22.0, 21.0, 23.0],
        1: [7.0, 5.0],
        2: [30.0, 50.0],
    }
    medians = {
        case: np.median([block.time_us for block in of_case]) for case, of_case in counted.items()
    }
    assert medians == {case.case: case.time_us.median for case in cases if case.time_us}


def test_bandwidth_and_bound_match_a_hand_calculation():
    links = [
        LinkBlock(
            size_bytes=SIZE,
            round=0,
            copy_in_us=4.0,
            peer_read_us=6.0,
            memory_us=2.0,
            link_rtt_ns=(500.0, 500.0),
        )
    ]
    case = only(build_cases(run_of(PLANNED, size=4), blocks_of([20.0, 19.0, 21.0]), links))
    assert case.alg_bw_gb_s == pytest.approx(65536 / 20e-6 / 1e9)
    assert case.bus_bw_gb_s == pytest.approx(65536 / 20e-6 / 1e9 * 1.5)
    # Two hops of 250 ns, then half a copy-in of 4 us and a read of 6 us; three copies of 2 us
    # through memory take less.
    assert case.bound_us == pytest.approx(0.5 + 2.0 + 6.0)
    assert case.share_of_bound == pytest.approx(8.5 / 20)
    assert not case.suspect
    links[0].memory_us = 3.0
    assert only(build_cases(run_of(PLANNED), blocks_of([20.0]), links)).bound_us == pytest.approx(
        0.5 + 9.0
    )


def test_an_algorithm_that_pushes_is_bound_by_stores_across_the_link():
    links = [
        LinkBlock(
            size_bytes=SIZE,
            round=0,
            copy_in_us=4.0,
            push_us=5.0,
            peer_read_us=60.0,
            memory_us=0.0,
            link_rtt_ns=(500.0, 500.0),
        )
    ]
    pushing = msgspec.structs.replace(
        PLANNED, bound_parts={**(PLANNED.bound_parts or {}), "pushes": True}
    )
    case = only(build_cases(run_of(pushing), blocks_of([20.0]), links))
    # Two hops, and half of a push of 5 us; the reads are local.
    assert case.bound_us == pytest.approx(0.5 + 2.5)
    for engine_us, better_us in ((4.0, 4.0), (6.0, 5.0)):  # copy engines, or the kernels' stores
        links[0].engine_us = engine_us
        case = only(build_cases(run_of(pushing), blocks_of([20.0]), links))
        assert case.bound_us == pytest.approx(0.5 + better_us / 2)
    links[0].push_us = links[0].engine_us = None
    assert only(build_cases(run_of(pushing), blocks_of([20.0]), links)).bound_us is None


def test_the_bound_is_that_of_the_build_that_most_blocks_ran():
    """It was that of the link's state while the case was bound, although the blocks ran in another."""
    links = [
        LinkBlock(
            size_bytes=SIZE,
            round=0,
            copy_in_us=4.0,
            peer_read_us=6.0,
            memory_us=2.0,
            link_rtt_ns=(500.0, 500.0),
        )
    ]
    auto = msgspec.structs.replace(
        PLANNED,
        algorithm="auto",
        chosen="two_shot",
        other_bound_parts={
            "one_shot_pull": {"hops": 1, "stages": [[SIZE, 0], [0, SIZE]], "memory_bytes": 0}
        },
    )
    for chosen, bound_us in (("two_shot", 8.5), ("one_shot_pull", 0.25 + 4 + 6)):
        case = only(build_cases(run_of(auto), blocks_of([20.0] * 3, chosen=chosen), links))
        assert case.chosen == chosen
        assert case.bound_us == pytest.approx(bound_us)


def test_a_copy_through_memory_counts_by_its_faster_stores():
    """Long messages beat their bound, since they are stored around the caches: 141 % on an EPYC."""
    links = [
        LinkBlock(
            size_bytes=SIZE,
            round=0,
            copy_in_us=4.0,
            peer_read_us=6.0,
            memory_us=20.0,
            link_rtt_ns=(500.0, 500.0),
        )
    ]
    for memory_nt_us, memory_us in ((None, 60.0), (15.0, 45.0), (30.0, 60.0)):
        links[0].memory_nt_us = memory_nt_us
        assert only(
            build_cases(run_of(PLANNED), blocks_of([90.0]), links)
        ).bound_us == pytest.approx(0.5 + memory_us)


def test_a_chains_bound_includes_the_chain_without_collectives():
    links = [
        LinkBlock(
            size_bytes=SIZE,
            round=0,
            copy_in_us=4.0,
            peer_read_us=6.0,
            memory_us=2.0,
            link_rtt_ns=(500.0, 500.0),
        )
    ]
    chained = msgspec.structs.replace(PLANNED, mode="chained", calls=160)
    case = only(build_cases(run_of(chained), blocks_of([20.0] * 3, chain_only_us=1.25), links))
    assert case.bound_us == pytest.approx(8.5 + 1.25)
    assert case.total_us == case.time_us
    assert case.consume_us is None


def test_a_time_below_the_bound_is_suspect_only_if_both_intervals_agree():
    def links(spread: float) -> list[LinkBlock]:
        return [
            LinkBlock(
                size_bytes=SIZE,
                round=turn,
                copy_in_us=0.0,
                peer_read_us=10.0 * factor,
                memory_us=0.0,
                link_rtt_ns=(500.0, 500.0),
            )
            for turn, factor in enumerate(np.linspace(1 - spread, 1, 12))
        ]

    times = blocks_of([9.95 + 0.01 * turn for turn in range(12)])
    parts = msgspec.structs.replace(PLANNED, bound_parts={"hops": 0, "stages": [[0, SIZE]]})
    assert only(build_cases(run_of(parts), times, links(0.001))).suspect is False
    times = blocks_of([9.5 + 0.01 * (7 * turn % 12) for turn in range(12)])
    assert only(build_cases(run_of(parts), times, links(0.001))).suspect is True
    assert only(build_cases(run_of(parts), times, links(0.4))).suspect is False


def test_figures_are_from_the_longest_state_of_the_run():
    first = blocks_of([10.0] * 4 + [30.0] * 8, [100.0] * 4 + [540.0] * 8)
    second = blocks_of([11.0] * 9 + [33.0] * 7, [100.0] * 9 + [540.0] * 7, case=1)
    third = blocks_of([12.0] * 3, 100.0, case=2)
    run = run_of(PLANNED, PLANNED, PLANNED)
    # 16 blocks at 100 ns and 15 at 540 ns, although the first case has more at 540 ns.
    cases = build_cases(run, [*first, *second, *third], [])
    assert [case.time_us and case.time_us.median for case in cases] == [10.0, 11.0, 12.0]
    [other] = cases[0].states
    assert (other.time_us.median, other.n_blocks, other.share) == (30.0, 8, 8 / 12)
    assert other.link_rtt_ns is not None
    assert other.link_rtt_ns.median == 540.0

    cases = build_cases(run, [*first, *second[9:], *third], [])
    assert cases[0].time_us is not None
    assert cases[0].time_us.median == 30.0
    assert (cases[2].state, cases[2].time_us and cases[2].time_us.median) == ("own", 12.0)


def test_a_link_that_never_settles_has_no_states_and_every_block_counts():
    rng = np.random.default_rng(6)
    blocks = blocks_of([10.0] * 30)
    for block, (before, after) in zip(
        blocks, np.exp(rng.uniform(4, 14, (30, 2))).tolist(), strict=True
    ):
        block.link_rtt_ns = (before, after)
    blocks[0].link_rtt_ns = (100.0, 100.0)
    case = only(build_cases(run_of(PLANNED), blocks, []))
    assert (case.state, case.time_us and case.time_us.n_blocks) == ("mixed", 30)
    assert 0 < case.blocks_mixed < 30


def test_intervals_allow_for_the_correlation_of_blocks_over_all_cases():
    """Otherwise intervals would be too narrow wherever the machine drifts during a run."""
    rng, rho = np.random.default_rng(3), 0.8
    noise = rng.normal(size=(30, 12))
    for turn in range(1, 12):
        noise[:, turn] = rho * noise[:, turn - 1] + np.sqrt(1 - rho**2) * noise[:, turn]
    times_us = (20 * np.exp(0.02 * noise)).tolist()
    blocks = [block for case, times in enumerate(times_us) for block in blocks_of(times, case=case)]
    estimate = autocorrelation(times_us)
    assert 0.7 < estimate < 0.9
    for case, times in zip(build_cases(run_of(*[PLANNED] * 30), blocks, []), times_us, strict=True):
        assert case.time_us is not None
        interval = case.time_us.median, case.time_us.ci_low, case.time_us.ci_high
        assert interval == median_interval(times, rho=estimate) != median_interval(times)


def test_states_do_not_depend_on_times():
    blocks = blocks_of([1.0, 1000.0] * 10, 500.0)
    assert find_states(blocks).of_block == [0] * 20


def test_a_block_during_a_change_of_the_link_is_counted_and_left_out():
    blocks = blocks_of([10.0] * 9 + [99.0], 500.0)
    blocks[-1].link_rtt_ns = (500.0, 700.0)
    blocks[-1].n_wrong = 3
    case = only(build_cases(run_of(PLANNED), blocks, []))
    assert case.time_us is not None
    assert (case.blocks_mixed, case.time_us.n_blocks, case.time_us.median) == (1, 9, 10.0)
    # Its wrong elements still count.
    assert (case.status, case.n_wrong) == ("wrong", 3)

    for block in blocks:
        block.link_rtt_ns, block.n_wrong = (300.0, 700.0), 0
    case = only(build_cases(run_of(PLANNED), blocks, []))
    assert (case.state, case.blocks_mixed, case.time_us and case.time_us.n_blocks) == (
        "mixed",
        10,
        10,
    )


@pytest.mark.parametrize(("n_wrong", "status"), [(5, "wrong"), (0, "ok"), (None, "ok")])
def test_only_a_right_result_has_a_bandwidth(n_wrong, status):
    blocks = blocks_of([10.0] * 3)
    blocks[1].n_wrong = n_wrong
    blocks[0].n_wrong = blocks[2].n_wrong = None if n_wrong is None else 0
    case = only(build_cases(run_of(PLANNED), blocks, []))
    assert (case.status, case.n_wrong) == (status, n_wrong)
    assert (case.bus_bw_gb_s is None) == (case.alg_bw_gb_s is None) == (status == "wrong")
    assert bool(case.reason) == (status == "wrong")


def test_cases_without_blocks_have_a_reason():
    unsupported = msgspec.structs.replace(PLANNED, status="unsupported", reason="no bfloat16")
    cases = build_cases(run_of(unsupported, PLANNED), [], [])
    assert [(case.status, case.reason, case.bus_bw_gb_s) for case in cases] == [
        ("unsupported", "no bfloat16", None),
        ("not measured", "time ran out", None),
    ]


def test_an_iteration_takes_as_long_as_its_slowest_rank():
    rows = [
        [block, rank, time, 1.0, 0.5]
        for block in (0, 1)
        for rank, times in ((0, [1.0, 8.0]), (1, [4.0, 2.0]))
        for time in times
    ]
    blocks = blocks_of([6.0, 6.0], consume_us=1.0, total_us=7.0)
    for order in (rows, rows[::-1]):
        case = only(build_cases(run_of(PLANNED), blocks, [], {0: np.array(order)}))
        assert case.time_us is not None
        assert case.total_us is not None
        assert (case.time_us.min, case.time_us.max, case.time_us.mean) == (4.0, 8.0, 6.0)
        assert (case.total_us.min, case.total_us.max) == (5.0, 9.0)


@pytest.mark.parametrize(
    ("n_blocks", "n", "has_p99"), [(10, 100, True), (10, 99, False), (9, 200, False)]
)
def test_p99_needs_a_thousand_samples_in_ten_blocks(tmp_path, n_blocks, n, has_p99):
    result = write_run(
        tmp_path, sizes=[SIZE], algorithms=["ring"], modes=["isolated"], n_blocks=n_blocks, n=n
    )
    time = result.cases[0].time_us
    assert time is not None
    assert (time.p99 is not None) == has_p99
    assert time.p95 is not None
    assert time.n == n_blocks * n


def test_an_unfinished_run_has_medians_but_no_percentiles(tmp_path):
    options: dict[str, Any] = {"sizes": [SIZE], "algorithms": ["library", "ring"], "n_blocks": 10}
    whole = write_run(tmp_path / "a", **options)
    cut = write_run(tmp_path / "b", **options, finish=False)
    assert not cut.complete
    for left, right in zip(cut.cases, whole.cases, strict=True):
        assert left.time_us is not None
        assert right.time_us is not None
        assert (left.time_us.median, left.time_us.ci_low) == (
            right.time_us.median,
            right.time_us.ci_low,
        )
        assert left.time_us.mean == pytest.approx(right.time_us.mean)
        assert left.bus_bw_gb_s == right.bus_bw_gb_s
        assert (left.time_us.p95, left.time_us.max, left.samples) == (None, None, None)
