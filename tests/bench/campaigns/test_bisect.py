"""Tests the search for a slow commit on repositories of git, with real gates of a program that
prints timing lines."""

import shlex
import signal
import subprocess
import sys

import pytest

from bench.bisect import main as bisect
from tests.bench.faulty_runs import wait_for
from tests.bench.launches import marked
from tests.launch import ROOT

pytestmark = pytest.mark.alone

PROGRAM = """import json, random
for size in 1024, 65536:
    time_us = {} * random.gauss(50, 0.1)
    print(json.dumps({{"name": "layer", "ranks": 2, "size_bytes": size, "time_us": time_us}}))
"""
OWN_SCRIPT = """import os, runpy, sys
assert os.environ["LC_ALL"] == "C.UTF-8"
runpy.run_path(sys.argv[1] + "/program.py")
"""
OPTIONS = (
    "--command",
    f"{shlex.quote(sys.executable)} {{tree}}/program.py",
    "--pairs=6",
    "--min-effect=5",
)


def git(*words):
    who = "-c", "user.name=T", "-c", "user.email=t@example.org"
    done = subprocess.run(["git", *who, *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Makes a repository with a commit for each factor of the program's time; a text stands in
    place of the program. One file has a change that is not committed."""
    monkeypatch.chdir(tmp_path)

    def make(*factors):
        git("init", "--quiet")
        for number, factor in enumerate(factors, 1):
            text = factor if isinstance(factor, str) else PROGRAM.format(factor)
            (tmp_path / "program.py").write_text(text)
            (tmp_path / "notes").write_text(str(number))
            git("add", "program.py", "notes")
            git("commit", "--quiet", "-m", f"Commit {number}")
        (tmp_path / "notes").write_text("mine")
        return tmp_path

    return make


def assert_as_it_was(folder):
    """The checkout has its branch, its change and no second tree."""
    assert git("status", "--porcelain", "--untracked-files=no") == " M notes\n"
    assert git("branch", "--show-current").strip()
    assert len(git("worktree", "list").splitlines()) == 1
    assert (folder / "notes").read_text() == "mine"


def test_the_first_slow_commit_is_found_and_the_checkout_stays(repository, capsys, monkeypatch):
    """Each commit is judged in the folder and with the locale of the user, whose cache, where the
    trees are, has a blank in its name."""
    folder = repository(1, 1.3, 1.3)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "a cache"))
    (folder / "mine.py").write_text(OWN_SCRIPT)
    command = f"{shlex.quote(sys.executable)} mine.py {{tree}}"
    assert bisect(["HEAD~2", "HEAD", *OPTIONS, "--command", command]) == 0
    printed = capsys.readouterr()
    assert "Commit 2 (T, " in printed.out.split("first bad commit: ")[1]
    assert printed.out.count(": REGRESSION: SLOWER ") == 2, "BAD, and the commit between"
    assert "uncommitted changes are not measured" in printed.err
    commit = git("rev-parse", "HEAD~1")[:12]
    assert (folder / "bisect" / commit / "status").read_text() == "1\n"
    assert_as_it_was(folder)


def test_no_commit_is_blamed_without_a_measurement(repository, capsys):
    """BAD must be slow, and a commit that cannot run says nothing."""
    folder = repository(1, 1, "raise SystemExit('broken')", 1.3)
    assert bisect(["HEAD~3", "HEAD~2", *OPTIONS, "--out=equal"]) == 1
    assert "is not slower than GOOD (" in capsys.readouterr().err
    assert bisect(["HEAD~2", "HEAD", *OPTIONS, "--out=broken"]) == 3
    assert "only commits that cannot be judged are left" in capsys.readouterr().err
    assert bisect(["HEAD~3", "HEAD~1", *OPTIONS, "--out=dead"]) == 5
    printed = capsys.readouterr()
    assert ": UNUSABLE: variant head cannot run: it died 3 times" in printed.out
    assert "cannot be called slower than GOOD: the line above says why (" in printed.err
    words = "--build", "false", "--out=unbuilt"
    assert bisect(["HEAD~3", "HEAD", *OPTIONS, *words]) == 2
    assert "--build fails at GOOD" in capsys.readouterr().err
    assert bisect(["HEAD~3", "HEAD", *OPTIONS, "--min-efect=5", "--out=typo"]) == 2
    assert "did you mean --min-effect?" in capsys.readouterr().err
    assert not (folder / "typo").exists()
    assert bisect(["HEAD", "HEAD~3", *OPTIONS, "--out=order"]) == 2
    assert "HEAD is not an ancestor of HEAD~3" in capsys.readouterr().err
    assert bisect(["HEAD~3", "HEAD", "--command", "true", "--out=tree"]) == 2
    assert "--command has no {tree}" in capsys.readouterr().err
    assert_as_it_was(folder)


def test_a_search_that_cannot_go_on_says_why(repository, capsys):
    """git's own last sentence is the whole command line of our test."""
    folder = repository(1, 1, 1.3)
    commit = git("rev-parse", "HEAD~1")[:12]
    theirs = folder / "bisect" / commit / "theirs"  # a gate refuses a folder that is in use
    build = f"git log -1 --format=%s | grep -v 'Commit 2' || mkdir -p {theirs}"
    assert bisect(["HEAD~2", "HEAD", *OPTIONS, "--build", build]) == 2
    error = capsys.readouterr().err
    assert f"git bisect gave up: {commit}: {theirs.parent} is there already: remove it" in error
    assert_as_it_was(folder)


def test_a_hook_of_git_cannot_search(repository, capsys, monkeypatch):
    """git moved the HEAD of the checkout: `GIT_DIR` outweighs the folder of a tree."""
    folder = repository(1, 1)
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
    assert bisect(["HEAD~1", "HEAD", *OPTIONS]) == 2
    assert "GIT_DIR is set, as in a hook of git: unset it" in capsys.readouterr().err
    assert_as_it_was(folder)


def test_an_interrupted_search_leaves_nothing(repository):
    folder = repository(1, 1, 1)
    words = [sys.executable, "-m", "bench.bisect", "HEAD~2", "HEAD", *OPTIONS]
    with marked(PYTHONPATH=str(ROOT)) as variables:
        process = subprocess.Popen(words, env=variables, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: [*folder.glob("bisect/*/base/*.jsonl")])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted; finished launches are kept\n")
    assert_as_it_was(folder)
