"""The protocols under back-to-back launches, intact and with a part removed; the test must detect
the removal."""

import json

import pytest

from collectives.registry import exact
from tests.kernels.broken_kernels import tree
from tests.launch import ROOT, count, few, mpirun

LAUNCHES = 5000


def stress(ranks, *settings, launches=LAUNCHES, seed=1, tree=ROOT):
    done = mpirun(
        ranks, "tests/ranks/stress_ranks.py", str(launches), str(seed), *settings, tree=tree
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def right(launches):
    return {"launches": launches, "wrong_elements": 0, "timed_out": False}


ALL, STREAMING = (), ("nt", "ntr")
PUSHES = "one_shot_push", "two_shot"  # 6,666 launches show one slab for both epochs each time


@pytest.mark.parametrize(
    ("settings", "ranks"),
    few([(PUSHES, 2), (ALL, 2), (STREAMING, 3), (STREAMING, 2), (ALL, 3), (ALL, 5)], 3),
)
def test_back_to_back_launches_are_right_when_the_epoch_wraps(settings, ranks):
    # More ranks than cores take turns.
    launches = count({2: 8 * LAUNCHES, 3: LAUNCHES // 2, 5: LAUNCHES // 5}[ranks])
    assert stress(ranks, *settings, launches=launches, seed=ranks) == right(launches)


QUANTISED = (
    *("nt", "two_shot_int8", "two_shot_push_int6", "two_shot_push_int4"),
    *("one_shot_push_int8", "one_shot_push_int6+4K"),
)
FUSED = "allreduce_rmsnorm", "gemv_allreduce", "one_shot_pull", "two_shot"
# Every all-reduce over peers' memory, but those whose messages fit into one chunk of packets. What
# cannot run here takes no part.
CHUNKED = tuple(
    f"{each.name}+{'4K' if each.pushes else '32K'}"
    for each in exact("all_reduce", hosts=1)
    if each.needs_peers and not each.flags_in_data
)


@pytest.mark.parametrize(
    ("ranks", "seed", "settings"),
    [
        *few([(2, 2, QUANTISED), (3, 7, QUANTISED)], 1),
        *few([(2, 3, FUSED), (3, 5, ("nt", *FUSED)), (4, 6, FUSED)], 1),
        *few([(2, 2, CHUNKED), (3, 3, CHUNKED), (4, 4, CHUNKED)], 1),
    ],
)
def test_back_to_back_launches_of_other_kernels_are_right(ranks, seed, settings):
    """Quantised, fused among others, and of many chunks through the same slots. A seed draws the
    datatype."""
    assert stress(ranks, *settings, launches=1000, seed=seed) == right(1000)


# The part of the protocol that is removed, the ranks, the launches, and what they launch. `make
# test` runs the first three rows, FULL_COUNT=1 all: run a new row so. The lack of the fence
# shows in rare launches; test_collectives.py holds streaming stores back instead.
REMOVED = """
without the epoch flip | 2 | 5000 | one_shot_push two_shot
without the epoch flip | 2 | 5000 | one_shot_ll
without the wait | 2 | 5000 | gemv_allreduce
swap in place of the epoch flip | 3 | 5000 | one_shot_pull
without the wait | 2 | 5000 | one_shot_push two_shot
without the wait | 2 | 5000 | one_shot_ll
without the wait | 2 | 5000 | one_shot_sentinel
without the epoch flip | 2 | 5000 | allreduce_rmsnorm
without the epoch flip | 2 | 20000 | gemv_allreduce
without the epoch flip | 2 | 5000 | one_shot_sentinel
without the reset | 2 | 5000 | one_shot_sentinel
without the epoch flip | 2 | 5000 | one_shot_pull
without the epoch flip | 3 | 5000 | one_shot_pull
without the epoch flip | 4 | 5000 | one_shot_pull
swap in place of the epoch flip | 4 | 5000 | one_shot_pull
without the fence before the flag | 2 | 20000 | nt one_shot_push two_shot
"""


@pytest.mark.parametrize("row", few(REMOVED.strip().splitlines(), 3))
def test_without_a_part_of_the_protocol_results_are_wrong(row, tmp_path):
    patch, ranks, launches, settings = row.split(" | ")
    broken = tree(tmp_path / "tree", patch)
    # Without the flip, the peer overwrites a packet, or the rank resets the peer's next packet. The
    # rank then waits until the time-out, which shows the error.
    waits_in_vain = "flip" in patch and settings in ("one_shot_ll", "one_shot_sentinel")
    # Chance decides how soon an error appears; a run without errors is repeated with other delays,
    # data and kernels.
    words = *settings.split(), "timeout_s=2"
    runs = (
        stress(int(ranks), *words, launches=int(launches), seed=seed, tree=broken)
        for seed in range(1, 13)
    )
    assert any(run["wrong_elements"] > 0 or (waits_in_vain and run["timed_out"]) for run in runs)
