"""Tests the figures that `import` reads from logs of every supported format and version."""

import json
from pathlib import Path

import pytest

from reports.imports.command import find_tests

pytestmark = pytest.mark.unit

HEAD = """# nccl-tests version 2.17.8 nccl-headers=22902 nccl-library=22902
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 8 maxBytes 16 step: 2(factor) warmup iters: 5 iters: 20 validation: 1
#
# Using devices
#  Rank  0 Group  0 Pid 204199 on  nid005471 device  0 [0009:01:00] NVIDIA GH200 120GB
#  Rank  1 Group  0 Pid 204200 on  nid005471 device  1 [0019:01:00] NVIDIA GH200 120GB
#
"""
PLACES = (
    "#                                                              out-of-place               "
    "        in-place\n"
)
NAMES = (
    "#       size         count      type   redop    root     time   algbw   busbw #wrong     t"
    "ime   algbw   busbw #wrong\n"
)
UNITS = (
    "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            ("
    "us)  (GB/s)  (GB/s)\n"
)
ROW_8 = (
    "           8             2     float     sum      -1    17.93    0.10    0.20      0    17"
    ".72    0.30    0.40      0\n"
)
ROW_16 = (
    "          16             4     float     sum      -1    17.65    0.50    0.60      0    17"
    ".63    0.70    0.80      0\n"
)
FOOTER = "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 0.5\n#\n"
TABLE = PLACES + NAMES + UNITS
WHOLE = HEAD + TABLE + ROW_8 + ROW_16 + FOOTER
CRASH = " .. host0 pid 4711: Test failure common.cu:401\n"
EARLY_HEAD = "#   Device  0 ->  0 [0x0a] GeForce GTX TITAN X\n"
EARLY_NAMES = (
    "#      bytes             N    type      op     time  algbw  busbw      res     time  algbw"
    "  busbw      res\n"
)
EARLY_ROW = (
    "    10000000       2500000   float     sum    1.618   6.18   9.27    5e-07    1.622   6.17"
    "   9.25    5e-07\n"
)


def read_tests(text):
    return find_tests(Path("log"), text.encode())


def only(text):
    (test,) = read_tests(text)
    return test


def halves(test):
    """Size, in_place, time and busbw of each half of a row (out-of-place, in-place)."""
    return [
        (case.size_bytes, case.in_place, case.time_us.mean, case.bus_bw_gb_s) for case in test.cases
    ]


BOTH = [
    (8, False, 17.93, 0.2),
    (8, True, 17.72, 0.4),
    (16, False, 17.65, 0.6),
    (16, True, 17.63, 0.8),
]


def test_a_complete_log_is_read():
    test = only(WHOLE)
    assert halves(test) == BOTH
    assert (test.collective, test.world_size, test.status) == ("all_reduce", 2, "complete")
    assert test.library == "NCCL 2.29.2"
    assert test.gpus == {0: "NVIDIA GH200 120GB", 1: "NVIDIA GH200 120GB"}
    assert test.hosts == 1
    assert only(WHOLE.replace("204200 on  nid005471", "204200 on  nid005472")).hosts == 2
    assert only(TABLE + ROW_8 + FOOTER).hosts is None
    assert {(case.datatype, case.redop, case.root, case.n_wrong) for case in test.cases} == {
        ("float32", "sum", -1, 0)
    }


LABELS = """\
[1,0]<stdout>:
 0:
[0]
>
&gt;
2025-02-07T14:12:36.123456789Z
[2025-02-07 14:12:36,123]
[pod/nccl-launcher-x7/main]
14:12:36
[rank0]:
node-07:
"""


@pytest.mark.parametrize(
    "label", [*(f"{label} " for label in LABELS.splitlines()), "\t", "\x1b[32m", "\xa0\xa0"]
)
def test_prefixes_of_lines_change_no_figures(label):
    """Launchers, schedulers, pods and chats put labels before each line."""
    assert halves(only("".join(label + line + "\n" for line in WHOLE.splitlines()))) == BOTH


def test_a_message_in_the_middle_of_a_row_is_skipped():
    """With NCCL_DEBUG=INFO, messages split the first row of nearly every log."""
    info = "nid005471:204199:204305 [0] NCCL INFO Connected all rings\n"
    warn = (
        "\n[2025-02-07 14:12:36] nid005471:204199:204305 [0] misc/ibvwrap.cc:63 NCCL WARN Call "
        "to ibv failed\n"
    )
    torn = ROW_8[:52] + info + info + ROW_8[52:84] + warn + ROW_8[84:]
    assert halves(only(HEAD + TABLE + info + torn + info + ROW_16 + FOOTER)) == BOTH


def test_the_columns_show_which_half_is_blank():
    """Otherwise in-place figures would be shown as out-of-place figures."""
    in_place = ROW_8[:52] + " " * 32 + ROW_8[84:]
    out_of_place = ROW_16[:84] + "\n"
    assert halves(only(HEAD + TABLE + in_place + out_of_place)) == [BOTH[1], BOTH[2]]
    moved = "".join(line[9:] + "\n" for line in (PLACES + NAMES + in_place).splitlines())
    assert halves(only(moved)) == [BOTH[1]]


def test_the_heading_names_the_columns():
    """Logs of 2019 to 2021 have no root, a blank or missing redop, and a maximum error instead of
    #wrong."""
    names = NAMES.replace("    root", "").replace("#wrong", " error")
    blank = (
        "           8             2   float           17.93    0.10    0.20  1e-07    17.72    "
        "0.30    0.40    N/A\n"
    )
    test = only(names + UNITS + blank + FOOTER)
    assert halves(test) == BOTH[:2]
    assert [(case.redop, case.n_wrong, case.max_error) for case in test.cases] == [
        (None, None, 1e-7),
        (None, None, None),
    ]


def test_algbw_that_includes_the_factor_of_busbw_is_recomputed():
    """Otherwise all-gathers of 2019 would look slower than today's on the same machine."""
    row = " 8589934560 178956970 float 106773 73.75 73.75 1e+00 70089 122.56 112.34 1e+00\n"
    names = NAMES.replace("    root", "").replace("   redop", "").replace("#wrong", " error")
    old, new = only(f"$ ./build/all_gather_perf -g 12\n{names}{UNITS}{row}{FOOTER}").cases
    assert (round(old.alg_bw_gb_s, 2), old.reported_alg_bw_gb_s) == (80.45, 73.75)
    assert (new.alg_bw_gb_s, new.reported_alg_bw_gb_s) == (122.56, None)


def test_times_in_milliseconds_are_converted():
    """NCCL 1.x prints milliseconds."""
    alone = only(
        "$ ./build/test/single/all_reduce_test 10000000\n" + EARLY_HEAD + EARLY_NAMES + EARLY_ROW
    )
    assert [case.time_us.mean for case in alone.cases] == [1618, 1622]
    assert (alone.format, alone.status, alone.collective, alone.world_size) == (
        "NCCL 1.x",
        "complete",
        "all_reduce",
        1,
    )


def test_large_small_and_missing_figures_are_read():
    """Logs have counts such as 1.04858e+06 and times such as 1.7e+07."""
    row = (
        " 17179869184    2147483648    double     sum      -1  1.7e+07    1.04    1.04 1.04858e"
        "+06  1.6e+07    nan    inf    N/A\n"
    )
    wrong, other = only(
        HEAD + TABLE + row + "# Out of bounds values : 1 FAILED\n# Avg bus bandwidth    : 1\n"
    ).cases
    assert (wrong.status, wrong.n_wrong, wrong.reported_bus_bw_gb_s, wrong.bus_bw_gb_s) == (
        "wrong",
        1048580,
        1.04,
        None,
    )
    assert wrong.time_us.mean == 1.7e7
    assert (other.status, other.alg_bw_gb_s, other.bus_bw_gb_s) == ("ok", None, None)


START = HEAD + TABLE
STATUSES = [
    (HEAD, "incomplete", 0),
    (START + ROW_8, "incomplete", 1),
    (START + "host0: Test NCCL failure common.cu:401 'unhandled system error'\n", "failed", 0),
    (WHOLE.replace("0 OK", "2 FAILED"), "failed", 2),
    (WHOLE.replace(": 0.5", ": 0.5  FAILED"), "failed", 2),
    (ROW_8 + ROW_16 + FOOTER, "incomplete", 2),
    (TABLE + ROW_8 + FOOTER, "complete", 1),
    (START + FOOTER, "incomplete", 0),
    (START + ROW_8 + ROW_16[:50] + "\n" + CRASH + CRASH, "failed", 1),
    (START + ROW_8 + CRASH, "failed", 1),
    (START + ROW_8[:-2] + "5\n" + FOOTER, "failed", 1),
    (EARLY_NAMES + EARLY_ROW, "incomplete", 1),
    (EARLY_HEAD + EARLY_NAMES + EARLY_ROW, "complete", 1),
]


@pytest.mark.parametrize(("text", "status", "rows"), STATUSES)
def test_the_status_shows_how_a_test_ended(text, status, rows):
    """A run that hung or was killed must not look like a short run."""
    test = only(text)
    assert (test.status, len(test.cases)) == (status, 2 * rows)


def test_a_log_may_have_several_tests_with_text_between():
    """Otherwise figures of one collective would be shown as figures of another collective."""
    bad = "# Collective test starting: sendrecv_perf\n" + HEAD.partition("all_reduce_perf\n")[2]
    tests = read_tests(
        WHOLE
        + " 12 34 56\n+ NCCL_ALGO=Ring mpirun -np 2 ./alltoall_perf_mpi -g 1\n"
        + bad
        + TABLE
        + WHOLE
    )
    assert [(test.collective, test.status, len(test.cases)) for test in tests] == [
        ("all_reduce", "complete", 4),
        ("sendrecv", "incomplete", 0),
        ("all_reduce", "complete", 4),
    ]


def test_two_runs_in_one_output_are_incomplete():
    """Two processes without MPI each run the whole test: their rows must not look like one run."""
    both = "".join(2 * line for line in (START + ROW_8 + ROW_16).splitlines(keepends=True))
    tests = read_tests(both + FOOTER + ROW_16 + FOOTER)
    assert [(test.status, len(test.cases)) for test in tests] == [
        ("incomplete", 8),
        ("incomplete", 2),
    ]
    # As of `srun -l`.
    jobs = "".join(f" {rank}: {line}\n" for line in WHOLE.splitlines() for rank in range(3))
    tests = read_tests(jobs)
    assert {test.status for test in tests} == {"incomplete"}
    assert sum(len(test.cases) for test in tests) == 12


def test_a_rank_alone_is_suspect():
    assert all(case.suspect for case in only(HEAD.replace("#  Rank  1", "#") + TABLE + ROW_8).cases)


def test_mscclpp_prints_in_place_first():
    names = (
        "#                                    in-place                       out-of-place\n"
        "#       size         count     time   algbw   busbw  #wrong     time   algbw   busbw"
        "  #wrong\n"
        "#        (B)    (elements)     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)\n"
    )
    first = "     6291456       1572864    76.21   82.55  144.46      0\n"
    second = (
        "  1073741824      33554432                                    7186.2  149.42  130.74  "
        "    0\n"
    )
    end = "\n# Out of bounds values : 0 OK\n#\n"
    in_place, out_of_place = read_tests(
        "# Initializing MSCCL++\n#\n"
        + names
        + first
        + end
        + "# Initializing MSCCL++\n"
        + names
        + second
        + end
    )
    assert halves(in_place) == [(6291456, True, 76.21, 144.46)]
    assert halves(out_of_place) == [(1073741824, False, 7186.2, 130.74)]
    assert (in_place.format, in_place.status) == ("mscclpp-test", "complete")


def test_osu_logs_are_read():
    """OSU tables differ by test: bandwidth or time, with or without a size, with or without the
    range over ranks."""
    full = (
        "# OSU MPI Allreduce Latency Test v7.1\n"
        "# Size  Avg Latency(us)  Min Latency(us)  "
        "Max Latency(us)  Iterations\n4   34.31   33.27   35.07   1000\n"
    )
    (case,) = only(full).cases
    assert (case.time_us.mean, case.time_us.n) == (34.31, 1000)
    assert case.over_ranks_us["max"] == 35.07
    barrier, bandwidth, overlapped = read_tests(
        "mpirun -np 16 osu_barrier\n# OSU MPI Barrier Latency Test v5.9\n# Avg Latency(us)\n"
        "      12.5\n"
        "# OSU MPI-CUDA Bi-Directional Bandwidth Test v5.9\n"
        "# Send Buffer on DEVICE (D) and Receive Buffer on "
        "DEVICE (D)\n# Size      Bandwidth (MB/s)\n131072    14848.95\n"
        "# OSU MPI Non-blocking Allreduce Latency Test v7.5\n"
        "# Size Overall(us) Compute(us) Pure Comm.(us) "
        "Overlap(%)\n4 10.5 5.0 6.0 90.1\n"
    )
    assert [test.collective for test in (barrier, bandwidth, overlapped)] == [
        "barrier",
        "osu_bibw",
        "osu_iallreduce",
    ]
    assert (barrier.world_size, barrier.status) == (16, "complete")
    assert (barrier.cases[0].size_bytes, barrier.cases[0].time_us.mean) == (None, 12.5)
    assert (bandwidth.cases[0].time_us, bandwidth.cases[0].alg_bw_gb_s) == (None, 14.84895)
    twice = read_tests("".join(2 * line for line in full.splitlines(keepends=True)))
    assert {test.status for test in twice} == {"incomplete"}


@pytest.mark.parametrize(
    "crash",
    [
        "Abort(604045839) on node 0 (rank 0 in comm 0): Fatal error",
        "srun: error: n1: tasks 0-3: Exited with exit code 1",
        "run.sh: line 3: 77 Bus error",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0",
        "prterun detected that one or more processes exited with non-zero status, thus causing",
    ],
)
def test_an_osu_log_with_a_crash_is_incomplete(crash):
    """OSU prints no footer, so only the launcher says that sizes may be missing."""
    osu = "# OSU MPI Allreduce Latency Test v7.3\n# Size       Avg Latency(us)\n4   34.31\n"
    assert (only(osu).status, only(osu + crash + "\n").status) == ("complete", "incomplete")


def test_the_validation_of_osu_is_read():
    head = "# OSU MPI Allreduce Latency Test v7.4\n# Size  Avg Latency(us)  Validation\n"
    test = only(head + "4  34.31  Pass\n8  35.02  Fail\n")
    assert [case.status for case in test.cases] == ["ok", "wrong"]
    assert (test.status, only(head + "4  34.31  Pass\n").status) == ("failed", "complete")


def test_imb_logs_are_read():
    """IMB ends with a line. Its bandwidth, which repeats the time, is left out."""
    head = (
        "# Intel(R) MPI Benchmarks 4.1, MPI-1 part\n"
        "# Benchmarking PingPong\n# #processes = 4\n#---\n"
        "  #bytes #repetitions  t[usec]  Mbytes/sec\n  4194304  10  36914.00  108.36\n"
    )
    whole = only(head + "# All processes entering MPI_Finalize\n")
    (case,) = whole.cases
    assert (whole.world_size, case.size_bytes, case.time_us.mean) == (4, 4194304, 36914)
    assert (case.alg_bw_gb_s, case.time_us.n) == (None, 10)
    assert (whole.status, only(head).status) == ("complete", "incomplete")


HALF = {"time": 17.93, "alg_bw": 0.1, "bus_bw": 0.2, "nwrong": 0}
CASE = {"size": 8, "count": 2, "type": "float", "redop": "sum", "root": "-1"}
DEVICES = [
    {"rank": rank, "group": 0, "pid": 4711, "hostname": host, "device_info": "NVIDIA H200"}
    for rank, host in ((0, "host0"), (4, "host1"))
]
REPORT = {
    "version": 3,
    "args": ["/home/x/all_reduce_perf", "-t", "2", "-g", "2"],
    "env": ["HOSTNAME=host0"],
    "nccl_version": 22902,
    "config": {"nthreads": 2, "ngpus": 2, "devices": DEVICES},
    "results": [
        CASE | {"out_of_place": None, "in_place": HALF},
        CASE
        | {
            "size": 16,
            "out_of_place": HALF | {"bus_bw": "nan"},
            "in_place": HALF | {"nwrong": None},
        },
    ],
    "out_of_bounds": {"count": 0, "okay": "true"},
    "average_bus_bandwidth": {"bandwidth": 0.2, "okay": "unchecked"},
}


def test_the_json_report_of_nccl_tests_is_read():
    report, whole = REPORT, json.dumps(REPORT)
    test = only(whole)
    assert (test.collective, test.world_size, test.status) == ("all_reduce", 8, "complete")
    assert test.hosts == 2
    assert halves(test) == [(8, True, 17.93, 0.2), (16, False, 17.93, None), (16, True, 17.93, 0.2)]
    for changed, status in (
        (report | {"out_of_bounds": {"count": 2, "okay": "false"}}, "failed"),
        (report | {"average_bus_bandwidth": None}, "incomplete"),
    ):
        assert only(json.dumps(changed)).status == status
    assert only(whole.replace('"nwrong": 0', '"nwrong": 3', 1)).status == "failed"
    both = read_tests(f"[{whole},{whole}]")
    assert [(test.status, len(test.cases)) for test in both] == [("complete", 3)] * 2
