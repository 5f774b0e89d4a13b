"""Why a case has a tail: a planted cause is named, and chance names none."""

import re
import tracemalloc

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from reports.site.run_page import banner_of
from reports.tables.slow_steps import common_period, why_slow
from reports.tables.table import render
from tests.reports import synthetic_tail as tail
from tests.reports.synthetic_tail import both, every, on_rank, run_of, timer
from wiretax.record.schema import End, GpuState, SlowStep, WatchedGpu

pytestmark = pytest.mark.unit

# A disturbance of the link in these blocks.
OTHER = np.array([2, 5, 6, 9, 12, 15, 16, 18])


def why(cause, seed=1, **fields):
    result = run_of(cause, seed, **fields)
    return why_slow(result, result.cases[0])


CHANCE = {
    "at any time, on any ranks": tail.now_and_then,
    "at any time, on all ranks": on_rank(-1),
    "in bursts": tail.in_bursts,
    "at the same places of each block": tail.at_places,
}


@pytest.mark.parametrize("shape", [{}, {"n": 200, "n_blocks": 40}, {"other": OTHER}])
@pytest.mark.parametrize("cause", CHANCE.values(), ids=CHANCE)
def test_chance_explains_nothing(cause, shape):
    said = [why(cause, seed, **shape) for seed in range(10)]
    assert said.count("") >= 9, [each for each in said if each]


@pytest.mark.parametrize("n", [300, 2000])
@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (timer(100), "100% came at multiples of 10 ms, as from a timer of 100 Hz"),
        (timer(250), "100% came at multiples of 4 ms, as from a timer of 250 Hz"),
        (timer(1000), "100% came at multiples of 1 ms, as from timers"),
        (every(250), "100% came every 250 calls"),
        (every(250, rank=1), r"(\d+) of \1 were slow on rank 1 alone; 100% came every 250 calls"),
        (on_rank(1), r"(\d+) of \1 were slow on rank 1 alone"),
    ],
)
def test_a_cause_is_named_with_its_share(cause, told, n):
    assert re.fullmatch(f"of its slow calls, {told}", why(cause, n=n, n_blocks=30))


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (timer(100), "at multiples of 10 ms"),
        (timer(250), "at multiples of 4 ms"),
        (every(250), "came every 250 calls"),
        (every(250, rank=1), "were slow on rank 1 alone"),
    ],
)
def test_a_cause_of_most_is_found_among_others(cause, told):
    """Others of an eighth to a third of the slow steps, at any time and on all ranks."""
    said = [why(both(cause, on_rank(-1, 0.001)), seed) for seed in range(10)]
    assert sum(told in each for each in said) >= 9
    shares = [float(share) for each in said for share in re.findall(r"(\d+)% came", each)]
    assert all(50 < share < 98 for share in shares)


def test_a_programs_timer_beside_the_kernels_is_not_taken_for_a_third_one():
    said = [why(both(timer(100), timer(250)), seed) for seed in range(10)]
    assert all("Hz" not in each or "250 Hz" in each for each in said)
    assert sum("at multiples of 1 ms, as from timers" in each for each in said) >= 8


@pytest.mark.parametrize("n", [990, 1990, 3990, 4000])
def test_blocks_with_almost_the_period_of_the_calls_name_no_wrong_one(n):
    """Blocks of 4,000 steps with the untimed ones also have the period 250."""
    said = [why(both(every(250), on_rank(-1, 0.001)), seed, n=n, n_blocks=13) for seed in range(5)]
    assert {"", "250"} >= {"".join(re.findall(r"every (\d+)", each)) for each in said}


@pytest.mark.parametrize(("n", "calls"), [(500, 340), (493, 333)])
def test_few_blocks_do_not_make_a_neighbour_of_the_period_out_of_its_divisors(n, calls):
    """They said 345 and 336, which are multiples of 5 and 3 too."""
    assert f"came every {calls} calls" in why(every(calls), n=n, n_blocks=16)


def test_the_link_is_named_if_slow_steps_came_while_it_was_in_another_state():
    def while_other(draw, began_us, calls):
        is_other = calls[0] // (2000 + 10) in OTHER
        return tail.on_ranks(draw.random(len(calls)) < (0.03 if is_other else 0.002), -1)

    told = r"of its slow calls, (\d+)% came in the 40% of its blocks in another state of the link"
    found = re.fullmatch(told, why(while_other, other=OTHER))
    assert found
    assert 80 < int(found[1]) < 100


def test_blocks_of_one_long_call_each_have_causes_too():
    """`show` ended in a traceback where the link's state left some of them out."""
    other = np.arange(2, 300, 3)

    def while_other(draw, began_us, calls):
        is_slow = calls[0] // (1 + 10) % 3 == 0 and draw.random() < 0.3
        return tail.on_ranks(np.array([is_slow]), -1)

    said = why(while_other, n=1, n_blocks=300, other=other)
    assert "100% came in the 33% of its blocks in another state of the link" in said


def test_many_blocks_take_little_memory():
    """A case of 5,000 blocks took 1 GB, so that `show` was killed on small machines."""
    result = run_of(on_rank(1, 0.05), n=1, n_blocks=1500)
    tracemalloc.start()
    assert "on rank 1 alone" in why_slow(result, result.cases[0])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 150e6


def test_stolen_time_is_named_if_it_is_as_long_as_the_slow_steps_took():
    """One of 100 steps takes five times as long: 4 % of the time."""
    result = run_of(on_rank(-1))
    for share, told in ((0.02, ""), (0.06, "the hypervisor withheld 6.0% of the CPU time")):
        result.end = End(status="complete", steal_share=share)
        assert why_slow(result, result.cases[0]).startswith(told)
        assert bool(why_slow(result, result.cases[0])) == bool(told)


def test_a_rank_whose_gpu_was_throttled_is_told_so():
    idle = GpuState()
    gpus = [
        WatchedGpu(
            rank=rank,
            bus_id="",
            start=idle,
            end=idle,
            throttled_s=throttled_s,
        )
        for rank, throttled_s in enumerate(({}, {"power": 2.0}))
    ]
    for rank, told in ((0, "on rank 0 alone"), (1, "on rank 1 alone, whose GPU was throttled")):
        result = run_of(on_rank(rank))
        result.end = End(status="complete", gpus=gpus)
        assert why_slow(result, result.cases[0]).endswith(told)


def test_runs_without_slow_steps_have_no_cause():
    result = run_of(on_rank(1))
    older = [replace(block, slow=msgspec.UNSET, steps=None) for block in result.blocks]
    assert why_slow(replace(result, blocks=older), result.cases[0]) == ""
    assert why(on_rank(1, 0.0)) == ""


def test_a_foreign_file_cannot_make_it_slow_or_fail():
    """Ranks that are not there, steps behind the end of a block, and one instant for all."""
    result = run_of(on_rank(1), n=50, n_blocks=200)
    for block in result.blocks:
        block.slow = [SlowStep(10**14, 10**14, 10**8)] * 4
    assert "rank 100000000" in why_slow(result, result.cases[0])


def test_events_in_a_row_count_once():
    """Eight bursts of a hundred steps are eight events, whose phases chance can explain."""
    draw = np.random.default_rng(5)
    begins = draw.integers(0, 10**6, 8)
    in_bursts = (begins[:, None] + np.arange(100)).ravel()
    assert common_period(in_bursts, [400, 900, 2500]) == (0.0, 0.0)
    assert common_period(900 * draw.integers(0, 1000, 60), [400, 900, 2500])[0] == 900


def test_the_cause_stands_below_the_tail_and_among_the_facts_of_the_page():
    result = run_of(on_rank(1), n_blocks=30)
    [told] = re.findall(
        r"why: of its slow calls, (\d+) of \1 were slow on rank 1 alone", render(result)
    )
    assert (
        f"why: of its slow calls, {told} of {told} were slow on rank 1 alone."
        in banner_of(result).facts
    )
    assert "why:" not in render(run_of(tail.now_and_then, n_blocks=30))
