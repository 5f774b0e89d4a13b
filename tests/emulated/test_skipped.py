"""The emulator does not belong to the project: without it `make test-emulated` says so and
succeeds."""

import os
import subprocess

from tests.launch import ROOT


def test_without_an_emulator_the_tests_are_skipped_by_name():
    environment = {**os.environ, "WIRETAX_EMULATOR": "/nowhere"}
    done = subprocess.run(
        ["make", "--no-print-directory", "test-emulated"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert "skipped" in done.stdout
    assert "/nowhere" in done.stdout
