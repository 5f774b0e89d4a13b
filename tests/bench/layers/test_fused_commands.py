"""The commands that combine compute and communication: bad input and its error messages, and a small real run of each
command, with correct results and a table that `show` reproduces from the run's file."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bench.harness import options as harness_options
from bench.layers.command import parse
from reports.store.case import COMPUTE, costs_in, find_states, work_of
from reports.store.result import read
from reports.tables.show import text
from tests.launch import MPIRUN, ROOT, few, mpirun

pytestmark = pytest.mark.alone

FUSED = ("allreduce_rmsnorm", "gemv_allreduce", "gemm_reduce_scatter", "allgather_gemm")
COMMANDS = (*FUSED, "decode", "prefill")
SCALED = tuple(name for name in COMMANDS if name != "allreduce_rmsnorm")
COUNTED = tuple(name for name in COMMANDS if name != "decode")
MODEL = r"argument --model: unknown model 'llama-3\.1-71b': did you mean llama-3\.1-70b\?"
SCALE = "is not a fraction such as 1/64, above 0 and at most 1"

# The commands, their bad options, and the error message.
BAD = [
    (COMMANDS, "--model llama-3.1-71b", MODEL),
    (COMMANDS, "-d int32", "unknown datatype 'int32': did you mean float32"),
    (COMMANDS, "-d double", "unknown datatype 'double': choose from float32, float16, bfloat16"),
    (COMMANDS, "--max-time 0", "'0' is not a number of seconds above 0"),
    (COMMANDS, "--format nccl-tests", "invalid choice: 'nccl-tests'"),
    (COMMANDS, "--bogus", "unrecognized arguments: --bogus"),
    (COUNTED, "--tokens 0", "'0' is not a whole number of at least 1"),
    (COUNTED, "--tokens 1.5", "'1.5' is not a whole number"),
    (("allreduce_rmsnorm", "prefill"), "--tokens 4097", "4097 is above the most, 4096"),
    (("gemv_allreduce",), "--tokens 1,9", "9 is above the most, 8"),
    (("gemm_reduce_scatter", "allgather_gemm"), "--tokens 65537", "65537 is above the most, 65536"),
    (
        ("gemm_reduce_scatter", "allgather_gemm"),
        "--tokens 256,100",
        "100 is not a multiple of 16: of 8 chunks times the ranks",
    ),
    (("allreduce_rmsnorm",), "--hidden 0", "'0' is not a whole number of at least 1"),
    (("allreduce_rmsnorm",), "--hidden 1048577", "1048577 is above the most, 1048576"),
    (
        ("allreduce_rmsnorm",),
        "--hidden 1048576",
        "2048 tokens of 1048576 elements are 8589934592 B, above 512M",
    ),
    (
        ("gemv_allreduce", "decode"),
        "--weights int4",
        r"unknown type of weights 'int4': did you mean int8\?",
    ),
    (
        ("gemv_allreduce", "decode"),
        "--weights float",
        r"unknown type of weights 'float': did you mean float16\?",
    ),
    (SCALED, "--scale 0", f"'0' {SCALE}"),
    (SCALED, "--scale 2", f"'2' {SCALE}"),
    (SCALED, "--scale x", f"'x' {SCALE}"),
    (SCALED, "--scale 1/0", f"'1/0' {SCALE}"),
    (FUSED, "--algorithm fussed", r"unknown algorithm 'fussed': did you mean fused\?"),
    (FUSED, "--algorithm fused,one", "unknown algorithm 'one': "),
    (("decode",), "--slots 0", "'0' is not a whole number of at least 1"),
    (("decode",), "--slots 1,9", "9 is above the most, 8"),
    (("prefill",), "--layers 0", "'0' is not a whole number of at least 1"),
    (
        ("prefill",),
        "--layers 3",
        r"--layers 3: the 80 layers of llama-3\.1-70b are not a multiple of it",
    ),
]


class Ended(BaseException):
    """Raised instead of ending the process."""


@pytest.fixture
def ended(monkeypatch):
    """Collects the exit statuses of this process, which runs as one of two ranks."""
    statuses = []

    def end(status):
        statuses.append(status)
        raise Ended

    monkeypatch.setattr(harness_options, "os", SimpleNamespace(**{**vars(os), "_exit": end}))
    monkeypatch.setenv("PMI_SIZE", "2")
    return statuses


@pytest.mark.parametrize("command", COMMANDS)
def test_each_bad_input_gives_one_sentence_from_rank_0(command, ended, monkeypatch, capfd):
    """A typing error must not end in a traceback, in one message per rank, or in an unintended run."""
    bad_inputs = [(options, sentence) for commands, options, sentence in BAD if command in commands]
    assert len(bad_inputs) > 7
    for rank in "01":
        monkeypatch.setenv("PMI_RANK", rank)
        for options, sentence in bad_inputs:
            with pytest.raises(Ended):
                parse(command, options.split())
            printed = capfd.readouterr()
            assert printed.out == ""
            wanted = rf"bench\.{command}: [^\n]*{sentence}[^\n]*\n" if rank == "0" else ""
            assert re.fullmatch(wanted, printed.err), printed.err
    assert set(ended) == {2}


@pytest.mark.parametrize("command", few(COMMANDS, 1))
def test_a_command_without_mpirun_names_mpirun_and_writes_nothing(command, tmp_path):
    """New users often start a command without mpirun."""
    environment = {name: value for name, value in os.environ.items() if "PMI" not in name}
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{command}", "--out", str(tmp_path / "results")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"bench\.{command}: [^\n]*mpirun -n 2 python -m bench\.{command}\n", done.stderr
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ranks", "command", "sentence"),
    few(
        [
            (3, "decode --model llama-3.1-8b", "32 layers do not divide into 3 equal stages"),
            (2, "allgather_gemm -d bfloat16", "a CPU multiplies float32 only, not bfloat16"),
            (2, "prefill -d half", "a CPU multiplies float32 only, not float16"),
            (3, "prefill --model llama-3.1-8b", "4 layers do not divide into 3 equal stages"),
            (2, "gemv_allreduce -G 1", "-G: the cpu device has no graphs"),
        ],
        3,
    ),
)
def test_an_option_this_machine_cannot_run_is_refused_once(tmp_path, ranks, command, sentence):
    done = mpirun(ranks, "-m", *f"bench.{command}".split(), "--out", str(tmp_path), timeout_s=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert done.stderr.startswith(f"bench.{command.split()[0]}: ")
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


STRICT = """import bench.layers.steps
from bench.layers.command import main
bench.layers.steps.TOLERANCE["float16"] = 1e-9
main("decode")
"""


def test_a_step_with_a_wrong_result_is_reported_and_not_timed(tmp_path):
    """STRICT sets a tolerance below the rounding error of 16-bit types."""
    done = mpirun(2, "-c", STRICT, *SMALL, "--slots", "1", "--out", str(tmp_path), timeout_s=60)
    assert (done.returncode, done.stdout) == (1, "")
    off = (
        r"tensor_parallel 8192 B is off by [\d.e-]+ of its result's root mean square, so it is "
        r"not timed"
    )
    assert re.fullmatch(rf"bench\.decode: {off}\n", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


SMALL = ["--model", "llama-3.1-8b", "--scale", "1/64"]
RUNS = {
    "allreduce_rmsnorm": ["--hidden", "1000", "--tokens", "1,3", "-n", "12", "--max-time", "100"],
    "gemv_allreduce": [*SMALL, "--weights", "int8", "-d", "bf16", "-n", "12", "--max-time", "100"],
    "gemm_reduce_scatter": [*SMALL, "--tokens", "16", "-n", "12", "--max-time", "100"],
    "allgather_gemm": [*SMALL, "--tokens", "16", "-n", "12", "--max-time", "100"],
    "decode": [*SMALL, "--slots", "2", "-n", "12", "--max-time", "100"],
    "prefill": [*SMALL, "--tokens", "16", "--layers", "2", "-n", "12", "--max-time", "100"],
}
AFTER = {"one_shot_pull", "library"}  # on a CPU, small messages have only these
FORMS = {
    "allreduce_rmsnorm": {"fused", *(f"then_{name}" for name in AFTER)},
    "gemv_allreduce": {
        "fused",
        *(f"then_{name}" for name in AFTER - {"library"}),
    },  # MPICH has no bfloat16
    "gemm_reduce_scatter": {"fused", "then_direct_pull", "then_direct_push", "then_library"},
    "allgather_gemm": {"fused", "then_direct_pull", "then_direct_push", "then_library"},
    "decode": {"tensor_parallel", "tensor_parallel_library"},
    "prefill": {"tensor_parallel", "tensor_parallel_library", "sequence_parallel"},
}
APART = {"decode": {"pipeline_parallel", "one_rank"}, "prefill": {"pipeline_parallel", "one_rank"}}


PILOTS_THAT_DIFFER = """
from bench.harness import run
from bench.layers.command import main

def pilot(session, iteration):
    iteration.iteration_s, iteration.warmup = 1e-4, 1 + iteration.number % 7

run.pilot = pilot
main("gemv_allreduce")
"""


def test_the_forms_of_a_shape_warm_up_alike(tmp_path):
    """Otherwise a difference would compare cold caches with warm ones."""
    done = mpirun(2, "-c", PILOTS_THAT_DIFFER, *SMALL, "-n", "12", "--lean", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = read(next(tmp_path.glob("*.jsonl")))
    shape_of = {case.case: str(case.shape) for case in result.cases}
    warmups = {(shape_of[block.case], block.warmup) for block in result.blocks}
    assert len(warmups) == len({shape for shape, _ in warmups}) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_small_run_is_correct_and_its_exposed_times_follow_from_its_blocks(command, tmp_path):
    """`exposed` must be the measured difference to the compute alone."""
    as_csv = command == "allreduce_rmsnorm"
    done = mpirun(
        2,
        "-m",
        f"bench.{command}",
        *RUNS[command],
        "--lean",
        "--out",
        str(tmp_path),
        *(["--format", "csv"] if as_csv else []),
        timeout_s=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.jsonl")
    result = read(path)
    measured = [case for case in result.cases if case.status == "ok"]
    assert {case.status for case in result.cases} <= {"ok", "unsupported"}
    assert {case.algorithm for case in measured} == {COMPUTE} | FORMS[command] | APART.get(
        command, set()
    )
    assert all(case.collective == command for case in measured)
    assert all(case.bus_bw_gb_s is None and case.bound_us is None for case in measured)

    states = find_states(result.blocks)
    costs, held = costs_in(result.blocks, states.of_block, states.longest), 0
    alone = {work_of(case): case for case in measured if case.algorithm == COMPUTE}
    # Compute alone has no collective to check. Prefill's pipeline sends only a part, and is checked before timing.
    unchecked = {COMPUTE, "pipeline_parallel"} if command == "prefill" else {COMPUTE}
    for case in measured:
        assert case.n_wrong == (None if case.algorithm in unchecked else 0), case.algorithm
        compute = alone[work_of(case)]
        rounds = sorted(costs.get(case.case, {}).keys() & costs.get(compute.case, {}).keys())
        if case.algorithm not in FORMS[command] or case.state != "run" or not rounds:
            assert (case.compute_us, case.exposed_us) == (None, None)
            continue
        held += 1
        assert case.exposed_us is not None
        assert case.compute_us is not None
        difference = [costs[case.case][turn] - costs[compute.case][turn] for turn in rounds]
        assert case.exposed_us.median == pytest.approx(np.median(difference))
        assert case.exposed_us.n_blocks == case.compute_us.n_blocks == len(rounds)
        assert case.compute_us.median == pytest.approx(
            np.median([costs[compute.case][turn] for turn in rounds])
        )
    assert held

    table = text(result)
    assert max(map(len, table.splitlines())) <= 80
    printed, run_line = (done.stderr, "") if as_csv else (done.stdout, f"run: {path}\n")
    if as_csv:
        rows = list(csv.DictReader(done.stdout.splitlines()))
        assert [row["algorithm"] for row in rows] == [case.algorithm for case in result.cases]
        assert all(row["n_wrong"] == "0" for row in rows if row["algorithm"] == "fused")
        assert f"run: {path}" in printed
    else:
        assert printed == f"{table}{run_line}picture: none: --lean\n"


def test_a_run_that_was_killed_stays_readable(tmp_path):
    command = [
        str(MPIRUN),
        "-n",
        "2",
        sys.executable,
        "-m",
        "bench.gemv_allreduce",
        *SMALL,
        "--algorithm",
        "fused",
        "--max-time",
        "60",
        "--lean",
        "--out",
        str(tmp_path),
    ]
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        # Wait for seven rounds of six cases: after two, a case may have no block in the link's longest state.
        for _ in range(400):
            if (
                sum(path.read_bytes().count(b'"kind":"block"') for path in tmp_path.glob("*.jsonl"))
                > 42
            ):
                break
            time.sleep(0.1)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(10)
    (path,) = tmp_path.glob("*.jsonl")
    shown = text(read(path))
    assert "INCOMPLETE: the run was cut off." in shown
    assert re.search(r"^compute +[\d.]+", shown, re.MULTILINE)
    # Scripts search for the rank that stopped first: its line is not wrapped.
    assert (
        max(len(line) for line in shown.splitlines() if not line.startswith("stopped first: "))
        <= 80
    )
