"""`--footprint`: a matmul and a collective beside each other, and what each loses."""

import os
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.layers.footprint import beside
from bench.machine import placement
from kernels.devices.cpu import CpuDevice
from reports.tables.show import text
from tests.bench.launches import launch, run, stored
from tests.bench.machines import write
from tests.fake_gpu import fake_nccl
from tests.reports.synthetic_together import Made, always
from wiretax.record.case import COMPUTE

FORMS = {
    f"{kind}_{name}"
    for kind in ("collective", "beside", "compute_beside")
    for name in ("auto", "library")
}
SMALL = "--model llama-3.1-8b --scale 1/1024 --tokens 16 -n 2 --max-time 100 --footprint"


def words(result):
    return " ".join(text(result).split())


@pytest.mark.unit
def test_calls_beside_other_work_run_meanwhile_and_are_awaited():
    """In a row, the first call would wait for work that comes after it."""
    device: Any = CpuDevice()
    works, seen = threading.Event(), list[bool]()
    step = device.python("beside", lambda: seen.append(works.wait(10)))
    begin, end = (device.caller(each) for each in beside(device, step, 3))
    for _ in range(2):
        works.clear()
        seen.clear()
        begin()
        assert not seen
        works.set()
        end()
        assert seen == [True] * 3


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ranks", "pinned", "spare"),
    [(2, [0, 1], [[2], [3]]), (3, [0, 1, 2], [[], [], []]), (8, [*range(8)], [[]] * 8)],
)
def test_the_second_thread_of_a_rank_takes_a_core_that_no_rank_has(
    tmp_path, machine, monkeypatch, ranks, pinned, spare
):
    """On the second hardware thread of a rank's core it would slow the rank. Either all ranks have
    a core for it or none."""
    allowed = [*range(8)]  # four cores of two threads
    machine(
        write(tmp_path, {placement.SIBLINGS.format(n): f"{n % 4},{n % 4 + 4}" for n in allowed})
    )
    masks, places = {}, []
    for rank in range(ranks):
        masks[0] = {*allowed}
        monkeypatch.setattr(os, "sched_getaffinity", masks.get)
        monkeypatch.setattr(os, "sched_setaffinity", masks.__setitem__)
        gathered = SimpleNamespace(rank=rank, all_gather=lambda own: [own] * ranks)
        places.append(placement.pin(cast(Any, gathered)))
    assert [place.cpus for place in places] == [[cpu] for cpu in pinned]
    assert [place.beside for place in places] == spare


@pytest.mark.unit
def test_a_loss_is_the_time_beside_over_the_time_alone(tmp_path):
    """The wait for the other work comes after the timed one, and does not count. With a ratio of
    costs the matmul would take 3.2 times as long, and with its inverse it would gain."""
    costs = {
        COMPUTE: 10.0,
        "collective_auto": 4.0,
        "beside_auto": 9.0,
        "compute_beside_auto": 12.0,
        "collective_library": 5.0,
        "beside_library": 10.0,
        "compute_beside_library": 15.0,
    }
    waits = {name: 20.0 for name in costs if "beside" in name}
    made = Made(tmp_path, "gemm_reduce_scatter", waits=waits, chosen={"beside_auto": "direct_push"})
    result = made.run({name: always(us) for name, us in costs.items()})
    ratios = {case.algorithm: case.beside_ratio for case in result.cases if case.beside_ratio}
    assert {name: ratio.median for name, ratio in ratios.items()} == {
        "beside_auto": 2.25,
        "compute_beside_auto": 1.2,
        "beside_library": 2.0,
        "compute_beside_library": 1.5,
    }
    printed = words(result)
    assert printed.startswith("gemm_reduce_scatter: 1 token: matmul beside auto 1.20 times its ")
    assert "direct_push beside the matmul 4.00 9.00 2.25 [2.25 2.25] 0" in printed
    assert "matmul beside MPICH 10.0 15.0 1.50 [1.50 1.50]" in printed
    assert "times as long as alone: direct_push beside the matmul 2.25 [2.25 2.25]," in printed
    assert "not all forms" not in printed


# `auto` leaves out the last element.
SHORT = """from dataclasses import replace
from bench.layers.layers_command import main
from collectives.registry import ALGORITHMS
auto = ALGORITHMS["reduce_scatter"]["auto"]
short = lambda world, case: auto.bind(world, replace(case, count=case.count - 1))
ALGORITHMS["reduce_scatter"]["auto"] = replace(auto, perform=short)
main("gemm_reduce_scatter")
"""


def test_a_collective_beside_a_matmul_is_checked(tmp_path):
    """Otherwise one that loses data, alone or beside the matmul, could look cheap."""
    done = launch(tmp_path, SMALL, program=SHORT)
    assert done.returncode == 1, done.stdout + done.stderr
    result = stored(tmp_path)
    wrong = {case.algorithm for case in result.cases if case.status == "wrong"}
    assert wrong == {"collective_auto", "beside_auto"}
    assert {case.algorithm for case in result.cases} == FORMS | {COMPUTE}
    for case in result.cases:
        if case.algorithm == "beside_library":
            assert (case.n_wrong, case.beside_ratio is None) == (0, False)
        if case.algorithm == "compute_beside_library":
            assert "MPI takes calls of one thread alone" in (case.reason or "")
    assert "are two threads of a rank: they" in words(result)


# Notes the streams of the library's calls.
STREAMS = """import os
from pathlib import Path
from bench.layers.layers_command import main
from collectives.library.nccl import Nccl
perform = Nccl.perform

def noted(library, groups):
    for name, call, arguments in sum(groups, []):
        (Path(os.environ["STREAMS"]) / str(arguments[-1].value)).touch()
    return perform(library, groups)

Nccl.perform = noted
main("allgather_gemm")
"""


def test_the_footprint_between_simulated_gpus(tmp_path):
    """The library's calls, too, run in the second stream, beside the matmul."""
    streams = tmp_path / "streams"
    streams.mkdir()
    environment = fake_nccl.environment(vendor="cuda", gpu={"closed": 1})
    environment["STREAMS"] = str(streams)
    options = SMALL, "--device cuda"
    _, result = run(tmp_path / "results", *options, ranks=1, program=STREAMS, **environment)
    assert len(list(streams.iterdir())) == 2
    assert {case.algorithm for case in result.cases} == FORMS | {COMPUTE}
    assert {(case.algorithm, case.status) for case in result.cases if case.status != "ok"} == set()
    assert all(case.beside_ratio for case in result.cases if "beside" in case.algorithm)
