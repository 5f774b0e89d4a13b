"""The width of texts: 80 columns where no terminal is."""

import re

import pytest

from reports.tables.sentences import lay_out, plain_table
from wiretax.__main__ import help_text

pytestmark = pytest.mark.unit
RANKS = list(map(str, range(16)))


def test_a_table_is_split_behind_its_names_and_no_figure_is_cut():
    """A matrix of 16 ranks was 130 columns wide, an audit of `auto` 117."""
    names = ["size", "algorithm", "variant"]
    rows = [[f"{row} KiB", "two_shot", "copied", *(f"{row}0.{n}" for n in RANKS)] for row in RANKS]
    text = lay_out([], [], [("GB/s", plain_table([*names, *RANKS], rows))], [])
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("GB/s") == 1
    for row in rows:
        lines = re.findall(f"^ *{row[0]} +two_shot +copied (.*)$", text, re.MULTILINE)
        assert len(lines) == 2
        assert " ".join(lines).split() == row[3:]


def test_the_help_of_wiretax_fits_a_terminal():
    assert max(map(len, help_text().splitlines())) <= 80
