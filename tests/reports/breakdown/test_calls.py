"""Calls of all ranks match one to one; what does not is told or refused, never averaged away."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from reports.breakdown.calls import Matched, last_shares, match
from reports.breakdown.cut_steps import steps_of_ranks
from reports.breakdown.one_run import NotOneRun, in_order, remarks
from reports.breakdown.timeline import Timeline
from tests.reports.breakdown.timelines import decode, timeline


def matched_of(*timelines: Timeline) -> Matched:
    ordered = in_order(timelines)
    return match(ordered, steps_of_ranks(ordered))


def without(made: Timeline, places: list[int]) -> Timeline:
    """The timeline without these works."""
    kept = np.delete(np.arange(len(made.name)), places)
    columns = ("name", "starts_us", "ends_us", "stream", "size_bytes", "group")
    return replace(made, **{column: getattr(made, column)[kept] for column in columns})


def test_the_last_rank_has_transport_alone() -> None:
    """Rank 1 is late by 7 us in each call: of three ranks the others wait for it."""
    ranks = [decode(0, late_us=7, ranks=3), decode(1, ranks=3), decode(2, late_us=4, ranks=3)]
    (kind,) = matched_of(*ranks).kinds

    assert kind.duration_us.shape == (3, 16)
    assert kind.transport_us == pytest.approx(np.full(16, 10))
    assert kind.waiting_us.mean(axis=1) == pytest.approx([7, 0, 4])
    assert not kind.is_bound


def test_ranks_are_sorted_by_their_own_number() -> None:
    (kind,) = matched_of(decode(1), decode(0, late_us=7)).kinds

    assert kind.waiting_us.mean(axis=1) == pytest.approx([7, 0])


def test_of_one_rank_a_low_quantile_bounds_transport() -> None:
    (kind,) = matched_of(decode(0, late_us=7)).kinds

    assert kind.is_bound
    assert kind.transport_us == pytest.approx(np.full(16, 17))


def test_a_missing_rank_makes_transport_a_bound_and_is_told() -> None:
    ranks = [decode(rank, ranks=8) for rank in (2, 5)]
    matched = matched_of(*ranks)

    assert matched.kinds[0].is_bound
    assert "2 traces are fewer than the group has ranks" in remarks(ranks, matched.kinds)[-1]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda ranks: [*ranks[:2], decode(1, ranks=3)],
            "rank-1.json is of rank 1, as another trace",
        ),
        (
            lambda ranks: [ranks[0], replace(ranks[1], ranks=4)],
            "rank-0.json is of 3 ranks and rank-1.json of 4",
        ),
        (
            lambda ranks: [replace(each, ranks=2) for each in [*ranks, decode(None)]],
            "rank-0.json is of 2 ranks, fewer than the 4 traces",
        ),
        (
            lambda ranks: [*ranks[:2], replace(ranks[2], size_bytes=ranks[2].size_bytes + 16)],
            "all_reduce of 16 B (NCCL or RCCL)",
        ),
        (
            lambda ranks: [*ranks[:2], decode(2, first_step=100, ranks=3)],
            "have no whole step in common: 8 of 8 steps are left out",
        ),
    ],
)
def test_traces_of_other_runs_are_refused_in_a_sentence(
    spoil: Callable[[list[Timeline]], list[Timeline]], sentence: str
) -> None:
    ranks = [decode(rank, ranks=3) for rank in range(3)]

    with pytest.raises(NotOneRun) as refusal:
        matched_of(*spoil(ranks))

    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_status == 4


def test_a_step_without_one_of_its_calls_is_left_out_of_all_ranks() -> None:
    """All other calls match as before: the rest is not shifted by the one that is missing."""
    ranks = [decode(0, late_us=7, ranks=3), decode(1, ranks=3), without(decode(2, ranks=3), [14])]
    matched = matched_of(*ranks)

    assert matched.mismatches == [
        "1 of 8 steps are left out, as the ranks' calls differ in them, such as 2 and 1 of"
        " all_reduce (NCCL or RCCL)."
    ]
    assert "ProfilerStep#2" not in matched.steps[1].names
    (kind,) = matched.kinds
    ends_us = [made.ends_us[own] for made, own in zip(ranks, kind.events, strict=True)]
    assert ends_us[0] - 7 == pytest.approx(ends_us[1])
    assert ends_us[2] == pytest.approx(ends_us[1])


def test_a_profiler_that_starts_later_loses_its_first_steps() -> None:
    matched = matched_of(decode(0), decode(1, steps=6, first_step=2))

    assert matched.steps[0].names == [f"ProfilerStep#{step}" for step in range(2, 8)]
    assert matched.mismatches[0] == "2 of 8 steps are left out, as not all traces have them."


def test_where_names_repeat_the_clock_tells_which_step_is_missing() -> None:
    name = "step[DECODE bs=4]"
    matched = matched_of(
        decode(0, name=name),
        decode(
            1,
            name=name,
            steps=6,
            first_step=2,
            clock_us=3,
        ),
    )

    assert matched.steps[0].starts_us[0] == 1e6 + 200


def test_where_neither_names_nor_clocks_tell_the_traces_are_refused() -> None:
    ranks = [decode(0, name="step[DECODE bs=4]"), decode(1, name="step[DECODE bs=4]", steps=6)]
    ranks[1] = replace(ranks[1], starts_us=ranks[1].starts_us + 1e6, ends_us=ranks[1].ends_us + 1e6)
    for each in ranks[1].annotations:
        each.start_us, each.end_us = each.start_us + 1e6, each.end_us + 1e6

    with pytest.raises(NotOneRun, match="nothing tells which steps are the same"):
        matched_of(*ranks)


def uneven(
    rank: int,
    first_step: int,
    steps: int,
    clock_us: float = 0.0,
) -> Timeline:
    """Equally named steps of 100 us and more. In the even ones rank 0 is late by 7 us, in the odd
    ones rank 1."""
    made = decode(rank, steps, 0.0, first_step, clock_us, "step[DECODE bs=4]")
    step = np.arange(first_step, first_step + steps)
    later_us = np.cumsum(np.random.default_rng(0).uniform(0, 50, 40))[step]
    for each, us in zip(made.annotations, later_us, strict=True):
        each.start_us, each.end_us = each.start_us + us, each.end_us + us
    made.starts_us += np.repeat(later_us, 6)
    made.ends_us += np.repeat(later_us, 6)
    calls = np.flatnonzero(made.is_call).reshape(steps, 2)
    made.starts_us[calls[step % 2 == rank]] += 7
    return made


@pytest.mark.parametrize("clock_us", [0, 130, 1e6])
@pytest.mark.parametrize("steps", [20, 22])
def test_equal_names_of_another_step_do_not_match(steps: int, clock_us: float) -> None:
    """A step off, both would be late or early together, and waiting would be transport."""
    matched = matched_of(uneven(0, 0, 20), uneven(1, 1, steps, clock_us))

    first, other = (each.starts_us for each in matched.steps)
    assert other - clock_us == pytest.approx(first)
    assert "steps are left out, as not all traces have them" in matched.mismatches[0]
    kind = matched.kinds[0]
    assert kind.transport_us == pytest.approx(3)
    assert kind.waiting_us.mean(axis=1) == pytest.approx([3.5, 3.5], rel=0.1)


def test_calls_of_another_group_are_refused_though_no_trace_names_it() -> None:
    """As custom all-reduces of two replicas, which are no slower for each other."""
    ranks = [uneven(0, 0, 20), uneven(1, 20, 20)]

    with pytest.raises(NotOneRun, match=r"rank-1.json has calls that end at other times"):
        remarks(ranks, matched_of(*ranks).kinds)


def test_the_group_of_just_the_traced_ranks_is_the_whole_group() -> None:
    """With pipeline parallelism the world has more ranks than a call."""
    members = {
        "0": [0, 1, 2, 3],
        "tp": [2, 3],
        "pp": [0, 2],
    }
    pair = matched_of(*(decode(rank, ranks=4, members=members) for rank in (3, 2)))
    single = matched_of(decode(2, ranks=4, members={**members, "one": [2]}))

    assert not pair.kinds[0].is_bound
    assert single.kinds[0].is_bound


def test_equal_times_are_no_rank_s_alone() -> None:
    """Older traces round to microseconds: the first rank came last in all these calls."""
    assert last_shares(np.array([[10.0, 10, 12], [10, 10, 10]])) == pytest.approx([1 / 3, 2 / 3])


def test_steps_with_other_names_in_each_rank_are_refused() -> None:
    ranks = [decode(rank, name="step[DECODE bs=4]") for rank in range(2)]
    ranks[1].annotations[3].name = "step[EXTEND bs=4 toks=64]"

    with pytest.raises(NotOneRun, match="nothing tells which steps are the same"):
        matched_of(*ranks)


def test_steps_of_another_kind_are_counted_and_not_averaged() -> None:
    ranks = [decode(rank, name="execute_context_0(0)_generation_4(4)") for rank in range(2)]
    for each in ranks:
        each.annotations[2].name = "execute_context_1(96)_generation_4(4)"
        each.annotations[5].name = "execute_context_0(0)_generation_3(3)"
    matched = matched_of(*ranks)

    assert len(matched.steps[0].names) == 6
    assert matched.mismatches == [
        "2 steps of other kinds are left out: 1 mixed of 100 tokens with 2 calls, 1 decode of 3"
        " tokens with 2 calls."
    ]
    assert matched.kinds[0].step.tolist() == [step for step in range(6) for _ in range(2)]


def test_an_unnamed_step_with_other_kernels_is_not_averaged() -> None:
    made = decode(0)
    made.texts += ["prefill gemm", "prefill attention"]
    made.name[12:18] = [3, 3, made.name[14], 4, made.name[16], 3]
    matched = matched_of(made)

    assert len(matched.steps[0].names) == 7
    assert "1 unnamed with 2 calls and other kernels" in matched.mismatches[-1]


def test_calls_of_another_group_are_not_matched() -> None:
    """Two ranks of tensor parallelism, each in a group of its own with its data-parallel peer."""
    ranks = [
        replace(
            decode(rank, ranks=4),
            group=np.tile([0, 0, 1, 0, 2, 0], 8),
            groups=["", "tp", f"dp {rank}"],
            members={"tp": [0, 1]},
        )
        for rank in range(2)
    ]
    matched = matched_of(*ranks)

    assert [kind.group for kind in matched.kinds] == ["tp"]
    assert not matched.kinds[0].is_bound
    assert matched.mismatches[0] == (
        "Not all traces have all_reduce in group dp 0 (NCCL or RCCL): all of its time"
        " is taken as transport."
    )


def test_a_group_of_the_same_name_with_other_ranks_is_another_group() -> None:
    ranks = [
        replace(
            decode(rank, ranks=8),
            group=np.ones(48, int),
            groups=["", "1"],
            members={"1": [rank, rank + 4]},
        )
        for rank in range(2)
    ]

    with pytest.raises(NotOneRun, match=r"in group 1.*of several groups, give those of one"):
        matched_of(*ranks)


def test_ranks_that_send_messages_of_their_own_sizes_match() -> None:
    """An all-to-all of experts is uneven; an all-reduce of two sizes is none."""
    ranks = [decode(rank) for rank in range(2)]
    for rank, each in enumerate(ranks):
        each.texts[:] = [text.replace("AllReduce", "SendRecv") for text in each.texts]
        each.size_bytes[each.is_call] = 1024 * (rank + 1)

    kinds = matched_of(*ranks).kinds
    assert kinds[0].duration_us.shape == (2, 16)
    assert remarks(ranks, kinds)[0].startswith("A rank that exchanges less in send_recv is done")


def test_streams_with_other_numbers_match_by_their_order() -> None:
    ranks = [decode(rank) for rank in range(2)]
    for each in ranks:
        each.stream[4::6] = 9
    ranks[1].stream *= 10
    matched = matched_of(*ranks)

    assert [kind.stream for kind in matched.kinds] == [7, 9]
    assert matched.mismatches == []


def test_clocks_a_second_apart_are_told_and_change_no_figure() -> None:
    ranks = [decode(0, late_us=7), decode(1, clock_us=1e6)]
    matched = matched_of(*ranks)

    assert matched.kinds[0].waiting_us.mean(axis=1) == pytest.approx([7, 0])
    (told,) = remarks(ranks, matched.kinds)
    assert "16 of 16 calls before or after the first rank's" in told
    assert "+0.999993 s apart" in told


def test_like_traces_have_no_remarks() -> None:
    ranks = [decode(rank, late_us=3 * rank) for rank in range(2)]
    matched = matched_of(*ranks)

    assert remarks(ranks, matched.kinds) == []
    assert matched.mismatches == []


def test_other_kernels_and_devices_are_told() -> None:
    ranks = [decode(0), decode(1, device="another")]
    ranks[1].texts[:] = [text if "nccl" in text else f"other {text}" for text in ranks[1].texts]

    assert remarks(ranks, matched_of(*ranks).kinds) == [
        "The ranks have different devices: GPU, another.",
        "rank-1.json shares 0 of 4 kernels with rank-0.json: are they of one run?",
    ]


def test_two_calls_at_once_are_told() -> None:
    ranks = [decode(rank) for rank in range(2)]
    for each in ranks:
        first, second = np.flatnonzero(each.is_call)[:2]
        each.stream[first] = 20
        each.ends_us[first] = each.starts_us[second] + 5
    told = remarks(ranks, matched_of(*ranks).kinds)

    assert (
        "rank-1.json has 1 calls that begin while another runs: each has its whole time" in told[-1]
    )


def test_two_kernels_at_once_on_a_stream_are_told() -> None:
    ranks = [decode(rank) for rank in range(2)]
    ranks[1].ends_us[1] += 3

    assert remarks(ranks, matched_of(*ranks).kinds) == [
        "rank-1.json has 1 works that begin while their stream runs another: its times are wrong."
    ]


def test_traces_of_several_ranks_without_a_collective_may_have_one_of_another_name() -> None:
    made = timeline([("gemm", 10.0 * step, 10.0 * step + 5, 7) for step in range(12)])
    (told,) = remarks([made], [])

    assert "--collective REGEX adds it" in told
    assert not remarks([replace(made, ranks=1)], [])


def test_no_collective_is_an_answer() -> None:
    made = timeline([("gemm", 10.0 * step, 10.0 * step + 5, 7) for step in range(12)])

    assert matched_of(made).kinds == []
