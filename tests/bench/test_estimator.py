"""docs/experiments/estimator.py on GPUs in software: it runs, and says in which settings."""

from tests.fake_gpu import fake_nccl
from tests.launch import ROOT, mpirun


def test_the_estimator_says_what_limits_the_library_on_a_fake_gpu():
    """It once looked for its kernel in another file. And what it printed did not tell that NCCL was
    limited, so a page took its figures for NCCL's best."""
    limited = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0"}
    variables = fake_nccl.environment(gpu={"count": 1}) | limited
    words = "--ranks-share-gpus --device cuda -b 16K -e 16K --algorithm one_shot_push,library"
    program = str(ROOT / "docs/experiments/estimator.py")
    done = mpirun(2, program, *words.split(), timeout_s=100, **variables)
    assert done.returncode == 0, done.stderr
    head, *rows, library, set_here, _ = done.stdout.splitlines()
    assert head.split()[:3] == ["size", "algorithm", "true"]
    forms = [
        "one_shot_push copied",
        *(f"library {each}" for each in ("plain", "registered", "tuned")),
    ]
    assert [row[10:36].strip() for row in rows] == forms
    assert library.startswith("library: NCCL 2.32.3; channels: 2 of plain, 2 of registered, ")
    assert " NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0 " in f" {set_here.split(': ')[1]} "
