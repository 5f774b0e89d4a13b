"""docs/breakdown.md shows what the command prints, and the parts that the code has."""

import re

import pytest

from reports.breakdown.step_parts import PARTS
from tests import breakdown_example
from tests.reports.breakdown.v100_steps import write_v100_steps

pytestmark = pytest.mark.unit
PAGE = breakdown_example.PAGE.read_text()


def test_the_example_is_what_the_command_prints_of_a_published_trace():
    """A reader compares it with the own output, line by line."""
    again = "write it anew: python -m tests.breakdown_example"
    assert breakdown_example.with_example(PAGE) == PAGE, again


def test_the_example_has_all_calls_of_the_published_trace(tmp_path):
    """HolisticTraceAnalysis counts 2,020 of them, in five steps."""
    trace = write_v100_steps(tmp_path / "rank1.json").read_text()
    assert trace.count("ncclKernel_AllReduce_RING_LL_Sum_float") == 2020
    assert len(set(re.findall(r"ProfilerStep#\d", trace))) == 5


def test_the_page_explains_each_part():
    rows = re.findall(r"^\| (\w+) \|", PAGE[PAGE.index("| part |") :], re.MULTILINE)
    assert rows[1 : 1 + len(PARTS)] == [*PARTS]


def test_the_page_names_the_options_that_the_command_has(reports):
    _, text, _ = reports("breakdown", "--help")
    used = {
        option
        for line in re.findall(r"wiretax breakdown[^`\n]*", PAGE)
        for option in re.findall(r"--[a-z][\w-]+", line)
    }
    assert {"--run", "--html"} <= used
    assert {option for option in used if option not in text} == set()
