"""Tests the command `import`: real logs, noise around their lines, bad input, private names and hostile strings."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports.__main__ import main
from reports.imports import command as import_command
from reports.imports.command import find_tests
from reports.imports.imported import read_imported
from reports.store.result import ImportedRunError, ResultError, is_imported, read
from tests.launch import ROOT
from tests.reports.imports.test_import_formats import FOOTER, HEAD, ROW_8, ROW_16, TABLE, WHOLE
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.unit

LOGS = sorted((ROOT.parent / "shared" / "logs").glob("*.log"))
with_logs = pytest.mark.skipif(not LOGS, reason="the real logs are not here")


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


@with_logs
@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_real_logs(log, tmp_path, capsys):
    """The import must keep the figures of real machines unchanged."""
    expected = json.loads(log.with_name("expected.json").read_text())[log.name]
    if expected[0]["status"] == "not a known format":
        assert "is not a known format; known are nccl-tests" in refused(tmp_path, capsys, log)
        return
    runs = [read_imported(path) for path in imported(tmp_path, log)]
    assert capsys.readouterr().err == ""
    assert [run.end.status for run in runs] == [test["status"] for test in expected]
    for run, test in zip(runs, expected, strict=True):
        halves = [[case for case in run.cases if case.in_place == place] for place in (False, True)]
        assert max(map(len, halves)) == test["rows"]
        assert run.run.out_of_bounds == test.get("out_of_bounds")
        assert run.run.footer_avg_bus_bw == (
            float(test["footer_avg_busbw"]) if "footer_avg_busbw" in test else None
        )
        for place in (0, 1):
            times = [case.time_us.mean for case in halves[place] if case.time_us]
            for name, at in (("first_times_us", 0), ("last_times_us", -1)):
                assert name not in test or times[at] == pytest.approx(test[name][place])
        if "mean_busbw" in test:
            busbw = [case.reported_bus_bw_gb_s or case.bus_bw_gb_s or 0.0 for case in run.cases]
            assert sum(busbw) / len(busbw) == pytest.approx(test["mean_busbw"], abs=1e-4)


@with_logs
@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_imports_omit_hosts_processes_folders_and_addresses(log, tmp_path):
    """Users share imports: they must not disclose names of hosts and users."""
    text = log.read_text(errors="replace")
    private = set(
        re.findall(
            r"Pid +\d+ on +(\S+)|\b([\w-]+):\d+:\d+ \[\d+\] NCCL|(?:^|[\s=:])((?:/[\w.-]+){2,})|"
            r"(\d+\.\d+\.\d+\.\d+)|on (x\d+c\w+)|(nid\d{6}|host0|autodl-\S+)|Pid +(\d{4,})",
            text,
        )
    )
    written = "".join(
        path.read_text()
        for path in imported(tmp_path, log, status=2 if "lookalike" in log.name else 0)
    )
    figures = set(
        re.findall(r"\d+", "".join(re.findall(r"^[#> \d:]*\d+ +\d+ .*$", text, re.MULTILINE)))
    )
    assert [
        word
        for words in private
        for word in words
        if word and word in written and word not in figures
    ] == []


def seen(content):
    """All fields of a log's tests except their line numbers."""
    tests = find_tests(Path("log"), content)
    return [
        [
            (
                case.collective,
                case.size_bytes,
                case.datatype,
                case.redop,
                case.in_place,
                case.time_us,
                case.n_wrong,
                case.alg_bw_gb_s,
                case.bus_bw_gb_s,
                case.max_error,
            )
            for case in test.cases
        ]
        + [test.status, test.collective, test.world_size, test.gpus, test.out_of_bounds]
        for test in tests
    ]


PREFIXES = st.sampled_from(
    [
        "",
        " ",
        "    ",
        "> ",
        "&gt; ",
        "[1,0]<stdout>:",
        "[1,12]<stderr>: ",
        " 0: ",
        "127: ",
        "[3] ",
        "2025-02-07T14:12:36.5Z ",
        "[2025-02-07 14:12:36] ",
        "\x1b[0m",
        "nccl_launcher-1 | ",
    ]
)
NOISE = st.sampled_from(
    [
        "host-1:25:26 [0] NCCL INFO Channel 00/08 : 0 1 2 3",
        "NCCL version 2.9.9+cuda11.2",
        "",
        "host-1:25:26 [7] net.cc:99 NCCL WARN no such device",
        "+ export X=1",
        "```",
        "some words",
    ]
)


@with_logs
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    log=st.sampled_from([log for log in LOGS if "lookalike" not in log.name]),
    prefixes=st.lists(PREFIXES, max_size=3),
    noise=st.lists(st.tuples(st.integers(0, 600), NOISE), max_size=12),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_prefixes_noise_and_encodings_change_no_figures(log, prefixes, noise, encoding, end):
    """The same run must have the same figures under every launcher."""
    lines = log.read_text(encoding="latin-1").split("\n")
    for at, line in noise:
        lines.insert(at, line)
    text = end.join("".join(prefixes) + line for line in lines)
    assert seen(text.encode(encoding)) == seen(log.read_bytes())


def test_a_second_import_of_a_log_writes_no_copy_and_no_error(tmp_path, capsys):
    log = put(tmp_path / "a.log", WHOLE + WHOLE)
    first = imported(tmp_path / "out", log)
    before = [path.read_bytes() for path in first]
    assert imported(tmp_path / "out", log, put(tmp_path / "b.log", WHOLE + WHOLE)) == first
    assert [path.read_bytes() for path in first] == before
    assert capsys.readouterr().out.count("(is there already)\n") == 4
    assert sorted((tmp_path / "out").iterdir()) == first
    head = read_imported(first[1]).run
    assert (head.imported_from.file, head.imported_from.first_line) == ("a.log", 17)
    assert re.fullmatch(r"import-[0-9a-f]{12}-2", head.run_id)


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
    """A log has a single mean: gates and verdicts must not use it as a measurement with an interval."""
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
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x7fELF\0\0\1", "is binary, not a log"),
        (b"just some words\n1 2 3\n", "is not a known format; known are"),
        (b"\xff\xfea\0", "is not a known format"),
        (b'{"a": 1}', "is JSON, but not what nccl-tests writes for -J"),
        (b'{"version": 3, "conf', "is JSON that is cut off"),
        (b'{"version":3,"config":5,"results":[]}', "is JSON, but not"),
        (b"{" * 100_000, "is JSON that is cut off or damaged"),
        (b'{"version":3,"config":{"devices":[{"rank":"x"}]},"results":[]}', "is JSON, but not"),
        (
            b"size(B) count type scope latency(us) algbw(GB/s) busbw(GB/s)\n32 8 32-bit thread 116.2 0.1 0.2\n",
            "is not a known",
        ),
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
    "text",
    [
        WHOLE + ROW_8 * 3,
        WHOLE * 3,
        '{"config":{},"results":[]}' * 3,
        json.dumps({"config": {}, "results": [{"size": 8, "out_of_place": {"time": 1}}] * 9}),
    ],
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
        "<script>alert(1)</script>",
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
    """One GPU alone takes 0.2 us for an all-reduce of nothing: a reader must not take it for a latency."""
    one = WHOLE.replace(
        "#  Rank  1 Group  0 Pid 204200 on  nid005471 device  1 [0019:01:00] NVIDIA GH200 120GB\n",
        "",
    )
    (path,) = imported(tmp_path / "out", put(tmp_path / "one.log", one))
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[6:9] for line in out.splitlines() if "all_reduce  float32" in line]
    assert len(rows) == 4
    assert all(figure.endswith("!") for row in rows for figure in row)
    assert "average busbw 0.5! GB/s" in out
    assert "! suspect: one rank alone" in out


def test_the_command_loads_no_large_libraries():
    """Only pictures and statistics need these libraries, and loading them slows an import of many logs."""
    code = "import sys, reports.__main__, reports.imports.command; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not {"scipy", "pandas", "matplotlib"} & set(loaded.split())
