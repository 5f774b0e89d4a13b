"""Tests the figures that `import` reads from logs of every supported format and version."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.imports.runs import find_tests, run_of

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
    "           8             2     float     sum      -1    17.93    0.00    0.20      0    17"
    ".72    0.00    0.40      0\n"
)
ROW_16 = (
    "          16             4     float     sum      -1    17.65    0.00    0.60      0    17"
    ".63    0.00    0.80      0\n"
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


def cases_of(tests) -> Any:
    """The cases of the run of these tests."""
    return run_of(tests, "r", "f", "m").cases


def halves(test):
    """Size, in_place and time of each half of a row (out-of-place, in-place)."""
    return [
        (row.case["size_bytes"], row.case.get("in_place"), row.block.time_us) for row in test.rows
    ]


BOTH = [(8, False, 17.93), (8, True, 17.72), (16, False, 17.65), (16, True, 17.63)]


def test_a_complete_log_is_read():
    test = only(WHOLE)
    assert halves(test) == BOTH
    assert (test.collective, test.world_size, test.status) == ("all_reduce", 2, "complete")
    assert test.library == "NCCL 2.29.2"
    assert test.gpus == {0: "NVIDIA GH200 120GB", 1: "NVIDIA GH200 120GB"}
    assert test.hosts == 1
    assert only(WHOLE.replace("204200 on  nid005471", "204200 on  nid005472")).hosts == 2
    assert only(TABLE + ROW_8 + FOOTER).hosts is None
    for row in test.rows:
        words = row.case["datatype"], row.case["redop"], row.block.n_wrong
        assert words == ("float32", "sum", 0)


# rccl-tests -A as a user of ROCm 7.0 posted it; the head is that of src/util.cu in rocm-systems.
ALGORITHMS = (
    "#       size         count      type   redop    root     time   algbw   busbw #wrong     t"
    "ime   algbw   busbw #wrong     algo     proto   nchannels\n"
)
PLANNED = (
    "     1048576        262144     float     sum      -1    76.26   13.75   25.78      0    76"
    ".43   13.72   25.72      0  Direct    SIMPLE          32\n"
    "     2097152        524288     float     sum      -1    87.02   24.10   45.18      0    86"
    ".52   24.24   45.45      0    RING    SIMPLE          32\n"
)


def test_the_algorithms_that_rccl_tests_prints_are_read():
    banner = "# rccl-tests version 2.17.0-1a2b3c4 rccl-headers=22707 rccl-library=22707"
    head = banner + HEAD[HEAD.index("\n") :]
    test = only(head + PLACES + ALGORITHMS + UNITS + PLANNED + FOOTER)
    assert (test.format, test.library, test.unread) == ("rccl-tests", "RCCL 2.27.7", [])
    assert {row.case["size_bytes"]: row.case["chosen"] for row in test.rows} == {
        1 << 20: "Direct SIMPLE, at most 32 channels",
        2 << 20: "RING SIMPLE, at most 32 channels",
    }
    assert [row.block.time_us for row in test.rows] == [76.26, 76.43, 87.02, 86.52]


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


@pytest.mark.parametrize("separator", [",", ";", " | "])
def test_a_table_with_other_separators_is_read(separator):
    """Spreadsheets and web pages make such a table; a blank redop must not shift the columns."""

    def turned(line):
        words = line.strip("#\n").replace("sum", "_").split("  ")
        return separator.join(word.strip(" _") for word in words if word.strip()) + "\n"

    text = "".join(map(turned, (NAMES.replace("#wrong", " wrong"), ROW_8, ROW_16)))
    test = only(text.replace(".", ",") if separator == ";" else text)
    assert (halves(test), test.status) == (BOTH, "complete")  # it never had a footer
    assert only(HEAD + TABLE).status == "incomplete"


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
    """Logs of 2019 to 2021 have no root, a blank or missing redop, a maximum error instead of
    #wrong, and an algbw without a rank's own part: of two ranks' all-gather a half."""
    names = NAMES.replace("    root", "").replace("#wrong", " error")
    blank = (
        "      200000         50000   float           17.93    5.58    5.58  1e-07    17.72    "
        "5.64    5.64    N/A\n"
    )
    test = only(names + UNITS + blank + FOOTER)
    assert halves(test) == [(200_000, False, 17.93), (200_000, True, 17.72)]
    assert [(row.case["redop"], row.block.n_wrong) for row in test.rows] == [("", None)] * 2


def test_times_in_milliseconds_are_converted():
    """NCCL 1.x prints milliseconds, and a heading may name them."""
    for head in START.replace("(us)", "(ms)"), HEAD + NAMES.replace("time ", "time(ms)"):
        assert halves(only(head + ROW_8))[0] == (8, False, 17930)
    assert halves(only(IMB_GATHER.replace("usec", "msec"))) == [(1024, None, 3000)]
    alone = only(
        "$ ./build/test/single/all_reduce_test 10000000\n" + EARLY_HEAD + EARLY_NAMES + EARLY_ROW
    )
    assert [row.block.time_us for row in alone.rows] == [1618, 1622]
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
    ).rows
    assert (wrong.block.n_wrong, wrong.block.time_us) == (1048580, 1.7e7)
    assert other.block.n_wrong is None


START = HEAD + TABLE
STATUSES = [
    (HEAD, "incomplete", 0),
    (START + "host0: Test NCCL failure common.cu:401 'unhandled system error'\n", "failed", 0),
    (WHOLE.replace("0 OK", "2 FAILED"), "failed", 2),
    (WHOLE.replace(": 0.5", ": 0.5  FAILED"), "failed", 2),
    (ROW_8 + ROW_16 + FOOTER, "incomplete", 2),
    (START + ROW_8[:-2] + "5\n" + FOOTER, "failed", 1),
    (EARLY_HEAD + EARLY_NAMES + EARLY_ROW, "complete", 1),
    # A cut row must not look like a whole one, and its root must not be read as a time.
    (START + ROW_8 + "          16\n" + CRASH, "failed", 1),
    (START + ROW_8.replace("     -1", "      0")[:114], "incomplete", 0),
    (EARLY_HEAD + EARLY_NAMES + EARLY_ROW + EARLY_ROW[:13], "incomplete", 1),
]


@pytest.mark.parametrize(("text", "status", "rows"), STATUSES)
def test_the_status_shows_how_a_test_ended(text, status, rows):
    """A run that hung or was killed must not look like a short run."""
    test = only(text)
    assert (test.status, len(test.rows)) == (status, 2 * rows)
    assert all(row.block.time_us for row in test.rows)


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
    assert [(test.collective, test.status, len(test.rows)) for test in tests] == [
        ("all_reduce", "complete", 4),
        ("sendrecv", "incomplete", 0),
        ("all_reduce", "complete", 4),
    ]


def test_two_runs_in_one_output_are_incomplete():
    """Two processes without MPI each run the whole test: their rows must not look like one run."""
    both = "".join(2 * line for line in (START + ROW_8 + ROW_16).splitlines(keepends=True))
    tests = read_tests(both + FOOTER + ROW_16 + FOOTER)
    assert [(test.status, len(test.rows)) for test in tests] == [
        ("incomplete", 8),
        ("incomplete", 2),
    ]


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
    assert halves(in_place) == [(6291456, True, 76.21)]
    assert halves(out_of_place) == [(1073741824, False, 7186.2)]
    assert (in_place.format, in_place.status) == ("mscclpp-test", "complete")


def test_osu_logs_are_read():
    """OSU tables differ by test: bandwidth or time, with or without a size, with or without the
    range over ranks."""
    full = (
        "# OSU MPI Allreduce Latency Test v7.1\n"
        "# Size  Avg Latency(us)  Min Latency(us)  "
        "Max Latency(us)  Iterations\n4   34.31   33.27   35.07   1000\n"
    )
    block = only(full).rows[0].block
    assert (block.time_us, block.mean_us, block.n) == (35.07, 34.31, 1000)
    barrier, bandwidth, overlapped = read_tests(
        "# OSU MPI Barrier Latency Test v5.9\n# Avg Latency(us)\n"
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
        "osu_bi_directional_bandwidth",
        "osu_non_blocking_allreduce",
    ]
    assert (barrier.world_size, barrier.status) == (None, "complete")
    (row,) = barrier.rows
    assert (row.case["size_bytes"], row.block.time_us) == (0, 12.5)
    assert cases_of([bandwidth])[0].alg_bw_gb_s == pytest.approx(14.84895)


@pytest.mark.parametrize(
    "crash",
    [
        "Abort(604045839) on node 0 (rank 0 in comm 0): Fatal error",
        "[host0:9:0:9] Caught signal 11 (Segmentation fault)",
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
    assert [row.block.n_wrong for row in test.rows] == [0, 1]
    assert (test.status, only(head + "4  34.31  Pass\n").status) == ("failed", "complete")


def test_imb_logs_are_read():
    """IMB ends with a line. Its bandwidth, which repeats the time, is left out."""
    head = (
        "# Intel(R) MPI Benchmarks 4.1, MPI-1 part\n"
        "# Benchmarking PingPong\n# #processes = 4\n#---\n"
        "  #bytes #repetitions  t[usec]  Mbytes/sec\n  4194304  10  36914.00  108.36\n"
    )
    whole = only(head + "# All processes entering MPI_Finalize\n")
    (row,) = whole.rows
    assert (row.case["size_bytes"], row.block.time_us, row.block.n) == (4194304, 36914, 10)
    assert whole.world_size == 4
    assert (whole.status, only(head).status) == ("complete", "incomplete")


HALF = {"time": 17.93, "alg_bw": 0.0, "bus_bw": 0.2, "nwrong": 0}
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
    whole = json.dumps(REPORT)
    test = only(whole)
    assert (test.collective, test.world_size, test.status) == ("all_reduce", 8, "complete")
    assert test.hosts == 2
    assert halves(test) == [(8, True, 17.93), (16, False, 17.93), (16, True, 17.93)]
    cut = only(json.dumps(REPORT | {"average_bus_bandwidth": None}))
    wrong = only(json.dumps(REPORT | {"out_of_bounds": {"count": 2, "okay": "false"}}))
    assert (cut.status, wrong.status) == ("incomplete", "failed")
    assert only(whole.replace('"nwrong": 0', '"nwrong": 3', 1)).status == "failed"


LSA = "nccl-tests LSA vectorized, NCCL 2.29.2"


@pytest.mark.parametrize(
    ("command", "library"),
    [
        ("+ mpirun -n 2 -D 9 /opt/build/all_reduce_perf -b 8 -R 2 -D 2", LSA),
        ("all_reduce_perf --device_implementation=2 -R 2 | tee -D 4", LSA),
        ("docker run x bash -c 'all_reduce_perf -R 2 -D 2'", LSA),
        ("all_reduce_perf -R 2 -D4", "nccl-tests multimem vectorized, NCCL 2.29.2"),
        ("all_reduce_perf -R 2 -D 1 -D 7", "nccl-tests kernel 7, NCCL 2.29.2"),
        ("all_reduce_perf -R 2 -D 0", "NCCL 2.29.2"),
        ("mpirun -D 2 all_reduce_perf -b 8", "NCCL 2.29.2"),
    ],
)
def test_a_kernel_of_the_device_api_does_not_pass_for_the_librarys_own(command, library):
    """The table is the same; only the arguments say what ran (nccl-tests -D)."""
    case, *_ = cases_of([only(f"{command}\n{WHOLE}")])
    assert case.library == library
    assert bool(case.chosen) == ("nccl-tests" in library)
    arguments = command.partition("all_reduce_perf")[2].partition("|")[0].split()
    report = json.dumps(REPORT | {"args": ["/x/all_reduce_perf", *arguments]})
    case, *_ = cases_of([only(report)])
    assert case.library == library


def test_a_device_kernel_is_of_the_test_that_follows_its_command():
    """A script that runs both without and with -D prints two tests into one log."""
    text = f"all_reduce_perf -b 8 -R 2\n{WHOLE}all_reduce_perf -b 8 -R 2 -D 1\n{WHOLE}"
    plain, device = read_tests(text)
    assert (plain.library, device.library) == ("NCCL 2.29.2", "nccl-tests LSA, NCCL 2.29.2")
    exchanged = text.replace("all_reduce_perf", "alltoall_perf").replace("-D 1", "-D 3")
    assert read_tests(exchanged)[1].library == "nccl-tests GIN, NCCL 2.29.2"


def test_the_median_of_iterations_counts_where_nccl_tests_prints_it():
    """With -I a report has each iteration; the mean follows a single slow one."""
    row = CASE | {"out_of_place": HALF, "out_of_place_per_iter": {"p50_us": 11.5}}
    test = only(json.dumps(REPORT | {"results": [row]}))
    assert halves(test) == [(8, False, 11.5)]
    assert test.statistic == "median over iterations"


IMB_GATHER = (
    "# Intel(R) MPI Benchmarks 2021.3, MPI-1 part\n"
    "# Date                  : Wed Mar 20 12:25:21 2024\n"
    "# Version               : #10 SMP Sat Jun 25 14:28:50 EEST 2016\n"
    "# Benchmarking Allgather\n# #processes = 4\n"
    "#bytes #repetitions t_min[usec] t_max[usec] t_avg[usec]\n"
    "1024 1000 1.0 3.0 2.0\n# All processes entering MPI_Finalize\n"
)


def test_sizes_of_one_rank_become_sizes_of_all_ranks():
    """Otherwise 1 KiB of IMB would be compared with 1 KiB of nccl-tests, a quarter of the bytes."""
    test = only(IMB_GATHER)
    (case,) = cases_of([test])
    assert (case.size_bytes, case.time_us.median, case.time_us.mean) == (4096, 3.0, 2.0)
    assert case.bus_bw_gb_s == pytest.approx(4096 / 3.0 / 1e3 * 3 / 4)
    assert test.statistic == "mean over iterations, slowest rank"
    assert only(IMB_GATHER.replace("Allgather", "Iallgather")).is_per_rank
    test.world_size = None  # the size as printed, rather than no figure at all
    assert [(case.size_bytes, case.bus_bw_gb_s) for case in cases_of([test])] == [(1024, None)]


def test_rows_of_one_size_are_blocks_of_one_case():
    """nccl-tests prints the whole table once more for each cycle of its option -N."""
    (half, *_) = cases = cases_of([only(START + (ROW_8 + ROW_16) * 3 + FOOTER)])
    assert len(cases) == 4
    assert (half.time_us.n_blocks, half.time_us.median) == (3, 17.93)
    assert len(cases_of([only(START + ROW_8 * 2)])) == 4  # no footer: perhaps of two runs


DATED = [
    (IMB_GATHER, "2024-03-20 12:25:21"),
    (WHOLE + "x CANCELLED AT 2025-02-07T14:12:36 ***\n", "2025-02-07 14:12:36"),
    (json.dumps(REPORT | {"start_time": "2026-07-09 16:03:21"}), "2026-07-09 16:03:21"),
    ("at 2025-02-31 14:12:36\n" + WHOLE, "None"),
]


@pytest.mark.parametrize(("text", "date"), DATED)
def test_a_test_has_the_date_of_its_log(text, date):
    """Without dates six nights were no series."""
    assert str(only(text).date) == date
