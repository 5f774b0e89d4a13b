"""The table of mutants fits the code and the tests that it names; `python -m tests.reliability.mutants` runs it."""

import pytest

from tests.launch import ROOT
from tests.reliability.mutant_table import MUTANTS
from tests.reliability.mutants import misfit

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_one_place_and_names_tests_that_exist(name):
    assert misfit(name) is None
    for test in MUTANTS[name].tests:
        path, _, function = test.partition("::")
        assert function.partition("[")[0] in (ROOT / path).read_text()
