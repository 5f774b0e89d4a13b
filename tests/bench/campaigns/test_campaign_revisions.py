"""Tests campaigns over revisions: each revision is measured as committed, and no worktree is
left."""

import re
import shutil
import signal
import subprocess

import pytest

from bench.campaigns.launches import check_out
from bench.campaigns.options import Stop, parse
from reports.store.manifest import read_manifest
from reports.store.result import read
from tests.bench.campaigns.test_campaign import run, started
from tests.bench.campaigns.test_campaign_command import QUICK, named
from tests.bench.faulty_runs import wait_for
from tests.launch import NEEDS_GIT, ROOT, few

pytestmark = NEEDS_GIT

OF_HEAD = *named(base=QUICK, head=QUICK), "--revision", "base=HEAD"
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
    folder = tmp_path / "c"
    status, out, err = run(folder, *OF_HEAD, *ONE_PAIR, tree=repository, PYTHONPATH="")
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
    assert not (folder / "worktrees").exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("number", few([signal.SIGTERM, signal.SIGHUP], 1))
def test_a_campaign_that_is_cut_short_leaves_no_worktree(tmp_path, repository, number):
    """A later campaign would find leftover files of a revision, perhaps from another campaign."""
    options = *OF_HEAD, *ONE_PAIR
    folder = tmp_path / "c"
    with started(folder, *options, tree=repository, PYTHONPATH="") as process:
        wait_for(lambda: (folder / "worktrees" / "base" / "bench").is_dir())
        process.send_signal(number)
        process.wait(20)
    assert not (folder / "worktrees").exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


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
