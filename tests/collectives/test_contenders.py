"""Contenders on the software GPU: real ranks, and stand-ins for vLLM, mscclpp and FlashInfer that
sum for real."""

import json
import re
from typing import Any

import pytest

from tests import fake_contenders
from tests.bench.launches import stored
from tests.fake_gpu import fake_nccl
from tests.launch import few, mpirun

CONTENDERS = "vllm,mscclpp,flashinfer"
TITLES = {"vllm": "vLLM 0.33.0", "mscclpp": "mscclpp 0.9.0", "flashinfer": "FlashInfer 0.7.2.post1"}
ONE = "--algorithm one_shot_pull --sizes 4K -n 2 -w 0 --max-time 110"
ISOLATED = "--mode", "isolated"


def launched(out, *options, environment=None, fault=""):
    settings = environment or fake_contenders.environment(fault=fault)
    command = "-m", "bench.allreduce", *ONE.split(), "--out", str(out), *options
    done = mpirun(2, *command, timeout_s=200, **settings)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done


def run(out, *options, **how):
    """The process, and the result."""
    return launched(out, *options, **how), stored(out)


def of_contenders(result):
    return {case.algorithm: case for case in result.cases if case.algorithm in TITLES}


def reasons(result) -> dict[str, str | None]:
    return {name: case.reason for name, case in of_contenders(result).items()}


def test_contenders_are_timed_and_checked_beside_ours_on_a_fake_gpu(tmp_path):
    """Another test has chains of them, and one has them without a graph."""
    done, result = run(tmp_path, "--contender", CONTENDERS, *ISOLATED, "-G", "1", "-d", "half")
    assert done.returncode == 0, done.stderr
    cases = of_contenders(result)
    assert {name: case.library for name, case in cases.items()} == TITLES
    seen = {(case.status, case.n_wrong, case.variant) for case in cases.values()}
    assert seen == {("ok", 0, "graph")}
    assert all(case.time_us and case.time_us.median > 0 for case in cases.values())
    for title in TITLES.values():  # its time, and the ratio of ours to it
        assert re.search(rf"B {re.escape(title)} +\S+ +\S+", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("options", "vendor", "contenders", "reason"),
    few(
        [
            ("--sizes 1000", "cuda", CONTENDERS, "takes whole vectors of 16 B, at least one"),
            ("--sizes 8M", "cuda", "vllm", "leaves this message to NCCL: its custom all-reduce"),
            ("", "hip", "flashinfer", "runs on cuda, not on hip"),
            ("--ranks-share-gpus", "one", CONTENDERS, "needs one GPU a rank"),
        ],
        1,
    ),
)
def test_a_case_that_does_not_fit_is_refused_with_the_reason(
    tmp_path, options, vendor, contenders, reason
):
    gpu: dict[str, object] | None = {"count": 1} if vendor == "one" else None
    settings = fake_contenders.environment("hip" if vendor == "hip" else "cuda", gpu)
    options = [*options.split(), "--contender", contenders, *ISOLATED]
    done, result = run(tmp_path, *options, environment=settings)
    assert done.returncode == 0, done.stderr
    assert set(reasons(result)) == set(contenders.split(","))
    for name, said in reasons(result).items():
        assert said
        assert said.startswith(f"{TITLES[name].split()[0]} {reason}")


# Writes, for each case, how often an iteration launches which link of a chain.
COUNTED_LINKS = """
import atexit, json, os, runpy
from collections import Counter
from bench.harness import timing
from kernels.devices.gpu import GpuDevice

launched, of_case = Counter(), {}
function, perform = GpuDevice.function, timing.perform

def counted(device, loaded, entry, threads):
    enqueue = function(device, loaded, entry, threads)
    def launch(blocks, argument):
        launched[f"{blocks} blocks, {argument.count} elements"] += 1
        enqueue(blocks, argument)
    return launch if entry == "chain_link" else enqueue

def performed(session, iteration, counts):
    launched.clear()
    stamps = perform(session, iteration, counts)
    of_case[iteration.number] = {link: n / counts.total for link, n in launched.items()}
    if session.world.rank == 0:
        with open(os.environ["LINKS_FILE"], "w") as file:
            json.dump(of_case, file)
    return stamps

GpuDevice.function, timing.perform = counted, performed
runpy.run_module("bench.allreduce", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("options", "variants"),
    few(
        [
            ("", {"one_shot", "two_shot", "one_shot_symmetric", "copied", "registered"}),
            ("--in-place", {"two_shot_symmetric", "copied", "registered"}),
        ],
        1,
    ),
)
def test_torch_and_ours_have_the_same_link_in_a_chain_on_a_fake_gpu(tmp_path, options, variants):
    """Otherwise the difference of their times would be that of their links. All are checked."""
    links = tmp_path / "links"
    words = "--sizes 4K -w 0 --max-time 110 --mode chained -n 1 --contender torch_symmetric"
    words += f" --algorithm one_shot_push,two_shot_direct {options}"
    settings: dict[str, Any] = {**fake_contenders.environment(), "LINKS_FILE": str(links)}
    done = mpirun(2, "-c", COUNTED_LINKS, *words.split(), "--out", str(tmp_path), **settings)
    assert done.returncode == 0, done.stderr
    timed = [case for case in stored(tmp_path).cases if case.status == "ok"]
    assert {case.n_wrong for case in timed} == {0}
    assert {case.variant for case in timed} == variants
    of_case = json.loads(links.read_text())
    launched = [of_case[str(case.case)] for case in timed]
    assert [*launched[0].values()] == [2 * 160]  # of the chain without collectives, and with them
    assert launched == [launched[0]] * len(timed)


def test_a_sum_before_the_norm_registers_the_buffers_of_its_graph_on_a_fake_gpu(tmp_path):
    """Both are one step, and the graph has its parts."""
    words = "--tokens 1 --hidden 64 -n 2 --max-time 60 --algorithm fused --contender vllm -G 1"
    command = "-m", "bench.allreduce_rmsnorm", *words.split(), "--out", str(tmp_path)
    done = mpirun(2, *command, timeout_s=200, **fake_contenders.environment())
    assert done.returncode == 0, done.stderr
    (case,) = (case for case in stored(tmp_path).cases if case.algorithm == "then_vllm")
    assert (case.status, case.n_wrong) == ("ok", 0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    few(
        [
            ("raise", "rank 1: vLLM 0.33.0 fails: RuntimeError: no NVLink between these GPUs, "),
            ("disabled", "vLLM disables its custom all-reduce between these GPUs: its warning "),
        ],
        1,
    ),
)
def test_a_contender_that_does_not_start_is_refused_with_its_words_on_a_fake_gpu(
    tmp_path, fault, reason
):
    done, result = run(tmp_path, "--contender", "vllm,mscclpp", *ISOLATED, fault=fault)
    assert done.returncode == 0, done.stderr
    said = reasons(result)
    assert str(said["vllm"]).startswith(reason)
    assert said["mscclpp"] is None


def test_quick_reduce_is_timed_in_full_precision_where_vllm_takes_it_on_a_fake_gpu(tmp_path):
    """Its quantised wires are not: their sums have no bound. MI300's alone: the software GPU's card
    does not matter to the stand-in."""
    words = "--algorithm library --sizes 4K,1M -d half -n 2 -w 0 --max-time 110 --mode isolated"
    command = "-m", "bench.allreduce", *words.split(), "--contender", "vllm_quick_reduce"
    gpu = fake_contenders.environment("hip")
    done = mpirun(2, *command, "--out", str(tmp_path), timeout_s=200, **gpu)
    assert done.returncode == 0, done.stderr
    own = [case for case in stored(tmp_path).cases if case.algorithm == "vllm_quick_reduce"]
    assert [(case.size_bytes, case.status, case.n_wrong) for case in own] == [
        (4096, "unsupported", None),
        (1 << 20, "ok", 0),
    ]
    assert "leaves a message of this size" in str(own[0].reason)
    assert own[1].library == "vLLM QuickReduce 0.33.0"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("disabled", "vLLM disables QuickReduce between these GPUs: it wants gfx94 or gfx95"),
        ("wrong", ""),
    ],
)
def test_a_quick_reduce_that_is_disabled_or_wrong_is_no_figure_on_a_fake_gpu(tmp_path, fault, said):
    words = "--algorithm library --sizes 1M -d half -n 2 -w 0 --max-time 110 --mode isolated"
    command = "-m", "bench.allreduce", *words.split(), "--contender", "vllm_quick_reduce"
    gpu = fake_contenders.environment("hip", fault=fault)
    done = mpirun(2, *command, "--out", str(tmp_path), timeout_s=200, **gpu)
    (own,) = (case for case in stored(tmp_path).cases if case.algorithm == "vllm_quick_reduce")
    assert str(own.reason or "").startswith(said)
    wanted = ("wrong", 1) if fault == "wrong" else ("unsupported", 0)
    assert (own.status, done.returncode) == wanted, done.stderr


def test_contenders_that_sum_wrong_or_may_call_nccl_are_no_baseline_on_a_fake_gpu(tmp_path):
    nccl = {"MSCCLPP_NCCL_LIB_PATH": "/usr/lib/libnccl.so"}  # its figures would be NCCL's
    environment = {**fake_contenders.environment(fault="wrong"), **nccl}
    done, result = run(tmp_path, "--contender", CONTENDERS, *ISOLATED, environment=environment)
    assert done.returncode == 1
    assert "WRONG RESULTS in " in done.stdout
    status = {name: case.status for name, case in of_contenders(result).items()}
    assert status == {"vllm": "wrong", "mscclpp": "unsupported", "flashinfer": "wrong"}
    assert reasons(result)["mscclpp"] == (
        "with MSCCLPP_NCCL_LIB_PATH set mscclpp may call NCCL instead: unset MSCCLPP_NCCL_LIB_PATH"
    )


def test_contenders_that_are_not_installed_are_named_with_what_to_type_on_a_fake_gpu(tmp_path):
    environment = fake_nccl.environment()
    done, result = run(tmp_path, "--contender", CONTENDERS, *ISOLATED, environment=environment)
    assert done.returncode == 0, done.stderr
    source = "git+https://github.com/microsoft/mscclpp"
    assert reasons(result) == {
        "vllm": "vLLM is not installed: pip install vllm",
        "mscclpp": f'mscclpp is not installed: pip install "mscclpp[cuda12] @ {source}"',
        "flashinfer": "FlashInfer is not installed: pip install flashinfer-python",
    }
