"""Progress on standard error: at once and before the first compilation, never inside timed work,
and not at all if nobody wants it."""

import os
import re
import subprocess

import pytest

from tests.launch import ROOT
from tests.reliability.launch_matrix import AS_ROOT, SMALL, allreduce, command

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
        "map the peers",
        "compile",
        "pilot",
        "measure",
        "results",
    ]
    assert [phase for phase in dict.fromkeys(seen) if phase in order] == order
    assert seen[0] == order[0]
    assert "\x1b" not in rest + output
    assert "against " in output


def test_quiet_is_silent(tmp_path):
    with started("mpich", tmp_path, *SMALL, "--quiet") as run:
        _, printed = run.communicate(timeout=240)
    assert (run.returncode, printed) == (0, "")
