"""What becomes of time stamps: which moment a time starts at, what is added to it, and whose word counts."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.harness import verify
from bench.harness.iteration import Subject
from bench.harness.timing import LEAST_TURNS, block_cost_s, summary, take_turns, times_us
from collectives.collective import COLLECTIVES, DATATYPES, reason_against
from collectives.operation import Operation, Step, Wrong
from kernels.devices.device import Kernel
from reports.case import where_wrong
from reports.result import to_dict

NOTHING = Step(Kernel("nothing", 0), None)


def subject(calls: int = 0) -> Subject:
    return Subject(7, "", NOTHING, Operation(NOTHING, lambda: None), NOTHING, NOTHING, calls=calls)


# Two iterations on two ranks, in ns: arrived, left, began to consume, done. Rank 1 comes 300 ns late to the first.
STAMPS = [
    np.array([[1000, 3000, 3000, 3500], [10000, 12000, 12000, 12400]]),
    np.array([[1300, 2900, 2900, 4100], [10000, 11000, 11000, 11100]]),
]


def block_of(clock_shared: bool = True, calls: int = 0, wrong=(0, 0)):
    found = [None if n is None else Wrong(n, 40, 1184, 0x41400000, 0x41500000) for n in wrong]
    ranks = [(stamps, its, 100.0 + i, 110.0 + i, None, None)
             for i, (stamps, its) in enumerate(zip(STAMPS, found, strict=True))]
    return summary(subject(calls), 3, ranks, clock_shared, 0.5, DATATYPES["float32"])


def test_a_time_is_last_exit_minus_last_arrival_and_the_total_adds_the_slowest_reading():
    record, rows = block_of()
    assert (record.case, record.block, record.round, record.n, record.measure_s) == (7, 3, 3, 2, 0.5)
    assert record.time_us == np.median([3.0 - 1.3, 12.0 - 10.0])
    assert record.consume_us == np.median([1.2, 0.4])
    assert record.total_us == pytest.approx(np.median([1.7 + 1.2, 2.0 + 0.4]))
    assert record.arrival_skew_us == np.median([0.3, 0.0])
    assert record.link_rtt_ns == (101.0, 111.0), "the slowest pair"
    assert rows.shape == (4, 5)
    assert rows[2] == pytest.approx([3, 1, 1.6, 1.2, 0.3])


def test_without_a_shared_clock_a_time_is_the_slowest_ranks_own():
    record, _ = block_of(clock_shared=False)
    assert record.time_us == np.median([2.0, 2.0])
    assert record.arrival_skew_us is None


def test_a_chain_is_per_call_and_has_no_reading():
    record, _ = block_of(calls=10)
    assert record.time_us == pytest.approx(np.median([1.7, 2.0]) / 10)
    assert record.total_us == record.time_us
    assert record.consume_us is None
    assert record.chain_only_us == pytest.approx(np.median([1.2, 0.4]) / 10)


def test_what_any_rank_finds_wrong_counts_and_unchecked_is_not_right():
    assert block_of(wrong=(0, 4))[0].n_wrong == 4
    assert block_of(wrong=(3, 4))[0].n_wrong == 7
    assert block_of(wrong=(None, None))[0].n_wrong is None


def test_a_wrong_block_says_where_on_the_lowest_rank_that_found_anything():
    assert block_of()[0].first_wrong is None
    block = block_of(wrong=(0, 4))[0]
    assert where_wrong([block]) == (
        7, "block 3: rank 1 got 13.0 (0x41500000) at offset 1184, element 296; 12.0 (0x41400000) expected")
    assert to_dict(block)["first_wrong"]["iteration"] == 40
    for name, bits, said in [("bfloat16", 0x7FC0, "nan (0x7fc0)"), ("int64", 2**64 - 3, "-3 (0xfffffffffffffffd)")]:
        found = verify.first_wrong([Wrong(), Wrong(1, 0, 8, bits, bits)], DATATYPES[name])
        assert found is not None
        assert (found.rank, found.got) == (1, said)


def test_each_ranks_time_starts_at_the_last_arrival():
    each = times_us(STAMPS, clock_shared=True)["each"]
    assert each.tolist() == [[1.7, 2.0], [1.6, 1.0]]


@pytest.mark.parametrize("what", COLLECTIVES.values(), ids=COLLECTIVES)
@pytest.mark.parametrize("datatype", DATATYPES.values(), ids=DATATYPES)
@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_a_chain_goes_on_exactly_and_its_ranks_send_different_data(what, datatype, ranks):
    for redop in ["sum", "avg", "min", "max"] if what.reduces else ["none"]:
        if what.reduces and reason_against(datatype, redop):
            continue
        for shape in what.shapes:
            sent = datatype.encode(verify.chain_sent(what, datatype, redop, ranks, seed=3))
            for _ in range(5):
                result = datatype.encode(verify._result(what, shape, datatype, redop, datatype.decode(sent)))
                decoded = enumerate(datatype.decode(result))
                sent = datatype.encode(np.array([verify.linked(what, redop, got, r, ranks) for r, got in decoded]))
                if redop == "sum":
                    assert ranks == 1 or np.all(datatype.decode(sent[0]) != datatype.decode(sent[-1]))
            right = verify.chain_received(what, shape, datatype, redop, ranks, 3, in_place=False, calls=5)
            assert np.array_equal(result, right)
            if what.no_place is None:
                in_place = verify.chain_received(what, shape, datatype, redop, ranks, 3, in_place=True, calls=5)
                for rank in range(ranks):
                    own = rank if what.cut else 0
                    sent_own, got_own = own * what.sends_all, own * what.receives_all
                    assert np.array_equal(in_place[rank, got_own], sent[rank, sent_own])


@pytest.mark.parametrize(("budget_s", "turns"), [
    (1000.0, {"short": 256, "middle": 256, "long": 256}),  # all fit
    (60.0, {"short": 256, "middle": 85, "long": 23}),
    (20.0, {"short": 16, "middle": 16, "long": 16}),  # not even the least
])
def test_what_takes_long_has_fewer_turns_and_leaves_rounds_to_the_others(budget_s, turns):
    """With as many turns for 64 MiB as for 32 KiB, no difference at 32 KiB had an interval."""
    bench = cast(Any, SimpleNamespace(checks=1))
    subjects = []
    for group, iteration_s in (("short", 2e-5), ("middle", 0.015), ("long", 0.2), ("", 1e-6)):
        for _ in range(2):
            subjects.append(subject())
            subjects[-1].group, subjects[-1].iteration_s = group, iteration_s
    rounds = take_turns(bench, subjects, budget_s, 256)
    every = {s.group: s.every for s in subjects}
    assert all(s.every == every[s.group] and s.every % 2 for s in subjects)
    assert every.pop("") == 1
    assert {group: rounds // n for group, n in every.items()} == turns
    cost_s = sum(rounds / s.every * block_cost_s(bench, s, 0.0) for s in subjects if s.group)
    assert cost_s <= budget_s or rounds == LEAST_TURNS
