"""Runs the fuzzer of everything that is read from files for some seconds."""

import subprocess
import sys

from tests.launch import ROOT, SLOW_TEST

SECONDS, SEED = 2, 8


@SLOW_TEST
def test_damaged_files_are_refused_in_one_sentence():
    command = [sys.executable, "-m", "tests.reliability.fuzz", str(SECONDS), str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 found; peak " in done.stdout
