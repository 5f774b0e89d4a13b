"""Runs the fuzzer of the reports for some seconds, and checks that it detects each kind of
failure."""

import subprocess
import sys

import pytest

from tests.launch import ROOT, SLOW_TEST
from tests.reliability import fuzz_reports
from tests.reliability.fuzz_reports import TARGETS, complaint, run_forked

SECONDS, SEED = 2, 8


@SLOW_TEST
def test_damaged_files_are_refused_in_one_sentence():
    command = [sys.executable, "-m", "tests.reliability.fuzz_reports", str(SECONDS), str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 found; peak " in done.stdout


def fail(argv):
    raise ValueError("x")


def hang(argv):
    while True:
        pass


def warn(argv):
    print("RuntimeWarning: overflow", file=sys.stderr)
    return 0


def refuse(argv):
    print("reports: it is damaged", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("does", "seen"),
    [
        (fail, "ValueError: x"),
        (hang, "out of time"),
        (warn, "says"),
        (lambda argv: 7, "status 7"),
        (refuse, None),
    ],
)
def test_the_fuzzer_detects_each_kind_of_failure(tmp_path, monkeypatch, does, seen):
    monkeypatch.setattr("reports.__main__.main", does)
    monkeypatch.setattr(fuzz_reports, "MOST_CPU_S", 1)
    status, _, _ = run_forked([], tmp_path)
    failure = complaint(TARGETS[0], status, (tmp_path / ".2").read_text())
    assert failure is None if seen is None else seen in str(failure)
