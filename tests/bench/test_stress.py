"""The protocols under back-to-back launches, intact and with a part removed; the test must detect the removal."""

import json

import pytest

from tests.kernels.broken_kernels import tree
from tests.launch import ROOT, SLOW_TEST, count, few, mpirun

pytestmark = pytest.mark.alone

LAUNCHES = 5000


def stress(ranks, *settings, launches=LAUNCHES, seed=1, tree=ROOT):
    done = mpirun(
        ranks, "tests/ranks/stress_ranks.py", str(launches), str(seed), *settings, tree=tree
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("stores", "ranks"),
    few(
        [
            ("plain", 2),
            ("streaming", 3),
            ("streaming", 2),
            ("plain", 3),
            ("plain", 5),
            ("streaming", 5),
        ],
        2,
    ),
)
def test_back_to_back_launches_are_right_when_the_epoch_wraps(stores, ranks):
    # Two ranks need many launches to show one slab for both epochs; more ranks than cores take turns.
    launches = 8 * LAUNCHES if ranks == 2 else count(LAUNCHES if ranks < 4 else LAUNCHES // 5)
    streaming = int(stores == "streaming")
    settings = ("nt", "ntr") if streaming else ()
    report = stress(ranks, *settings, launches=launches, seed=2 * ranks + streaming)
    assert report == {"launches": launches, "wrong_elements": 0, "timed_out": False}


@pytest.mark.parametrize(("ranks", "seed"), few([(2, 2), (3, 7)], 1))  # float32, then bfloat16
def test_back_to_back_quantised_launches_are_right(ranks, seed):
    report = stress(
        ranks, "nt", "two_shot_int8", "two_shot_fp8", "two_shot_int4", launches=1000, seed=seed
    )
    assert report == {"launches": 1000, "wrong_elements": 0, "timed_out": False}


@pytest.mark.parametrize(
    ("ranks", "seed"), few([(2, 3), (3, 5), (2, 4), (4, 6)], 2)
)  # a seed for each type
def test_back_to_back_fused_launches_among_others_are_right(ranks, seed):
    settings = (
        *["nt"] * (seed % 2),
        "allreduce_rmsnorm",
        "gemv_allreduce",
        "one_shot_pull",
        "two_shot",
    )
    report = stress(ranks, *settings, launches=1500, seed=seed)
    assert report == {"launches": 1500, "wrong_elements": 0, "timed_out": False}


CHUNKED = (
    "one_shot_pull+32K",
    "one_shot_push+4K",
    "two_shot+32K",
    "two_shot_push+4K",
    "ring+32K",
    "two_shot_direct",
)


@pytest.mark.parametrize("ranks", few([3, 2, 4], 1))
def test_back_to_back_launches_of_many_chunks_through_the_same_slots_are_right(ranks):
    launches = count(LAUNCHES if ranks < 4 else LAUNCHES // 5)
    report = stress(ranks, *CHUNKED, launches=launches, seed=ranks)
    assert report == {"launches": launches, "wrong_elements": 0, "timed_out": False}


COPIED = "one_shot_push", "two_shot"
RESET = "without the reset"
SWAP = "swap in place of the epoch flip"
FENCE, FLIP, WAIT = (
    "without the fence before the flag",
    "without the epoch flip",
    "without the wait",
)


@pytest.mark.parametrize(
    ("patch", "settings", "launches"),
    few(
        [
            (FENCE, ("nt", *COPIED), 4 * LAUNCHES),
            (FLIP, COPIED, LAUNCHES),
            (FLIP, ("one_shot_ll",), LAUNCHES),
            (WAIT, COPIED, LAUNCHES),
            (WAIT, ("gemv_allreduce",), LAUNCHES),
            (FENCE, ("nt", "gemv_allreduce"), 4 * LAUNCHES),
            (FLIP, ("allreduce_rmsnorm",), LAUNCHES),
            (FLIP, ("gemv_allreduce",), 4 * LAUNCHES),
            (WAIT, ("one_shot_ll",), LAUNCHES),
            (RESET, ("one_shot_sentinel",), LAUNCHES),
            (FLIP, ("one_shot_sentinel",), LAUNCHES),
            (WAIT, ("one_shot_sentinel",), LAUNCHES),
            (WAIT, ("allreduce_rmsnorm",), LAUNCHES),
        ],
        5,
    ),
)
def test_without_a_part_of_the_protocol_results_are_wrong(patch, settings, launches, tmp_path):
    broken = tree(tmp_path / "tree", patch)
    # Without the flip, the peer overwrites a packet, or the rank resets the peer's next packet. The rank then waits
    # until the time-out, which shows the error.
    waits_in_vain = patch == FLIP and settings[0] in ("one_shot_ll", "one_shot_sentinel")
    settings = *settings, "timeout_s=2"
    # Chance decides how soon an error appears; a run without errors is repeated with other delays, data and kernels.
    runs = (
        stress(2, *settings, launches=launches, seed=seed, tree=broken) for seed in range(1, 13)
    )
    assert any(run["wrong_elements"] > 0 or (waits_in_vain and run["timed_out"]) for run in runs)


@pytest.mark.parametrize(
    ("patch", "ranks"), few([(SWAP, 3), (FLIP, 2), (SWAP, 4), (FLIP, 3), (FLIP, 4)], 2)
)
def test_swapped_places_need_the_epoch_flip(patch, ranks, tmp_path):
    broken = tree(tmp_path / "tree", patch)
    runs = (
        stress(ranks, "one_shot_pull", launches=LAUNCHES, seed=seed, tree=broken)
        for seed in range(1, 13)
    )
    assert any(run["wrong_elements"] > 0 for run in runs)


@SLOW_TEST
def test_two_ranks_that_swap_places_of_one_reader_need_no_epoch_flip(tmp_path):
    """The reader of a place writes there next, after its own read: the control of the test above."""
    broken = tree(tmp_path / "tree", SWAP)
    assert (
        stress(2, "one_shot_pull", "one_shot_push", launches=8 * LAUNCHES, tree=broken)[
            "wrong_elements"
        ]
        == 0
    )
