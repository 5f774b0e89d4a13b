"""Tests how time stamps become times: the start of a time, the terms of the total, and the results
of all ranks."""

from unittest import mock

import msgspec
import numpy as np
import pytest

from bench.harness import timing, verify
from bench.harness.iteration import Iteration
from bench.harness.stamped_times import times_us
from bench.harness.timing import block_record, link_rtt_ns, samples_of
from collectives.collective import DATATYPES
from collectives.operation import Operation
from kernels.devices.device import WRONG_BYTES, Step, Wrong
from wiretax.record.schema import MOST_SLOW_STEPS, Block
from wiretax.record.writing import to_line
from wiretax.record.wrong import where_wrong

pytestmark = pytest.mark.unit

NOTHING = Step("nothing", 0, None)


def iteration_of(chain_calls: int = 0) -> Iteration:
    return Iteration("", NOTHING, Operation(NOTHING), NOTHING, NOTHING, 7, chain_calls=chain_calls)


# Two iterations on two ranks, in ns: arrived, left, began to consume, done. Rank 1 arrives 300 ns
# late in the first.
STAMPS = [
    np.array([[1000, 3000, 3000, 3500], [10000, 12000, 12000, 12400]]),
    np.array([[1300, 2900, 2900, 4100], [10000, 11000, 11000, 11100]]),
]


def times(
    iteration: Iteration,
    stamps=STAMPS,
    clock_shared: bool = True,
):
    return times_us(iteration, stamps, mock.Mock(shares_clock=lambda _: clock_shared))


def block_of(
    clock_shared: bool = True,
    chain_calls: int = 0,
    stamps=STAMPS,
):
    iteration = iteration_of(chain_calls)
    return block_record(iteration, 3, times(iteration, stamps, clock_shared))


def first_wrong(*elements: int):
    wrongs = [Wrong(n, 40, 1184, 0x41400000, 0x41500000) for n in elements]
    return verify.first_wrong(wrongs, DATATYPES["float32"])


def test_a_time_is_last_exit_minus_last_arrival_and_the_total_adds_the_slowest_consumer():
    record = block_of()
    assert (record.case, record.block, record.round, record.n) == (7, 3, 3, 2)
    assert record.time_us == np.median([3.0 - 1.3, 12.0 - 10.0])
    assert record.consume_us == np.median([1.2, 0.4])
    assert record.total_us == pytest.approx(np.median([1.7 + 1.2, 2.0 + 0.4]))
    assert record.arrival_skew_us == np.median([0.3, 0.0])
    assert link_rtt_ns([(100.0, 110.0), (101.0, 109.0)]) == (101.0, 110.0), "the slowest pair"
    rows = samples_of(iteration_of(), 3, times(iteration_of()))
    assert rows.shape == (4, 5)
    assert rows[2] == pytest.approx([3, 1, 1.6, 1.2, 0.3])


def test_one_slow_iteration_changes_the_mean_of_a_block_but_not_its_time():
    stamps = np.array(
        [
            [0, 1000, 1000, 1000],
            [0, 9000, 9000, 9000],
            [0, 2000, 2000, 2000],
        ]
    )
    record = block_of(stamps=[stamps])
    assert (record.time_us, record.mean_us) == (2.0, 4.0)


def test_without_a_shared_clock_a_time_is_the_slowest_ranks_time():
    record = block_of(clock_shared=False)
    assert record.time_us == np.median([2.0, 2.0])
    assert record.arrival_skew_us is None


def test_a_chains_time_is_per_call_and_has_no_consume_time():
    record = block_of(chain_calls=10)
    assert record.time_us == pytest.approx(np.median([1.7, 2.0]) / 10)
    assert record.total_us == record.time_us
    assert record.consume_us is None
    assert record.chain_only_us == pytest.approx(np.median([1.2, 0.4]) / 10)


def test_wrong_elements_of_all_ranks_count(monkeypatch):
    gathered = [
        (stamps, Wrong(n, 40, 1184), 50, (0.0, 0.0))
        for stamps, n in zip(STAMPS, (3, 4), strict=True)
    ]
    session, iteration = mock.MagicMock(), iteration_of()
    session.communicator.all_gather = lambda word: [word]
    session.communicator.gather = lambda part: gathered
    iteration.wrong = mock.MagicMock(read=lambda: np.zeros(WRONG_BYTES, np.uint8))
    monkeypatch.setattr(timing, "perform", lambda *_: STAMPS[0])
    measured = timing.measure_block(session, iteration, 3, DATATYPES["float32"])
    assert measured
    assert (measured.n_wrong, measured.n_checked) == (7, 100)


def test_a_wrong_block_names_the_lowest_rank_with_a_wrong_element():
    assert first_wrong(0, 0) is None
    block = block_of()
    block.first_wrong = first_wrong(0, 4)
    assert where_wrong([block], []) == (
        7,
        "block 3: rank 1 got 13.0 (0x41500000) at offset 1184, element 296; "
        "12.0 (0x41400000) expected",
    )
    assert block.first_wrong.iteration == 40
    wrong = verify.first_wrong([Wrong(), Wrong(1, 0, 8, 0, 0x7FC0)], DATATYPES["bfloat16"])
    assert wrong
    assert (wrong.rank, wrong.got) == (1, "nan (0x7fc0)")


def stamps_of(*own_us):
    """The stamps of ranks that arrive together every 100 us, whose steps take so long."""
    own_ns = (1e3 * np.array(own_us)).astype(np.int64)
    begun_ns = np.broadcast_to(5_000_000 + 100_000 * np.arange(own_ns.shape[1]), own_ns.shape)
    return [*np.stack([begun_ns, *3 * [begun_ns + own_ns]], axis=-1)]


def slow_of(*own_us, iteration=None, **how):
    iteration, stamps = iteration or iteration_of(), stamps_of(*own_us)
    record = block_record(iteration, 3, times(iteration, stamps, **how), began_ns=1_000_000)
    return [(step.iteration, step.at_us, step.rank) for step in record.slow or ()]


def test_a_slow_step_says_when_it_began_and_which_rank_alone_was_slow():
    usual_us = [10.0] * 30
    first, second = list(usual_us), list(usual_us)
    second[4], second[9], first[9], first[20] = 25.0, 90.0, 90.0, 21.0
    assert slow_of(first, second) == [
        (4, 4400, 1),
        (9, 4900, -1),
        (20, 6000, 0),
    ]
    # Without a shared clock rank 1 may be slow, or have waited for rank 0.
    assert slow_of(first, second, clock_shared=False) == [
        (4, 4400, -1),
        (9, 4900, -1),
        (20, 6000, -1),
    ]
    assert slow_of(usual_us, usual_us) == []
    assert b"slow" not in to_line(block_of()), "a block without them is as short as before"


def test_the_step_of_a_chain_is_the_whole_chain():
    """A token waits for all its calls; the other times of a chain are of one."""
    record = block_record(
        iteration_of(chain_calls=10),
        3,
        times(iteration_of(chain_calls=10), stamps_of([50.0], [70.0])),
    )
    assert record.total_us == pytest.approx(7.0)
    assert record.steps
    assert record.steps.most_us == pytest.approx(70.0)


def test_the_wake_of_a_slow_step_is_no_other_one_and_a_few_of_many_are_kept():
    own_us = np.full(400, 10.0)
    own_us[50:60] = 40.0
    assert [number for number, *_ in slow_of(own_us, own_us)] == [50]
    own_us[::10] = 40.0
    kept = [number for number, *_ in slow_of(own_us, own_us)]
    assert len(kept) == MOST_SLOW_STEPS
    assert kept == sorted(kept)
    assert len({*np.diff(kept)}) > 1, "a choice with a period would be taken for the steps' own"


def test_long_runs_keep_one_slow_step_of_a_late_block():
    own_us, iteration = np.where(np.arange(100) % 10 == 3, 40.0, 10.0), iteration_of()
    kept = [len(slow_of(own_us, own_us, iteration=iteration)) for _ in range(30)]
    assert kept == [MOST_SLOW_STEPS] * 16 + [1] * 14


@pytest.mark.parametrize(("n_slow", "is_kept"), [(4, False), (5, True)])
def test_steps_that_are_too_few_for_a_tail_take_no_room(n_slow, is_kept):
    own_us = np.full(5000, 10.0)
    own_us[1000 : 1000 + 7 * n_slow : 7] = 40.0
    assert bool(slow_of(own_us, own_us)) == is_kept


def test_chains_of_which_a_block_has_one_are_slow_beside_the_cases_earlier_blocks():
    chain = iteration_of(chain_calls=10)
    seen = [slow_of([us], [us], iteration=chain) for us in (100.0, 103.0, 98.0, 300.0, 101.0)]
    assert [len(of_block) for of_block in seen] == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "slow", [[[1, 2, -2]], [[-1, 2, 0]], [[1, 2.5, 0]], [[1, 2]], [[0, 0, 0]] * 5, [[1, 1e300, 0]]]
)
def test_damaged_slow_steps_are_refused(slow):
    line = msgspec.json.decode(to_line(block_of()))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(line | {"slow": slow}, Block)
