"""The commands that combine compute and communication: bad input and its error messages, and a
small real run of each command, with correct results and a table that `show` reproduces from the
run's file."""

import csv
import os
import re
import sys

import pytest

from bench.layers.command import parse
from reports.store.case import COMPUTE
from reports.tables.export import as_csv
from reports.tables.frame import case_rows
from reports.tables.show import text
from tests.bench.launches import launch, stored
from tests.launch import few

FUSED = "allreduce_rmsnorm gemv_allreduce gemm_reduce_scatter allgather_gemm"
COMMANDS = f"{FUSED} decode prefill".split()
# The commands, their bad options, and after the arrow the sentence that refuses them.
BAD = rf"""
{" ".join(COMMANDS)}
    --model llama-3.1-71b -> --model: unknown model 'llama-3.1-71b': did you mean llama-3.1-70b?
    -d int32 -> unknown datatype 'int32': choose from float32
    -d double -> unknown datatype 'double': choose from float32, float16, bfloat16
    --max-time 0 -> '0' is not a number of seconds above 0
    --bogus -> unrecognized arguments: --bogus
{FUSED} prefill
    --tokens 0 -> '0' is not a whole number of at least 1
    --tokens 1.5 -> '1.5' is not a whole number
{FUSED}
    --algorithm fussed -> unknown algorithm 'fussed': did you mean fused?
    --algorithm fused,one -> unknown algorithm 'one'
allreduce_rmsnorm prefill
    --tokens 4097 -> 4097 is above the most, 4096
gemv_allreduce
    --tokens 1,9 -> 9 is above the most, 8
gemm_reduce_scatter allgather_gemm
    --tokens 65537 -> 65537 is above the most, 65536
    --tokens 256,100 -> 100 is not a multiple of 16: of 8 chunks times the ranks
allreduce_rmsnorm
    --hidden 0 -> '0' is not a whole number of at least 1
    --hidden 1048577 -> 1048577 is above the most, 1048576
gemv_allreduce decode
    --weights int4 -> unknown type of weights 'int4': did you mean int8?
    --weights float -> unknown type of weights 'float': did you mean float16?
gemv_allreduce gemm_reduce_scatter allgather_gemm decode prefill
    --scale 0 -> '0' is not a fraction such as 1/64, above 0 and at most 1
    --scale 2 -> '2' is not a fraction such as 1/64, above 0 and at most 1
    --scale x -> 'x' is not a fraction
    --scale 1/0 -> '1/0' is not a fraction
decode
    --slots 0 -> '0' is not a whole number of at least 1
    --slots 1,9 -> 9 is above the most, 8
prefill
    --layers 0 -> '0' is not a whole number of at least 1
    --layers 3 -> --layers 3: the 80 layers of llama-3.1-70b are not a multiple of it
"""


def bad_inputs(command):
    """The bad options of a command and their sentences."""
    commands: list[str] = []
    for row in BAD.strip().splitlines():
        if not row.startswith(" "):
            commands = row.split()
        elif command in commands:
            options, sentence = row.strip().split(" -> ")
            yield options.split(), sentence


@pytest.mark.parametrize("command", COMMANDS)
def test_each_bad_input_gives_one_sentence_from_rank_0(command, monkeypatch, capfd):
    """A typing error must not end in a traceback, in one message per rank, or in an unintended
    run."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setenv("PMI_SIZE", "2")
    for options, sentence in bad_inputs(command):
        for rank in "01":
            monkeypatch.setenv("PMI_RANK", rank)
            with pytest.raises(SystemExit, match="2"):
                parse(command, options)
            printed = capfd.readouterr()
            wanted = rf"bench\.{command}: .*{re.escape(sentence)}.*\n" if rank == "0" else ""
            assert re.fullmatch(wanted, printed.err), printed.err
            assert printed.out == ""


TINY = "--model llama-3.1-8b --scale 1/1024"


@pytest.mark.parametrize(
    ("ranks", "command", "options", "sentence"),
    [
        (2, "decode", f"{TINY} --max-time 0.1", "time ran out: a step takes about "),
        (3, "decode", "--model llama-3.1-8b", "32 layers do not divide into 3 equal stages"),
        (2, "prefill", "-d half", "a CPU multiplies float32 only, not float16"),
    ],
)
def test_an_option_this_machine_cannot_run_is_refused_once(
    tmp_path, ranks, command, options, sentence
):
    done = launch(tmp_path, options, command=command, ranks=ranks)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert done.stderr.startswith(f"bench.{command}: ")
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


SMALL = f"{TINY} -n 6 --max-time 100"


SHORT = """from bench.layers.command import main
from collectives.layers import model_step
split = model_step.split_by_tensor

def without_last_layer(batch, form, variant):
    shares = batch.weights.shares
    batch.weights.shares = shares if form == "compute" else shares[:-1]
    bound = split(batch, form, variant)
    batch.weights.shares = shares
    return bound

model_step.split_by_tensor = without_last_layer
main("decode")
"""


def test_a_step_that_lacks_a_layer_is_wrong_although_bfloat16_rounds(tmp_path):
    options = SMALL.replace("8b", "70b"), "--slots 1 -d bfloat16"
    done = launch(tmp_path, *options, program=SHORT)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "so it is not timed" in done.stderr


TENSOR_PARALLEL = {"tensor_parallel", "tensor_parallel_library"}
# The options of a small run and the forms that it measures besides the compute alone. On a CPU,
# small messages have only one_shot_pull and the library; MPICH has no bfloat16.
RUNS = {
    "allreduce_rmsnorm": (
        "--hidden 1000 --tokens 1,3 -n 6 --max-time 100",
        {"fused", "then_auto", "then_library"},
    ),
    "gemv_allreduce": (f"{SMALL} --weights int8 -d bf16", {"fused", "then_auto"}),
    "gemm_reduce_scatter": (f"{SMALL} --tokens 16", {"then_auto", "then_library"}),
    "decode": (f"{SMALL} --slots 2", TENSOR_PARALLEL),
    "prefill": (f"{SMALL} --tokens 16 --layers 2", TENSOR_PARALLEL),
    "allgather_gemm": (f"{SMALL} --tokens 16", {"then_auto", "then_library"}),
}
APART = {"pipeline_parallel"}  # forms without a collective


@pytest.mark.parametrize("command", few(RUNS, 5))  # test_overlap.py has the last
def test_a_small_run_is_correct_and_shows_what_its_forms_expose(command, tmp_path):
    options, forms = RUNS[command]
    done = launch(tmp_path, options, command=command)
    assert done.returncode == 0, done.stdout + done.stderr
    result = stored(tmp_path)
    assert {case.status for case in result.cases} <= {"ok", "unsupported"}
    measured = [case for case in result.cases if case.status == "ok"]
    is_step = command in ("decode", "prefill")
    assert {case.algorithm for case in measured} == {COMPUTE} | forms | (
        APART if is_step else set()
    )
    # Compute alone has no collective to check. Prefill's pipeline sends only a part, and is checked
    # before timing.
    unchecked = {COMPUTE, "pipeline_parallel"} if command == "prefill" else {COMPUTE}
    for case in measured:
        assert case.collective == command
        assert case.n_wrong == (None if case.algorithm in unchecked else 0), case.algorithm
        assert (case.bus_bw_gb_s, case.bound_us) == (None, None)
    exposed = {case.algorithm for case in measured if case.exposed_us and case.compute_us}
    assert exposed
    assert exposed <= forms
    table = text(result)
    assert max(map(len, table.splitlines())) <= 80
    assert done.stdout == f"{table}run: {result.path}\n"
    rows = list(csv.DictReader(as_csv(case_rows(result)).splitlines()))
    assert [row["algorithm"] for row in rows] == [case.algorithm for case in result.cases]
