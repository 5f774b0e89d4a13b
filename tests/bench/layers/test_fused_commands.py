"""The commands that combine compute and communication: what a machine cannot run, and a small real
run of each command, with correct results and a table that `show` reproduces from the run's file."""

import re

import pytest

from reports.tables.show import text
from tests import fake_gpu
from tests.bench.launches import launch, run, stored
from tests.launch import few
from wiretax.record.case import COMPUTE

TINY = "--model llama-3.1-8b --scale 1/1024"


@pytest.mark.parametrize(
    ("ranks", "command", "options", "sentence"),
    [
        (2, "decode", f"{TINY} --max-time 0.1", "--scale, or give it about --max-time "),
        (3, "decode", "--model llama-3.1-8b", "32 layers do not divide into 3 equal stages"),
        (2, "prefill", "-d half", "a CPU multiplies float32 only, not float16"),
        (2, "prefill", "--layers 3", "--layers 3: the 80 layers of llama-3.1-70b are not a multi"),
    ],
)
def test_an_option_this_machine_cannot_run_is_refused_once(
    tmp_path, ranks, command, options, sentence
):
    done = launch(tmp_path, options, command=command, ranks=ranks)
    status = 2 if "--layers" in options else 3
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done.stderr
    assert done.stderr.startswith(f"bench.{command}: ")
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


SMALL = f"{TINY} -n 6 --max-time 100"


SHORT = """from bench.layers.layers_command import main
from collectives.layers import model_step
split = model_step.split_by_tensor

def without_last_layer(batch, form, variant):
    shares = batch.weights.shares
    batch.weights.shares = shares[:-1]
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


# Scattered sums whose activations nobody gathers: each rank goes on with stale ones of the others.
UNGATHERED = """from bench.layers.layers_command import main
from collectives.layers import model_step
from collectives.operation import Operation
from collectives.registry import ALGORITHMS
from dataclasses import replace
from bench.harness.iteration import nothing
gathers = ALGORITHMS["all_gather"]
gathers["auto"] = replace(gathers["auto"], perform=lambda world, case: Operation(nothing(world)))
main("prefill")
"""


def test_a_split_by_sequence_that_gathers_no_activations_is_wrong(tmp_path):
    done = launch(tmp_path, SMALL, "--tokens 4 --layers 2", program=UNGATHERED)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.search("sequence_parallel .* so it is not timed", done.stderr)


# Row 3000 of every matrix, whose sum feeds no layer, becomes 0 or gets the scale of another row.
WRONG_ROW = """from bench.layers.layers_command import main
from kernels.devices.cpu import CpuDevice
store = CpuDevice.store

def of_wrong_row(device, array):
    array = array.copy()
    if WHERE == 2 and array.ndim == 2 and len(array) > 3000:
        array[3000] = 0
    if WHERE == 1 and array.ndim == 1 and array.dtype == "float32" and len(array) > 3000:
        array[3000] = next((scale for scale in array if scale != array[3000]), array[3000])
    return store(device, array)

CpuDevice.store = of_wrong_row
main(COMMAND)
"""


@pytest.mark.parametrize(
    ("command", "options", "where"),
    [
        ("decode", "--slots 2 -d bfloat16", 2),
        ("decode", "--slots 2 -d bfloat16 --weights int8", 1),
        ("gemv_allreduce", "--weights int8 -d bf16", 1),
    ],
)
def test_one_row_of_a_matrix_that_is_zero_or_has_a_wrong_scale_is_noticed(
    tmp_path, command, options, where
):
    """One of 4096 elements changes the root mean square of a token by 1.6 % of it."""
    program = WRONG_ROW.replace("COMMAND", repr(command)).replace("WHERE", str(where))
    done = launch(tmp_path, SMALL, *options.split(), program=program)
    assert done.returncode == 1, done.stdout + done.stderr
    complaint = "as element 3000 of token " if command == "decode" else "WRONG RESULTS"
    assert complaint in done.stdout + done.stderr


TENSOR_PARALLEL = {"tensor_parallel", "tensor_parallel_library"}
SEQUENCE_PARALLEL = {"sequence_parallel", "sequence_parallel_library"}
# The options of a small run and the forms that it measures besides the compute alone. On a CPU,
# small messages have only one_shot_pull and the library; MPICH has no bfloat16.
RUNS = {
    "allreduce_rmsnorm": (
        "--hidden 1000 --tokens 1,3 -n 6 --max-time 100 --stable",
        {"fused", "then_auto", "then_library", "fused_stable"},
    ),
    "gemv_allreduce": (
        f"{SMALL} --weights int8 -d bf16 --stable",
        {"fused", "then_auto", "fused_stable"},
    ),
    "gemm_reduce_scatter": (f"{SMALL} --tokens 16", {"then_auto", "then_library"}),
    "decode": (f"{SMALL} --slots 2 --stable", TENSOR_PARALLEL | {"tensor_parallel_stable"}),
    "prefill": (f"{SMALL} --tokens 16 --layers 2", TENSOR_PARALLEL | SEQUENCE_PARALLEL),
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
    if "--stable" not in options:  # a busy machine may give no price
        assert "stable beside " not in table
    assert max(map(len, table.splitlines())) <= 80
    assert done.stdout == f"{table}run: {result.path}\n"


def test_every_split_of_a_prefill_is_right_between_simulated_gpus(tmp_path):
    """In a stream, a split with two collectives a layer could overtake its own norm."""
    variables = fake_gpu.environment(vendor="hip", count=2) | {"FAKE_NCCL_BINDING": "none"}
    options = f"{TINY} -n 1 --tokens 2 --layers 2 -d half --max-time 100 --device hip"
    _, result = run(tmp_path, options, command="prefill", **variables)
    right = {case.algorithm: case.n_wrong for case in result.cases if case.status == "ok"}
    assert {name for name, n_wrong in right.items() if n_wrong == 0} >= {
        "tensor_parallel",
        "sequence_parallel",
    }
