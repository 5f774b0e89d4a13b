"""The README against the program: its help blocks, its table's columns, its links, and the commands that it names.

Versions of Python's argparse lay a help text out differently (before 3.13 an option's value stands behind each of its
names, and lines break elsewhere), so the words are compared and not the spaces.
"""

import os
import re
import shlex
import subprocess
import sys

import pytest

from reports.store.exposed import COMPUTE
from reports.tables.show import text
from reports.tables.table import render
from tests.launch import ROOT
from tests.synthetic_run import write_run
from tests.synthetic_together import FUSED, THEN, Made, always, steps

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- ([^\n]*?) -->\n\n?```\n(.*?)```\n<!-- end -->", README, re.DOTALL))
HELP = [name for name in BLOCKS if name.startswith("help: ")]


def words(text):
    """A help text's words, with `-b SIZE, --minbytes SIZE` as the latest argparse has it: `-b, --minbytes SIZE`."""
    return re.sub(r"(-\w) ([A-Z]+), (--\w+ \2)", r"\1, \3", text).split()


def test_commands_have_a_help_block():
    names = "show compare regress accept fit import advise procure card dashboard history"
    of_reports = [f"reports {name}" for name in names.split()]
    commands = ["bench.allreduce", "bench.tune", "bench.campaign", *of_reports]
    assert [f"help: python -m {command} --help" for command in commands] == HELP


@pytest.mark.parametrize("name", HELP)
def test_a_help_block_is_what_the_program_says(name):
    """Who reads the README would miss an option, or look for one that has gone."""
    command = shlex.split(name.removeprefix("help: python"))
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, "COLUMNS": "80"},
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert words(BLOCKS[name]) == words(done.stdout)
    assert max(map(len, (done.stdout + BLOCKS[name]).splitlines())) <= 80


def test_the_table_has_the_columns_of_today(tmp_path):
    """Who learns to read the table here would meet another one."""
    run = BLOCKS["run"].splitlines()
    of_today = render(write_run(tmp_path)).splitlines()
    names = next(number for number, line in enumerate(of_today) if line.split()[:1] == ["size"])
    here = next(number for number, line in enumerate(run) if line.split()[:1] == ["size"])
    assert [line.split() for line in run[here : here + 2]] == [line.split() for line in of_today[names : names + 2]]
    assert max(map(len, run)) <= 80


def test_the_tables_of_compute_and_communication_have_the_columns_of_today(tmp_path):
    layer = Made(tmp_path / "layer").run({COMPUTE: always(10.0), FUSED: always(11.0), THEN: always(15.0)})
    step = steps(tmp_path / "step", 10.0, 12.0, 20.0)
    here = [line.split() for line in README.splitlines()]
    for result, lines in ((layer, 1), (step, 2)):
        of_today = text(result).splitlines()
        first = next(at for at, line in enumerate(of_today) if re.search(r"[um]s +exposed [um]s", line))
        names = [line.split() for line in of_today[first : first + lines]]
        assert any(here[at : at + len(names)] == names for at in range(len(here))), names


def test_files_and_targets_that_it_names_are_there():
    """A newcomer's first commands would fail, or a link lead nowhere."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    paths = re.findall(r"`((?:bench|collectives|docs|kernels|reports|tests)/[\w./]*)`", README)
    assert links
    assert paths
    assert [path for path in links + paths if "NAME" not in path and not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"allreduce", "test"} <= set(re.findall(r"\bmake (\w+)", README)) <= targets
