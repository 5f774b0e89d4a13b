"""Commands over two hosts: a variable makes MPICH see a host for each rank, so that the library
alone joins them."""

import pytest

from tests.bench.launches import launch, stored

HOSTS = {"MPIR_CVAR_NUM_CLIQUES": "2"}
QUICK = "-n 1 --max-time 80"
DECODE = "--scale 1/1024 --model llama-3.1-8b --slots 1"
COMMANDS = {
    "allreduce": ("-e 16K --mode isolated", {"library", "auto"}),
    "decode": (
        f"{DECODE} --stable",
        {"compute", "tensor_parallel", "tensor_parallel_library", "pipeline_parallel"},
    ),
    "alltoall": ("--experts 4 --tokens 32 --hidden 64 --skew uniform", {"library", "auto"}),
    "allreduce_rmsnorm": (
        "--model llama-3.1-8b --tokens 1",
        {"compute", "then_library", "then_auto"},
    ),
}

ABSENT = {
    "decode": "bench.decode: tensor_parallel_stable is not measured: its ranks are on one host\n",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_spans_hosts_runs_and_is_right(command, tmp_path):
    """Without mapped memory between hosts each split, form and way has a form that the library
    joins."""
    options, algorithms = COMMANDS[command]
    done = launch(tmp_path, options, QUICK, command=command, **HOSTS)
    assert (done.returncode, done.stderr) == (0, ABSENT.get(command, "")), done.stderr[-2000:]
    assert "2 ranks on 2 hosts (" in done.stdout
    result = stored(tmp_path)
    measured = [case for case in result.cases if case.status == "ok"]
    assert {case.algorithm for case in measured} == algorithms
    assert {case.n_wrong for case in measured if case.algorithm != "compute"} == {0}
    chosen = {case.chosen for case in measured if case.algorithm in ("auto", "tensor_parallel")}
    assert chosen <= {"flat"}
    assert not result.run.clock_shared
    assert {block.arrival_skew_us for block in result.blocks} == {None}


def test_the_soak_runs_between_hosts(tmp_path):
    done = launch(tmp_path, "--soak 1s -d float -o sum -e 64K", command="soak", **HOSTS)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    assert "2 ranks on 2 hosts" in done.stdout
    assert ", 0 wrong elements;" in done.stdout


ENDS_EARLY = """
from bench.layers.layers_command import main
from collectives.layers import model_step
message = model_step.Message
model_step.Message = lambda sent, peer, address, size: message(sent, peer, address, size - 64)
main("decode")
"""


def test_a_stage_that_hands_on_too_little_is_wrong(tmp_path):
    """The message between two stages of a pipeline ends 64 bytes early; its result is checked
    against float64."""
    done = launch(tmp_path, DECODE, QUICK, program=ENDS_EARLY, **HOSTS)
    assert done.returncode == 1
    assert "pipeline_parallel 8192 B is off by" in done.stderr
