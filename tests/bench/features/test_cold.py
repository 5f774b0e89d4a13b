"""Tests `--cold`, which makes the caches forget the buffers: times grow, results stay right."""

from tests.bench.launches import blocks_of, run
from tests.fake_gpu import fake_nccl
from wiretax.record.case import key_of

QUICK = "--sizes 256K -w 4 --max-time 60 --quiet"


def test_with_cold_caches_a_collective_takes_longer_and_is_another_case(tmp_path):
    """The least times are compared: others may have the delays of a shared machine."""
    runs = [
        run(tmp_path / name, f"{QUICK} --algorithm two_shot {option}")[1]
        for name, option in (("hot", "--mode isolated -n 120"), ("cold", "--cold -n 12"))
    ]
    hot, cold = (result.cases for result in runs)
    assert {(case.mode, case.status, case.n_wrong) for case in cold} == {("isolated", "ok", 0)}
    assert not {key_of(case) for case in hot} & {key_of(case) for case in cold}
    for of_hot, of_cold in zip(hot, cold, strict=True):
        assert (of_hot.algorithm, of_hot.variant) == (of_cold.algorithm, of_cold.variant)
        hot_us, cold_us = (
            min(blocks_of(result, case, "time_us"))
            for result, case in zip(runs, (of_hot, of_cold), strict=True)
        )
        assert cold_us > 1.5 * hot_us


def test_the_l2_of_a_gpu_is_flushed_on_a_fake_gpu(tmp_path):
    words = "--sizes 4K -n 2 -w 0 --max-time 100 --quiet --cold -G 1"
    _, result = run(tmp_path, words, "--algorithm one_shot_pull", **fake_nccl.environment())
    assert {(case.shape["caches"], case.status, case.n_wrong) for case in result.cases} == {
        ("cold", "ok", 0)
    }
