"""Tests the command with real `mpirun` launches: exit status, output, stored files and processes left running.

Each launch carries a mark in its environment. The tests use the mark to find processes that a launch left running.
"""

import csv
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from kernels.devices.shared_memory import available_bytes
from reports.store.result import read
from reports.store.schema import Result
from reports.tables.plot import plot
from tests.launch import MPIRUN, ROOT, few, mpirun
from tests.reports.synthetic_run import mark_wrong

pytestmark = pytest.mark.alone

LAYERS = ("bench", "collectives", "kernels", "reports")
OURS = (
    "one_shot_ll",
    "one_shot_sentinel",
    "one_shot_push",
    "one_shot_pull",
    "two_shot",
    "two_shot_direct",
    "ring",
    "auto",
)
QUICK = (
    "-e",
    "16K",
    "-n",
    "2",
    "--max-time",
    "30",
    "--lean",
)  # the number of iterations ends a run, not the time


def launch(folder, *options, ranks=2, tree=ROOT, command="allreduce", **variables):
    """Run the command with results in `folder` (`ranks=None`: without mpirun), and check that no process survives."""
    mark = secrets.token_hex(8)
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks else []
    done = subprocess.run(
        [*launcher, sys.executable, "-m", f"bench.{command}", "--out", str(folder), *options],
        cwd=tree,
        env={**os.environ, "WIRETAX_TEST": mark, **variables},
        capture_output=True,
        text=True,
        timeout=90,
    )
    for _ in range(20):
        if not (running := carriers(mark)):
            break
        time.sleep(0.1)
    assert not running, f"left running: {running}"
    assert "Traceback" not in done.stdout + done.stderr
    return done


def carriers(mark):
    """The names of the running processes that a launch with this mark started."""
    names = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("WIRETAX_TEST") == mark:
                names.append(process.name())
    return names


@contextmanager
def watched(*words, tree=ROOT, stdin=subprocess.DEVNULL, **variables):
    """Starts `python WORDS` with pipes, kills it at the end, and checks that no process of it survives."""
    mark = secrets.token_hex(8)
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=tree,
        stdin=stdin,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "WIRETAX_TEST": mark, **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for _ in range(30):
            if not (running := carriers(mark)):
                break
            time.sleep(0.1)
        assert not running, f"left running: {running}"


def stored(folder, lean=True) -> Result:
    """Read the one run of a folder. Check that the run is complete, that its samples and picture exist (a lean run has
    neither), and that no flight record is left."""
    runs = list(Path(folder).glob("*.jsonl"))
    assert len(runs) == 1
    suffixes = {path.name.removeprefix(runs[0].stem) for path in Path(folder).iterdir()}
    assert suffixes == ({".jsonl"} if lean else {".jsonl", ".samples", ".png"})
    result = read(runs[0])
    assert result.complete
    return result


def drawn(result: Result) -> Result:
    """Draw the picture that a lean run omits. In a separate process this would take 2 s."""
    plot(result, io.BytesIO())
    return result


def show(result, *options):
    """The output of `python -m reports show` for a run."""
    command = [sys.executable, "-m", "reports", "show", str(result.path), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def assert_refused(done, status, sentence, folder):
    """Check the exit status, that one rank printed one line on standard error, and that no file was written."""
    assert (done.returncode, done.stdout) == (status, "")
    assert re.fullmatch(rf"bench\.allreduce: [^\n]*{sentence}[^\n]*\n", done.stderr), done.stderr
    assert not [path for path in folder.rglob("*") if path.is_file() or path.suffix]


def test_a_bad_command_line_is_refused_in_one_line(tmp_path):
    """A typing error must not give a traceback from each rank. bench/harness/test_command.py has all bad options."""
    assert_refused(launch(tmp_path / "results", "-b", "16Q"), 2, "'16Q' is not a size", tmp_path)


@pytest.mark.parametrize("option", ["--out", "-J"])
def test_a_folder_that_cannot_be_written_is_refused_before_measuring(tmp_path, option):
    """A late refusal would lose a minute of measurements. Even root cannot write to a path below a file."""
    unwritable = Path(__file__) / "results"
    done = launch(tmp_path / "results", option, str(unwritable))
    assert_refused(done, 2, f"cannot write {re.escape(str(unwritable))}", tmp_path)


def test_without_mpirun_the_error_names_the_command_for_two_ranks(tmp_path):
    """A new user first tries `python -m bench.allreduce`."""
    done = launch(tmp_path / "results", ranks=None)
    assert_refused(done, 2, "mpirun -n 2 python -m bench.allreduce", tmp_path)


@pytest.mark.parametrize("device", few(["cuda", "hip"], 1))
def test_a_missing_device_is_an_error_and_no_fallback(tmp_path, device):
    """A user would mistake the CPU's figures for a GPU's."""
    assert_refused(
        launch(tmp_path / "results", "--device", device), 3, "no GPU driver is here", tmp_path
    )


def test_a_graph_is_refused_on_a_device_without_graphs(tmp_path):
    assert_refused(
        launch(tmp_path / "results", "-G", "1"), 3, "-G: the cpu device has no graphs", tmp_path
    )


@pytest.mark.skipif(
    find_spec("ziglang") is not None, reason="the ziglang wheel serves as a compiler here"
)
def test_a_python_without_an_mpi_library_is_told_what_to_install():
    done = mpirun(2, "-m", "bench.allreduce", MPI4PY_LIBMPI="/nonexistent/libmpi.so")
    assert (done.returncode, done.stdout) == (3, "")
    refusals = [line for line in done.stderr.splitlines() if not line.startswith("[allreduce ")]
    assert len(refusals) == 1, done.stderr
    assert "cannot load or start an MPI library" in refusals[0]
    assert "pip install mpich" in refusals[0]


def test_a_missing_compiler_is_reported_with_the_names_searched_for(tmp_path):
    """The user must learn which compiler to install."""
    (tmp_path / "bin").mkdir()
    done = launch(
        tmp_path / "results",
        PATH=str(tmp_path / "bin"),
        CXX="",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    looked_for = re.escape("looked for $CXX, c++, g++, clang++ and the ziglang wheel")
    assert_refused(done, 3, f"no C.. compiler was found: {looked_for}", tmp_path)
    done = launch(
        tmp_path / "results", CXX="no-such-compiler", XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    assert_refused(done, 3, r"\$CXX names 'no-such-compiler'", tmp_path)


def test_help_and_list_print_once_for_all_ranks(tmp_path):
    """Only one of the two ranks prints; --list needs no mpirun."""
    helped = launch(tmp_path / "results", "--help")
    assert (helped.returncode, helped.stderr, helped.stdout.count("usage:")) == (0, "", 1)
    listed = launch(tmp_path / "results", "--list", "-d", "bfloat16")
    assert (listed.returncode, listed.stderr) == (0, "")
    about = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    engines = {"two_shot_copy_engine", "ring_copy_engine", "one_shot_multimem", "two_shot_multimem"}
    between = {"flat", "hierarchical", "hierarchical_whole"}
    assert set(about) == {
        "library",
        *OURS,
        "two_shot_push",
        *engines,
        "two_shot_int8",
        "two_shot_fp8",
        "two_shot_int4",
        *between,
    }
    assert {name for name in about if "not here: " in about[name]} == {
        "library",
        *engines,
        *between,
    }
    assert "does not reduce bfloat16" in about["library"]
    slurm = {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
    }  # the variables of a batch script outside srun
    assert (
        launch(tmp_path / "results", "--list", "-d", "bfloat16", ranks=None, **slurm).stdout
        == listed.stdout
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """A default run, shortened."""
    folder = tmp_path_factory.mktemp("default") / "results"
    done = launch(folder, "-e", "32K", "--max-time", "12")
    assert (done.returncode, done.stderr) == (0, "")
    return done, stored(folder, lean=False)


def test_a_run_whose_time_ends_before_its_first_case_says_so(tmp_path):
    done = launch(tmp_path / "results", "-e", "16K", "--max-time", "0.1")
    assert done.returncode == 3
    assert (
        done.stderr == "wiretax: time ran out before a case was measured: give it more --max-time\n"
    )


def test_a_run_with_too_much_to_compile_measures_what_is_compiled_in_time(tmp_path):
    done = launch(
        tmp_path / "results",
        "-d",
        "all",
        "-o",
        "all",
        "--sizes",
        "1K",
        "--max-time",
        "7",
        "--lean",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").glob("*.jsonl")
    result = read(path)
    assert result.end
    assert result.end.reason
    assert result.end.status == "incomplete"
    assert re.fullmatch(r"time ran out before \d+ of \d+ cases were measured", result.end.reason)
    assert any(case.time_us for case in result.cases)
    assert {case.reason for case in result.cases if case.datatype == "uint8"} == {
        "the run ended first"
    }


def test_every_algorithm_is_measured_and_correct_at_every_size(default_run):
    _, result = default_run
    isolated = {
        (case.algorithm, case.size_bytes) for case in result.cases if case.mode == "isolated"
    }
    assert isolated == {(name, size) for name in ("library", *OURS) for size in (16384, 32768)}
    for case in result.cases:
        assert (case.status, case.n_wrong, case.in_place) == ("ok", 0, False)
        assert case.time_us.median > 0
        assert case.bus_bw_gb_s == pytest.approx(
            case.size_bytes / case.time_us.median / 1e3
        )  # 2 (n-1)/n is 1
        assert case.bound_us > 0
    chosen = [case.chosen for case in result.cases if case.algorithm == "auto"]
    assert chosen
    assert {name.partition("+")[0] for name in chosen} <= set(OURS)


def test_single_calls_warm_up_until_all_places_of_the_slabs_have_changed_hands(default_run):
    """Another case leaves lines with the wrong ranks: short blocks far were up to four times too slow. A pilot that the
    machine held up finds less time for it."""
    _, result = default_run
    isolated = {case.case for case in result.cases if case.mode == "isolated"}
    warmups = [block.warmup for block in result.blocks if block.case in isolated]
    assert sum(warmup >= 8 for warmup in warmups) > len(warmups) / 2


def test_the_table_fits_a_terminal_and_show_prints_all_of_it(default_run, tmp_path):
    """`reports show` also prints the notes and tables for which the 40 lines of a run had no room."""
    done, result = default_run
    *table, run_line, picture_line = done.stdout.splitlines(keepends=True)
    assert len(table) <= 38
    assert run_line == f"run: {result.path}\n"
    assert picture_line == f"picture: {result.path.with_suffix('.png')}\n"
    assert max(map(len, table)) <= 81
    for size in ("16 KiB", "32 KiB"):
        rows = [line for line in table if re.match(rf"{size:>8} +\d", line)]
        assert len(rows) == 2  # one isolated, one chained
        assert all(row.endswith(" 0\n") for row in rows)
    shown = show(result, "--plot", str(tmp_path / "run.svg")).splitlines(keepends=True)
    assert [
        line
        for line in table
        if line not in shown and not line.startswith("More notes and tables: ")
    ] == []
    assert "one_shot_pull" in (tmp_path / "run.svg").read_text()
    assert len(show(result, "--long").splitlines()) > len(result.cases)


def test_sizes_below_a_word_of_the_links_probe_are_measured(tmp_path):
    """The link probe cannot time 2 B of half; the all-reduce can."""
    done = launch(tmp_path / "results", "-d", "half", *QUICK, "-b", "2", "-e", "4")
    assert (done.returncode, done.stderr) == (0, "")
    bounds = {
        (case.size_bytes, case.bound_us is not None)
        for case in drawn(stored(tmp_path / "results")).cases
    }
    assert bounds == {(2, False), (4, True)}


def test_nccl_tests_format_json_both_places_and_iterations(tmp_path):
    """Parsers for nccl-tests must be able to read our output, and -n must set the exact number of iterations. Flags
    without a choice here get a note each; -R 1 prints registered buffers."""
    report, folder = tmp_path / "report.json", tmp_path / "results"
    done = launch(
        folder,
        "--format",
        "nccl-tests",
        "-J",
        str(report),
        "-d",
        "half",
        "-b",
        "1000",
        "-e",
        "2000",
        "-i",
        "1000",
        "-n",
        "6",
        "--max-time",
        "60",
        "--algorithm",
        "two_shot",
        "-g",
        "1",
        "-t",
        "1",
        "-R",
        "1",
    )
    assert done.returncode == 0
    (path,) = folder.glob("*.jsonl")
    result, library = read(path), path.with_suffix(".library.txt")
    assert [line[:5] for line in done.stderr.splitlines()[:3]] == ["-g 1:", "-t 1:", "-R 1:"]
    assert done.stderr.splitlines()[3:] == [
        f"run: {path}",
        f"picture: {path.with_suffix('.png')}",
        f"library: {library}",
    ]

    for text in (done.stdout, library.read_text()):
        rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
        assert [row[:4] for row in rows] == [
            [str(size), str(size // 2), "half", "sum"] for size in (1000, 2000)
        ]
        assert all(
            float(row[5]) > 0 and float(row[9]) > 0 and row[8] == row[12] == "0" for row in rows
        )
        assert len(re.findall(r"^# Avg bus bandwidth +: [\d.]+ $", text, re.MULTILINE)) == 1
    assert "two_shot (registered, mapped, isolated)" in done.stdout
    assert "minBytes 1000 maxBytes 2000" in done.stdout

    entries = json.loads(report.read_text())["results"]
    assert {(entry["algorithm"], entry["mode"]) for entry in entries} == {
        (name, "isolated") for name in ("library", "two_shot")
    }
    assert all(
        entry[half]["nwrong"] == 0 for entry in entries for half in ("out_of_place", "in_place")
    )
    for case in result.cases:
        assert sum(block.n for block in result.blocks if block.case == case.case) == 6


def test_chosen_sizes_and_a_lean_run(tmp_path):
    """A campaign measures only undecided sizes, and stores no samples of single iterations, which would fill a disk."""
    options = [
        "--sizes",
        "64K,1030,64K",
        "-b",
        "1M",
        "-e",
        "16K",
        "--mode",
        "isolated",
        "--algorithm",
        "auto,library",
    ]
    done = launch(tmp_path, *options, "--lean", "-n", "240", "--max-time", "30")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("picture: none: --lean\n")
    (path,) = tmp_path.iterdir()
    result = read(path)
    assert sorted((case.algorithm, case.variant, case.size_bytes) for case in result.cases) == [
        (*form, size)
        for form in (("auto", "copied"), ("auto", "registered"), ("library", "plain"))
        for size in (1028, 65536)
    ]
    for case in result.cases:
        assert (case.status, case.n_wrong, case.samples) == ("ok", 0, None)
        assert case.time_us is not None
        assert case.time_us.p95 is not None
    assert result.end is not None
    assert result.end.steal_share is not None


def test_csv_without_checks_and_types_that_the_library_lacks(tmp_path):
    """An unchecked case shows no 0, which would look like a check. A type that MPI lacks must not stop the run."""
    done = launch(
        tmp_path / "results",
        "--format",
        "csv",
        "-c",
        "0",
        "-d",
        "bfloat16",
        "-o",
        "avg",
        *QUICK,
        "--mode",
        "isolated",
    )
    assert done.returncode == 0
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert {row["algorithm"] for row in rows} == {"library", *OURS}
    for row in rows:
        assert "n_wrong" not in row
        if row["algorithm"] == "library":
            assert (row["status"], row["bus_bw_gb_s"], row["memory"]) == (
                "unsupported",
                "",
                "private",
            )
            assert "does not reduce bfloat16" in row["reason"]
        else:
            assert row["status"] == "ok"
            assert float(row["time_us_median"]) > 0
    assert all(case.n_wrong is None for case in drawn(stored(tmp_path / "results")).cases)


@pytest.mark.parametrize(
    "options",
    few(
        [
            "-d bfloat16 -o prod --in-place",
            "-d int64 -o prod --dispatch python",
            "-d float -o avg",
            "-d half -o min",
            "-d double -o sum",
            "-d int32 -o sum --in-place",
        ],
        1,
    ),
)
def test_types_and_operations_give_correct_results(tmp_path, options):
    """Types other than float must not give figures of a wrong result."""
    done = launch(tmp_path / "results", *options.split(), *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    result = stored(tmp_path / "results")
    assert result.run.world["dispatch"] == ("python" if "python" in options else "native")
    for case in result.cases:
        lacking = case.algorithm == "library" and ("avg" in options or "bfloat16" in options)
        chained_product = case.mode == "chained" and "prod" in options
        unread = (
            "in-place" in options
            and case.variant == "registered"
            and case.algorithm == "one_shot_pull"
        )
        assert case.status == ("unsupported" if lacking or chained_product or unread else "ok"), (
            case.reason
        )
        assert case.n_wrong == (0 if case.status == "ok" else None)


def test_a_run_has_every_listed_type_and_operation_in_its_own_table(tmp_path):
    """As nccl-tests prints a row for each; the library has no fp8, and says so once."""
    pairs = [("int8", "max"), ("int8", "avg"), ("float8_e4m3", "max"), ("float8_e4m3", "avg")]
    done = launch(
        tmp_path,
        "--format",
        "nccl-tests",
        "-d",
        "int8,f8e4m3",
        "-o",
        "max,avg",
        "-b",
        "16K",
        *QUICK,
        "--algorithm",
        "two_shot",
        "-a",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(
        "-a 1: a time is the slowest rank's, as with -a 3; the mean of -a 1 is lower."
    )
    rows = [line.split() for line in done.stdout.splitlines() if line and not line.startswith("#")]
    assert [row[:4] for row in rows] == [
        ["16384", "16384", "f8e4m3" if "float8" in name else name, redop] for name, redop in pairs
    ]
    assert all(row[8] == row[12] == "0" for row in rows)
    (path,) = tmp_path.glob("*.jsonl")
    result = read(path)
    assert {(case.datatype, case.redop) for case in result.cases} == set(pairs)
    measured = {
        (case.datatype, case.redop)
        for case in result.cases
        if case.algorithm == "library" and case.time_us
    }
    assert measured == {("int8", "max")}
    shown = show(result)
    assert "int8 max, isolated, out of place" in shown
    titles = re.findall(r"^(?:int8|float8_e4m3) (?:max|avg)$", shown, re.MULTILINE)
    assert titles == [" ".join(pair) for pair in pairs[1:]]
    assert len(re.findall("does not reduce float8_e4m3", shown)) == 1
    assert "allreduce: int8 max 16 KiB " in shown

    number = next(
        case.case
        for case in result.cases
        if (case.datatype, case.redop, case.algorithm) == ("float8_e4m3", "avg", "two_shot")
    )
    mark_wrong(path, number)
    shown = show(read(path))
    assert "WRONG RESULTS: two-shot 16 KiB isolated float8_e4m3 avg (12 elements)" in shown
    assert [row.split()[-1] for row in shown.splitlines() if row.startswith("  16 KiB ")] == [
        "0",
        "0",
        "0",
        "12",
    ]
    long = show(result, "--long")
    assert all(f" {' '.join(pair)} " in long for pair in pairs)


@pytest.mark.skipif(available_bytes() > 60e9, reason="the memory suffices")
def test_buffers_that_memory_cannot_hold_are_refused_before_they_are_touched(tmp_path):
    """The system would kill a rank."""
    done = launch(tmp_path / "results", "-b", "16G", "-e", "16G")
    sentence = (
        r"2 buffers of 17\.2 GB for each of 2 ranks are 68\.7 GB, and [0-9.]+ GB are free here"
    )
    assert_refused(done, 3, sentence, tmp_path)


def test_a_run_without_a_case_that_can_be_measured_is_refused(tmp_path):
    done = launch(tmp_path / "results", "--mode", "chained", "-o", "prod", "-b", "16K", "-e", "16K")
    assert_refused(
        done,
        3,
        "no case can be measured: a chain of products leaves every datatype's range",
        tmp_path,
    )


def test_one_rank_runs_and_reports_that_busbw_means_nothing(tmp_path):
    done = launch(tmp_path / "results", *QUICK, ranks=1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "note: busbw means nothing with one rank; start at least two" in done.stdout
    assert "GB/s" not in done.stdout
    assert "link: " not in done.stdout  # one rank has no peer for a ping-pong
    assert {case.n_wrong for case in drawn(stored(tmp_path / "results")).cases} == {0}


def test_ranks_on_two_hosts_run_what_spans_them(tmp_path):
    """A variable makes MPICH see two nodes on one machine. Ranks map memory only within a node; this is no error."""
    done = launch(tmp_path / "results", *QUICK, "--mode", "isolated", MPIR_CVAR_NUM_CLIQUES="2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No two ranks share a host. Between hosts MPICH" in done.stdout.replace("\n", " ")
    cases = drawn(stored(tmp_path / "results")).cases
    assert (
        {"library", "auto"}
        <= {case.algorithm for case in cases}
        <= {"library", "auto", "hierarchical", "hierarchical_whole"}
    )
    assert {(case.status, case.n_wrong) for case in cases} == {("ok", 0)}
    assert {case.chosen for case in cases if case.algorithm == "auto"} == {"flat"}


def test_the_seed_decides_the_order_and_n_counts_the_timed_iterations_of_a_case(tmp_path):
    """The same seed repeats a run's order, and another seed gives another order."""
    orders = []
    for number, (seed, iterations) in enumerate((("7", 31), ("7", 2), ("8", 2))):
        folder = tmp_path / str(number)
        options = "--seed", seed, "--mode", "isolated", *QUICK, "-n", str(iterations)
        assert launch(folder, *options).returncode == 0
        result = stored(folder)
        assert {case.time_us.n for case in result.cases if case.time_us} <= set(
            range(1, iterations + 1)
        )
        timed = Counter(block.case for block in result.blocks for _ in range(block.n))
        assert set(timed.values()) == {iterations}
        orders.append([block.case for block in result.blocks])
    assert orders[0][: len(orders[1])] == orders[1] != orders[2]
    assert len(orders[1]) >= 8


def test_a_kernel_that_adds_wrongly_is_detected(tmp_path):
    """A fast algorithm with wrong results must not win the table."""
    for layer in LAYERS:
        shutil.copytree(
            ROOT / layer, tmp_path / layer, ignore=shutil.ignore_patterns("__pycache__")
        )
    mutated = 0
    for kernel in [*tmp_path.glob("kernels/**/*.cu"), *tmp_path.glob("kernels/**/*.h")]:
        lines = kernel.read_text().splitlines(keepends=True)
        wrong = [line.replace("+", "-", 1) if "// the sum" in line else line for line in lines]
        mutated += wrong != lines
        kernel.write_text("".join(wrong))
    assert mutated == 1

    done = launch(tmp_path / "results", *QUICK, "--mode", "isolated", tree=tmp_path)
    place = r"block 0: rank 0 got (.+) \(0x[0-9a-f]{8}\) at offset 0, element 0; (.+) \(0x[0-9a-f]{8}\) expected"
    sentence = re.fullmatch(rf"wiretax: case \d+ \(\w+ 16384 B isolated\), {place}\n", done.stderr)
    assert done.returncode == 1
    assert sentence, done.stderr
    assert float(sentence[1]) != float(sentence[2])
    assert re.search(
        rf"WRONG RESULTS: .*\. First in case \d+, {place}\. ", " ".join(done.stdout.split())
    )
    row = next(line for line in done.stdout.splitlines() if line.startswith("  16 KiB "))
    assert re.fullmatch(r" *16 KiB +[\d.]+ +WRONG +\w+ +- +- +- +[1-9]\d*", row)
    for case in drawn(stored(tmp_path / "results")).cases:
        if case.algorithm == "library":
            assert (case.status, case.n_wrong) == ("ok", 0)
        else:
            assert case.status == "wrong"
            assert case.n_wrong
            assert (case.alg_bw_gb_s, case.bus_bw_gb_s) == (None, None)

    # The chained mode detects the error, too, even with 3 ranks and the eight bits of bfloat16.
    options = ["-b", "4K", "-e", "4K", "-d", "bfloat16", "--mode", "chained", "-n", "1"]
    done = launch(
        tmp_path / "chained",
        *options,
        "--algorithm",
        "ring,two_shot,one_shot_pull",
        ranks=3,
        tree=tmp_path,
    )
    assert done.returncode == 1
    (run,) = (tmp_path / "chained").glob("*.jsonl")
    assert {case.status for case in read(run).cases} == {"wrong"}


def test_a_full_disk_ends_the_run_with_a_message(tmp_path):
    """The other ranks must not wait forever for the rank that cannot write, and no traceback may hide the reason."""
    done = launch(tmp_path / "results", *QUICK, "--mode", "isolated", "-J", "/dev/full")
    assert done.returncode == 1
    assert re.search(r"wiretax: rank 0 failed: .*No space left on device", done.stderr)
    assert "Traceback" not in done.stderr
