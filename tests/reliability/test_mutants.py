"""The table of mutants fits the code and the tests: `python -m tests.reliability.mutants` runs
it."""

import subprocess
import sys

import pytest

from tests.launch import ROOT
from tests.reliability.mutant_table import MUTANTS
from tests.reliability.mutants import misfit

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_one_place(name):
    assert misfit(name) is None


def test_the_tests_that_notice_mutants_are_collected():
    named = {test for mutant in MUTANTS.values() for test in mutant.tests}
    files = sorted({test.partition("::")[0] for test in named})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    collected = done.stdout.splitlines()
    missing = {
        test
        for test in named
        if not any(item == test or item.startswith((f"{test}::", f"{test}[")) for item in collected)
    }
    assert not missing
