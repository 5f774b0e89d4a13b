"""`references`: checks archives of surveys, adds their rows to a table, and withdraws them."""

import hashlib

import pytest

from reports.__main__ import main
from reports.advice import references_command
from reports.references import published
from reports.references.published import PublishedCall, read_table
from tests.reports.synthetic_archive import LAUNCHES, OTHER, files_of, packed, write_archive
from wiretax.common.program import SEND_ARCHIVE

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("sent") / "survey.tar.gz", machine_id=OTHER)


def ask(capsys, *words):
    """The exit status, what was printed, on one line, and what was complained."""
    status = main(["references", *map(str, words)])
    printed = capsys.readouterr()
    return status, " ".join(printed.out.split()), printed.err


def rows_in(contributed):
    return read_table(contributed, list[PublishedCall], least_rows=0)


def test_a_check_shows_the_rows_and_writes_nothing(capsys, contributed, sent):
    before = contributed.read_bytes()
    status, said, complained = ask(capsys, "check", sent)
    assert (status, complained, contributed.read_bytes()) == (0, "", before)
    assert "16 KiB graph rccl 2.27.7 p2p 50.5 49.7 to 51.3 0.32" in said
    assert "Nothing speaks against it: references add writes these rows." in said
    assert said.endswith(f"To send it: {SEND_ARCHIVE}")
    words = "2x R9700, PCIe 5 x16, peers, one socket (EPYC 9354), 5a11ab1e0c0d; 2026-11-20, 5"
    assert said.startswith(words)


def test_an_archive_becomes_rows_of_the_table(capsys, contributed, sent):
    status, said, _ = ask(capsys, "add", sent, "--name", "alice-b")
    assert status == 0
    assert "6 rows of archive " in said
    assert said.endswith("Next: make figures, which renews the pages from the tables.")
    rows = rows_in(contributed)
    assert {row.archive for row in rows} == {hashlib.sha256(sent.read_bytes()).hexdigest()}
    assert {(row.contributor, row.date, row.withdrawn) for row in rows} == {
        ("alice-b", "2026-11-20", "")
    }
    (graph,) = (row for row in rows if (row.mode, row.kind) == ("graph", "library"))
    assert (graph.library, graph.version) == ("rccl", "2.27.7")
    assert graph.time_low_us < 50 < graph.time_us < graph.time_high_us
    assert graph.note.startswith(f"{LAUNCHES} launches, Wiretax ")
    (tuned,) = (row for row in rows if (row.size_bytes, row.kind) == (32 << 20, "tuned"))
    assert (tuned.library, tuned.variant, tuned.grade) == ("wiretax", "ring", "table")


def test_an_archive_is_added_once_whatever_its_name(capsys, contributed, sent, tmp_path):
    """Its runs in another archive would have a second vote."""
    assert ask(capsys, "add", sent)[0] == 0
    before = contributed.read_bytes()
    again = ask(capsys, "add", sent)
    files = files_of(machine_id="0a0b0c0d0e0f")
    repacked = ask(capsys, "add", packed(tmp_path / "other.tgz", files))
    for status, said, _ in (again, repacked):
        assert status == 1
        assert "- its runs are in the table already, as archive " in said
    assert contributed.read_bytes() == before


def test_what_was_withdrawn_counts_no_more_and_rows_of_others_stay(
    capsys, contributed, sent, tmp_path
):
    """Nor does it come back."""
    ask(capsys, "add", sent)
    before = contributed.read_text()
    files = files_of(slower=1.1, machine_id="0a0b0c0d0e0f")
    other = packed(tmp_path / "other.tgz", files)
    ask(capsys, "add", other)
    archive = rows_in(contributed)[-1].archive
    reason = "its owner found the cards in slots of x4, he says"
    status, said, _ = ask(capsys, "withdraw", archive[:8], "--reason", reason)
    assert status == 0
    assert said.startswith(f"6 rows of archive {archive[:12]} withdrawn.")
    assert [row.withdrawn for row in rows_in(contributed)] == [""] * 6 + [reason] * 6
    assert contributed.read_text().startswith(before)
    status, said, _ = ask(capsys, "add", other)
    assert status == 1
    assert f"and withdrawn: {reason}" in said
    status, _, complained = ask(capsys, "withdraw", archive, "--reason", "another")
    assert (status, f"it is withdrawn already: {reason}" in complained) == (2, True)


def test_a_day_that_was_withdrawn_stays_so_with_other_launches(capsys, contributed, sent, tmp_path):
    """The same launches without the first are other figures; another day's are welcome."""
    ask(capsys, "add", sent)
    archive = rows_in(contributed)[0].archive
    ask(capsys, "withdraw", archive, "--reason", "other work ran meanwhile")
    less = packed(tmp_path / "less.tgz", files_of(machine_id=OTHER, slower=1.02))
    status, said, _ = ask(capsys, "add", less)
    assert status == 1
    assert "of such a machine and day was withdrawn: other work ran meanwhile" in said
    later = {
        name.replace("11-20", "11-22"): data.replace(b"2026-11-20", b"2026-11-22")
        for name, data in files_of(machine_id=OTHER, slower=1.02).items()
    }
    path = packed(tmp_path / "later.tgz", later, made="2026-11-22T06:22:00Z")
    assert ask(capsys, "add", path)[0] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("check x.tgz --name alice", "--name goes with add"),
        ("add x.tgz --name <b>alice</b>", "--name goes with add, and is a GitHub account"),
        (f"add x.tgz --name {'a' * 40}", "at most 39"),
        ("add x.tgz --reason old", "--reason goes with withdraw, which wants one"),
        ("withdraw 12345678", "--reason goes with withdraw, which wants one"),
        ("withdraw 12345678 --reason old", "is not the SHA-256 of one archive of the table"),
        ("withdraw 1 --reason old", "is not the SHA-256 of one archive of the table"),
        ("withdraw 12345678 --reason a\x1b[31m", "--reason is one line of at most 200"),
        ("withdraw 12345678 --reason =A1+1", "and no formula of a spreadsheet"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_sentence(capsys, contributed, words, complaint):
    before = contributed.read_bytes()
    status, said, complained = ask(capsys, *words.split(" ", 3 if "--reason" in words else -1))
    assert (status, said, complained.count("\n")) == (2, "", 1)
    assert complaint in complained
    assert contributed.read_bytes() == before


def test_a_damaged_table_stays_as_it_is(capsys, contributed, sent):
    """Two branches may have added rows."""
    ask(capsys, "add", sent)
    archive = rows_in(contributed)[0].archive
    contributed.write_text(damaged := contributed.read_text() + "<<<<<<< HEAD\n")
    for words in (["add", sent], ["withdraw", archive, "--reason", "a mistake"]):
        status, _, complained = ask(capsys, *words)
        assert (status, complained.count("\n")) == (2, 1)
        assert "contributed.csv, line 8: " in complained
    assert contributed.read_text() == damaged


@pytest.mark.parametrize("columns", ["", "machine,gpu\n"])
def test_a_table_with_other_columns_is_told(capsys, contributed, sent, columns):
    contributed.write_text(columns)
    for words in (["add", sent], ["check", sent], ["withdraw", "0" * 8, "--reason", "old"]):
        status, _, complained = ask(capsys, *words)
        assert (status, complained.count("\n")) == (2, 1)
        assert "contributed.csv is no table of rows: the column 'archive'" in complained
    assert contributed.read_text() == columns


def test_tables_that_cannot_be_written_are_told(capsys, contributed, sent, monkeypatch):
    """Of an installed package they would be lost with its next version."""
    with monkeypatch.context() as installed:
        installed.setattr(references_command, "IS_CHECKOUT", False)
        status, _, complained = ask(capsys, "add", sent)
        assert (status, "this is an installed package: git clone http" in complained) == (2, True)
        assert ask(capsys, "check", sent)[0] == 0
    missing = contributed.parent / "none" / "contributed.csv"
    monkeypatch.setattr(published, "CONTRIBUTED", missing)
    status, _, complained = ask(capsys, "add", sent)
    assert (status, complained.count("\n")) == (2, 1)
