"""Tests the command line of a campaign and the equivalent file: which input is refused, and with
which message."""

import io
import re
import shlex
import sys

import pytest

from bench.campaigns.options import parse
from tests.launch import ROOT

pytestmark = pytest.mark.unit
BENCH = (
    "python -m bench.allreduce -b 16K -e 16K -n 20 --algorithm auto,library --mode isolated "
    "--max-time 20"
)
# A single rank has no link. States of the link would add pairs to a campaign.
QUICK = f"mpirun -n 1 {BENCH}"


def named(**commands):
    return [
        word for name, command in commands.items() for word in ("--variant", f"{name}={command}")
    ]


# Words that follow two good variants, a and b, and after the arrow the sentence that refuses them.
BAD = f"""
--variant a -> 'a' is not NAME=VALUE
--variant ../c=python -> '../c' cannot be a variant's name
--variant "c=mpirun -n 2 'python" -> variant c: No closing quotation
--variant "c=rm -r x" -> c does not run `-m bench.SOMETHING` or `wiretax SOMETHING`: rm -r x
--variant "c=wiretax soak -n 2" -> a campaign cannot launch soak
--variant "c=X=1 Y=2" -> does not run
--variant "c=python -m bench.campaign" -> variant c: a campaign cannot launch bench.campaign
--variant "c={QUICK} --out elsewhere" -> variant c: a campaign cannot launch --out
--variant "c={QUICK} --list" -> cannot launch --list
--variant "c=mpirun -n 2 python -m bench.soak" -> cannot launch bench.soak
--variant "c={QUICK} --soak=10m" -> cannot launch --soak=10m
--variant "a={QUICK} -w 3" -> two variants are named a
--variant "c={QUICK.replace("mpirun", "mpirunn")}" -> variant c: mpirunn was not found
--revision c=HEAD -> no variant is named c
--revision b=no-such-branch -> argument --revision: no-such-branch:
--revision b=--help -> argument --revision: --help:
--budget 10 -> '10' is not a time such as 90s, 10m or 2h
--budget 0m -> '0m' is not a time
--pairs 0 -> '0' is not a whole number of at least 1
--margin none -> 'none' is not a percentage
--pause -> --pause waits for Enter, but standard input is not a terminal
--pears 3 -> unrecognized arguments: --pears 3
--file nowhere.toml -> nowhere.toml: cannot be read: No such file
"""


@pytest.mark.parametrize("row", BAD.strip().splitlines())
def test_a_bad_command_line_is_refused_in_one_line(refused, monkeypatch, row):
    """A bad option must not start an hour of unintended launches."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    words, sentence = row.split(" -> ")
    good = [] if "--file" in words else named(a=QUICK, b=QUICK)
    status, printed = refused(parse, *good, *shlex.split(words))
    assert status == 2
    assert sentence.strip() in printed


@pytest.mark.parametrize("variants", [{}, {"a": QUICK}])
def test_a_campaign_compares_at_least_two_variants(refused, variants):
    assert "at least two variants" in refused(parse, *named(**variants))[1]


def test_a_campaign_under_mpirun_is_refused(refused, monkeypatch):
    """Each rank would run its own campaign, and the launches would join this mpirun as its
    ranks."""
    monkeypatch.setenv("PMI_RANK", "0")
    assert "starts mpirun itself" in refused(parse, *named(a=QUICK, b=QUICK))[1]


def test_a_folder_outside_git_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = *named(a=QUICK, b=QUICK), "--revision", "a=HEAD"
    assert "not a git repository" in refused(parse, *options)[1]


FILE = """\
budget = "10m"
pairs = 3
margin = 2.5
quiet = true

[[variant]]
name = "plain"
command = "{QUICK}"

[[variant]]
name = "tree"
command = "{QUICK}"
revision = "HEAD"
environment = {{MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM = "tree"}}
"""
SAME = [
    *shlex.split("--budget 10m --pairs 3 --margin 2.5 --quiet --revision tree=HEAD"),
    *named(plain=QUICK, tree=f"MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM=tree {QUICK}"),
]


def test_a_file_and_its_equivalent_options_give_one_campaign(tmp_path, monkeypatch):
    """Otherwise the file's campaign would differ, and the command could not continue it."""
    monkeypatch.chdir(ROOT)
    path = tmp_path / "campaign.toml"
    path.write_text(FILE.format(QUICK=QUICK))
    by_file, by_options = parse(["--file", str(path)]), parse(SAME)
    assert by_file.variants == by_options.variants
    assert by_file.head.plan == by_options.head.plan
    changed = parse(["--file", str(path), "--pairs", "4"]).head
    assert (changed.pairs, by_file.head.pairs) == (4, 3)
    assert changed.plan != by_file.head.plan


# What stands in the file, what stands there instead, and the sentence that refuses it.
CHANGES = """
"10m" | "10" | argument --budget: '10' is not a time
pairs = 3 | pairs = 2.5 | argument --pairs: '2.5' is not a whole number
pairs = 3 | pears = 3 | unrecognized arguments: --pears=3
pairs = 3 | pairs = false | argument --pairs: 'False' is not a whole number
quiet = true | quiet = "yes" | argument --quiet: ignored explicit argument 'yes'
quiet = true | quite = false | unrecognized arguments: --quite
name = "tree" | # | missing required field `name` - at `$[1]`
name = "tree" | name = "tree=x" | argument --revision: x=HEAD: no such revision
revision = "HEAD" | revision = 7 | Expected `str | null`, got `int` - at `$[1].revision`
revision = "HEAD" | revision = "nowhere" | argument --revision: nowhere:
revision = "HEAD" | branch = "HEAD" | unknown field `branch` - at `$[1]`
-n 1 python -m bench.allreduce | -n 1 python | variant plain does not run
{MPIR_CVAR | {A = 1, MPIR_CVAR | Expected `str`, got `int` - at `$[1].environment[...]`
pairs = 3 | file = "other.toml" | --file cannot stand in a file
pairs = 3 | help = true | argument -h/--help: ignored explicit argument
"""


@pytest.mark.parametrize("row", CHANGES.strip().splitlines())
def test_a_bad_file_is_refused_by_its_setting(tmp_path, refused, row):
    """The message must name the setting among a dozen variants."""
    was, becomes, sentence = row.split(" | ", 2)
    path = tmp_path / "campaign.toml"
    good = FILE.format(QUICK=QUICK)
    bad = good.replace(was, becomes, 1)
    assert bad != good
    path.write_text(bad)
    status, printed = refused(parse, "--file", path)
    assert status == 2
    assert printed.startswith(f"{path}: ")
    assert sentence in printed


def test_a_file_that_is_no_toml_is_refused(tmp_path, refused):
    path = tmp_path / "campaign.toml"
    path.write_text('budget = "10m"\npairs = = 3\n')
    assert re.search(r"campaign\.toml: .*line 2", refused(parse, "--file", path)[1])
    path.write_text(f"a = {'[' * 20_000}")
    assert "campaign.toml: maximum recursion depth exceeded" in refused(parse, "--file", path)[1]
