"""The table of mutants fits the code and the tests: `python -m tests.reliability.mutants` runs
it."""

import ast
from typing import TypeGuard

import pytest

from tests.launch import ROOT
from tests.reliability.mutants import MUTANTS, misfit

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fits_one_place(name):
    assert misfit(name) is None


def is_test(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and node.name.startswith("test_")


def in_default_suite(test: ast.FunctionDef) -> bool:
    marks = " ".join(map(ast.unparse, test.decorator_list))
    return not any(mark in marks for mark in ("SLOW_TEST", "mark.gpu", "mark.emulated"))


def test_the_tests_that_notice_mutants_are_in_the_default_suite():
    named = {test for mutant in MUTANTS.values() for test in mutant.tests}
    assert not [test for test in named if "[" in test]
    for file, _, function in (test.partition("::") for test in named):
        body = ast.parse((ROOT / file).read_text()).body
        assert not any("pytestmark" in line and "gpu" in line for line in map(ast.unparse, body))
        tests = {node.name for node in body if is_test(node) and in_default_suite(node)}
        assert function in tests or (tests and not function), f"{file}::{function}"
