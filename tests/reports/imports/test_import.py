"""Tests the command `import`: real logs, noise around their lines, bad input, private names and
hostile strings."""

import os
import re

import pytest

from reports.__main__ import main
from reports.imports.logged import LoggedTest
from reports.imports.runs import run_of
from tests.reports.imports.test_import_formats import FOOTER, HEAD, ROW_8, ROW_16, TABLE, WHOLE
from tests.reports.synthetic_log import DATE, write_log
from wiretax.record.result import read

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
    os.utime(log, (0, 0))
    assert imported(tmp_path / "out", log) == first
    assert capsys.readouterr().err == ""
    assert read(first[1]).run.imported_from == "a.log"


def test_unreadable_lines_are_named_and_counted(tmp_path, capsys):
    """The import must not drop a damaged row silently."""
    log = put(
        tmp_path / "a.log",
        HEAD + TABLE + ROW_8 + ROW_16.replace("17.65", "17.x5") + ROW_16[:80] + "\n" + FOOTER,
    )
    (path,) = imported(tmp_path / "out", log)
    run = read(path)
    assert (len(run.cases), run.end and run.end.status) == (2, "incomplete")
    sentence, reason = "rows that could not be read", "the first: '17.x5' is no time"
    assert capsys.readouterr().err == f"reports: {log}: {sentence}: 13, 14 (2 in all); {reason}\n"


def test_an_import_is_shown_like_a_run(tmp_path, capsys):
    log = put(tmp_path / "a.log", WHOLE.replace("  0\n", "  3\n", 1))
    (path,) = imported(tmp_path / "out", log)
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "allreduce: WRONG RESULTS in 1 of 4 cases, the worst: library 8 B isolated in\nplace\n",
        "allreduce: 2 ranks on NVIDIA GH200 120GB\n",
        "nccl-tests, from a.log",
        "timed by its own clock (mean over iterations)",
    ):
        assert text in shown


def test_an_unknown_number_of_ranks_has_no_bandwidth_until_somebody_says_it(tmp_path, capsys):
    log = put(tmp_path / "b.log", TABLE + ROW_8 + FOOTER)
    (path,) = imported(tmp_path / "out", log)
    assert "--ranks" in capsys.readouterr().out
    assert main(["show", str(path)]) == 0
    assert "an unknown number of ranks on" in capsys.readouterr().out
    assert read(path).cases[0].bus_bw_gb_s is None
    (path,) = imported(tmp_path / "two", log, "--ranks", "2", "--collective", "allreduce")
    assert read(path).cases[0].bus_bw_gb_s == pytest.approx(8 / 17.93 / 1e3)


def test_logs_that_name_no_gpu_are_of_one_machine_only_if_somebody_says_so(tmp_path, capsys):
    """The logs of two vendors were one machine with a change of 30 % on the day of the second."""
    table = "# OSU MPI Allgather Latency Test v7.1\n# Size       Avg Latency(us)\n1024      {}\n"
    logs = [put(tmp_path / f"{us}.log", table.format(us)) for us in ("20", "26")]
    paths = imported(tmp_path / "out", *logs)
    out = capsys.readouterr().out
    assert out.count("--ranks N (without it no busbw) --machine NAME (without it comparable ") == 2
    assert len({read(path).run.machine_id for path in paths}) == 2
    assert main(["compare", *map(str, paths)]) == 4
    (refusal,) = capsys.readouterr().err.splitlines()
    assert "machine differs: " in refusal

    facts = "--machine", "rack-7", "--ranks", "4", "--collective", "alltoall"
    assert imported(tmp_path / "out", *logs, *facts) == paths
    out = capsys.readouterr().out
    assert "all_gather: ranks 4, rows 1, complete: " in out
    assert "add what" not in out
    assert {read(path).run.machine_id for path in paths} == {"rack-7"}
    assert {main(["import", str(logs[0]), "--machine", name]) for name in ("../x", "")} == {2}
    imported(tmp_path / "both", put(tmp_path / "both.log", WHOLE + table.format("20")))
    assert capsys.readouterr().out.count("--machine NAME") == 1


def test_nights_of_logs_are_a_gate_and_a_series(tmp_path, capsys):
    """A CI owner has nights of nccl-tests before and after a driver's update."""
    for night in range(30):
        is_late = night >= 20
        us = (100.0, 100.5, 99.6, 100.2, 99.9)[night % 5] * (1.2 if is_late else 1)
        rows = [{"us": us * size, "size_bytes": size << 14} for size in (1, 2, 4, 8)]
        date = f"2025-11-{night + 1:02}T03-00-00Z"
        folder = tmp_path / "nights" / ("after" if is_late else "before")
        write_log(folder, *rows, name=str(night), date=date)
    nights = tmp_path / "nights"
    sides = "--baseline", str(nights / "before"), "--current", str(nights / "after")
    assert main(["regress", *sides]) == 1
    assert main(["history", str(nights)]) == 0
    out = capsys.readouterr().out
    for text in ("REGRESSION: SLOWER up to 20", "2025-11-21"):
        assert text in out, out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b" \n\n", "has no timings; known are nccl-tests"),
        (b"\x7fELF\0\0\1\n1 2 3\n", "has no timings"),
        # A script that starts a benchmark, with its head in a comment.
        (b"\n# OSU MPI Allreduce Latency Test v7.3\nmpirun osu_allreduce\n", "has no timings"),
        (
            b"# OSU MPI Allreduce Latency Test v7.3\n# Size  Avg Latency(us)\n4  1,5\n8  1,6\n",
            "a.log: none of its 2 rows can be read, from line 3 on: wanted are the figures",
        ),
        (TABLE + ROW_8.replace(" 0.00", " 9.99"), "none of its 1 rows can be read, from line 4"),
        (
            b'\n{"size_bytes": 4, "time_us": "5"}',
            "a.log: line 2 is no timing line (Expected `float",
        ),
        (b'{"a": 1}', "it is JSON of no known version of nccl-tests -J, vllm bench serve"),
        # A pattern of quadratic time took seconds, and minutes for a megabyte.
        (b"{" * 1_000_000, "has more than 50,000 rows"),
        (b"{" + b'"time_a":' * 200_000, "is JSON that is cut off, damaged"),
        (
            b'{"version":3,"config":{"devices":[{"rank":"x"}]},"results":[]}',
            "is JSON that is cut off",
        ),
    ],
)
def test_a_file_that_is_not_a_log_is_refused_in_one_sentence(content, sentence, tmp_path, capsys):
    assert sentence in refused(tmp_path, capsys, put(tmp_path / "a.log", content))


def test_a_path_that_is_not_a_readable_file_is_refused_in_one_sentence(tmp_path, capsys):
    """Beside it others are imported. test_untrusted.py has pipes and large files."""
    assert "Is a directory" in refused(tmp_path, capsys, tmp_path)
    assert "No such file" in refused(tmp_path, capsys, tmp_path / "no")
    assert imported(tmp_path / "out", tmp_path / "no", put(tmp_path / "a.log", WHOLE), status=2)
    assert main(["import", str(tmp_path / "a.log"), "--out", str(tmp_path / "a.log")]) == 2


def test_hostile_strings_do_not_reach_the_terminal_or_file_names(tmp_path, capsys):
    """A log must not control the reader's terminal or choose a file's name."""
    evil = "=cmd()|x!A1\x1b]0;title\x07\x1b[2J\u202egnp\x9b31m\x08"
    text = WHOLE.replace("NVIDIA GH200", f"NVIDIA {evil} GH200").replace(
        "starting: all_reduce", f"starting: all{evil}"
    )
    text += f"$ ./{evil}_perf -g 2\n{TABLE}{ROW_8.replace('sum', evil[:5])}"
    log = put(tmp_path / f"{evil[:20]}.log", text)
    for path in imported(tmp_path / "out", log):
        assert main(["show", str(path)]) == 0
        names = {case.collective or "none" for case in read(path).cases}
        assert all(re.fullmatch("[a-z0-9_-]+", name) for name in names)
    out, err = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in out + err)


def test_rows_of_a_size_that_was_rounded_to_0_are_cases_of_their_own():
    test = LoggedTest("nccl-tests", 1)
    for line in (1, 2):
        test.add(line, {"size_bytes": 0}, time_us=1.5)
    assert len(run_of([test], f"{DATE}-import-a-1", "a.log", "m", notes=[]).cases) == 2
