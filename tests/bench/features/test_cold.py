"""Tests `--cold`, which makes the caches forget the buffers: times grow, results stay right."""

from collections.abc import Mapping

import pytest

from reports.store.case import key_of
from tests.bench.launches import launch, run
from tests.fake_gpu import fake_nccl

QUICK = "--sizes 256K -w 4 --max-time 60 --quiet --algorithm two_shot,library"


def test_with_cold_caches_a_collective_takes_longer_and_is_another_case(tmp_path):
    """The least times are compared: others may have the delays of a shared machine."""
    hot, cold = (
        run(tmp_path / name, f"{QUICK} {option}")[1].cases
        for name, option in (("hot", "--mode isolated -n 600"), ("cold", "--cold -n 60"))
    )
    assert {(case.mode, case.status, case.n_wrong) for case in cold} == {("isolated", "ok", 0)}
    assert not {key_of(case) for case in hot} & {key_of(case) for case in cold}
    least_us: list[Mapping[tuple[str, str], float]] = [
        {(case.algorithm, case.variant): case.time_us.min for case in cases if case.time_us}
        for cases in (hot, cold)
    ]
    assert least_us[0].keys() == least_us[1].keys()
    ours = [key for key in least_us[0] if key[0] == "two_shot"]
    assert all(least_us[1][key] > 1.5 * least_us[0][key] for key in ours), least_us


def test_a_chain_is_never_cold(tmp_path):
    done = launch(tmp_path, QUICK, "--cold --mode chained")
    sentence = "--cold: the calls of a chain are warm: leave out --mode chained"
    assert (done.returncode, done.stderr) == (2, f"bench.allreduce: {sentence}\n")


@pytest.mark.parametrize("graph", [0, 1])
def test_the_l2_of_a_gpu_is_flushed_on_a_fake_gpu(tmp_path, graph):
    words = f"--sizes 4K -n 2 -w 0 --max-time 100 --quiet --cold -G {graph}"
    _, result = run(tmp_path, words, "--algorithm one_shot_pull", **fake_nccl.environment())
    assert {(case.shape["caches"], case.status, case.n_wrong) for case in result.cases} == {
        ("cold", "ok", 0)
    }
