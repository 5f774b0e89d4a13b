"""The plugin of pytest: real ranks in a pytest of its own, read back from what pytest-benchmark
prints and stores."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT, end_of
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.synthetic_campaign import write_launches
from wiretax.pytest_plugin import judge
from wiretax.record.result import read

SHORT = "--mode isolated --max-time 60 --iters 24"
COMMAND = f"allreduce -n 2 --sizes 16K,64K --algorithm one_shot_pull,library {SHORT}"
TIMED = '{"collective": "all_reduce", "size_bytes": 65536, "ranks": 2, "time_us": 5.0'
WITH_PLUGIN = "-p", "wiretax.pytest_plugin"
THEIR_PROGRAM = """
import json, pathlib, random, subprocess
pids = pathlib.Path("pids")
pid = subprocess.Popen(["sleep", "300"]).pid
number = pids.write_text((pids.read_text() if pids.exists() else "") + f"{pid:9}") // 9 - 1
cases = [("reduce", 10, 2), ("reduce", 16, 50), ("gather", 16, 900)][number == 2 :]
for name, bits, time_us in cases if number % 2 else cases[::-1]:
    line = {"collective": f"all_{name}", "size_bytes": 1 << bits, "ranks": 2}
    print(json.dumps(line | {"time_us": time_us + random.random() / 3}))
"""
MINE = f"""
def test_mine(wiretax):
    cases = wiretax("allreduce -n 2 --sizes 16K --algorithm two_shot {SHORT}")
    assert set(cases.algorithm) == {{"two_shot"}}
    assert cases.bus_bw_gb_s.min() > 0
"""
THEIRS = """
import os, sys
def test_theirs():
    ours = "bench", "collectives", "kernels", "reports", "numpy", "pandas"
    assert not set(ours) & set(sys.modules)
    assert "OPENBLAS_NUM_THREADS" not in os.environ
"""


def run_pytest(folder: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs pytest in a user's folder with the plugin of this checkout."""
    # It skips beside other tests.
    unset = "env", "-u", "OPENBLAS_NUM_THREADS", "-u", "PYTEST_XDIST_WORKER"
    line = *unset, sys.executable, "-m", "pytest", *WITH_PLUGIN, *words
    return end_of(*line, cwd=folder, PYTHONPATH=str(ROOT), COLUMNS="200")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A user's folder after a run with the option and with the fixture, and what pytest printed."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "test_mine.py").write_text(MINE)
    done = run_pytest(folder, "--wiretax", COMMAND, "--benchmark-json=rows.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def rows_of(folder: Path) -> dict:
    return {
        row["name"]: row for row in json.loads((folder / "rows.json").read_text())["benchmarks"]
    }


def test_cases_are_rows_of_the_table_and_the_json_with_our_figures(work):
    """A user of pytest-benchmark must read the figures of our own table there."""
    folder, printed = work
    assert "2 passed" in printed
    for line in (
        r"benchmark 'allreduce 16 KiB isolated, 2 ranks': 5 tests",
        r"benchmark 'allreduce 64 KiB isolated, 2 ranks': 3 tests",
        # a ratio is left out where its interval is too wide
        r"\nallreduce: 16 KiB \S+ us( \(\S+x MPICH.*\))?, 64 KiB \S+ GB/s( \(.*\))?\n"
        r"  runs: results/pytest-",
    ):
        assert re.search(line, printed), printed
    rows = rows_of(folder)
    algorithms = "library", "one_shot_pull copied", "one_shot_pull registered"
    ours = {f"allreduce[{size} KiB {algorithm}]" for size in (16, 64) for algorithm in algorithms}
    assert rows.keys() - ours == {
        f"test_mine[16 KiB two_shot {variant}]" for variant in ("copied", "registered")
    }
    for name in ours:
        row = rows[name]
        (path,) = row["extra_info"]["runs"]
        (case,) = (
            case
            for case in read(folder / path).cases
            if name.startswith(f"allreduce[{case.size_bytes >> 10} KiB {case.algorithm}")
            and (case.library or case.variant in name)
        )
        assert case.total_us is not None
        assert row["stats"]["median"] * 1e6 == pytest.approx(case.total_us.median)
        assert row["stats"]["rounds"] == case.total_us.n_blocks == len(row["stats"]["data"])
        assert row["extra_info"]["bus_bw_gb_s"] == [case.bus_bw_gb_s]
        assert row["extra_info"]["n_wrong"] == [0]


def test_a_slower_build_fails_by_the_verdict_and_one_launch_is_skipped(tmp_path):
    """As `regress` judges six launches of either side."""
    slow = {"effect": lambda case: 1.5, "seed": 1}
    baseline = write_launches(tmp_path / "baseline", 6)
    same = write_launches(tmp_path / "same", 6, seed=2)
    lines: list[str] = []
    judge(same, str(baseline), lines, min_effect=0.2)
    with pytest.raises(pytest.skip.Exception, match=r"slowdown of 5\.0% could hide"):
        judge(same, str(baseline), lines)
    assert [line.split(":")[0] for line in lines] == ["  PASS", "  INCONCLUSIVE"]
    slower = r"^REGRESSION: SLOWER up to 50\.\d% .*estimated at 1\.0% or more \(exit status 1\)\n"
    with pytest.raises(pytest.fail.Exception, match=slower):
        judge(write_launches(tmp_path / "slow", 6, **slow), str(baseline), lines)
    with pytest.raises(pytest.skip.Exception, match=r"^INCONCLUSIVE: "):
        judge(write_launches(tmp_path / "one", 1, **slow), str(baseline), lines)
    with pytest.raises(pytest.fail.Exception, match=r"^no run file at .*/nowhere$"):
        judge(baseline, str(tmp_path / "nowhere"), lines)


def test_a_bad_command_line_is_one_sentence(tmp_path):
    commands = {
        "allreduce -n 2 -d double-double": r".*unknown datatype.*: did you mean double\?.*",
        "allreduse": r".*unknown command 'allreduse': did you mean allreduce\? \(exit status 2\)",
        "": "wiretax : a test launches a benchmark that stores a run, such as allreduce",
        "show": "wiretax show: a test launches a benchmark that stores a run, such as allreduce",
        "allreduce 'open": r"wiretax allreduce 'open: No closing quotation",
        "allreduce -n 2 --out /proc/results": r"wiretax .*/proc/results.*",
        f"{COMMAND} --contender mscclpp": "mscclpp was not measured: .*",
    }
    done = run_pytest(tmp_path, *[word for command in commands for word in ("--wiretax", command)])
    assert "7 failed" in done.stdout
    assert "During handling" not in done.stdout
    assert "Traceback" not in done.stdout
    for sentence in commands.values():
        assert re.search(f"^{sentence}$", done.stdout, re.MULTILINE), done.stdout
    done = run_pytest(tmp_path, "--wiretax", COMMAND, "--wiretax-launches", "-1")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    sentence = "ERROR: --wiretax-launches: '-1' is not a whole number from 1 to 9999\n"
    assert (done.stdout + done.stderr).strip() == sentence.strip()


def test_the_plugin_changes_nothing_for_others(tmp_path):
    """It is installed beside the tests of other projects, maybe without pytest-benchmark."""
    (tmp_path / "test_theirs.py").write_text(THEIRS)
    assert "1 passed" in run_pytest(tmp_path, "-p", "no:benchmark").stdout
    done = run_pytest(tmp_path, "-p", "no:benchmark", "--wiretax", COMMAND)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "wiretax needs pytest-benchmark: pip install pytest-benchmark\n" in done.stdout
    done = run_pytest(tmp_path, "--wiretax", COMMAND, "--benchmark-disable")
    assert "1 passed, 1 skipped" in done.stdout
    assert not (tmp_path / "results").exists()


def test_another_harness_is_a_test_too(tmp_path):
    """A CI owner has pytest, and a script that prints timing lines in any order and starts a
    daemon."""
    (tmp_path / "mine.py").write_text(THEIR_PROGRAM)
    command = f"{shlex.quote(sys.executable)} mine.py"
    words = "--wiretax", command, "--wiretax-launches=2", "--benchmark-json=rows.json"
    done = run_pytest(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    times_us = {
        name: [round(time * 1e6) for time in row["stats"]["data"]]
        for name, row in rows_of(tmp_path).items()
    }
    assert times_us == {
        "allreduce[1 KiB program]": [2, 2],
        "allreduce[64 KiB program]": [50, 50],
        "allgather[64 KiB program]": [900, 900],
    }
    assert len([*(tmp_path / "results").rglob("*.jsonl")]) == 2
    done = run_pytest(tmp_path, *words[:3])  # from its third launch on one lacks a size
    assert done.returncode == 1
    lacking = r"1 KiB program.* is in 1 of 2 launches of results/pytest-"
    assert re.search(lacking, done.stdout), done.stdout
    assert "Traceback" not in done.stdout
    for pid in (tmp_path / "pids").read_text().split():
        with pytest.raises(ProcessLookupError):  # it outlives no launch
            os.kill(int(pid), 0)


BAD_OUTPUTS = {
    "a wrong row": (
        f"echo '{TIMED}, \"n_wrong\": 7}}'",
        r"64 KiB program is wrong in 1 of 1 launches of \S+: 7 elements were wrong",
    ),
    "a bandwidth that failed": (
        "cat slow.log",
        r"\S+ is incomplete in 1 of 1 launches: the run itself",
    ),
    "one of two rows": (
        rf"""printf %s\\n '{TIMED}}}' '{TIMED.replace("5.0", '"x"')}}}'""",
        r"rows that could not be read: 1, the first in line 2",
    ),
    "a row that cannot be read": (
        "cat unread.log",
        r"rows that could not be read: 1, the first in line 12",
    ),
}


def test_another_harness_that_says_wrong_fails_the_test(tmp_path):
    """A script of many benchmarks may end with status 0 all the same."""
    logs = {
        "slow": WHOLE.replace(": 0.5", ": 0.5  FAILED"),
        "unread": WHOLE.replace("17.93", "  nan"),
    }
    for name, text in logs.items():
        (tmp_path / f"{name}.log").write_text(text)
    words = [word for command, _ in BAD_OUTPUTS.values() for word in ("--wiretax", command)]
    done = run_pytest(tmp_path, *words)
    assert f"{len(BAD_OUTPUTS)} failed" in done.stdout, done.stdout
    for sentence in (sentence for _, sentence in BAD_OUTPUTS.values()):
        assert re.search(f"^{sentence}", done.stdout, re.MULTILINE), done.stdout
    assert "Traceback" not in done.stdout


def test_a_last_row_that_a_full_disk_cut_is_told_and_the_whole_ones_count(tmp_path):
    (tmp_path / "cut.log").write_text(f"{TIMED}}}\n{TIMED}")
    (tmp_path / "wrong.log").write_text(f'{TIMED}}}\n{TIMED}, "n_wrong": 7')
    done = run_pytest(tmp_path, "--wiretax", "cat cut.log", "--wiretax", "cat wrong.log")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "line 2, the last row, is cut: only whole rows are read\n" in done.stdout
    assert "line 2 is no timing line" in done.stdout


def test_ones_own_program_is_judged_beside_its_baseline(tmp_path):
    """The page's example on the same machine: an equal program passes, a slower one fails."""
    page = (ROOT / "docs" / "pytest.md").read_text()
    (tmp_path / "test_page.py").write_text(page.split("```python\n")[1].split("```")[0])
    program = tmp_path / "my_program.py"

    def tested(*words, factor=1.0):
        program.write_text(f"""import random
for size in 1024, 65536:
    time_us = {factor} * random.gauss(50, 0.1)
    print('{{"name": "layer", "ranks": 2, "size_bytes": %d, "time_us": %f}}' % (size, time_us))
""")
        done = run_pytest(tmp_path, "test_page.py", *words)
        return done.stdout

    assert "1 passed" in tested("--wiretax-launches=6")
    (baseline,) = (tmp_path / "results").iterdir()
    assert read(next(baseline.iterdir())).run.environment["cpu.model"]
    beside = "--wiretax-baseline", baseline, "--wiretax-min-effect=20"
    assert "1 passed" in tested(*beside)
    printed = tested(*beside, factor=1.5)
    assert "1 failed" in printed
    assert re.search(r"REGRESSION: SLOWER up to \d\d\.\d%", printed), printed
