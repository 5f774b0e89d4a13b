"""Algorithms come and go with their files. Each test changes a copy of the project and runs the
copy."""

import re
import shutil
import sys
from pathlib import Path

from tests.bench.launches import launch, run, stored
from tests.launch import ROOT, end_of

LAYERS = ("bench", "collectives", "kernels", "reports", "wiretax")
SMALL = "-b 16K -e 16K -n 1 --mode isolated --max-time 60"


# Without each algorithm's file in turn: imports what uses algorithms, and reads the suite's tables
# as `auto` does. A fork spares a start of Python with numpy for each.
WITHOUT_EACH = """
import os, sys
from pathlib import Path
import msgspec, numpy

for path in sorted(Path("collectives/algorithms").glob("[a-z]*.py")):
    hidden = path.rename(path.with_suffix(".hidden"))
    if not (child := os.fork()):
        import bench.allreduce, bench.link, bench.soak
        import bench.layers.experts, bench.layers.layers_command
        from bench.tuning import search
        import bench.doctor, bench.harness.ladder
        from collectives.choice import shipped_rows
        from reports.advice.wire import Wire
        shipped_rows()
        Wire(3, 2.9, 12).times(4, 1 << 20)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"without {path.name}")
    hidden.rename(path)
"""


def copy_of_the_project(folder: Path) -> Path:
    """A copy of the folders that the program needs."""
    for layer in LAYERS:  # with the bytecode, but for what another process is writing
        ignored = shutil.ignore_patterns("*.pyc.*")
        shutil.copytree(ROOT / layer, folder / layer, ignore=ignored)
    return folder


def test_the_file_of_an_algorithm_goes_without_a_trace(tmp_path):
    """Rows of the suite's tables that name it are passed over; `auto` has the others."""
    tree = copy_of_the_project(tmp_path / "tree")
    done = end_of(sys.executable, "-c", WITHOUT_EACH, cwd=tree)
    assert (done.returncode, done.stderr) == (0, "")
    (tree / "collectives" / "algorithms" / "allreduce_two_shot.py").unlink()
    for source in (tree / "kernels").glob("allreduce_two_shot*.cu"):
        source.unlink()
    (tree / "collectives" / "algorithms" / "allreduce_quantized.py").unlink()
    _, result = run(tmp_path / "out", SMALL, tree=tree)
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
    names = {case.algorithm for case in result.cases}
    assert {"auto", "ring"} <= names
    assert not names & {"two_shot", "two_shot_push", "two_shot_direct"}
    done = launch(tmp_path, "--algorithm two_shot_int8", tree=tree)
    assert done.returncode == 2
    assert "unknown algorithm 'two_shot_int8'" in done.stderr


# The files of the algorithm in docs/add-algorithm.md, by path.
EXAMPLE = dict(
    re.findall(
        r"^`([\w/]+\.(?:cu|py))`:\n\n```\S+\n(.*?)^```$",
        (ROOT / "docs/add-algorithm.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
)
SIX_ROUNDS = """
import bench.tune as tune
from bench.harness import schedule
from bench.tuning import search
schedule.LONGEST_BLOCK_S = 2e-3
search.go_on = lambda run, active, rounds: active if rounds < 6 else []
tune.main()
"""


def test_a_new_algorithm_is_one_python_file_and_one_kernel(tmp_path):
    """The command line, --list, bench.tune, the soak and the layers find it without an edit."""
    tree, out = copy_of_the_project(tmp_path / "tree"), tmp_path / "results"
    assert [*EXAMPLE] == ["kernels/allreduce_mine.cu", "collectives/algorithms/allreduce_mine.py"]
    for path, text in EXAMPLE.items():
        (tree / path).write_text(text)

    listed = launch(out, "--list", tree=tree, ranks=None)
    assert re.search(r"^mine +each rank reads every slab$", listed.stdout, re.MULTILINE)
    words = "--sizes 16K,2M -n 1 --mode isolated --algorithm mine,mine+nt,auto"
    _, result = run(out / "all", words, tree=tree)
    ours = [case for case in result.cases if case.algorithm.startswith("mine")]
    assert {(case.algorithm, case.n_wrong) for case in ours if case.size_bytes == 16384} == {
        ("mine", 0),
        ("mine+nt", 0),
    }
    assert all(case.bound_us for case in ours if case.size_bytes == 16384)
    too_long = "a slab has room for 1024 KiB from each rank"
    assert {case.reason for case in ours if case.size_bytes > 16384} == {too_long}
    words = f"-b 16K -e 16K --max-time 60 --table {tmp_path / 'table.toml'}"
    launch(out / "tune", words, tree=tree, program=SIX_ROUNDS)  # 3 if they decide nothing
    assert "mine" in {case.algorithm for case in stored(out / "tune").cases}
    words = "--soak 1s -e 16K -d float -o sum --algorithm mine"
    soaked = launch(tmp_path, words, command="soak", tree=tree)
    assert soaked.returncode == 0, soaked.stderr
    assert " 0 wrong elements" in soaked.stdout
    words = "--hidden 256 --tokens 1 -n 1 --algorithm then_mine"
    _, result = run(out / "norm", words, tree=tree, command="allreduce_rmsnorm")
    assert {case.algorithm for case in result.cases} == {"compute", "then_mine"}
