"""The protocols under launches back to back, and the same with a part taken out, which has to be found."""

import json

import pytest

from tests.launch import count, mpirun

LAUNCHES = 5000


def stress(ranks, *settings, launches=LAUNCHES, seed=1):
    done = mpirun(ranks, "tests/stress_ranks.py", str(launches), str(seed), *settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.beside
@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("stores", ["plain", "streaming"])
def test_back_to_back_launches_are_right_across_the_epochs_wrap(ranks, stores):
    launches = count(LAUNCHES if ranks < 4 else LAUNCHES // 5)  # more ranks than cores take turns
    streaming = int(stores == "streaming")
    settings = f"STREAM_SLAB={streaming}", f"STREAM_RECEIVE={streaming}"
    found = stress(ranks, *settings, launches=launches, seed=2 * ranks + streaming)
    assert found == {"launches": launches, "wrong_elements": 0, "timed_out": False}


@pytest.mark.beside
@pytest.mark.parametrize(("ranks", "seed"), [(2, 2), (3, 7)])  # of float32, and of bfloat16
def test_quantised_launches_are_right_back_to_back(ranks, seed):
    found = stress(ranks, "STREAM_SLAB=1", "two_shot_int8", "two_shot_fp8", "two_shot_int4", launches=1000, seed=seed)
    assert found == {"launches": 1000, "wrong_elements": 0, "timed_out": False}


@pytest.mark.beside
@pytest.mark.parametrize(("ranks", "seed"), [(2, 3), (2, 4), (3, 5), (4, 6)])  # of each type
def test_fused_launches_among_others_are_right_back_to_back(ranks, seed):
    settings = f"STREAM_SLAB={seed % 2}", "allreduce_rmsnorm", "gemv_allreduce", "one_shot_pull", "two_shot"
    found = stress(ranks, *settings, launches=1500, seed=seed)
    assert found == {"launches": 1500, "wrong_elements": 0, "timed_out": False}


@pytest.mark.parametrize(
    ("settings", "launches"),
    [
        pytest.param(["STREAM_SLAB=1", "WITHOUT_FENCE_SYSTEM=1"], 4 * LAUNCHES, id="fence before the flag"),
        pytest.param(["WITHOUT_EPOCH_FLIP=1"], LAUNCHES, id="epoch flip"),
        pytest.param(["WITHOUT_WAIT=1"], LAUNCHES, id="wait for the flag"),
        pytest.param(["WITHOUT_EPOCH_FLIP=1", "one_shot_ll"], LAUNCHES, id="epoch flip of packets"),
        pytest.param(["WITHOUT_WAIT=1", "one_shot_ll"], LAUNCHES, id="epoch of packets"),
        pytest.param(["WITHOUT_WAIT=1", "allreduce_rmsnorm"], LAUNCHES, id="wait before a norm"),
        pytest.param(["WITHOUT_WAIT=1", "gemv_allreduce"], LAUNCHES, id="wait for parts of a product"),
        pytest.param(["WITHOUT_EPOCH_FLIP=1", "allreduce_rmsnorm"], LAUNCHES, id="epoch flip of a norm"),
        pytest.param(["WITHOUT_EPOCH_FLIP=1", "gemv_allreduce"], 4 * LAUNCHES, id="epoch flip of parts of a product"),
        pytest.param(["STREAM_SLAB=1", "WITHOUT_FENCE_SYSTEM=1", "allreduce_rmsnorm"], 4 * LAUNCHES,
                     id="fence before a norm"),
        pytest.param(["STREAM_SLAB=1", "WITHOUT_FENCE_SYSTEM=1", "gemv_allreduce"], 4 * LAUNCHES,
                     id="fence before the flag of a product"),
    ],
)
def test_without_a_part_of_the_protocol_results_are_wrong(settings, launches):
    # Chance decides how soon; a run that finds nothing is repeated with other delays, data and kernels.
    assert any(stress(2, *settings, launches=launches, seed=seed)["wrong_elements"] > 0 for seed in range(1, 13))
