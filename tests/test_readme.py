"""README.md and docs/ match the program: help texts, columns of tables, links, and commands.

Versions of Python's argparse format a help text differently: before 3.13 each name of an option has
the value after it, and lines break at other places. The tests therefore compare words, not spaces.
"""

import re
import shlex
import sys
from functools import cache

import pytest

from bench.gate import read_options
from reports.__main__ import COMMANDS, main
from reports.tables.table import render
from tests import figures_table, layer_bits_table, stable_table
from tests.launch import ROOT, end_of
from tests.reports.synthetic_run import write_run
from tests.test_locks import PROJECT
from tests.test_rooms import EXAMPLE

pytestmark = pytest.mark.unit

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Without references.md, which quotes others' paths.
OURS = [page for page in PAGES if page.name != "references.md"]
OURS += [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
LINKING = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
HELP = re.compile(r"^### ([\w. ]+)\n\n```\n(.*?)```\n", re.MULTILINE | re.DOTALL)
OPTION_LINE = re.compile(r" {2,10}-| {11,}")


def words(text):
    """A help text's words, with `-b SIZE, --minbytes SIZE` as in 3.13: `-b, --minbytes SIZE`."""
    return re.sub(r"(-\w) (\S+), (--\w+ \2)", r"\1, \3", text).split()


@pytest.fixture(scope="module")
def help_texts():
    """The help text of each command, as the program prints it."""
    done = end_of(sys.executable, "-m", "tests.commands_page")
    assert (done.returncode, done.stderr) == (0, "")
    return dict(HELP.findall(done.stdout))


def test_the_page_of_commands_has_every_command(help_texts):
    modules = [path for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text()]
    commands = {f"bench.{path.stem}" for path in modules} | {f"reports {name}" for name in COMMANDS}
    assert help_texts.keys() == commands


def test_the_page_of_commands_has_the_current_options(help_texts):
    """Otherwise a reader would miss an option, or look for one that no longer exists."""
    on_page = dict(HELP.findall((ROOT / "docs" / "commands.md").read_text()))
    assert on_page.keys() == help_texts.keys()
    stale = [
        command for command, text in help_texts.items() if words(on_page[command]) != words(text)
    ]
    assert stale == [], "write it anew: python -m tests.commands_page > docs/commands.md"
    lines = "".join(help_texts.values()).splitlines()
    assert max(len(line) for line in lines if OPTION_LINE.match(line)) <= 80


def test_the_table_of_figures_is_that_of_the_schema():
    page = figures_table.PAGE.read_text()
    assert figures_table.with_table(page) == page, "write it anew: python -m tests.figures_table"


def test_the_prices_of_stable_bits_are_those_of_the_archived_runs():
    page = stable_table.PAGE.read_text()
    assert stable_table.with_table(page) == page, "write it anew: python -m tests.stable_table"


def test_the_layers_of_equal_bits_are_those_of_the_archived_records():
    page = layer_bits_table.PAGE.read_text()
    assert layer_bits_table.with_table(page) == page, "write it anew: see the page"
    (kept, *moved) = layer_bits_table.table().splitlines()[2:]
    assert kept.startswith("| fused_stable | float32, float16, bfloat16 | same | same | same |")
    assert not any("| same | same |" in row for row in moved)


def test_the_table_has_the_current_columns(tmp_path):
    """Otherwise a reader would learn the columns of another table."""
    (block,) = re.findall(r"<!-- run -->\n\n```\n(.*?)```\n<!-- end -->", README, re.DOTALL)
    run = block.splitlines()
    of_today = render(write_run(tmp_path)).splitlines()
    names = next(number for number, line in enumerate(of_today) if line.split()[:1] == ["size"])
    here = next(number for number, line in enumerate(run) if line.split()[:1] == ["size"])
    assert [line.split() for line in run[here : here + 2]] == [
        line.split() for line in of_today[names : names + 2]
    ]
    assert max(map(len, run)) <= 80


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_links_to_pages_and_headings_that_exist(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"(?:\]\(|src(?:set)?=\")(?!https?:)([^)\s\"]+)", text):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or target.suffix == ".png" or heading in map(anchor, headings(target)), (
            link
        )


def headings(page):
    return re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)


def anchor(heading):
    """A heading's anchor, the same on GitHub and on the site."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def test_the_readme_s_commands_parse_and_print_its_lines(capsys):
    """A newcomer types them first. The all-reduce and the gate take a minute each."""
    gate, expect = (
        shlex.split(words)
        for words in re.findall(r"^wiretax (?:gate|expect) (.*?)(?:  #.*)?$", README, re.MULTILINE)
    )
    _, options = read_options(gate)
    assert (options.base, options.head, options.wall) == ("sleep 0.100", "sleep 0.110", True)
    assert main(["expect", *expect]) == 0
    (printed,) = re.findall(r"```text\n(2x rx.*?)```", README, re.DOTALL)
    assert capsys.readouterr().out.startswith(printed)
    (first,) = re.findall(r"```text\n(allreduce: .*?)```", README, re.DOTALL)
    assert len(first.splitlines()) == 3


def test_files_and_make_targets_in_the_readme_exist():
    """Otherwise a newcomer's first commands would fail."""
    paths = re.findall(r"`((?:bench|collectives|docs|kernels|reports|tests)/[\w./]*)`", README)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert {"allreduce", "test"} <= set(re.findall(r"\bmake (\w+)", README)) <= TARGETS


def test_the_readme_stays_short():
    """Nobody reads a longer one. Rows of archives may lengthen what `make figures` writes in it."""
    own, _ = re.subn("<!-- answer -->.*?<!-- end of answer -->", "", README, flags=re.DOTALL)
    assert len(own.splitlines()) <= 161


def lines_of_today(page):
    """A page without its lines about a former commit."""
    lines = page.read_text().splitlines()
    return "\n".join(line for line in lines if not re.search(r"git show| at commit ", line))


@pytest.mark.parametrize("page", OURS, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_and_commands_that_pages_name_exist(page):
    """A page once said that a test checks its promises, and nothing did any more."""
    text = lines_of_today(page)
    paths = re.findall(r"(?<![\w./-])tests/[\w/]+\.\w+", text)
    paths += [name.replace(".", "/") + ".py" for name in re.findall(r"-m\s+(tests[.\w]+\w)", text)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = set(re.findall(r"(?<![\w/.])test_\w+", text))
    assert names - names_of_tests() == set()
    assert set(re.findall(r"(?:`|^ *)make\s+([a-z][\w-]*)", text, re.MULTILINE)) - TARGETS == set()


# A path from the top of the repository; not one of a URL, nor of another project, nor a pattern
# such as `bench/NAME.py`.
FOLDERS = "bench|collectives|docs|examples|kernels|locks|reports|tests|wiretax"
PATH = re.compile(rf"(?<![\w./:@{{}}<>$-])((?:{FOLDERS})/[\w./-]*\w)(?![\w@*{{<])")
PLACEHOLDER = re.compile(r"\b[A-Z]+\b")
FORMERLY = re.compile(r"git show ([0-9a-f]{7,}):([\w./-]+)")
TO_BE_WRITTEN = {*EXAMPLE}  # by who adds an algorithm: the page has their text


def missing(text):
    """The paths of ours that a text names and that do not exist, but those of a former revision
    (`git show REVISION:path`)."""
    paths = {*PATH.findall(FORMERLY.sub("", text))} - TO_BE_WRITTEN
    return sorted(
        path for path in paths if not PLACEHOLDER.search(path) and not (ROOT / path).exists()
    )


@pytest.mark.parametrize("page", OURS, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    assert missing(page.read_text()) == []


def test_a_file_that_does_not_exist_would_be_noticed():
    text = "`bench/gone.py`, (tests/gone/), docs/gone.md#there, see `wiretax/record/result.py`."
    assert missing(text) == ["bench/gone.py", "docs/gone.md", "tests/gone"]
    former = "git show 25c6ef70:tests/gone.py https://example.org/docs/gone.md bench/NAME.py"
    assert missing(former) == []


def test_files_of_former_revisions_exist_there():
    """A reader could not repeat what they measured."""
    if end_of("git", "rev-parse", "--is-shallow-repository").stdout != "false\n":
        pytest.skip("this copy has no history")
    named = {each for page in OURS for each in FORMERLY.findall(page.read_text())}
    assert len(named) > 5
    for revision, path in named:
        assert end_of("git", "cat-file", "-e", f"{revision}:{path}").returncode == 0, path


@cache
def names_of_tests():
    names = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names |= {path.stem, *re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
    return names


def test_pages_say_the_same_of_what_the_tests_take():
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/testing.md")]
    lines = [
        line for page in pages for line in page.read_text().splitlines() if "make test" in line
    ]
    told = {found[0] for line in lines if (found := re.findall(r"about (\w+) minutes", line))}
    assert told == {"twelve"}


def test_the_page_of_contenders_names_those_that_nobody_has_run():
    page = (ROOT / "docs/contenders.md").read_text()
    (told,) = re.findall(
        r"^\| (`flashinfer_pcie`.*) \| nobody has run them yet \|$", page, re.MULTILINE
    )
    unverified = {
        path.stem
        for path in (ROOT / "examples/contenders").glob("*.py")
        if "UNVERIFIED = True" in path.read_text()
    }
    assert {*re.findall(r"`(\w+)`", told)} == unverified


def test_the_page_of_dependencies_names_each_package():
    extras = PROJECT["optional-dependencies"].values()
    packages = {
        re.split(r"[\[>=;~! ]", each)[0]
        for group in [PROJECT["dependencies"], *extras]
        for each in group
    }
    page = (ROOT / "docs/dependencies.md").read_text()
    assert {each for each in packages - {"wiretax"} if f"`{each}" not in page} == set()


def test_nothing_is_timed_where_bits_are_compared(help_texts):
    assert "also time" not in help_texts["bench.bits"]
    assert "also measure these" in help_texts["bench.bits"]
