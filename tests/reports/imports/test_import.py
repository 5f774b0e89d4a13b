"""Tests the command `import`: real logs, noise around their lines, bad input, private names and
hostile strings."""

import json
import os
import re

import pytest

from reports.__main__ import main
from reports.imports import command as import_command
from reports.imports.imported import read_imported
from reports.store.result import ImportedRunError, ResultError, is_imported, read
from tests.reports.imports.test_import_formats import FOOTER, HEAD, ROW_8, ROW_16, TABLE, WHOLE
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.unit


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def imported(folder, *files, status=0):
    """Imports the logs and returns their run files in order."""
    assert main(["import", *map(str, files), "--out", str(folder)]) == status
    return sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))


def refused(tmp_path, capsys, path):
    """Imports a bad file and returns the one sentence of the error."""
    assert imported(tmp_path / "out", path, status=2) == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"reports: {path}")
    assert err.count("\n") == 1
    return err


def test_imports_omit_hosts_processes_folders_and_addresses(tmp_path):
    """Users share imports: they must not disclose names of hosts and users."""
    shell = "ann@host7:/home/ann$ ./all_reduce_perf -g 2\n10.0.0.7 is up\n"
    (path,) = imported(tmp_path / "out", put(tmp_path / "a.log", shell + WHOLE))
    for word in ("nid005471", "204199", "204200", "ann", "host7", "/home", "10.0.0.7"):
        assert word not in path.read_text()


def test_a_second_import_of_a_log_writes_no_copy_and_no_error(tmp_path, capsys):
    log = put(tmp_path / "a.log", WHOLE + WHOLE)
    first = imported(tmp_path / "out", log)
    before = [path.read_bytes() for path in first]
    assert imported(tmp_path / "out", log) == first
    assert [path.read_bytes() for path in first] == before
    assert capsys.readouterr().out.count("(is there already)\n") == 2
    head = read_imported(first[1]).run
    assert (head.imported_from.file, head.imported_from.first_line) == ("a.log", 17)


def test_unreadable_lines_are_named_and_counted(tmp_path, capsys):
    """The import must not drop a damaged row silently."""
    log = put(
        tmp_path / "a.log",
        HEAD + TABLE + ROW_8 + ROW_16.replace("17.65", "17.x5") + ROW_16[:80] + "\n" + FOOTER,
    )
    (path,) = imported(tmp_path / "out", log)
    assert len(read_imported(path).cases) == 2
    read = "lines that look like data and could not be read"
    assert capsys.readouterr().err == f"reports: {log}: {read}: 13, 14 (2 in all)\n"
    put(log, HEAD + TABLE + ROW_8 + ROW_16.replace("17.65", "17.x5") * 25 + FOOTER)
    imported(tmp_path / "many", log)
    numbers = ", ".join(map(str, range(13, 33)))
    assert capsys.readouterr().err == f"reports: {log}: {read}: {numbers}, ... (25 in all)\n"


def test_imports_are_shown_without_verdicts(tmp_path, capsys):
    """A log has a single mean: gates and verdicts must not use it as a measurement with an
    interval."""
    (path,) = imported(
        tmp_path / "out", put(tmp_path / "a.log", WHOLE.replace("  0\n", "  3\n", 1))
    )
    capsys.readouterr()
    assert is_imported(path)
    assert not is_imported(tmp_path / "a.log")
    with pytest.raises(ImportedRunError, match="was imported from a log"):
        read(path)
    for command in (
        "compare RUN RUN",
        "regress --baseline RUN --current RUN",
        "show RUN --plot x.svg",
    ):
        assert main(command.replace("RUN", str(path)).split()) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for text in (
        "all_reduce: 2 ranks on 1 host, NVIDIA GH200",
        "a.log, lines 1 to 15",
        "failed",
        "WRONG",
        "0.5 GB/s",
        "16 B",
    ):
        assert text in shown
    measured = write_run(tmp_path / "measured").path
    assert not is_imported(measured)
    with pytest.raises(ResultError, match="not a `run` line"):
        read_imported(measured)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b" \n\n", "is empty"),
        (b"\x7fELF\0\0\1", "is binary, not a log"),
        (b"just some words\n1 2 3\n", "is not a known format; known are nccl-tests"),
        (b'{"a": 1}', "is JSON, but not what nccl-tests writes for -J"),
        (b'{"version": 3, "conf', "is JSON that is cut off"),
        (b"{" * 100_000, "is JSON that is cut off or damaged"),
        (b'{"version":3,"config":{"devices":[{"rank":"x"}]},"results":[]}', "is JSON, but not"),
    ],
)
def test_a_file_that_is_not_a_log_is_refused_in_one_sentence(content, sentence, tmp_path, capsys):
    assert sentence in refused(tmp_path, capsys, put(tmp_path / "a.log", content))


def test_a_path_that_is_not_a_readable_file_is_refused_in_one_sentence(tmp_path, capsys):
    """A log of hundreds of megabytes would fill the memory, and a pipe would wait forever."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(500_000_000)
    for path, sentence in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no", "No such file"),
        (tmp_path / "pipe", "not an ordinary file"),
        (tmp_path / "large", "its 500 MB are more than"),
    ):
        assert sentence in refused(tmp_path, capsys, path)
    assert imported(tmp_path / "out", tmp_path / "no", put(tmp_path / "a.log", WHOLE), status=2)
    assert main(["import", str(tmp_path / "a.log"), "--out", str(tmp_path / "a.log")]) == 2


@pytest.mark.parametrize(
    "text", [WHOLE + ROW_8 * 3, WHOLE * 3, "[" + ",".join(['{"config":{},"results":[]}'] * 3) + "]"]
)
def test_a_log_with_too_many_rows_or_tests_is_refused(text, tmp_path, capsys, monkeypatch):
    """A million rows took more than 40 s, and their run file was too large for `show`."""
    monkeypatch.setattr(import_command, "MOST_ROWS", 4)
    monkeypatch.setattr(import_command, "MOST_TESTS", 2)
    assert "has more than" in refused(tmp_path, capsys, put(tmp_path / "a.log", text))


@pytest.mark.parametrize(
    "evil",
    [
        "\x1b]0;title\x07\x1b[2J",
        "=cmd()|x!A1",
        "\u202egnp",
        "\x9b31m\x08",
    ],
)
def test_hostile_strings_do_not_reach_the_terminal_or_file_names(evil, tmp_path, capsys):
    """A log must not control the reader's terminal or choose a file's name."""
    text = WHOLE.replace("NVIDIA GH200", f"NVIDIA {evil} GH200").replace(
        "starting: all_reduce", f"starting: all{evil}"
    )
    text += f"$ ./{evil}_perf -g 2\n{TABLE}{ROW_8.replace('sum', evil[:5])}"
    log = put(tmp_path / f"{evil.replace('/', '')[:20]}.log", text)
    for path in imported(tmp_path / "out", log):
        assert main(["show", str(path)]) == 0
        assert all(
            letter.isprintable()
            for text in re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text())
            for letter in json.loads(f'"{text}"')
        )
        assert all(
            re.fullmatch("[a-z0-9_-]+", case.collective or "none")
            for case in read_imported(path).cases
        )
    out, err = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)


def test_every_figure_of_a_suspect_case_is_marked(tmp_path, capsys):
    """One GPU alone takes 0.2 us for an all-reduce of nothing: a reader must not take it for a
    latency."""
    one = WHOLE.replace(
        "#  Rank  1 Group  0 Pid 204200 on  nid005471 device  1 [0019:01:00] NVIDIA GH200 120GB\n",
        "",
    )
    (path,) = imported(tmp_path / "out", put(tmp_path / "one.log", one))
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[6:9] for line in out.splitlines() if "all_reduce float32" in line]
    assert len(rows) == 4
    assert all(figure.endswith("!") for row in rows for figure in row)
    assert "average busbw 0.5! GB/s" in out
    assert "! suspect: one rank alone" in out
