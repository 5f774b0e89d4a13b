"""The GPU device: the GPU that each rank uses, the ways to share memory, and errors that end a run.

Most tests use the software GPU (tests/fake_gpu) as driver and CuPy. The last tests use the real CuPy wheel without a
GPU: its errors must become one sentence, and it must compile for GPUs.
"""

import itertools
import json
import os
import re
import statistics
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from collectives.world import choose_gpus
from kernels.devices import gpu_driver
from kernels.devices.compile_cache import CompileError
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import compile_kernel
from reports.store.result import read
from tests import fake_gpu
from tests.bench.test_cli import assert_refused, launch
from tests.fake_gpu import fake_nccl
from tests.launch import MPIRUN, ROOT, SLOW_TEST, few, mpirun

pytestmark = pytest.mark.alone

ONE = (
    "--algorithm",
    "ring",
    "-b",
    "4K",
    "-e",
    "4K",
    "--mode",
    "isolated",
    "-n",
    "2",
    "-w",
    "0",
    "--max-time",
    "10",
)  # without warm-up, which takes seconds on the software GPU

CLOSED: dict[str, object] = {"closed": 1}  # our host code must not touch device memory


def on(folder, *options, ranks=2, **faults):
    """Runs the command on a software GPU with these faults."""
    environment = fake_gpu.environment(**CLOSED, **faults)
    return launch(folder / "results", *ONE, "--lean", *options, ranks=ranks, **environment)


def run_of(folder):
    (path,) = (folder / "results").glob("*.jsonl")
    return read(path)


@pytest.mark.parametrize(
    ("options", "faults", "sentence"),
    few(
        [
            ("--device cuda", {"driver": 0}, "no GPU driver is here"),
            (
                "--device cuda",
                {"driver": 12040},
                r"the driver offers 12\.4, CuPy wants 13\.2; update the driver, or install",
            ),
            ("--device cuda", {"count": 0}, "cudaErrorNoDevice"),
            (
                "--device cuda",
                {"vendor": "hip"},
                "there is no cuda device here: the installed CuPy is built for hip",
            ),
            (
                "--device auto",
                {"vendor": "cuda,hip"},
                "rank 0 has a cuda device and rank 1 a hip device",
            ),
            (
                "--device cuda",
                {"count": 1},
                "ranks 0, 1 of this host would share GPU 0000:41:00.0: start one rank a GPU",
            ),
            (
                "--device cuda",
                {"fail": "malloc:rank1:cudaErrorMemoryAllocation:>1000000"},
                "rank 1: on GPU 0000:61:00.0, cudaMalloc of 2097152 B fails: cudaErrorMemoryAllocation: out of memory",
            ),
            (
                "--device hip",
                {"vendor": "hip", "fail": "hipExtMallocWithFlags:rank1:hipErrorOutOfMemory"},
                "rank 1: on GPU 0000:61:00.0, hipExtMallocWithFlags fails: error 2 OutOfMemory",
            ),
            (
                "--device cuda",
                {"fail": "ipcOpenMemHandle:rank1,hostRegister:rank0"},
                "mapped: rank 1: on GPU 0000:61:00.0, ipcOpenMemHandle .*; host_staged: rank 0: .*cudaHostRegister of",
            ),
            (
                "--device cuda --memory mapped",
                {"corrupt_ipc": 4096},
                "mapped: the memory that rank 1 pushed to rank 0 has wrong bytes from offset 4096 of the slab on, in turn "
                "0 of the probe; "
                "ranks without memory in common need the GPUs' library to meet: NCCL is not installed",
            ),
            (
                "--device cpu --memory host_staged",
                {},
                "--memory host_staged: the cpu device has memfd",
            ),
        ],
        8,
    ),
    ids=lambda value: str(value).replace("'", "") if not isinstance(value, str) else value[:30],
)
def test_impossible_options_are_refused_in_one_line_on_a_fake_gpu(
    tmp_path, options, faults, sentence
):
    assert_refused(on(tmp_path, *options.split(), **faults), 3, sentence, tmp_path)


@pytest.mark.parametrize(
    ("vendor", "faults", "kind", "why"),
    [
        ("cuda", {}, "mapped", None),
        ("hip", {}, "mapped", None),
        (
            "cuda",
            {"peer": 0},
            "host_staged",
            "the driver refuses peer access from GPU 0000:41:00.0 to GPU 0000:61",
        ),
        (
            "cuda",
            {"fail": "ipcOpenMemHandle:rank1:cudaErrorMapBufferObjectFailed"},
            "host_staged",
            "rank 1: on GPU",
        ),
        (
            "hip",
            {"corrupt_ipc": 4096},
            "host_staged",
            "rank 1 pushed to rank 0 has wrong bytes from offset 4096",
        ),
    ],
)
def test_peers_use_the_first_memory_that_works_and_the_run_says_why_on_a_fake_gpu(
    tmp_path, vendor, faults, kind, why
):
    done = on(tmp_path, "--device", vendor, vendor=vendor, **faults)
    assert done.returncode == 0, done.stderr
    result = run_of(tmp_path)
    (case,) = result.cases
    assert (case.memory, case.n_wrong, case.status) == (kind, 0, "ok")
    printed = " ".join(done.stdout.split())
    assert f"Peer memory is {kind}" in printed
    assert (why in printed) if why else ("Better was refused" not in printed)
    types = {"mapped": {"cuda": "cudaMalloc", "hip": "hipExtMallocWithFlags uncached"}[vendor]}
    memory = result.run.memory
    assert {memory["flags"], memory["data"]} == {types.get(kind, "registered host memory")}
    requested = {"cuda": "mapped", "hip": "mapped uncached"}[vendor]
    behaved = requested if kind == "mapped" else kind
    assert (memory["requested"], memory["behaved"], memory["hdp_flush"]) == (
        requested,
        behaved,
        "none",
    )
    module = result.run.environment["gpu.module"]["value"]
    assert f"within one, with driver {result.run.world['ranks'][0]['driver']}, runtime" in printed
    assert module[0] in printed
    assert [rank["pci_bus_id"] for rank in result.run.world["ranks"]] == [
        "0000:41:00.0",
        "0000:61:00.0",
    ]


def test_a_driver_without_uncached_memory_gives_fine_grained_and_the_head_says_so_on_a_fake_gpu(
    tmp_path,
):
    done = on(tmp_path, "--device", "hip", vendor="hip", uncached=0)
    assert done.returncode == 0, done.stderr
    memory = run_of(tmp_path).run.memory
    assert memory["data"] == "hipExtMallocWithFlags fine_grained"
    assert (memory["requested"], memory["behaved"]) == ("mapped uncached", "mapped fine_grained")


def test_without_shared_memory_only_the_library_is_measured_on_a_fake_gpu(tmp_path):
    options = ("--device", "cuda", "--memory", "mapped", "--algorithm", "two_shot,library")
    done = launch(
        tmp_path / "results",
        *ONE,
        *options,
        "--lean",
        **fake_nccl.environment(gpu={"corrupt_ipc": 64}),
    )
    assert done.returncode == 0, done.stderr
    assert (
        run_of(tmp_path)
        .run.memory["behaved"]
        .startswith("none: mapped: the memory that rank 1 pushed")
    )
    status = {(case.algorithm, case.variant): case.status for case in run_of(tmp_path).cases}
    assert status[("two_shot", "copied")] == "unsupported"
    assert status[("library", "plain")] == "ok"


def test_the_table_says_that_ranks_share_a_gpu_on_a_fake_gpu(tmp_path):
    done = on(tmp_path, "--device", "cuda", "--ranks-share-gpus", count=1)
    assert done.returncode == 0, done.stderr
    assert run_of(tmp_path).cases[0].memory == "same_device"
    assert "ranks share a GPU, so no time here measures a wire" in " ".join(done.stdout.split())


@pytest.mark.parametrize("vendor", few(["hip", "cuda"], 1))
def test_graphs_launch_both_ours_and_the_library_on_a_fake_gpu(tmp_path, vendor):
    """A graph launch and a stream launch must not be compared."""
    options = (
        "--device",
        vendor,
        "-G",
        "1",
        "--algorithm",
        "two_shot,library",
        "--mode",
        "both",
        "-n",
        "1",
        "-w",
        "0",
        "--max-time",
        "30",
    )
    done = launch(
        tmp_path / "results",
        *ONE,
        *options,
        "--lean",
        **fake_nccl.environment(vendor=vendor, gpu=CLOSED),
    )
    assert done.returncode == 0, done.stderr
    result = run_of(tmp_path)
    assert result.run.world["launch"] == "graph"
    assert {case.variant for case in result.cases if case.library} >= {"graph"}
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}


@pytest.mark.parametrize(
    ("faults", "refusal"),
    few(
        [
            ({}, ""),
            (
                {"corrupt_ipc": 20 << 20},
                "a packet from rank 1 never arrived in the memory of rank 0",
            ),
            ({"fail": "malloc:rank1:cudaErrorMemoryAllocation:>40000000"}, "MemoryAllocation"),
        ],
        2,
    ),
    ids=str,
)
def test_slabs_grow_for_long_messages_and_stay_where_larger_ones_fail_on_a_fake_gpu(
    faults, refusal
):
    """Each beat costs a trip of a flag: in halves of 4 MiB a message of 32 MiB would take 27."""
    settings = fake_gpu.environment(**CLOSED, **faults)
    done = mpirun(2, "tests/ranks/slab_ranks.py", "cuda", timeout_s=90, **settings)
    assert done.returncode == 0, done.stderr
    *algorithms, slabs = [line.split() for line in done.stdout.splitlines()]
    beats = {name: int(number) for name, _, number in algorithms}
    assert (max(beats.values()) <= 8) == (not faults), beats
    assert (int(slabs[0]) == 4 << 20) == bool(faults)
    assert refusal in done.stdout
    assert len(slabs) == 1 or faults


def test_auto_stores_into_peers_and_uses_packets_on_a_fake_gpu(tmp_path):
    options = (
        "-b",
        "4K",
        "-e",
        "1M",
        "-f",
        "16",
        "--mode",
        "isolated",
        "-n",
        "1",
        "-w",
        "0",
        "--max-time",
        "30",
        "--lean",
        "--device",
        "cuda",
        "--algorithm",
        "auto",
    )
    done = launch(tmp_path / "results", *options, **fake_gpu.environment(**CLOSED))
    assert done.returncode == 0, done.stderr
    cases = run_of(tmp_path).cases
    chosen = {(case.size_bytes, case.variant): case.chosen for case in cases}
    assert chosen == {
        (4 << 10, "copied"): "one_shot_ll",
        (4 << 10, "registered"): "one_shot_pull",
        (64 << 10, "copied"): "one_shot_push",
        (64 << 10, "registered"): "one_shot_pull",
        (1 << 20, "copied"): "two_shot_push",
        (1 << 20, "registered"): "two_shot_push",
    }
    assert {case.n_wrong for case in cases if case.status == "ok"} == {0}


@pytest.mark.parametrize(
    ("command", "vendor"),
    few(
        [
            ("allgather", "cuda"),
            ("reduce_scatter", "hip"),
            ("alltoall", "hip"),
            ("sendrecv", "cuda"),
            ("allgather", "hip"),
            ("reduce_scatter", "cuda"),
            ("alltoall", "cuda"),
            ("sendrecv", "hip"),
        ],
        1,
    ),
)
def test_every_command_measures_ours_and_the_library_with_correct_results_on_a_fake_gpu(
    tmp_path, command, vendor
):
    """Peers cannot map memory of NCCL's own allocator, so NCCL has other buffers than our `registered` variant."""
    options = (
        "-b",
        "12K",
        "-e",
        "12K",
        "--mode",
        "isolated",
        "-n",
        "2",
        "-w",
        "0",
        "--max-time",
        "30",
        "--lean",
        "--device",
        vendor,
    )
    done = launch(
        tmp_path / "results",
        *options,
        command=command,
        **fake_nccl.environment(vendor=vendor, gpu=CLOSED),
    )
    assert done.returncode == 0, done.stderr
    cases = run_of(tmp_path).cases
    assert {case.n_wrong for case in cases if case.status == "ok"} == {0}
    assert all(case.bound_us for case in cases if case.status == "ok"), "a push without a bound"
    assert {case.status for case in cases} == {"ok"}
    assert any(case.variant == "registered" for case in cases if case.algorithm == "direct_pull")
    windows = {"registered"} if vendor == "cuda" else set()
    assert {case.variant for case in cases if case.library} == {"plain", "tuned"} | windows


@SLOW_TEST
@pytest.mark.parametrize(("vendor", "graph"), [("cuda", "1"), ("hip", "0"), ("cuda", "0")])
def test_a_routed_all_to_all_and_grouped_sends_are_correct_on_a_fake_gpu(tmp_path, vendor, graph):
    options = (
        "--experts",
        "5",
        "--tokens",
        "30",
        "--hidden",
        "70",
        "--skew",
        "zipf:1",
        "-d",
        "bfloat16",
        "--mode",
        "both",
        "-n",
        "1",
        "-w",
        "0",
        "--max-time",
        "60",
        "--lean",
        "--device",
        vendor,
        "-G",
        graph,
    )
    environment = fake_nccl.environment(vendor=vendor, gpu=CLOSED)
    done = launch(tmp_path / "results", *options, command="alltoall", **environment)
    assert done.returncode == 0, done.stderr
    cases = run_of(tmp_path).cases
    assert {case.n_wrong for case in cases if case.status == "ok"} == {0}
    right = {
        (case.algorithm, case.variant, case.mode)
        for case in cases
        if case.status == "ok" and case.shape["way"] == "round_trip"
    }
    variants = {
        "library": "graph" if graph == "1" else "plain",
        "direct_push": "copied",
        "direct_pull": "copied",
    }
    assert right >= {(*form, mode) for form in variants.items() for mode in ("isolated", "chained")}
    assert ("direct_pull", "registered", "isolated") in right


@SLOW_TEST
def test_registered_uses_ipc_if_nccl_has_no_allocator_with_graphs_on_a_fake_gpu(tmp_path):
    options = (
        "-b",
        "12K",
        "-e",
        "12K",
        "--mode",
        "both",
        "-n",
        "1",
        "-w",
        "0",
        "--max-time",
        "60",
        "--lean",
        "--device",
        "cuda",
        "-G",
        "1",
        "--in-place",
        "--algorithm",
        "direct_pull,library",
    )
    for command in ("allgather", "reduce_scatter"):
        out = tmp_path / command
        done = launch(
            out / "results", *options, command=command, **fake_nccl.environment(version=21800)
        )
        assert done.returncode == 0, done.stderr
        status = {
            (case.algorithm, case.variant, case.mode): (case.status, case.n_wrong)
            for case in run_of(out).cases
        }
        modes = ("isolated", "chained")
        assert [status["direct_pull", "registered", mode] for mode in modes] == [("ok", 0)] * 2
        assert [status["library", "graph", mode] for mode in modes] == [("ok", 0)] * 2


@pytest.mark.parametrize("memory", few(["host_staged", "auto"], 1))
def test_our_algorithms_do_not_move_the_librarys_buffers_to_the_host_on_a_fake_gpu(
    tmp_path, memory
):
    """With its buffers in host memory, the library would be slow and not a fair baseline."""
    options = ("--lean", "--device", "hip", "--memory", memory, "--algorithm", "direct_pull")
    environment = fake_gpu.environment(vendor="hip")
    done = launch(tmp_path / "results", *ONE[2:], *options, command="allgather", **environment)
    assert done.returncode == 0, done.stderr
    status = {case.variant: case.status for case in run_of(tmp_path).cases}
    assert status == {"copied": "ok", "registered": "ok" if memory == "auto" else "unsupported"}


def test_graphs_that_cannot_be_captured_are_refused_with_the_reason_on_a_fake_gpu(tmp_path):
    done = on(
        tmp_path,
        "--device",
        "hip",
        "-G",
        "1",
        vendor="hip",
        fail="streamBeginCapture:hipErrorNotSupported",
    )
    assert_refused(
        done, 3, "-G: CuPy cannot capture a graph on GPU .*hipErrorNotSupported", tmp_path
    )
    done = on(tmp_path, "--device", "cuda", "-G", "1", "--dispatch", "python")
    assert_refused(
        done, 2, "-G launches from a graph, and --dispatch python call by call", tmp_path
    )


@pytest.mark.parametrize("launches", few([2000, 300], 1))
def test_a_gpu_that_vanishes_ends_all_ranks_and_is_named_on_a_fake_gpu(tmp_path, launches):
    done = on(tmp_path, "--device", "cuda", "-n", "24", vanish_after=launches)
    assert done.returncode == 1
    assert "wiretax: rank " in done.stderr
    assert "on GPU 0000:" in done.stderr
    # The error is the driver's if the timed loop notices the loss first, and otherwise the runtime's.
    assert re.search("cudaErrorDevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE", done.stderr), (
        done.stderr
    )
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for path in (tmp_path / "results").glob("*.jsonl"):
        assert not read(path).complete


def test_a_rank_uses_a_gpu_that_no_other_rank_uses():
    both = ["0000:41:00.0", "0000:61:00.0"]
    assert choose_gpus([both, both]) == both
    assert choose_gpus([[both[1]], [both[0]]]) == [both[1], both[0]]
    assert choose_gpus([both[:1], both]) == both
    assert choose_gpus([both, both[:1]]) == both[::-1]
    assert choose_gpus([both[:1], both[:1]]) == [both[0], both[0]]
    for seen in itertools.product([both, both[::-1]], repeat=2):
        assert sorted(choose_gpus(list(seen))) == both


def test_ranks_that_see_one_gpu_each_use_both_on_a_fake_gpu(tmp_path):
    """As under Slurm, each rank sees only its own GPU, as number 0, and cannot query the other GPU."""
    environment = fake_gpu.environment()
    command = [
        sys.executable,
        "-m",
        "bench.allreduce",
        *ONE,
        "--lean",
        "--device",
        "cuda",
        "--out",
        str(tmp_path / "results"),
    ]
    first, second = (
        ["-n", "1", "-env", "CUDA_VISIBLE_DEVICES", gpu, *command] for gpu in ("1", "0")
    )
    launched = [str(MPIRUN), *first, ":", *second]
    done = subprocess.run(
        launched,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert [rank["pci_bus_id"] for rank in run_of(tmp_path).run.world["ranks"]] == [
        "0000:61:00.0",
        "0000:41:00.0",
    ]


@pytest.mark.parametrize(
    ("vendor", "call"), [("cuda", "cuMemGetAddressRange_v2"), ("hip", "ipcGetMemHandle")]
)
def test_memory_without_a_handle_is_freed_on_a_fake_gpu(vendor, call):
    """Otherwise a run that continues over host memory would have less GPU memory."""
    program = """
from kernels.devices.gpu import DeviceError, GpuDevice
from kernels.devices.gpu_driver import visible_gpus
device = GpuDevice(visible_gpus()[1][0])
free = device.runtime.memGetInfo()
device.private(1 << 20)
assert free != device.runtime.memGetInfo()
free = device.runtime.memGetInfo()
try:
    device.allocate(1 << 20, "mapped")
except DeviceError as error:
    assert free == device.runtime.memGetInfo()
    print(error)
"""
    environment = {**os.environ, **fake_gpu.environment(vendor=vendor, fail=call)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert call in done.stdout


def loop_on_a_fake_gpu(name):
    environment = {**os.environ, **fake_gpu.environment()}
    command = [sys.executable, "-m", "tests.ranks.gpu_loop", name]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.alone
def test_measured_times_exclude_the_hosts_enqueue_time_on_a_fake_gpu():
    """Enqueuing takes 20 ms here. The measured time is the kernel's time alone, except in the first iteration."""
    report = loop_on_a_fake_gpu("slow_host")
    assert len(report["times_us"]) == 6
    assert statistics.median(report["times_us"]) < 15_000


@pytest.mark.alone
def test_more_launches_than_a_stream_holds_run_in_batches_on_a_fake_gpu():
    """On a full stream, the host would wait for a gate that only the host can open."""
    report = loop_on_a_fake_gpu("many_iterations")
    assert len(report["times_us"]) == 600
    assert report["elapsed_s"] < 20


@pytest.mark.alone
def test_a_program_longer_than_a_stream_needs_no_gate_on_a_fake_gpu():
    """A gate would let the soak's second program fill the stream. The watch's call is the program's last launch."""
    report = loop_on_a_fake_gpu("long_program")
    assert (report["calls"], report["iterations"]) == (700, 2100)
    assert report["elapsed_s"] < 20


def test_a_graph_captures_a_library_call_once_on_a_fake_gpu():
    """The graph holds the launches that a step enqueues; later iterations enqueue none again."""
    report = loop_on_a_fake_gpu("graph")
    assert report["enqueued"] == {"stream": 9, "graph": 1}


def test_a_gate_that_times_out_ends_the_timed_loop_with_an_error_on_a_fake_gpu():
    sentence = "on GPU 0000:41:00.0, the timed loop fails: the stream was full before the host had filled it"
    assert loop_on_a_fake_gpu("late_host")["error"] == sentence


def test_an_iteration_runs_its_steps_in_order_and_stamps_them_on_a_fake_gpu():
    """Isolated and chained. A graph captures only the launches between two stamps, and captures them once."""
    report = loop_on_a_fake_gpu("actions")
    begin, alone, chain = ["prepare", "meet"], ["consume"] * 2, ["operation", "consume"] * 2
    isolated = [*begin, "operation", "consume"]
    chained = [*begin, *alone, *begin, *chain]
    captured = [*begin, "consume"], [*begin, *begin]
    expected = {
        "isolated stream": isolated,
        "chained stream": chained,
        "isolated graph": captured[0],
        "chained graph": captured[1],
    }
    for form, steps in expected.items():
        result = report[form]
        # One checked iteration in the warm-up, two timed iterations, one checked iteration.
        assert result["steps"] == [*steps, "check", *steps * 2, *steps, "check"], form
        assert (result["rows"], result["first"], result["rises"], result["iterations"]) == (
            2,
            0,
            True,
            5,
        ), form


def test_iterations_after_a_stop_are_not_measured_on_a_fake_gpu():
    assert loop_on_a_fake_gpu("stopped") == {"rows": 1, "enqueued": 42}


def test_the_watch_stays_at_the_launch_that_stopped_on_a_fake_gpu():
    """Launches that the host has already enqueued still run, and must not count as the stopped launch."""
    assert loop_on_a_fake_gpu("stopping_launch") == {"calls": 2, "iterations": 2}


@pytest.mark.parametrize(
    ("wheels", "drivers", "sentence"),
    [
        (
            ["cupy_cuda13x", "cupy_rocm_7_0"],
            ["hip"],
            r"cupy-cuda13x and cupy-rocm-7-0 overwrite each other in \S+: run make setup GPU=rocm && \. \.venv-rocm/",
        ),
        (
            ["cupy", "cupy_cuda12x"],
            [],
            "cupy and cupy-cuda12x overwrite each other .* GPU=cuda13 .* GPU=rocm",
        ),
        (
            ["cupy_rocm_7_0"],
            ["cuda"],
            "cupy-rocm-7-0 is for hip, and .* vendor's driver: run make setup GPU=cuda13",
        ),
        (["cupy_cuda12x"], ["cuda"], None),
        (["cupy_cuda12x"], ["cuda", "hip"], None),
        (["cupy_rocm_7_0"], [], None),
        (["cupy"], ["hip"], None),
        (["cupy_cuda12x", "cupyx_tools"], ["cuda"], None),
        ([], ["hip"], None),
    ],
)
def test_a_cupy_that_cannot_work_here_is_named_with_what_to_type(
    tmp_path, monkeypatch, wheels, drivers, sentence
):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").touch()
    for wheel in wheels:
        (tmp_path / f"{wheel}-14.2.0.dist-info").mkdir()
    for vendor in drivers:
        (tmp_path / vendor).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(
        gpu_driver, "DRIVER_NODES", {vendor: str(tmp_path / vendor) for vendor in ("cuda", "hip")}
    )
    if sentence is None:
        gpu_driver.check_wheels()
        return
    with pytest.raises(DeviceError, match=sentence):
        gpu_driver.check_wheels()


# Tests of the real CuPy, which need no GPU.


@pytest.fixture
def real_cupy():
    if find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    gpu_driver.load_cupy.cache_clear()
    return gpu_driver.load_cupy()


def test_the_real_cupy_without_a_driver_gives_one_sentence(real_cupy, monkeypatch):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver here")
    with pytest.raises(DeviceError, match="no GPU driver is here"):
        gpu_driver.visible_gpus()
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/null",))
    with pytest.raises(
        DeviceError, match=r"there is no cuda driver here \(cudaErrorInsufficientDriver\)"
    ):
        gpu_driver.visible_gpus()


def test_the_real_cupy_for_cuda_is_refused_where_only_amds_driver_is(
    real_cupy, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        gpu_driver, "DRIVER_NODES", {"cuda": str(tmp_path / "none"), "hip": "/dev/null"}
    )
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/null",))
    with pytest.raises(
        DeviceError, match=r"cupy-cuda13x is for cuda, and /dev/null .*: run make setup GPU=rocm"
    ):
        gpu_driver.visible_gpus()


def test_the_real_cupy_compiles_a_complete_cubin(real_cupy, tmp_path, monkeypatch):
    """test_kernels_compile checks every file's cubin; this test checks the cubin that a device would load."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = compile_kernel(
        real_cupy, "sm_120", "NVRTC", "allreduce_ring", {"WORLD": "2"}
    ).read_bytes()
    headers, size, count = (
        struct.unpack_from("<Q", code, 0x20)[0],
        *struct.unpack_from("<HH", code, 0x36),
    )
    assert code[:4] == b"\x7fELF"
    assert len(code) == headers + size * count
    assert code[-1] == 0


def test_each_architecture_has_its_own_binary(real_cupy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = [
        compile_kernel(real_cupy, arch, "NVRTC", "allreduce_ring", {})
        for arch in ("sm_90", "sm_120", "sm_90")
    ]
    assert ours[0] == ours[2] != ours[1]


def test_the_real_cupy_names_the_kernel_that_does_not_compile(real_cupy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        CompileError, match=r"cannot compile allreduce_ring\.cu for sm_120: .*Nonsense"
    ):
        compile_kernel(real_cupy, "sm_120", "NVRTC", "allreduce_ring", {"ELEMENT": "Nonsense"})


RECORDED_IMPORT_ERROR = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels (cupy-cudaXXX or cupy-rocm-X-X), make sure that the package matches with the version of
CUDA or ROCm installed.

Original error:
  ImportError: libamdhip64.so.7: cannot open shared object file: No such file or directory
================================================================
"""


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            ImportError(RECORDED_IMPORT_ERROR),
            r"CuPy cannot be imported: ImportError: libamdhip64\.so\.7: cannot",
        ),
        (
            ModuleNotFoundError("No module named 'cupy'", name="cupy"),
            "CuPy is not installed: run make setup GPU=",
        ),
        (
            ModuleNotFoundError("No module named 'numpy'", name="numpy"),
            "CuPy cannot be imported: No module named",
        ),
    ],
)
def test_a_recorded_cupy_import_error_gives_one_sentence(monkeypatch, raised, sentence):
    def import_module(name):
        raise raised

    gpu_driver.load_cupy.cache_clear()
    monkeypatch.setattr(gpu_driver, "importlib", SimpleNamespace(import_module=import_module))
    with pytest.raises(DeviceError, match=sentence):
        gpu_driver.load_cupy()
