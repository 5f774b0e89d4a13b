"""Where no read between GPUs is routed, no kernel but the probe's reads a peer's memory: every
command measures what pushes, right, and says what it leaves out. Some hosts route stores alone
(NVIDIA/open-gpu-kernel-modules issue 1253)."""

import pytest

from reports.tables.show import text
from tests import fake_gpu
from tests.bench.launches import launch, stored
from tests.bench.test_link import LINK
from tests.launch import few

# Reads of a peer's slab return what was there first.
STALE: dict[str, object] = {"vendor": "cuda", "cached": 0, "coherent": "pushes"}
SMALL = "--max-time 100 -n 2"
SHAPE = f"{SMALL} --model llama-3.1-8b --scale 1/1024"
WHY = "reads of peers' memory: within one launch rank "
LEFT_OUT = "unsupported: dependent_loads, loads, pull, stores_and_loads: "
# By command: its options, what it must measure, and what it must say.
COMMANDS = {
    "link": ("--max-time 100 -e 16K", {"push", "stores", "ping_pong"}, LEFT_OUT + WHY),
    "allreduce_rmsnorm": (
        f"{SMALL} --hidden 256 --tokens 1,3",
        {"fused", "then_auto"},
        "fused, fused_push",
    ),
    "gemv_allreduce": (SHAPE, {"fused", "then_auto"}, "fused"),
    "allreduce": (
        f"{SMALL} -b 16K -e 16K -w 0 --mode isolated",
        {"auto", "one_shot_push", "two_shot_push", "ring"},
        "one_shot_pull",
    ),
    "gemm_reduce_scatter": (f"{SHAPE} --tokens 16", {"fused", "then_auto"}, "fused"),
    "prefill": (f"{SHAPE} --tokens 2 --layers 2 -d half", {"tensor_parallel"}, "tensor_parallel"),
}


def measured(folder, command, options, **faults):
    """A run with correct results, what it printed, and what read a peer's memory."""
    reads = folder / "reads"
    gpu = fake_gpu.environment(closed=0, reads=reads, **faults)
    words = f"--device {faults['vendor']} {options}"
    program = LINK if command == "link" else None  # an iteration of each case
    done = launch(folder / "results", words, command=command, program=program, **gpu)
    assert done.returncode == 0, done.stdout + done.stderr
    result = stored(folder / "results")
    assert {case.n_wrong or 0 for case in result.cases} == {0}
    return result, " ".join(done.stdout.split()), set(reads.read_text().split())


@pytest.mark.parametrize("command", few(COMMANDS, 4))
def test_nothing_but_the_probe_reads_a_peer_on_a_fake_gpu(tmp_path, command):
    options, least, sentence = COMMANDS[command]
    result, said, readers = measured(tmp_path, command, options, **STALE)
    assert readers == {"show_reads"}
    assert result.run.memory["behaved"] == "mapped"
    assert WHY in " ".join(result.run.notes)
    assert {case.algorithm for case in result.cases if case.status == "ok"} >= least
    assert sentence in said
    assert sentence in " ".join(text(result).split())
    parts = [(block.push_us is None, block.peer_read_us) for block in result.link_blocks]
    assert {*parts} == ({(False, None)} if command == "allreduce" else set())


KERNEL = """// wiretax: all_reduce chunks=2*ranks pushes
#include "include/exchange.h"

RANK_KERNEL(PLACE) { exchange_and_reduce<PUSH, ALL>(a); }
"""


def test_a_kernel_from_outside_runs_if_it_says_that_it_pushes_on_a_fake_gpu(tmp_path):
    options = f"{SMALL} -b 4K -e 4K -w 0 --mode isolated --algorithm auto"
    for name, words in {"mine": " pushes", "other": ""}.items():
        source = KERNEL.replace("PLACE", name).replace(" pushes", words)
        (tmp_path / f"{name}.cu").write_text(source)
        options += f" --kernel {tmp_path / name}.cu"
    result, _, readers = measured(tmp_path, "allreduce", options, **STALE)
    status = {case.algorithm: case.status for case in result.cases if case.algorithm != "library"}
    assert status == {"auto": "ok", "mine": "ok", "other": "unsupported"}
    assert readers == {"show_reads"}


def test_a_read_of_a_peer_is_noted_and_pushed_rows_are_measured_beside_it_on_a_fake_gpu(tmp_path):
    """Without such notes the test above would show nothing."""
    options = f"{SMALL} --hidden 256 --tokens 3"
    result, _, readers = measured(tmp_path, "allreduce_rmsnorm", options, vendor="cuda")
    assert readers >= {
        "show_reads",
        "read_from_all",
        "store_and_read_all",
        "allreduce_rmsnorm_pull",
        "allreduce_rmsnorm_pull_registered",
    }
    assert "allreduce_rmsnorm_push" not in readers
    measured_forms = {case.algorithm for case in result.cases if case.status == "ok"}
    assert measured_forms >= {"fused", "fused_push"}
