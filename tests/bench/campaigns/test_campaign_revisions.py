"""Tests campaigns over revisions: each revision is measured as committed, and no worktree is
left."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from bench.campaigns.campaign_options import Stop, parse
from bench.campaigns.revisions import check_out, unmeasured_changes
from tests.another_user import NOBODY, as_root, give, said_as
from tests.bench.campaigns.test_campaign import run, started
from tests.bench.campaigns.test_campaign_command import QUICK, named
from tests.bench.faulty_runs import wait_for
from tests.launch import NEEDS_GIT, ROOT
from wiretax.record.manifest import read_manifest
from wiretax.record.result import read

pytestmark = NEEDS_GIT

LIBRARY = QUICK.replace("auto,", "")
OF_HEAD = *named(base=LIBRARY, head=LIBRARY), "--revision", "base=HEAD"
ONE_PAIR = "--pairs", "1"


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """Our code as a repository with one commit. The version is 9.9.9 in the commit and 1.1.1 in the
    uncommitted files."""
    tree = tmp_path / "tree"
    for layer in ("bench", "collectives", "kernels", "reports", "wiretax"):
        shutil.copytree(ROOT / layer, tree / layer, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "locks").mkdir()
    shutil.copy(ROOT / "locks/runtime.lock", tree / "locks")
    version = tree / "wiretax" / "__init__.py"
    for number in ("9.9.9", "1.1.1"):
        text = re.sub(r'__version__ = ".*"', f'__version__ = "{number}"', version.read_text())
        version.write_text(text)
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


def test_a_revision_has_each_file_of_its_commit_whatever_attributes_say(
    tmp_path, repository, monkeypatch
):
    """`git archive` leaves out and changes files by attributes, also by ones that no commit has,
    and the current checkout had them: its code was measured under the revision's hash."""
    (repository / ".gitattributes").write_text("collectives/** export-ignore\n*.txt export-subst\n")
    (repository / "bench/note.txt").write_text("$Format:%H$\r\n")
    (repository / "bench/program").write_text("#!/bin/sh\n")
    (repository / "bench/program").chmod(0o755)
    (repository / "bench/link").symlink_to("../reports")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    (repository / ".git/info/attributes").write_text("reports/** export-ignore\n* text eol=crlf\n")
    monkeypatch.chdir(repository)
    base = parse(OF_HEAD).variants["base"]
    folder = tmp_path / "out"
    check_out(base, folder)
    for name in git(repository, "ls-tree", "-r", "--name-only", "HEAD").splitlines():
        committed = git(repository, "rev-parse", f"HEAD:{name}")
        is_link = (folder / name).is_symlink()
        assert is_link == (name == "bench/link")
        if not is_link:
            assert git(repository, "hash-object", "--no-filters", folder / name) == committed
    assert os.access(folder / "bench/program", os.X_OK)
    assert (folder / "bench/note.txt").read_bytes() == b"$Format:%H$\r\n"


@pytest.mark.parametrize("place", ["", "third party/wiretax"])
@pytest.mark.parametrize("inside", [".", "docs/wide", "bench"])
def test_a_revision_is_all_of_wiretaxs_tree_from_any_folder_of_it(
    tmp_path, repository, monkeypatch, place, inside
):
    """In docs it had no bench. A Wiretax in a larger repository is that folder alone, whose own
    submodules alone count."""
    root = repository
    if place:
        root = tmp_path / "larger" / place
        shutil.copytree(repository, root, ignore=shutil.ignore_patterns(".git"))
        git(tmp_path, "init", "-q", "larger")
        git(root, "add", ".")
        commit = git(repository, "rev-parse", "HEAD")
        git(root, "update-index", "--add", "--cacheinfo", f"160000,{commit},other")
        git(root, "commit", "-qm", "one")
    (root / "docs/wide").mkdir(parents=True)
    (root / "bench/__init__.py").write_text("VERSION = '2.2.2'\n")
    monkeypatch.chdir(root / inside)
    variants, folder = parse(OF_HEAD).variants, tmp_path / "out"
    check_out(variants["base"], folder)
    committed = git(root, "ls-tree", "-r", "--name-only", "HEAD", "bench", "reports").splitlines()
    assert committed
    assert all((folder / name).is_file() for name in committed)
    assert "2.2.2" not in (folder / "bench/__init__.py").read_text()
    measured = {"base": variants["base"]}
    assert "uncommitted changes are not measured" in unmeasured_changes(measured.values())


@pytest.mark.parametrize("removed", ["collectives", "kernels/__init__.py"])
def test_what_a_revision_lacks_is_not_imported_from_the_checkout(
    tmp_path, repository, monkeypatch, removed
):
    git(repository, "rm", "-qr", removed)
    git(repository, "commit", "-qm", "without")
    git(repository, "checkout", "-q", "HEAD~1", "--", removed)
    monkeypatch.chdir(repository)
    base, folder = parse(OF_HEAD).variants["base"], tmp_path / "out"
    check_out(base, folder)
    package = removed.partition("/")[0]
    line = [sys.executable, "-c", f"import bench, reports, {package}"]
    variables = base.environment(folder) | {"PYTHONPATH": f"{folder}:{repository}"}
    done = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True)
    assert f"ImportError: this revision has no package {package}" in done.stderr


def test_a_submodule_or_a_link_out_of_a_revision_is_refused(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    (repository / "bench/away").symlink_to(ROOT / "bench")
    git(repository, "add", "bench/away")
    git(repository, "commit", "-qm", "two")
    with pytest.raises(Stop, match="the link bench/away leads out of its revision"):
        check_out(parse(OF_HEAD).variants["base"], tmp_path / "one")
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{commit},third/party")
    git(repository, "commit", "-qm", "three")
    refused = r"^variant base: its revision has submodules, .*: third/party$"
    with pytest.raises(Stop, match=refused):
        check_out(parse(OF_HEAD).variants["base"], tmp_path / "two")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("target", "is_out"),
    [
        ("deep/down/top/../outside.txt", True),
        ("short/top/../outside.txt", True),
        ("short/../../../locks/runtime.lock", False),  # only its text leads out
        ("link", False),  # nothing can be read through it
    ],
)
def test_a_link_that_leads_out_through_other_links_is_refused(
    tmp_path, repository, monkeypatch, target, is_out
):
    """Each alone stays inside by its text, and a launch read files beside the revision."""
    monkeypatch.chdir(repository)
    (repository / "bench/deep/down").mkdir(parents=True)
    (repository / "bench/deep/down/top").symlink_to("../../..")
    (repository / "bench/short").symlink_to("deep/down")
    (repository / "bench/link").symlink_to(target)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    (tmp_path / "outside.txt").write_text("outside")
    base, folder = parse(OF_HEAD).variants["base"], tmp_path / "out"
    if is_out:
        with pytest.raises(Stop, match=r"^variant base: the link bench/link leads out of its rev"):
            check_out(base, folder)
    else:
        check_out(base, folder)
        assert os.readlink(folder / "bench/link") == target


def test_a_launch_that_imports_other_code_than_its_revision_is_refused(tmp_path, repository):
    """Here mpirun starts the ranks in another checkout, whose code Python finds first."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(repository, elsewhere)
    code = elsewhere / "collectives/operation.py"
    code.write_text(f"{code.read_text()}# another line\n")
    moved = LIBRARY.replace("mpirun", f"mpirun -wdir {elsewhere}")
    options = *named(base=LIBRARY, head=moved), "--revision", "base=HEAD", "--revision", "head=HEAD"
    variables = {"PYTHONPATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    status, out, err = run(tmp_path / "c", *options, *ONE_PAIR, tree=repository, **variables)
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "bench.campaign: uncommitted changes are not measured: variant base is HEAD as committed",
        "bench.campaign: variant head: it imported other code than its revision has",
    ]
    base, head = read_manifest(tmp_path / "c").launches
    assert (base.status, head.status) == ("finished", "died")
    digests = [read(tmp_path / "c" / str(launch.run)).run.program for launch in (base, head)]
    assert len({*digests}) == 2
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)


def test_changes_that_no_variant_runs_are_told(repository, monkeypatch):
    monkeypatch.chdir(repository)
    both = [*OF_HEAD, "--revision", "head=HEAD"]
    assert unmeasured_changes(parse(both).variants.values()) == (
        "uncommitted changes are not measured: variant base is HEAD as committed"
    )
    assert not unmeasured_changes(parse(OF_HEAD).variants.values()), "variant head runs them"
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    assert not unmeasured_changes(parse(both).variants.values())
    (repository / "bench/new.py").touch()
    assert unmeasured_changes(parse(both).variants.values())
