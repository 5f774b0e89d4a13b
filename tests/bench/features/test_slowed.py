"""Kernels slowed on purpose show that a comparison detects a slowdown: real launches, slowed and
ordinary.

One rank measures how much slower the kernels are. A single rank waits for no peer, so neither the
link nor other work on the machine affects it; its kernels are slowed in the same code.
"""

import pytest

from tests.bench.launches import launch, run, stored
from tests.launch import FULL, count

pytestmark = pytest.mark.alone

OURS = "one_shot_ll,one_shot_pull,two_shot,two_shot_direct,ring"
ONE_RANK = "--sizes 32K --lean --mode both -n 100 --max-time 60"
SLOWED = "--slowed-percent 50"
SENTENCE = "Slowed on purpose: our kernels take 50 % longer than they need."


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """What launches of one rank print and store, alternately slowed and ordinary."""
    folder = tmp_path_factory.mktemp("slowed")
    algorithms = "" if FULL else f"--algorithm {OURS},library"

    def launched(name, *options):
        return run(folder / name, ONE_RANK, algorithms, *options, ranks=1)

    return [
        (launched(f"slowed-{pair}", SLOWED), launched(f"ordinary-{pair}"))
        for pair in range(count(12))
    ]


@pytest.mark.parametrize("quantity", ["total_us", "time_us", "consume_us", "chain_only_us"])
def test_slowed_kernels_take_longer_by_the_requested_percentage(pairs, quantity):
    """Otherwise nothing would show that the gate detects 3 %.

    The least of the launches counts. A launch of LL takes 1.2 us, in some launches 1.4: what
    disturbs only adds time.
    """
    least: tuple[dict, dict] = {}, {}  # of the slowed and of the ordinary launches
    for pair in pairs:
        for (_, result), times in zip(pair, least, strict=True):
            for case in result.cases:
                assert (case.status, case.n_wrong) == ("ok", 0)
                key = case.algorithm, case.variant, case.mode
                if estimate := getattr(case, quantity):
                    times[key] = min(times.get(key, float("inf")), estimate.median)
    slowed, ordinary = least
    assert slowed.keys() == ordinary.keys()
    ratios = {key: slowed[key] / ordinary[key] for key in slowed}
    ours = {key: ratio for key, ratio in ratios.items() if key[0] != "library"}
    assert {algorithm for algorithm, _, _ in ours} >= {*OURS.split(",")}
    assert all(1.2 < ratio < 2 for ratio in ours.values()), ours
    assert all(ratios[key] < 1.2 for key in ratios.keys() - ours.keys())


def test_only_a_slowed_run_says_that_it_is_slowed(pairs):
    """Otherwise a reader would take a slowed run for an ordinary one."""
    for (printed, result), percent in zip(pairs[0], (50, None), strict=True):
        says_so = SENTENCE in result.run.notes, SENTENCE in printed.replace("\n", " ")
        assert says_so == (bool(percent), bool(percent))
        assert result.run.world.get("slowed_percent") == percent


def test_slowed_ranks_have_right_results(tmp_path):
    options = "--sizes 32K --mode isolated -n 12 --lean --algorithm ring,library"
    done = launch(tmp_path, options, SLOWED)
    assert done.returncode == 0, done.stderr
    cases = stored(tmp_path).cases
    assert {(case.status, case.n_wrong) for case in cases} == {("ok", 0)}
