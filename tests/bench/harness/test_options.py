"""Options declare what they change: comparisons and histories keep apart what is measured in
another way."""

import runpy
import sys
from pathlib import Path

import pytest

from bench.harness.options import CASES, METHOD, NOTHING, Parser
from tests.bench.launches import run
from tests.launch import ROOT

# These measure nothing themselves: they launch other commands, look at hardware, or time nothing.
UNMEASURED = {"campaign", "doctor", "gate", "qualify", "soak", "survey"}
COMMANDS = sorted({path.stem for path in Path(ROOT, "bench").glob("[a-z]*.py")} - UNMEASURED)


class Captured(Exception):
    """The parser of a command, in place of its parsing."""


@pytest.mark.unit
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_declares_what_it_changes(command, monkeypatch):
    """A forgotten one would pool runs that were measured in different ways."""

    def capture(self, *words):
        raise Captured(self)

    monkeypatch.setattr(Parser, "parse_known_args", capture)
    monkeypatch.setattr(sys, "argv", [f"bench.{command}"])
    with pytest.raises(Captured) as captured:
        runpy.run_module(f"bench.{command}", run_name="__main__")
    (parser,) = captured.value.args
    names = {action.dest for action in parser._actions} - {"help"}
    declared = {name: parser.changes.get(name) for name in sorted(names)}
    undeclared = [name for name, word in declared.items() if word not in (CASES, METHOD, NOTHING)]
    assert len(names) > 5
    assert not undeclared, "docs/add-algorithm.md#an-option says how an option declares itself"


def test_a_run_stores_how_it_was_measured_where_that_is_not_the_default(tmp_path):
    quick = "-b 16K -e 16K -n 12 --mode isolated --algorithm auto"
    _, usual = run(tmp_path / "usual", quick, "-c 1")
    assert usual.run.method == {}
    other = "-w 3 -c 0 --tuned none --mpi-thread-level multiple"
    _, changed = run(tmp_path / "changed", quick, other)
    assert changed.run.method == {
        "checks": 0,
        "mpi_thread_level": "multiple",
        "warmup": 3,
    }
