"""Tests the command line of a campaign: which input is refused, and with which message."""

import json
import shlex

import pytest

from bench.campaign import main

pytestmark = pytest.mark.unit
BENCH = (
    "python -m bench.allreduce -b 16K -e 16K -n 20 --algorithm auto,library --mode isolated "
    "--max-time 20"
)
# A single rank has no link. States of the link would add pairs to a campaign.
QUICK = f"mpirun -n 1 {BENCH}"
# The line of another harness, which takes no time.
TIMED = json.dumps({"size_bytes": 8, "time_us": 5.0, "ranks": 2})


def named(**commands):
    return [
        word for name, command in commands.items() for word in ("--variant", f"{name}={command}")
    ]


# Words that follow two good variants, a and b, and after the arrow the sentence that refuses them.
BAD = f"""
--variant a -> 'a' is not NAME=VALUE
--variant ../c=python -> '../c' cannot be a variant's name
--variant "c=mpirun -n 2 'python" -> variant c: No closing quotation
--variant "c=perf {{size}}" -> variant c: {{size}} is no placeholder; known are {{out}} {{seed}}
--variant "c=perf -b {{min}}" -> variant c: {{min}} is no placeholder
--variant "c=perf {{out:x}}" -> variant c: {{out:x}} is no placeholder
--variant "c=true && true" -> no shell runs it, so && would be an argument
--variant "c=true; true 2>log" -> so ; would be an argument
--set count=8 -> 'count' is none of min, max, sizes
--ranks 0 -> '0' is not a whole number
--variant "c=true" --revision c=HEAD -> variant c runs no code of this repository's revisions
--variant "c=wiretax soak -n 2" -> a campaign cannot launch soak
--variant "c=X=1 Y=2" -> variant c has no command
--variant "c=python -m bench.campaign" -> variant c: a campaign cannot launch bench.campaign
--variant "c={QUICK} --out elsewhere" -> variant c: a campaign cannot launch --out
--variant "c={QUICK} --list" -> cannot launch --list
--variant "c=mpirun -n 2 python -m bench.soak" -> cannot launch bench.soak
--variant "c={QUICK} --soak=10m" -> cannot launch --soak=10m
--variant "a={QUICK} -w 3" -> two variants are named a
--variant "c={QUICK.replace("mpirun", "mpirunn")}" -> variant c: mpirunn was not found
--revision c=HEAD -> no variant is named c
--revision b=HEAD --revision b=HEAD -> --revision: b is given twice, and a variant has
--revision b=no-such-branch -> argument --revision: no-such-branch:
--revision b=--help -> argument --revision: --help:
--budget 10 -> '10' is not a time such as 5us, 90s, 10m or 2h
--budget 0m -> '0m' is not a time
--pairs 0 -> '0' is not a whole number from 1 to
--margin none -> 'none' is not a number of percent
--pears 3 -> unknown option --pears: did you mean --pairs?
"""


@pytest.mark.parametrize("row", BAD.strip().splitlines())
def test_a_bad_command_line_is_(refused, row):
    """A bad option must not start an hour of unintended launches."""
    words, sentence = row.split(" -> ")
    status, printed = refused(main, *named(a=QUICK, b=QUICK), *shlex.split(words))
    assert status == 2
    assert sentence.strip() in printed


@pytest.mark.parametrize("variants", [{}, {"a": QUICK}])
def test_a_campaign_compares_at_least_two_variants(refused, variants):
    assert "at least two variants" in refused(main, *named(**variants))[1]


def test_a_campaign_under_mpirun_is_refused(refused, monkeypatch):
    """Each rank would run its own campaign, and the launches would join this mpirun as its
    ranks."""
    monkeypatch.setenv("PMI_RANK", "0")
    assert "starts mpirun itself" in refused(main, *named(a=QUICK, b=QUICK))[1]


def test_a_folder_outside_git_is_refused(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = *named(a=QUICK, b=QUICK), "--revision", "a=HEAD"
    assert "not a git repository" in refused(main, *options)[1]
