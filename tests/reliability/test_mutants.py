"""The table of mutants fits the code and the tests: `python -m tests.reliability.mutants` runs
it."""

import pytest

from tests.reliability.mutants import MUTANTS, misfit

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_one_place(name):
    assert misfit(name) is None
