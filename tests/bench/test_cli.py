"""The command `bench.allreduce` with real ranks: exit status, output and stored files."""

import re
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from bench.harness.options import RunOptions
from bench.harness.session import reserve_run
from collectives.registry import ALGORITHMS, by_default
from kernels.devices.shared_memory import available_bytes
from reports.__main__ import main
from reports.tables.export import as_csv
from tests.bench.launches import launch, run, stored
from tests.fake_gpu import environment
from tests.launch import mpirun
from wiretax.record.frame import case_rows
from wiretax.record.result import ResultError

# What two ranks of a CPU measure by default: as the algorithms themselves say, without an edit here
# for a new one.
TWO_ON_CPU: Any = SimpleNamespace(
    device=SimpleNamespace(is_cpu=True, name="cpu"),
    ranks=2,
    communicator=SimpleNamespace(hosts=1),
)
COPIED: Any = SimpleNamespace(variant="copied", in_place=False)
OURS = {
    each.name
    for each in by_default("all_reduce", TWO_ON_CPU)
    if not each.is_library and not each.refuses(TWO_ON_CPU, COPIED)
}
QUICK = "-e 16K -n 2 --max-time 80"  # the number of iterations ends a run, not the time
ISOLATED = f"{QUICK} --mode isolated"


def show(capsys, result, *options):
    """What `python -m reports show` prints for a run."""
    capsys.readouterr()
    assert main(["show", str(result.path), *map(str, options)]) == 0
    return capsys.readouterr().out


# -- what is refused


def assert_refused(done, status, sentence, folder):
    """Check the exit status, that one rank printed one line on standard error, and that no file was
    written."""
    assert (done.returncode, done.stdout) == (status, "")
    assert re.fullmatch(rf"bench\.allreduce: [^\n]*{sentence}[^\n]*\n", done.stderr), done.stderr
    assert not [path for path in folder.rglob("*") if path.is_file() or path.suffix]


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        ("-b 16Q", 2, "'16Q' is not a size"),  # harness/test_command.py has all bad options
        ("--device cuda", 3, "no GPU driver is here"),
        ("-G 1", 3, "-G: the cpu device has no graphs"),
        ("--mode chained -o prod -b 16K -e 16K", 3, "a chain of products leaves every datatype's"),
    ],
)
def test_what_this_machine_cannot_run_is_refused_in_one_line(tmp_path, options, status, sentence):
    """A typing error must not give a traceback from each rank, nor the CPU's figures as a GPU's."""
    assert_refused(launch(tmp_path / "results", options), status, sentence, tmp_path)


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("", "name is empty: name a folder"),
        (__file__, rf"{re.escape(__file__)} cannot be written: Not a directory"),
        (
            f"{__file__}/results",
            "results cannot be written: .* is a file, not a folder",
        ),  # also for root
    ],
)
def test_a_folder_that_cannot_be_is_refused_at_once(folder, sentence):
    """A traceback of rank 0 let the others wait for it for half a minute."""
    with pytest.raises(ResultError, match=sentence):
        reserve_run(RunOptions("allreduce", timeout_s=60.0, out=folder))


def test_runs_of_one_second_are_named_in_their_order(tmp_path):
    """`bits` read the older of two runs as the newest."""
    names = [reserve_run(RunOptions("bits", out=str(tmp_path))) for _ in range(20)]
    assert names == sorted(names)


def test_without_mpirun_the_error_names_the_command_for_two_ranks(tmp_path):
    """A new user first tries `python -m bench.allreduce`."""
    done = launch(tmp_path / "results", ranks=None)
    assert_refused(done, 2, "mpirun -n 2 python -m bench.allreduce", tmp_path)


@pytest.mark.skipif(
    find_spec("ziglang") is not None, reason="the ziglang wheel serves as a compiler here"
)
def test_a_python_without_an_mpi_library_is_told_what_to_install():
    done = mpirun(2, "-m", "bench.allreduce", MPI4PY_LIBMPI="/nonexistent/libmpi.so")
    assert (done.returncode, done.stdout) == (3, "")
    (refusal,) = [line for line in done.stderr.splitlines() if not line.startswith("[allreduce ")]
    assert "cannot load or start an MPI library" in refusal
    assert "pip install mpich" in refusal


def test_a_missing_compiler_is_reported_with_the_names_searched_for(tmp_path):
    """The user must learn which compiler to install."""
    (tmp_path / "bin").mkdir()
    cache = str(tmp_path / "cache")
    nowhere = {"PATH": str(tmp_path / "bin"), "CXX": "", "XDG_CACHE_HOME": cache}
    looked_for = re.escape("looked for $CXX, c++, g++, clang++ and the ziglang wheel")
    sentence = f"no C.. compiler was found: {looked_for}"
    assert_refused(launch(tmp_path / "results", **nowhere), 3, sentence, tmp_path)


@pytest.mark.skipif(available_bytes() > 60e9, reason="the memory suffices")
def test_buffers_that_memory_cannot_hold_are_refused_before_they_are_touched(tmp_path):
    """The system would kill a rank."""
    sentence = (
        r"2 buffers of 17\.2 GB for each of 2 ranks are 68\.7 GB, and [0-9.]+ GB are free here"
    )
    assert_refused(launch(tmp_path / "results", "-b 16G -e 16G"), 3, sentence, tmp_path)


# -- a run as a new user starts it


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """A default run, shortened: what it prints and stores."""
    return run(tmp_path_factory.mktemp("default"), "-e 32K -n 3 --max-time 60 --samples")


def test_every_algorithm_is_measured_and_correct_at_every_size(default_run):
    _, result = default_run
    assert result.complete
    isolated = {
        (case.algorithm, case.size_bytes) for case in result.cases if case.mode == "isolated"
    }
    assert isolated == {(name, size) for name in ("library", *OURS) for size in (16384, 32768)}
    for case in result.cases:
        assert (case.status, case.n_wrong, case.in_place) == ("ok", 0, False)
        rate = case.size_bytes / case.time_us.median / 1e3
        assert case.bus_bw_gb_s == pytest.approx(rate)  # 2 (n-1)/n is 1
        assert case.bound_us > 0
    chosen = [case.chosen for case in result.cases if case.algorithm == "auto"]
    assert chosen
    assert {name.partition("+")[0] for name in chosen} <= set(OURS)


def test_the_table_fits_a_terminal_and_show_prints_all_of_it(default_run, capsys):
    """`reports show` also prints the notes and tables for which the 40 lines of a run had no
    room."""
    printed, result = default_run
    *table, run_line = printed.splitlines(keepends=True)
    assert len(table) <= 38
    assert run_line == f"run: {result.path}\n"
    assert max(map(len, table)) <= 81
    rows = [line for line in table if re.match(r" *(16|32) KiB +\d", line)]
    assert len(rows) == 4  # two sizes, isolated and chained
    assert all(row.endswith(" 0\n") for row in rows)
    shown = show(capsys, result).splitlines(keepends=True)
    missing = [line for line in table if line not in shown]
    assert all(line.startswith("More notes and tables: ") for line in missing), missing


# -- how a run ends


def test_a_run_whose_time_ends_before_its_first_case_says_so(tmp_path):
    done = launch(tmp_path / "results", "-e 16K --max-time 0.1")
    sentence = (
        "wiretax: time ran out before a case was measured: what was compiled is kept, so run it "
        "again, or give it more --max-time\n"
    )
    assert done.returncode == 3
    assert re.fullmatch(sentence, done.stderr), done.stderr
    assert not re.search("^ *16 KiB", done.stdout, re.M), "an empty table"


NO_TIME_TO_COMPILE = """
import runpy
import bench.harness.suite as suite
suite.COMPILE_SHARE = 0.0
runpy.run_module("bench.allreduce", run_name="__main__")
"""


def test_a_run_with_too_much_to_compile_measures_what_is_compiled_in_time(tmp_path):
    """Here the time for compiling is over after the first case."""
    options = "-e 16K -n 2 --max-time 80 --mode isolated --algorithm ring,two_shot"
    _, result = run(tmp_path, options, program=NO_TIME_TO_COMPILE)
    assert result.end
    assert result.end.status == "incomplete"
    assert result.end.reason == "time ran out before all cases were compiled"
    assert result.end.note == "not measured: two_shot (time ran out)"
    assert {case.reason for case in result.cases} == {None}


def test_a_run_of_all_types_measures_whole_comparisons_and_names_what_it_leaves_out(tmp_path):
    """It compiled 1407 cases, and measured none."""
    out = tmp_path / "results"
    options = "-d all -o all --sizes 16K,32K --mode isolated --algorithm library,ring,two_shot"
    done = launch(out, options, "--max-time 6")
    result = stored(out)
    assert result.end
    assert (done.returncode, result.end.status) == (0, "incomplete"), done.stderr
    said = (
        r"--max-time allows (\d+) of 100 comparisons \(a size of a type\): left out are those of "
    )
    (allowed,) = re.findall(said, done.stderr)
    assert 1 <= int(allowed) < 100
    assert re.search(said, str(result.end.reason))
    timed = {(case.datatype, case.redop, case.size_bytes) for case in result.cases if case.time_us}
    assert timed
    for case in result.cases:
        if (case.datatype, case.redop, case.size_bytes) in timed:
            assert case.time_us or case.status == "unsupported", case


# -- options


def test_help_and_list_print_once_for_all_ranks(tmp_path):
    """Only one of the two ranks prints."""
    helped = launch(tmp_path / "results", "--help")
    assert (helped.returncode, helped.stderr, helped.stdout.count("usage:")) == (0, "", 1)
    listed = launch(tmp_path / "results", "--list -d bfloat16")
    assert (listed.returncode, listed.stderr) == (0, "")
    about = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert about.keys() == {"library", *ALGORITHMS["all_reduce"]}
    assert {"one_shot_push", "one_shot_pull", "two_shot", "two_shot_direct", "ring", "auto"} <= OURS
    assert not OURS & {"two_shot_push", "one_shot_ll", "one_shot_multimem", "auto_stable", "flat"}
    assert not {name for name in OURS if "not here: " in about[name]}
    assert "not here: " in about["one_shot_multimem"]
    assert "does not reduce bfloat16" in about["library"]
    assert not list(tmp_path.iterdir())


def test_the_list_asks_each_algorithm_at_a_size_that_it_takes(tmp_path):
    """At 512 B copy engines were "not here: it pays from 1 MiB on", whatever the GPU lacks."""
    listed = launch(tmp_path / "results", "--list", **environment(vendor="hip"))
    about = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert "not here" not in about["two_shot_copy_engine"]
    lacks = "not here: HIP's streams await values in signal memory alone"
    assert lacks in about["two_shot_copy_engine_memops"]
    assert "not here" not in about["one_shot_ll"]


def test_csv_without_checks_and_types_that_the_library_lacks(tmp_path, capsys):
    """An unchecked case shows no 0, which would look like a check. A type that MPI lacks must not
    stop the run, nor a size that the probe of the link cannot time, such as 2 B."""
    _, result = run(tmp_path, ISOLATED, "-c 0 -d bfloat16 -o avg --sizes 2,1030,16K,2")
    assert {case.algorithm for case in result.cases} == {"library", *OURS}
    assert {case.size_bytes for case in result.cases} == {16384, 1030, 2}
    for case in result.cases:
        assert case.n_wrong is None
        assert case.status == ("unsupported" if case.algorithm == "library" else "ok")
    assert "n_wrong" not in as_csv(case_rows(result))
    assert "results were not checked: -c 0" in show(capsys, result)
    assert [*tmp_path.iterdir()] == [result.path], "without --samples it stores none"


def test_a_run_has_every_listed_type_and_operation_in_its_own_table(tmp_path, capsys):
    """As nccl-tests prints a row for each."""
    pairs = [("int8", "max"), ("int8", "avg"), ("float8_e4m3", "max"), ("float8_e4m3", "avg")]
    options = "-d int8,f8e4m3 -o max,avg -b 16K --algorithm two_shot"
    _, result = run(tmp_path, options, QUICK)
    assert {(case.datatype, case.redop, case.n_wrong) for case in result.cases} == {
        (*pair, 0) for pair in pairs
    }
    titles = re.findall(r"^(?:int8|float8_e4m3) (?:max|avg)$", show(capsys, result), re.MULTILINE)
    assert titles == [" ".join(pair) for pair in pairs[1:]]


# -- ranks


def test_one_rank_runs_and_reports_that_busbw_means_nothing(tmp_path):
    printed, result = run(tmp_path, QUICK, ranks=1)
    assert "note: busbw means nothing with one rank; start at least two" in printed
    assert "GB/s" not in printed
    assert "link: " not in printed  # one rank has no peer for a ping-pong
    assert {case.n_wrong for case in result.cases} == {0}


# -- wrong results
