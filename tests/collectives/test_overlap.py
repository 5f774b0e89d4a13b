"""A matmul that overlaps with a collective: its results, and the commands."""

import pytest

from collectives.layers.overlap import VARIANTS
from tests.bench.launches import run
from tests.fake_gpu import fake_nccl
from tests.launch import few, printed

COMMANDS = ("gemm_reduce_scatter", "allgather_gemm")


@pytest.mark.parametrize(
    ("ranks", "device", "datatype"),
    [
        *few([(3, "cpu", "float32"), (1, "cpu", "float32")], 1),
        *few([(2, "cuda", "float16"), (2, "hip", "float32")], 1),  # in two streams
    ],
)
def test_every_form_is_exact_on_a_cpu_and_on_a_fake_gpu(ranks, device, datatype):
    on_gpus = {} if device == "cpu" else fake_nccl.environment(vendor=device, gpu={"closed": 1})
    said = printed(ranks, "-m", "tests.ranks.overlap_ranks", device, datatype, **on_gpus)
    assert said.count(" right") == ranks * len(COMMANDS)


def test_a_run_names_its_number_of_chunks_on_a_fake_gpu(tmp_path):
    options = "--model llama-3.1-8b --tokens 32 --scale 1/64 -n 2 --device cuda"
    options += " --algorithm then_direct_pull,fused --max-time 100"
    environment = fake_nccl.environment(vendor="cuda", gpu={"closed": 1})
    said, result = run(tmp_path, options, command="allgather_gemm", ranks=1, **environment)
    assert "tokens 32, hidden 4096, columns 128, scale" in said
    assert any(f"\nfused {variant} " in said for variant in VARIANTS)
    assert {case.variant for case in result.cases} == {*VARIANTS}
