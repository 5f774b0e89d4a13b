"""Options declare what they change: comparisons and histories keep apart what is measured in
another way. They are declared once: help, parser and dataclass have one default."""

import argparse
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from bench.campaigns.campaign_options import CampaignOptions
from bench.harness.options import RunOptions, SizeOptions, SweepOptions
from bench.harness.parser import (
    CASES,
    METHOD,
    NOTHING,
    Option,
    Parser,
    changes_cases,
    changes_method,
    fill,
    whole,
)
from bench.layers.experts import ExpertOptions
from bench.layers.forms import LayerOptions
from bench.tune import TuneOptions
from collectives.collective import COLLECTIVES
from tests.bench.launches import run
from tests.commands_page import GROUPS, help_text

COMMANDS = [
    command for group in GROUPS for command in group.commands if command.startswith("bench.")
]


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


@dataclass(frozen=True)
class Careless:
    """Options whose help or declaration is wrong."""

    right: int = changes_cases(["--right"], **whole(1), default=3, help="parts (3)")
    derived: int = changes_cases(["--derived"], **whole(1), default=3, help="parts (%(default)s)")
    wrong: int = changes_method(["--wrong"], **whole(1), default=3, help="parts (5)")


def undeclared(parser):
    """The options that do not say what they change."""
    declared = [name for name, changes in parser.changes.items() if changes]
    assert {*parser.changes.values()} <= {CASES, METHOD, NOTHING}
    return [each.dest for each in parser._actions if each.dest not in ("help", *declared)]


def typed(action, text):
    """What the option's value would be, None if its type or its choices refuse the text."""
    if action.choices and text not in action.choices:
        return None
    try:
        return action.type(text) if action.type else text
    except argparse.ArgumentTypeError:
        return None


def differing(parser):
    """The options whose help names in parentheses another value than the default."""
    found = []
    for action in parser._actions:
        shown = re.findall(r"\(([^()\s]+)\)", parser._get_formatter()._expand_help(action))
        values = [value for text in shown if (value := typed(action, text)) is not None]
        default = action.default
        if isinstance(default, str):
            default = typed(action, default)
        if isinstance(default, tuple):  # of names; what is typed becomes a list
            default = [*default]
        if default is None:  # a text such as (results/survey-TIME) says what happens then
            values = [value for value in values if not isinstance(value, str | Path)]
        if values and action.nargs is None and default not in values:
            found.append(action.dest)
    return found


def parser_of(command, monkeypatch):
    parsers = []
    monkeypatch.delitem(sys.modules, command, raising=False)  # runpy would warn about it
    monkeypatch.setattr(Parser, "print_help", lambda parser: parsers.append(parser))
    help_text(command)
    return parsers[0]


@pytest.mark.unit
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_its_default_and_what_it_changes(command, monkeypatch):
    parser = parser_of(command, monkeypatch)
    assert differing(parser) == []
    if parser.get_default("command"):  # it measures on ranks
        assert undeclared(parser) == []


@pytest.mark.unit
def test_an_option_with_another_default_or_without_a_declaration_is_found():
    parser = Parser(prog="careless")
    parser.add(Careless)
    assert (differing(parser), undeclared(parser)) == (["wrong"], [])
    parser.add_argument("--bare", action="store_true")
    assert undeclared(parser) == ["bare"]


@pytest.mark.unit
@pytest.mark.parametrize(
    "make",
    [
        CampaignOptions,
        ExpertOptions,
        LayerOptions,
        partial(RunOptions, "allreduce"),
        SizeOptions,
        partial(SweepOptions, COLLECTIVES["all_reduce"]),
        partial(TuneOptions, ()),
        Careless,
    ],
)
def test_a_dataclass_has_the_values_of_an_empty_command_line(make):
    made = make()
    parser = Parser(prog="empty")
    parser.add(type(made))
    required = {"command": "allreduce", "collective": COLLECTIVES["all_reduce"], "sizes": ()}
    own = {name: value for name, value in required.items() if name in type(made).__annotations__}
    assert fill(type(made), parser.parse_args([]), **own) == made


@pytest.mark.unit
def test_a_command_can_replace_an_option_of_a_dataclass_and_name_those_it_has():
    parser = Parser(prog="own")
    parser.add(Careless, "derived", right=Option(CASES, ["--own"], **whole(1), default=7))
    assert [each.dest for each in parser._actions] == ["help", "right", "derived"]
    assert fill(Careless, parser.parse_args(["--derived=4"])) == Careless(right=7, derived=4)
    with pytest.raises(ValueError, match="is not in list"):
        parser.add(Careless, "derive")


@pytest.mark.unit
def test_method_has_what_is_not_the_default_of_the_command():
    parser = Parser(prog="method")
    parser.add(Careless)
    parser.set_defaults(wrong=4)
    assert parser.parse_args(["--right=9"]).method == {}
    assert parser.parse_args(["--wrong=3"]).method == {"wrong": 3}


@pytest.mark.unit
def test_a_command_can_tell_an_absent_option_from_its_default():
    parser = Parser(prog="absent")
    parser.add(Careless)
    parser.none_if_absent = ["right"]
    assert parser.parse_args([]).right is None
    assert parser.parse_args(["--right=3"]).right == 3
    assert "parts (3)" in parser.format_help()
