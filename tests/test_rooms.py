"""Optional rooms of the core: everything else works without their files and registrations.

Each test deletes a room from a copy of the project and runs the copy.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reports.store.result import read
from tests.bench.test_cli import LAYERS
from tests.launch import FULL, MPIRUN, ROOT

SMALL = ("-b", "16K", "-e", "16K", "-n", "2", "--max-time", "60", "--lean")


@pytest.fixture
def tree(tmp_path):
    """A copy of the folders that the program needs."""
    for layer in LAYERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / layer, tmp_path / "tree" / layer, ignore=ignored)
    return tmp_path / "tree"


def without(path: Path, *pieces: str) -> None:
    """Delete each piece of text; the file must have each piece exactly once."""
    text = path.read_text()
    for piece in pieces:
        assert text.count(piece) == 1, f"{path.name} has {piece!r} {text.count(piece)} times"
        text = text.replace(piece, "")
    path.write_text(text)


def launch(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [str(MPIRUN), "-n", "2", sys.executable, "-m", "bench.allreduce", *options]
    done = subprocess.run(words, cwd=tree, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def assert_runs(tree: Path) -> None:
    """Assert that a short run ends with status 0, complete and with right results."""
    done = launch(tree, *SMALL, "--out", str(tree / "results"))
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = (tree / "results").glob("*.jsonl")
    result = read(path)
    assert result.complete
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}


def assert_unknown(done: subprocess.CompletedProcess[str], option: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"bench.allreduce: unrecognized arguments: {option}\n"


def test_without_the_arrival_skew_everything_else_works(tree):
    (tree / "bench/features/arrival_skew.py").unlink()
    without(
        tree / "bench/features/__init__.py",
        "from bench.features.arrival_skew import ArrivalSkew\n",
        "    ArrivalSkew,\n",
    )
    assert_runs(tree)
    assert_unknown(launch(tree, "--arrival-skew", "5us"), "--arrival-skew 5us")
    helped = launch(tree, "--help").stdout
    assert "--arrival-skew" not in helped
    assert "--soak" in helped


def test_without_slowed_launches_everything_else_works(tree):
    (tree / "bench/features/slowed.py").unlink()
    (tree / "kernels/slowed.cu").unlink()
    without(
        tree / "bench/features/__init__.py",
        "from bench.features.slowed import Slowed\n",
        "    Slowed,\n",
    )
    assert_runs(tree)
    assert_unknown(launch(tree, "--slowed-percent", "3"), "--slowed-percent 3")


def test_without_the_peers_everything_else_works(tree):
    shutil.rmtree(tree / "collectives/peers")
    (tree / "bench/features/peers.py").unlink()
    (tree / "reports/tables/peers.py").unlink()
    without(tree / "bench/allreduce.py", "from bench.features.peers import Peers\n", ", Peers")
    without(
        tree / "reports/tables/table.py",
        "from reports.tables.peers import peer_tables\n",
        ",\n              *peer_tables(result, first, rows, states)",
        ", *peer_tables(result, view, view_rows, states)",
    )
    assert_runs(tree)
    assert_unknown(launch(tree, "--peer", "vllm"), "--peer vllm")


def test_without_the_soak_everything_else_works(tree):
    for path in ("bench/soak.py", "bench/features/soak.py", "bench/features/soak_options.py"):
        (tree / path).unlink()
    without(
        tree / "bench/features/__init__.py",
        "from bench.features.soak_options import SoakOption\n",
        "    SoakOption,\n",
    )
    assert_runs(tree)
    assert_unknown(launch(tree, "--soak", "1s"), "--soak 1s")


def test_without_the_footprint_everything_else_works(tree):
    for path in (
        "bench/footprint.py",
        "bench/features/footprint.py",
        "bench/features/background.py",
        "kernels/gemm.cu",
    ):
        (tree / path).unlink()
    assert_runs(tree)


def test_without_the_quantised_wire_everything_else_works(tree):
    (tree / "collectives/quantized.py").unlink()
    (tree / "kernels/allreduce_two_shot_quantized.cu").unlink()
    registry = tree / "collectives/algorithm.py"
    without(registry, '    "all_reduce": quantized.ALGORITHMS,\n', "quantized, ")
    assert_runs(tree)
    listed = launch(tree, "--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "two_shot " in listed.stdout
    assert "two_shot_int8" not in listed.stdout
    refused = launch(tree, "--algorithm", "two_shot_int8")
    assert refused.returncode == 2
    assert "unknown algorithm 'two_shot_int8'" in refused.stderr
    if FULL:
        soaked = launch(tree, "--soak", "1s", "-e", "16K", "-d", "float", "-o", "sum")
        assert (soaked.returncode, soaked.stderr) == (0, "")
