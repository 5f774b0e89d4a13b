"""Folders and files of other users: what is written stays in the folder that was opened, and no
link of another user is followed."""

import os
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.site import dashboard
from tests.another_user import as_root, give, link_of_nobody
from tests.reports.synthetic_run import ONE, write_run
from wiretax.common.owners import opened
from wiretax.record.result import ResultError
from wiretax.record.writing import RunFile, check_named, write_named

pytestmark = pytest.mark.unit


REFUSAL = "another user's link is on the way to it"


def test_a_folder_is_made_and_found_through_links_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    (tmp_path / "later").symlink_to("near/new/deep")  # leads to what is missing
    (tmp_path / "a").symlink_to("a")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for name, found in {
        "": "",
        "near/x": "far/x",
        "later": "far/new/deep",
        "later/../y": "far/new/y",
        f"/proc/self/root{tmp_path}/near": "far",
    }.items():
        with opened(Path(name)) as folder:
            assert folder.resolve() == tmp_path / found
    for name, reason in {"a": "symbolic links", "file": "Not a"}.items():
        with pytest.raises(OSError, match=f"{reason}.*{name}"), opened(tmp_path / name):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


@as_root
def test_no_link_of_another_user_is_on_the_way_to_a_folder(tmp_path):
    (tmp_path / "victim").mkdir()
    theirs = link_of_nobody(tmp_path / "theirs", tmp_path / "victim")
    (tmp_path / "ours").symlink_to(theirs / "new")
    run = write_run(tmp_path / "first", **ONE).run
    for path in (theirs, theirs / "new", tmp_path / "ours"):
        with pytest.raises(OSError, match=REFUSAL), opened(path):
            pass
        with pytest.raises(ResultError, match=rf"jsonl cannot be written: {REFUSAL}"):
            RunFile.create(path, run)
    assert not list((tmp_path / "victim").iterdir())


@as_root
@pytest.mark.parametrize("plant", ["link", "pipe"])
def test_a_named_file_replaces_a_link_and_a_pipe_of_another_user(tmp_path, plant):
    """Through the link a victim would be overwritten, and on the pipe a gate would wait."""
    (tmp_path / "victim").write_text("kept")
    page = tmp_path / "page.html"
    if plant == "link":
        link_of_nobody(page, tmp_path / "victim")
    else:
        os.mkfifo(page)
        give(page)
    check_named(page)
    write_named(page, b"new")
    assert (page.is_symlink(), page.read_bytes()) == (False, b"new")
    assert (tmp_path / "victim").read_text() == "kept"


@as_root
def test_pages_are_written_to_no_other_folder(tmp_path, monkeypatch, capsys):
    """While the pages are made, the owner of the folder above puts a link to another site in
    place of the folder. Its index was overwritten, and what its marker lists was removed."""
    write_run(tmp_path / "results", **ONE)
    above, victim = give(tmp_path / "above"), tmp_path / "victim"
    site = give(above / "site")
    victim.mkdir()
    kept = {".wiretax-site": "old.html", "old.html": "old", "index.html": "index"}
    for name, text in kept.items():
        (victim / name).write_text(text)

    def swap(*arguments):
        site.rename(above / "moved")
        link_of_nobody(site, victim)
        return build(*arguments)

    build = dashboard.build
    monkeypatch.setattr(dashboard, "build", swap)
    assert main(["dashboard", str(tmp_path / "results"), "-o", str(site)]) == 0
    assert {path.name: path.read_text() for path in victim.iterdir()} == kept
    assert (above / "moved" / "index.html").is_file()
    assert main(["dashboard", str(tmp_path / "results"), "-o", str(site)]) == 2
    assert REFUSAL in capsys.readouterr().err


@as_root
def test_a_folder_that_another_user_owns_receives_pages(tmp_path):
    """Such as a folder that a user has mounted for root in a container."""
    write_run(tmp_path / "results", **ONE)
    site = give(tmp_path / "site")
    site.chmod(0o2777)
    for _ in range(2):
        assert main(["dashboard", str(tmp_path / "results"), "-o", str(site)]) == 0
    assert (site / "index.html").is_file()
