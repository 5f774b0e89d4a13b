"""Each test runs in a command of the table in docs/testing.md, and the table says what each runs.

Otherwise a page promises what nobody checks: a marker, a file's name or a word of a command line
can leave out a test in silence.
"""

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.launch import ROOT, end_of
from tests.test_readme import MAKEFILE, PAGES, TARGETS

TESTING = (ROOT / "docs/testing.md").read_text()
CI = (ROOT / ".ci/run").read_text()
ROWS = {
    command: runs
    for command, runs in re.findall(r"^\| `([^`]+)` \| (.*?) \| ", TESTING, re.MULTILINE)
    if command.startswith(("make ", "python ", "."))
}
# Collects all tests, those too that need a GPU or an emulator, and prints their files and markers.
COLLECT = """
import pytest, sys

class Printer:
    def pytest_collection_finish(self, session):
        for item in session.items:
            print("test", item.path, *{mark.name for mark in item.iter_markers()}, sep="|")

everything = ["--collect-only", "-q", "-p", "no:cacheprovider", "-m", "gpu or emulated or not gpu"]
sys.exit(pytest.main([*everything, *sys.argv[1:]], plugins=[Printer()]))
"""


class Collected(NamedTuple):
    """A test: its file, and its markers."""

    path: str
    marks: set[str]


def collected(*paths: str, **environment: Any) -> list[Collected]:
    done = end_of(sys.executable, "-c", COLLECT, *paths, **environment)
    assert done.returncode == 0, done.stdout[-2000:]
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("test|")]
    return [
        Collected(Path(path).relative_to(ROOT).as_posix(), set(marks)) for _, path, *marks in lines
    ]


def recipe(target: str) -> list[str]:
    """The lines of a target's recipe, the first one if the Makefile has several."""
    lines = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[0]
    return [line.strip().lstrip("@") for line in lines.splitlines()]


def runs(test: Collected, words: str) -> bool:
    """Whether pytest with these words of a recipe runs the test. By tests/conftest.py tests of a
    GPU and of the emulator need their marker in the expression."""
    [quoted, word] = re.findall(r'-m (?:"([^"]+)"|(\w+))', words)[0]
    expression = quoted or word
    needed = {"gpu", "emulated"} & test.marks
    names = {name: name in test.marks for name in re.findall(r"\w+", expression) if name != "not"}
    below = re.findall(r"tests/[\w/.]+", words)
    return (
        all(name in names for name in needed)
        and bool(eval(expression, {}, names))
        and (not below or any(test.path.startswith(folder) for folder in below))
    )


def test_every_test_runs_in_a_command_of_the_table():
    commands = {
        target: re.findall(r"-m pytest (.*)", "\n".join(recipe(target)))
        for target in ("check", "test", "test-emulated", "test-gpu")
    }
    lines = [line for lines in commands.values() for line in lines]
    assert len(lines) == MAKEFILE.count("-m pytest ") == 5
    assert {f"make {target}" for target in commands} <= {row.split(" GPU")[0] for row in ROWS}
    assert not re.search(r" -k\b", MAKEFILE + CI), "a name that no test has selects nothing"
    tests = collected()
    assert {test.path for test in tests if not any(runs(test, line) for line in lines[1:])} == set()
    # `-m alone` reads the files that have these words, and no others.
    alone = {test.path for test in tests if "alone" in test.marks}
    assert [path for path in alone if "mark.alone" not in (ROOT / path).read_text()] == []
    few = sum("emulated" in test.marks for test in tests)
    every = len(collected("tests/emulated", FULL_COUNT="1"))
    assert f"{few} tests, or {every} with `FULL_COUNT=1`" in ROWS["make test-emulated"]
    hidden = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"^def test_", path.read_text(), re.MULTILINE)
        and path.relative_to(ROOT).as_posix() not in {test.path for test in tests}
    ]
    assert hidden == [], "pytest collects test_*.py"


def test_the_table_says_what_reliability_and_ci_run():
    lines = [re.sub(r"\$\(VENV\)/bin/", "", line) for line in recipe("reliability")]
    full = {line for line in lines if line.startswith("FULL_COUNT=1 ")}
    assert full == {f"FULL_COUNT=1 $(MAKE) {target}" for target in ("test", "test-emulated")}
    commands = [re.sub(r"^(FULL_COUNT=1|mpirun -n 2) ", "", line) for line in lines]
    said = re.findall(r"`([^`]+)`", ROWS["make reliability"])
    assert [command.replace("$(MAKE)", "make") for command in commands] == said
    for command in re.findall(r"`((?:make|python|tests/)[^`]+)`", ROWS[".ci/run"]):
        assert command in CI, command


def test_every_program_of_the_tests_is_run_by_make_or_told_on_a_page():
    """Those of tests/ranks are run by tests."""
    told = " ".join(word for page in PAGES for word in page.read_text().split()) + MAKEFILE
    programs = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "tests").rglob("*.py")
        if re.search("^if __name__ ==", path.read_text(), re.MULTILINE)
        and path.parent.name != "ranks"
    ]
    assert programs
    assert [name for name in programs if f"-m {name}" not in told] == []
    assert {row.split()[1] for row in ROWS if row.startswith("make ")} <= TARGETS
