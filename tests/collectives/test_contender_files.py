"""`--contender FILE.py`: a file of one's own beside ours, in real launches on the CPU. What is
wrong with it ends in one sentence."""

import re
import sys
from pathlib import Path

import pytest

from collectives.communicator import Mistake
from collectives.contenders import shipped_names
from collectives.contenders.file import read
from collectives.contenders.kernel import read_kernel
from tests.bench.launches import launch, run, stored
from tests.launch import ROOT, few

SHORT = "--sizes 16K --mode isolated --algorithm library --quiet -n 4 --max-time 40"
MINE = """
TITLE = "mpi4py"
COLLECTIVES = "all_reduce", "all_gather"
REDOPS = "sum", "max"
MULTIPLE = 16

def start(world):
    assert (world.rank, world.ranks) == (world.mpi.rank, world.mpi.size)
    return {"sum": 0, "max": 0}

def bind(case):
    from mpi4py import MPI

    (send, receive), mpi = case.arrays, case.mpi
    if case.size_bytes > 20000:
        case.refuse("mpi4py is asked for 20 kB at most")
    case.started[case.redop if case.collective == "all_reduce" else "sum"] += 1
    if case.collective == "all_gather":
        assert receive.shape == (case.ranks, case.count)
        return lambda: mpi.Allgather(send, receive)
    op = {"sum": MPI.SUM, "max": MPI.MAX}[case.redop]
    return lambda: mpi.Allreduce(send, receive, op)
"""


def contender(folder, text, name="mine"):
    (folder / f"{name}.py").write_text(text)
    return folder / f"{name}.py"


def of_contender(result, name="mine"):
    return [case for case in result.cases if case.algorithm == name]


def test_a_file_is_timed_and_checked_beside_ours_with_the_time_of_an_empty_call(tmp_path):
    file = contender(tmp_path, MINE)
    words = SHORT.replace("isolated", "both").replace("library", "library,auto")
    printed, result = run(tmp_path, f"{words} -o sum,min", "--contender", file)
    cases = of_contender(result)
    assert all(re.fullmatch(r"mpi4py [0-9a-f]{7}", case.library or "") for case in cases)
    seen = {(case.redop, case.mode): (case.status, case.n_wrong, case.reason) for case in cases}
    assert seen == {
        (redop, mode): ("unsupported", None, "mpi4py has no min")
        if redop == "min"
        else ("ok", 0, None)
        for redop in ("sum", "min")
        for mode in ("isolated", "chained")
    }
    assert "mpi4py" in printed
    (note,) = [note for note in result.run.notes if "empty Python function" in note]
    assert 0 < float(re.findall(r"takes ([0-9.]+) us", note)[0]) < 50


def test_a_file_serves_other_collectives_and_refuses_what_it_does_not_take(tmp_path):
    file = contender(tmp_path, MINE)
    words = SHORT.replace("16K", "16K,16K,64K")
    _, result = run(tmp_path, words, "--contender", file, command="allgather")
    assert [(case.size_bytes >> 10, case.status, case.reason) for case in of_contender(result)] == [
        (16, "ok", None),
        (64, "unsupported", "mpi4py is asked for 20 kB at most"),
    ]
    (tmp_path / "none").mkdir()
    done = launch(tmp_path / "none", SHORT, "--contender", file, command="reduce_scatter")
    sentence = "bench.reduce_scatter: mine is not measured: mpi4py has no reduce_scatter\n"
    assert (done.returncode, done.stderr) == (0, sentence)
    assert "empty Python function" not in done.stdout, "no time has such a call in it"


ON_RANK_1 = "case.rank == 1"
FUNCTION = """
def bind(case):
    calls = 0
    def call():
        nonlocal calls
        calls += 1
        if calls > {calls} and {where}:
            {fault}
        case.mpi.Allreduce(*case.arrays)
    return call
"""


def faulty(fault, calls=0, where=ON_RANK_1):
    return FUNCTION.format(
        fault=fault,
        calls=calls,
        where=where,
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("TITLE = 'x'", " has no function bind"),
        ("import absent", ", line 1: ModuleNotFoundError: No module named 'absent'"),
        ("def bind(case:", ", line 1: .* was never closed"),
        ("raise SystemExit('no GPU')", ", line 1: SystemExit: no GPU"),
        ("MULTIPLE = {[]}", ", line 1: MULTIPLE is not a constant of type int"),
        ("COLLECTIVES = 'allreduce'", ", line 1: unknown 'allreduce' in COLLECTIVES: choose from "),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, monkeypatch, text, sentence):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Mistake, match=rf"^--contender \S*mine\.py{sentence}"):
        read(str(contender(tmp_path, text))).load()


@pytest.mark.parametrize(
    ("text", "status", "sentence"),
    few(
        [
            ("", 2, r"bench.allreduce: --contender mine.py has no function bind\(case\)"),
            (
                faulty("raise ValueError('late')", 6),
                1,
                r"wiretax: rank 1 failed: case 1 \(mine 16384 B isolated\), .*line 8: .*late",
            ),
            (faulty("raise SystemExit(0)"), 1, "wiretax: rank 1 failed: .*line 8: SystemExit: 0"),
            ("def bind(case):\n  return 3", 1, "wiretax: rank . failed: .*bind returns int, no .*"),
        ],
        2,
    ),
)
def test_a_file_that_fails_ends_the_run_with_one_sentence(tmp_path, text, status, sentence):
    done = launch(tmp_path, SHORT, "--contender", contender(tmp_path, text))
    assert (done.returncode, done.stdout) == (status, "")
    assert re.fullmatch(sentence + "\n", done.stderr), done.stderr


def test_a_function_that_writes_wrong_bits_is_named_with_status_1(tmp_path):
    wrong = "\n            ".join(
        ("case.mpi.Allreduce(*case.arrays)", "case.arrays[1][7] += 1", "return")
    )
    done = launch(tmp_path, SHORT, "--contender", contender(tmp_path, faulty(wrong)))
    assert done.returncode == 1
    place = r"case 1 \(mine 16384 B isolated\), block 0: rank 1 got .* at offset 28, element 7"
    where = f"wiretax: {place}; .*\n"
    assert re.fullmatch(where, done.stderr), done.stderr
    assert re.search("WRONG RESULTS in .* the worst: mine ", " ".join(done.stdout.split()))


# Each sums rightly, and then writes where nobody may.
ELSEWHERE = """
import ctypes

def bind(case):
    send, receive = case.arrays
    def call():
        case.mpi.Allreduce(send, receive)
        {stray}
    return call
"""
STRAYS = {
    "front": ("ctypes.memset(receive.ctypes.data - 3, 1, 3)", "wrote in the 4 KiB in front of its"),
    "behind": ("ctypes.memset(receive.ctypes.data + receive.nbytes, 1, 3)", "wrote behind its"),
    "eats": ("if case.rank == 1: send[5] = 99", "changed its send buffer: got 99.0"),
}


def test_a_function_or_a_kernel_that_writes_elsewhere_is_wrong(tmp_path):
    """Also in a chain, whose links overwrite the send buffer after each call."""
    for name, (stray, _) in STRAYS.items():
        contender(tmp_path, ELSEWHERE.format(stray=stray), name)
    (tmp_path / "over.cu").write_text(
        '// wiretax: all_reduce\n#include "include/exchange.h"\n\n'
        "RANK_KERNEL(over) {\n  exchange_and_reduce<PULL, ALL>(a);\n"
        "  ((float*)a.receive)[a.count] = 1;\n}\n"
    )
    files = ",".join(str(tmp_path / f"{name}.py") for name in STRAYS)
    words = SHORT.replace("16K", "1000,16K").replace("isolated", "both"), "--contender", Path(files)
    done = launch(tmp_path, *words, "--kernel", tmp_path / "over.cu")
    assert done.returncode == 1
    reasons = {name: reason for name, (_, reason) in STRAYS.items()}
    result = stored(tmp_path)
    for name, reason in (reasons | {"over": "wrote behind its"}).items():
        cases = of_contender(result, name)
        assert [case.status for case in cases] == ["wrong"] * 4
        assert all(f" {reason}" in (case.reason or "") for case in cases), cases
    assert {case.status for case in of_contender(result, "library")} == {"ok"}
    assert re.search(r"block 0: rank \d (wrote|changed) .*; .* expected\n", done.stderr)


def test_a_store_into_a_peers_result_that_comes_after_its_check_is_wrong(tmp_path):
    """Rank 1 has left its call, with the right sum, and has compared it before rank 0 stores."""
    (tmp_path / "late.cu").write_text(
        '// wiretax: all_reduce registered\n#include "include/exchange.h"\n\n'
        "RANK_KERNEL(late) { exchange_and_reduce<PULL, ALL>(a); }\n"
        "RANK_KERNEL(late_registered) {\n  exchange_and_reduce<REGISTERED, ALL>(a);\n"
        "  if (a.rank != 0) return;\n"
        "  for (u64 start = clock_ns(); clock_ns() - start < 2000000;) {}\n"
        "  ((float*)a.receives[1])[4] += 1;\n}\n"
    )
    done = launch(tmp_path, SHORT, "--kernel", tmp_path / "late.cu")
    assert done.returncode == 1
    place = r"case \d \(late 16384 B isolated\), block 0: rank 1 got .* at offset 16, element 4"
    assert re.fullmatch(f"wiretax: {place}; .*\n", done.stderr), done.stderr
    statuses = {case.variant: case.status for case in of_contender(stored(tmp_path), "late")}
    assert sorted(statuses.values()) == ["ok", "wrong"], statuses


def test_a_contender_that_hangs_in_its_first_call_is_named_after_one_time_out(tmp_path):
    """It is no compilation, which has ten."""
    sleeper = contender(tmp_path, faulty("import time; time.sleep(60)"))
    done = launch(tmp_path, SHORT, "-T 2", "--contender", sleeper)
    assert done.returncode == 1
    said = "wiretax: rank 1 did not go on for 2 s and held the others up: mine 16384 B, step call "
    assert re.fullmatch(f"{said}the contender, epoch .*\n", done.stderr)


# Each rank reads a file of its own under one name, as on hosts that share no folder.
OTHER_CONTENT = """
import os, runpy, sys
from pathlib import Path
folder, rank = Path(sys.argv[2]).absolute(), os.environ["PMI_RANK"]
(folder / rank).mkdir()
(folder / rank / "mine.py").write_text(f"def bind(case): return print  # {rank}")
os.chdir(folder / rank)
sys.argv = ["bench.allreduce", "--out", str(folder), *sys.argv[3:]]
runpy.run_module("bench.allreduce", run_name="__main__", alter_sys=True)
"""


def test_other_content_on_other_ranks_is_refused(tmp_path):
    done = launch(tmp_path, SHORT, "--contender mine.py", program=OTHER_CONTENT)
    assert done.returncode == 2
    assert done.stderr == ("bench.allreduce: mine.py has other content on rank 1 than on rank 0\n")


NORM = """
import numpy as np
COLLECTIVES = "all_reduce", "allreduce_rmsnorm"

def bind(case):
    send, receive = case.arrays
    if case.collective == "all_reduce":
        return lambda: case.mpi.Allreduce(send, receive)

    def call():
        case.mpi.Allreduce(send, case.residual_out)
        case.residual_out += case.residual
        mean = np.mean(case.residual_out**2, axis=1, keepdims=True) + np.float32(case.epsilon)
        receive[:] = case.residual_out * (np.float32(1) / np.sqrt(mean)) * case.weight

    return call
"""


def test_a_contender_stands_beside_the_fused_norm_by_its_all_reduce_or_fused_itself(tmp_path):
    words = "--tokens 1,4 --hidden 64 -n 4 --quiet --max-time 40 --algorithm fused"
    file = contender(tmp_path, NORM)
    _, result = run(tmp_path, words, "--contender", file, command="allreduce_rmsnorm")
    seen = {case.algorithm: (case.status, case.n_wrong) for case in result.cases}
    right = dict.fromkeys(("then_mine", "fused_mine", "fused"), ("ok", 0))
    assert seen.items() >= right.items()
    names = {case.library for case in of_contender(result, "fused_mine")}
    assert re.fullmatch("mine [0-9a-f]{7}", *names)


KERNEL = """// wiretax: all_reduce entry=sums chunks=2 registered
#include "include/exchange.h"
#include "own.h"

RANK_KERNEL(sums) { OWN<PULL, ALL>(a); }
RANK_KERNEL(sums_registered) { OWN<REGISTERED, ALL>(a); }
"""


def test_the_kernel_of_the_docs_runs_as_written_and_says_that_it_has_no_in_place_form(tmp_path):
    """In place its results would overwrite inputs that peers have yet to read."""
    _, text, _ = (ROOT / "docs/contenders.md").read_text().split("```\n// wiretax: ")
    path = tmp_path / "mine.cu"
    path.write_text(f"// wiretax: {text.partition('```')[0]}")
    cases = of_contender(run(tmp_path, SHORT, "--kernel", path)[1])
    assert {case.variant: case.status for case in cases} == {"copied": "ok", "registered": "ok"}
    done = launch(tmp_path, SHORT, "--in-place --kernel", path)
    lacks = "mine has no in-place form: its first line lacks in_place"
    assert (done.returncode, done.stderr) == (
        0,
        f"bench.allreduce: mine is not measured: {lacks}\n",
    )


OVERRUN = """// wiretax: all_reduce chunks=2
#include "include/exchange.h"

RANK_KERNEL(mine) {
  {
    const Launch launch(a);
    copy(Slab{launch.half_of(1 - a.rank) + 2 * a.chunk_bytes}, a.send, smaller(a.count, 4l));
    launch.meet(1);
    launch.leave();
  }
  exchange_and_reduce<PULL, ALL>(a);
}
"""


def test_a_kernel_that_stores_behind_its_chunks_is_wrong(tmp_path):
    """Each of its sums was right, so nothing was said; with more ranks it spoils the other half."""
    (tmp_path / "mine.cu").write_text(OVERRUN)
    done = launch(tmp_path, SHORT, "--kernel", tmp_path / "mine.cu")
    assert done.returncode == 1
    assert "found stores behind the chunks in half of its slab: got " in done.stderr


def test_a_kernel_from_outside_the_tree_is_compiled_with_our_headers_and_its_own(tmp_path):
    (tmp_path / "mine.cu").write_text(KERNEL)
    (tmp_path / "own.h").write_text("#define OWN exchange_and_reduce\n")
    words = SHORT.replace("isolated", "both"), "--kernel", tmp_path / "mine.cu"
    cases = of_contender(run(tmp_path, *words)[1])
    assert {(case.variant, case.mode, case.status, case.n_wrong) for case in cases} == {
        (variant, mode, "ok", 0)
        for variant in ("copied", "registered")
        for mode in ("isolated", "chained")
    }
    assert all(re.fullmatch("mine [0-9a-f]{7}", case.library or "") for case in cases)
    (tmp_path / "mine.cu").write_text(KERNEL.replace("sums_registered)", "other)"))
    done = launch(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr == "bench.allreduce: mine.cu has no RANK_KERNEL(sums_registered)\n"
    (tmp_path / "own.h").write_text("#define OWN exchange_and_copy\n")
    done = launch(tmp_path, *words)
    assert done.returncode == 2
    assert re.fullmatch("bench.allreduce: .* cannot compile mine.cu: .*error.*\n", done.stderr)


@pytest.mark.parametrize(
    ("first_line", "sentence"),
    [
        ("#include <x>", "its first line does not declare it: // wiretax: COLLECTIVE "),
        ("// wiretax: all_reduce chunk=2", ".* it is: // wiretax: all_reduce chunk=2$"),
        ("// wiretax: reduce", "unknown 'reduce': choose from all_reduce, "),
    ],
)
def test_a_kernel_that_declares_nothing_is_refused(tmp_path, first_line, sentence):
    path = tmp_path / "mine.cu"
    path.write_text(KERNEL.replace(KERNEL.splitlines()[0], first_line))
    with pytest.raises(Mistake, match=f"^--kernel {path}: {sentence}"):
        read_kernel(str(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "there is no such file"),
        ("ring", "ring is an algorithm of ours: give the file another name"),
        ("my-own", "the file's name, without .py, names its algorithm: "),
    ],
)
def test_a_name_that_cannot_be_a_contender_is_refused(tmp_path, name, reason):
    if name != "absent":
        contender(tmp_path, "def bind(case): pass", name)
    with pytest.raises(Mistake, match=f"^--contender {tmp_path}/{name}.py: {reason}"):
        read(f"{tmp_path}/{name}.py")


@pytest.mark.parametrize(
    "options",
    [
        "--contender vllm --contender torch_symmetric",
        "--peer vllm,torch_symmetric",  # the former name
        "--contender vllm --peer torch_symmetric",
    ],
)
def test_the_shipped_files_are_found_by_name_and_say_why_they_cannot_run(tmp_path, options):
    done = launch(tmp_path, SHORT, options)
    assert done.returncode == 0
    assert done.stderr == (
        "bench.allreduce: vllm is not measured: vLLM runs on cuda and hip, not on cpu\n"
        "bench.allreduce: torch_symmetric is not measured: torch symmetric memory runs on cuda, "
        "not on cpu\n"
    )


def test_a_path_into_the_former_folder_finds_the_shipped_file(monkeypatch):
    """A script that says `--peer examples/peers/gloo.py` goes on."""
    monkeypatch.chdir(ROOT)
    for path in ("examples/peers/gloo.py", f"{ROOT}/examples/peers/gloo.py"):
        assert read(path) == read("gloo")


def test_a_users_own_file_in_the_former_folder_is_read(tmp_path, monkeypatch):
    """Also where we ship one of its name, whether its path is that of ours or not."""
    monkeypatch.setattr("collectives.contenders.file.FORMERLY_SHIPPED", tmp_path)
    for name in ("mine", "gloo"):
        own = contender(tmp_path, "def bind(case): ...\n", name)
        assert read(str(own)).path == own


def test_all_shipped_files_can_be_read():
    files = [read(name) for name in shipped_names()]
    assert len(files) >= 8
    assert all(file.is_shipped and file.contender.title for file in files)


TOO_LONG = """
COLLECTIVES = "sendrecv"

def bind(case):
    send, receive = (memory_of(array) for array in case.arrays)
    to, source = (case.rank + 1) % case.ranks, (case.rank - 1) % case.ranks
    return lambda: case.mpi.Sendrecv(send, to, recvbuf=receive, source=source)

def memory_of(array):
    import ctypes
    return (ctypes.c_char * (array.nbytes + 4)).from_address(array.ctypes.data)
"""


def test_a_copy_that_is_too_long_is_wrong(tmp_path):
    """It copies what lies behind the send buffer of the other rank to behind the receive buffer."""
    done = launch(tmp_path, SHORT, "--contender", contender(tmp_path, TOO_LONG), command="sendrecv")
    assert done.returncode == 1
    for case in of_contender(stored(tmp_path)):  # of each direction
        assert case.status == "wrong", case
        assert "wrote behind its receive buffer: got " in str(case.reason)


def test_a_function_that_crashes_is_named_by_its_file_and_line(tmp_path):
    """The launcher's banner names a process and a signal alone."""
    file = contender(tmp_path, faulty("import ctypes; ctypes.string_at(0)", 6))
    done = launch(tmp_path, SHORT, "--contender", file)
    assert done.returncode
    assert re.search(
        rf'Segmentation fault\n(.*\n){{3,9}}  File "{file}", line \d+ in ', done.stderr
    )


SLOW_AT_FIRST = """
import time
COLLECTIVES = "all_reduce",

def bind(case):
    from mpi4py import MPI

    (send, receive), mpi, calls = case.arrays, case.mpi, iter([0.1, 0.1])

    def reduce():
        time.sleep(next(calls, 0.0))
        mpi.Allreduce(send, receive)

    return reduce
"""


@pytest.mark.alone  # others would take the time that is planned
def test_slow_first_calls_shorten_the_first_block_alone(tmp_path):
    """The pilot sees only these. Every block of the run had three iterations, beside thousands."""
    mine = contender(tmp_path, SLOW_AT_FIRST)
    _, result = run(
        tmp_path,
        "--sizes 16K --mode isolated --algorithm library --quiet --max-time 10",
        "--contender",
        mine,
    )
    (case,) = of_contender(result)
    first, *later = [block.n for block in result.blocks if block.case == case.case]
    assert first <= 3
    assert min(later) > first
