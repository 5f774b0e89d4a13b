"""Tests campaigns over revisions: each revision is measured as committed, and no worktree is
left."""

import os
import re
import shutil
import signal
import subprocess

import pytest

from bench.campaigns.launches import check_out
from bench.campaigns.options import Stop, parse
from reports.store.manifest import read_manifest
from reports.store.result import read
from tests.another_user import NOBODY, as_root, give, said_as
from tests.bench.campaigns.test_campaign import run, started
from tests.bench.campaigns.test_campaign_command import QUICK, named
from tests.bench.faulty_runs import wait_for
from tests.launch import NEEDS_GIT, ROOT

pytestmark = NEEDS_GIT

LIBRARY = QUICK.replace("auto,", "")
OF_HEAD = *named(base=LIBRARY, head=LIBRARY), "--revision", "base=HEAD"
ONE_PAIR = "--pairs", "1"


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Our code as a repository with one commit. The version is 9.9.9 in the commit and 1.1.1 in the
    uncommitted files."""
    tree = tmp_path / "tree"
    for layer in ("bench", "collectives", "kernels", "reports"):
        shutil.copytree(ROOT / layer, tree / layer, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "locks").mkdir()
    shutil.copy(ROOT / "locks/runtime.lock", tree / "locks")
    version = tree / "bench" / "__init__.py"
    for number in ("9.9.9", "1.1.1"):
        version.write_text(re.sub(r'VERSION = ".*"', f'VERSION = "{number}"', version.read_text()))
        assert number in version.read_text()
        if number == "9.9.9":
            git(tmp_path, "init", "-q", "tree")
            git(tree, "add", ".")
            git(tree, "commit", "-qm", "one")
    return tree


def test_a_revision_is_measured_as_it_was_committed(tmp_path, repository):
    """A CI gate must not compare a change with itself or leave worktrees behind."""
    folder, cache = tmp_path / "c", tmp_path / "cache"
    variables = {"PYTHONPATH": "", "XDG_CACHE_HOME": str(cache)}
    status, out, err = run(folder, *OF_HEAD, *ONE_PAIR, tree=repository, **variables)
    assert status == 0, err
    assert "allowed to differ: version differs: 9.9.9 (base) and 1.1.1 (head)" in out
    manifest = read_manifest(folder)
    assert [variant.revision for variant in manifest.campaign.variants] == [
        git(repository, "rev-parse", "HEAD"),
        None,
    ]
    assert {
        (launch.variant, read(folder / str(launch.run)).run.version) for launch in manifest.launches
    } == {("base", "9.9.9"), ("head", "1.1.1")}
    assert sorted(path.name for path in folder.iterdir()) == ["base", "campaign.jsonl", "head"]
    assert not list(cache.glob("wiretax/*-revisions"))
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@as_root
def test_code_is_never_run_from_a_folder_of_another_user(tmp_path, repository, open_folder):
    """Of `--out` in his folder he moved the files of a revision away, and his own ran as root. A
    campaign that is cut short leaves no worktree."""
    folder, cache = give(open_folder / "his"), open_folder / "cache"
    options, variables = (*OF_HEAD, *ONE_PAIR), {"PYTHONPATH": "", "XDG_CACHE_HOME": str(cache)}
    with started(folder, *options, tree=repository, **variables) as process:
        wait_for(lambda: list(cache.glob("wiretax/*-revisions/base/locks")))
        [revisions] = cache.glob("wiretax/*-revisions")
        assert said_as(NOBODY, NOBODY, os.listdir, revisions).startswith("[Errno 13] Permission")
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert not list(cache.glob("wiretax/*-revisions"))
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    give(cache)
    status, out, err = run(folder / "new", *options, tree=repository, **variables)
    assert (status, out) == (2, "")
    assert err == (
        f"bench.campaign: {cache}/wiretax: other users can replace what is in {cache}: "
        "chmod go-w that folder; set XDG_CACHE_HOME to a folder of your own\n"
    )


def test_a_revision_that_needs_other_packages_makes_its_own_environment(
    tmp_path, repository, monkeypatch
):
    """The revision must run with its own packages, and a failed build must be an error."""
    (repository / "locks/runtime.lock").write_text("other==1\n")
    (repository / "Makefile").write_text(
        "setup:\n\tmkdir -p .venv/bin\n\techo 'no network' >&2\n\texit $(BROKEN)\n"
    )
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    monkeypatch.chdir(repository)
    base = parse(OF_HEAD).variants["base"]
    worktree = tmp_path / "worktrees" / "base"
    monkeypatch.setenv("BROKEN", "0")
    check_out(base, worktree)
    assert base.environment(worktree)["PATH"].startswith(f"{worktree}/.venv/bin:")
    assert base.environment(worktree)["PYTHONPATH"].startswith(str(worktree))
    monkeypatch.setenv("BROKEN", "1")
    failed = r"variant base: `make setup` of its revision failed: make(\[\d\])?: \*\*\* "
    with pytest.raises(Stop, match=failed):
        check_out(base, tmp_path / "again")
