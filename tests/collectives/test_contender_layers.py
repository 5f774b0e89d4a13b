"""`--contender` and `--kernel` for a layer, its matrix product and all-reduce at once, in real
launches on the CPU. What is wrong with it is named."""

import os
import re
import sys
from pathlib import Path

import pytest

from collectives.communicator import Mistake
from collectives.contenders.kernel import read_kernel
from tests.bench.launches import launch, stored
from tests.bench.stability.test_layers import ONE_LAYER
from tests.launch import MPIRUN, ROOT, SLOW_TEST, end_of, few
from wiretax.record.bits_record import read_bits

_, SECTION = (ROOT / "docs/contenders.md").read_text().split("\n## Your layer\n")
TINY = "--model llama-3.1-8b --scale 1/1024 -d half -n 2 --max-time 60 --quiet --algorithm fused"
TORCH = ROOT / ".venv-torch/bin/python"


def printed_files(folder: Path) -> tuple[Path, Path]:
    """The layer and the kernel as the page prints them."""
    layer, kernel = folder / "my_layer.py", folder / "own_leaves.cu"
    _, text = SECTION.split("```python\n", 1)
    layer.write_text(text.partition("```")[0])
    _, text = SECTION.split("```\n// wiretax: ", 1)
    kernel.write_text(f"// wiretax: {text.partition('```')[0]}")
    return layer, kernel


RIGHT = """
import ctypes
from mpi4py import MPI

COLLECTIVES = "gemv_allreduce"

def bind(case):
    weights = case.weights.astype("f").T
    scales, sums = case.row_scales, case.arrays[1]
    assert scales.shape == (sums.shape[1],) and case.weight_copies.shape[1:] == weights.T.shape
    def layer():
        parts = case.activations.astype("f") @ weights
        case.mpi.Allreduce(MPI.IN_PLACE, parts)
        sums[:] = parts * scales
        {fault}
    return layer
"""
# Each is right, and then changes something on rank 1; and what is said of it.
FAULTS = {
    "scaled": ("", None),
    "wrong_row": (
        "sums[3, 77] += case.rank",
        r"rank 1 got .*, element 12365; .* \(token 3, row 77\)",
    ),
    "nothing": ("sums[:] = 0", r"rank 0 got 0.0 .* \(token 0, row 0\)"),
    "behind": (
        "ctypes.memset(sums.ctypes.data + sums.nbytes, case.rank, 3)",
        "rank . wrote behind its receive buffer",
    ),
    "front": (
        "ctypes.memset(sums.ctypes.data - 3, case.rank, 3)",
        "rank . wrote in the 4 KiB in front of its receive buffer",
    ),
}


def faulty(
    folder: Path,
    name: str,
    fault: str,
) -> Path:
    (folder / f"{name}.py").write_text(RIGHT.replace("{fault}", fault))
    return folder / f"{name}.py"


def test_wrong_sums_are_named_by_rank_token_and_row_and_so_are_writes_beside_them(tmp_path):
    files = [faulty(tmp_path, name, fault) for name, (fault, _) in FAULTS.items()]
    names = ",".join(["numpy_matmul", *map(str, files)])
    words = TINY, "--tokens 5 --weights int8 --contender", Path(names)
    _, kernel = printed_files(tmp_path)
    done = launch(tmp_path, *words, "--kernel", kernel, command="gemv_allreduce")
    assert done.returncode == 1, done.stderr
    reasons = {name: reason for name, (_, reason) in FAULTS.items()}
    reasons |= {"numpy_matmul": None, "own_leaves": None}
    ours = {"compute", "fused"}
    cases = [case for case in stored(tmp_path).cases if case.algorithm not in ours]
    assert {case.algorithm for case in cases} == {f"fused_{name}" for name in reasons}
    for case in cases:
        reason = reasons[case.algorithm[6:]]
        assert case.status == ("wrong" if reason else "ok"), case
        assert re.search(reason or "", case.reason or ""), case.reason
    assert re.search(r"numpy matmul [0-9.]+", done.stdout)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    few(
        [
            (
                "case.weights[5, 7] += case.rank",
                "failed: .* mine [0-9a-f]{7} changes its weights or its activations",
            ),
            (
                "if case.rank: raise ValueError('no kernel')",
                "failed: .* line 15: ValueError: no kernel",
            ),
            ("if case.rank: import time; time.sleep(60)", "did not go on for 2 s .*"),
        ],
        1,
    ),
)
def test_a_layer_that_changes_its_weights_or_fails_on_a_rank_ends_the_run(
    tmp_path, fault, sentence
):
    """Otherwise the next form, which is right, would have the wrong result."""
    words = TINY, "-T 2 --tokens 5 --weights int8 --contender", faulty(tmp_path, "mine", fault)
    done = launch(tmp_path, *words, command="gemv_allreduce")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"wiretax: rank 1 {sentence}\n", done.stderr), done.stderr


def of_first_ranks(python: object, *files: object) -> tuple[list[list[str]], str]:
    """By numbers of ranks and files in turn, what tests/ranks/contender_ranks.py says; and how many
    notes there are."""
    words = MPIRUN, "-n", 4, python, "-m", "tests.ranks.contender_ranks"
    path = f"{MPIRUN.parent}:{os.environ['PATH']}"  # where torch's environment finds MPI
    done = end_of(*words, *files, PYTHONPATH=str(ROOT), PATH=path)
    assert done.returncode == 0, done.stderr
    assert "wrong" not in done.stdout
    *lines, notes = done.stdout.splitlines()
    return [line.split() for line in lines], notes


def test_a_layer_of_the_docs_is_started_anew_on_the_first_ranks_of_a_launch(tmp_path):
    """As `bench.bits --model` does, where the kernel keeps its bits."""
    said, notes = of_first_ranks(sys.executable, "numpy_matmul", *printed_files(tmp_path))
    names = "numpy_matmul", "my_layer", "own_leaves"
    assert [(ranks, name) for ranks, name, _ in said] == [
        (ranks, name) for ranks in ("1", "2", "4", "2") for name in names
    ]
    assert len({digest for _, name, digest in said if name == "own_leaves"}) == 1
    assert notes == "2 notes", "each file of Python has one, on however many sets of ranks"


@SLOW_TEST
@pytest.mark.skipif(not TORCH.exists(), reason="no torch: make .venv-torch/.installed")
def test_gloo_gets_a_group_of_just_these_ranks_and_sums_what_torch_has_rounded():
    said, _ = of_first_ranks(TORCH, "torch_linear")
    assert [ranks for ranks, _, _ in said] == ["1", "2", "4", "2"]
    one, two, four, again = (digest for _, _, digest in said)
    assert (two, len({one, two, four})) == (again, 3)


@pytest.mark.parametrize("word", ["registered", "in_place"])
def test_a_kernel_of_a_layer_has_no_other_variant(tmp_path, word):
    path = tmp_path / "mine.cu"
    path.write_text(f"// wiretax: gemv_allreduce {word}\n")
    with pytest.raises(Mistake, match="gemv_allreduce has one form: neither registered nor in_"):
        read_kernel(str(path))


# Adds columns from the last one down in messages above 4 KiB, and keeps weights as it needs them.
CHOICE = """
import numpy as np
from mpi4py import MPI

COLLECTIVES = "gemv_allreduce"

def bind(case):
    way = slice(None, None, -1 if case.size_bytes > 4096 else 1)
    weights = case.weights.astype("f")[:, way].copy()
    def layer():
        activations = case.activations.astype("f")[:, way].copy()
        parts = np.einsum("tc,rc->tr", activations, weights)
        case.mpi.Allreduce(MPI.IN_PLACE, parts)
        case.arrays[1][:] = parts
    return layer
"""


def test_bits_find_the_order_of_a_layer_and_that_another_one_takes_longer_messages(tmp_path):
    """Their probes are other weights than those with which the file began."""
    (tmp_path / "choice.py").write_text(CHOICE)
    _, kernel = printed_files(tmp_path)
    words = "--model llama-3.2-1b --scale 1/64 -d half --quiet --algorithm fused_stable"
    options = "--contender", tmp_path / "choice.py", "--kernel", kernel
    done = launch(tmp_path, words, *options, command="bits", program=ONE_LAYER)
    assert (done.returncode, done.stderr) == (0, "")
    [path] = tmp_path.glob("*.bits.json")
    forms = {row.algorithm: row.tps for row in read_bits(path).layers}
    stable, own = forms["fused_stable"], forms["fused_own_leaves"]
    assert [tp.orders for tp in own] == [tp.orders for tp in stable]
    assert not any(batch.compared["tp"].differ for batch in own[1].batches)
    alone, two = forms["fused_choice"]
    assert alone.orders.keys() == two.orders.keys() == {"1", "2", "8"}
    assert alone.orders["2"] == alone.orders["8"] != alone.orders["1"]
    assert two.causes == ["product", "choice"]
    assert all(batch.compared["batch"].differ for batch in alone.batches[1:])
