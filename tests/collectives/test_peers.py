"""Peers on the software GPU: real ranks, and stand-ins for vLLM, mscclpp and FlashInfer that sum for real."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kernels.devices.compile_cache import cache_folder
from reports.store.result import read
from reports.tables.rows import shown_cases
from tests import fake_peers
from tests.fake_gpu import fake_nccl
from tests.launch import FULL, few, mpirun

pytestmark = pytest.mark.alone

PEERS = "vllm,mscclpp,flashinfer"
TITLES = {"vllm": "vLLM 0.33.0", "mscclpp": "mscclpp 0.9.0", "flashinfer": "FlashInfer 0.7.2.post1"}
ONE = (
    "--algorithm",
    "one_shot_pull",
    "--sizes",
    "4K",
    "-n",
    "2",
    "-w",
    "0",
    "--lean",
    "--max-time",
    "110",
)


def run(out, *options, environment=None, vendor="cuda", fault=""):
    """The process, and the result if it wrote one."""
    settings = environment or fake_peers.environment(vendor, fault=fault)
    done = mpirun(
        2, "-m", "bench.allreduce", *ONE, "--out", str(out), *options, timeout_s=200, **settings
    )
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    paths = list(Path(out).glob("*.jsonl"))
    return done, read(paths[0]) if paths else None


def of_peers(result, **fields):
    return {case.algorithm: case for case in result.cases if case.algorithm in TITLES
            and all(getattr(case, name) == value for name, value in fields.items())}  # fmt: skip


def reasons(result) -> dict[str, str | None]:
    return {name: case.reason for name, case in of_peers(result).items()}


@pytest.mark.parametrize(
    ("graph", "kind", "modes", "peers"),
    few([
        (1, "float", "isolated", PEERS),
        (0, "bfloat16", "chained", "vllm"),
        (0, "half", "isolated chained", PEERS),
        (1, "half", "isolated chained", PEERS),
    ], 2),
)  # fmt: skip
def test_peers_are_timed_and_checked_beside_ours_on_a_fake_gpu(tmp_path, graph, kind, modes, peers):
    titles = {name: TITLES[name] for name in peers.split(",")}
    mode = "both" if " " in modes else modes
    done, result = run(tmp_path, "--peer", peers, "--mode", mode, "-G", str(graph), "-d", kind)
    assert done.returncode == 0, done.stderr
    for mode in modes.split():
        cases = of_peers(result, mode=mode)
        assert {name: case.library for name, case in cases.items()} == titles
        assert {(case.status, case.n_wrong, case.variant) for case in cases.values()} == {
            ("ok", 0, "graph" if graph else "plain")}  # fmt: skip
        assert all(case.time_us and case.time_us.median > 0 for case in cases.values())
        (ours,) = (
            c
            for c in result.cases
            if (c.algorithm, c.mode, c.variant) == ("one_shot_pull", mode, "copied")
        )
        assert ours.library is None
        assert {case.algorithm for case in shown_cases(result, (mode, None))} == {"one_shot_pull"}
    assert result.run.world["peers"] == titles
    assert f"note: Peers: {', '.join(titles.values())}." in " ".join(done.stdout.split())
    assert ("\npeers: the same buffers" in done.stdout) == ("isolated" in modes)
    assert ("\npeers, chained: the same buffers" in done.stdout) == ("chained" in modes)
    for title in titles.values():
        rows = re.findall(rf"^   4 KiB +{title} +\d", done.stdout, re.MULTILINE)
        assert len(rows) == len(modes.split())
    lines = [line for line in done.stdout.splitlines() if not line.startswith("run: ")]
    assert max(map(len, lines)) <= 80


def test_cases_that_peers_do_not_take_are_refused_and_the_others_run_on_a_fake_gpu(tmp_path):
    done, result = run(
        tmp_path, "--peer", PEERS, "-d", "int32", "-o", "min", "--in-place", "--mode", "isolated"
    )
    assert done.returncode == 0, done.stderr
    assert reasons(result) == {
        "vllm": "vLLM does not reduce int32",
        "mscclpp": None,
        "flashinfer": "FlashInfer does not reduce int32",
    }
    assert of_peers(result)["mscclpp"].n_wrong == 0
    assert done.stdout.count("vLLM does not reduce int32") == 1


@pytest.mark.parametrize(
    ("options", "vendor", "peers", "reason"),
    few([
        (("--sizes", "1000"), "cuda", PEERS, "{} takes whole vectors of 16 B, at least one"),
        (("-o", "max"), "cuda", PEERS, "{} has no max"),
        (("--in-place",), "cuda", "vllm,flashinfer", "{} has no in-place form"),
        (("--sizes", "16"), "cuda", "mscclpp", "{} takes whole vectors of 16 B of each rank"),
        (("--sizes", "8M"), "cuda", "vllm", "{} leaves this message to NCCL: its custom all-reduce takes messages "
                                            "below 8388608 B"),
        ((), "hip", "flashinfer", "{} runs on cuda, not on hip"),
        (("--ranks-share-gpus",), "one", PEERS, "{} wants one GPU a rank"),
        (("--device", "cpu"), "cuda", PEERS, "{} runs on cuda"),
    ], 1),
)  # fmt: skip
def test_a_case_that_does_not_fit_is_refused_with_the_reason(
    tmp_path, options, vendor, peers, reason
):
    environment = fake_peers.environment("cuda", gpu={"count": 1}) if vendor == "one" else None
    done, result = run(tmp_path, *options, "--peer", peers, "--mode", "isolated", environment=environment,
                       vendor=vendor.replace("one", "cuda"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(reasons(result)) == set(peers.split(","))
    for name, said in reasons(result).items():
        assert said is not None
        assert said.startswith(reason.format(TITLES[name].split()[0]))


@pytest.mark.parametrize(
    ("fault", "peer", "reason"),
    few([
        ("raise", "vllm", "rank 1: vLLM 0.33.0 fails: RuntimeError: no NVLink between these GPUs, says <path>"),
        ("other_api", "vllm", "vLLM 0.33.0 fails: TypeError: CustomAllreduce.all_reduce() got an unexpected keyword "
                              "argument 'out'"),
        ("raise", "flashinfer", "rank 1: FlashInfer 0.7.2.post1 fails: RuntimeError: no NVLink between these GPUs, "
                                "says <path>"),
        ("disabled", "vllm", "vLLM disables its custom all-reduce between these GPUs: its warning above says why"),
    ], 1),
)  # fmt: skip
def test_a_peer_that_does_not_start_is_refused_with_its_words_on_a_fake_gpu(
    tmp_path, fault, peer, reason
):
    done, result = run(tmp_path, "--peer", f"{peer},mscclpp", "--mode", "isolated", fault=fault)
    assert done.returncode == 0, done.stderr
    assert reasons(result) == {peer: reason, "mscclpp": None}


def test_a_peer_that_sums_wrong_is_reported_and_ends_with_status_1_on_a_fake_gpu(tmp_path):
    done, result = run(tmp_path, "--peer", PEERS, "--mode", "isolated", fault="wrong")
    assert done.returncode == 1
    wrong = {name: case.status for name, case in of_peers(result).items()}
    assert wrong == {"vllm": "wrong", "mscclpp": "ok", "flashinfer": "wrong"}
    assert "WRONG RESULTS: " in done.stdout


@pytest.mark.skipif(not FULL, reason="waits for a watchdog: make reliability")
@pytest.mark.parametrize(("fault", "step"), [("hang", "compile"), ("hang_call", "pilot")])
def test_a_peer_that_hangs_ends_by_the_watchdog_and_is_named_on_a_fake_gpu(tmp_path, fault, step):
    """The step `compile` lets a peer compile for ten times the time-out."""
    done, _ = run(tmp_path, "--peer", "vllm", "--mode", "isolated", "-T", "2", fault=fault)
    assert done.returncode == 1
    assert re.search(
        r"wiretax: rank \d did not go on for .* held the others up: .*vllm 4096 B", done.stderr
    )
    assert f"step {step}" in done.stderr


def test_peers_that_are_not_installed_are_named_with_what_to_type_on_a_fake_gpu(tmp_path):
    done, result = run(
        tmp_path, "--peer", PEERS, "--mode", "isolated", environment=fake_nccl.environment()
    )
    assert done.returncode == 0, done.stderr
    assert reasons(result) == {
        "vllm": "vLLM is not installed: pip install vllm",
        "mscclpp": "mscclpp is not installed: pip install \"mscclpp[cuda12] @ "
                   "git+https://github.com/microsoft/mscclpp\"",
        "flashinfer": "FlashInfer is not installed: pip install flashinfer-python",
    }  # fmt: skip


def test_mscclpp_that_may_call_nccl_is_refused_on_a_fake_gpu(tmp_path):
    """Its figures would be NCCL's."""
    environment = {**fake_peers.environment(), "MSCCLPP_NCCL_LIB_PATH": "/usr/lib/libnccl.so"}
    _, result = run(tmp_path, "--peer", "mscclpp", "--mode", "isolated", environment=environment)
    assert reasons(result)["mscclpp"] == (
        "with MSCCLPP_NCCL_LIB_PATH set mscclpp may call NCCL instead: unset MSCCLPP_NCCL_LIB_PATH"
    )


def test_an_unknown_peer_ends_with_status_2_and_a_hint():
    done = mpirun(2, "-m", "bench.allreduce", "--peer", "vlm")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "bench.allreduce: argument --peer: unknown peer 'vlm': did you mean vllm?\n"
    )


# By distribution: the functions and classes that a peer's file calls, by file.
CALLED = {
    "vllm==0.33.0": {
        "vllm/distributed/parallel_state.py": ("init_distributed_environment", "get_world_group"),
        "vllm/distributed/device_communicators/custom_all_reduce.py": (
            "CustomAllreduce.__init__", "CustomAllreduce.all_reduce", "CustomAllreduce.register_graph_buffers",
            "CustomAllreduce.should_custom_ar"),
    },
    "flashinfer-python==0.7.2.post1": {
        "flashinfer/comm/comm_backend.py": ("TorchDistBackend.__init__",),
        "flashinfer/comm/allreduce.py": ("create_allreduce_fusion_workspace", "allreduce_fusion"),
    },
}  # fmt: skip


def signatures(source: str) -> dict[str, list[tuple[str, str]]]:
    """The parameters of each function and method, with their defaults."""
    found = {}
    for node in ast.parse(source).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        for member in (
            m for child in members for m in ast.walk(child) if isinstance(m, ast.FunctionDef)
        ):
            name = f"{node.name}.{member.name}" if isinstance(node, ast.ClassDef) else member.name
            arguments = member.args
            positional = [*arguments.posonlyargs, *arguments.args]
            defaults = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
            pairs = [*zip(positional, defaults, strict=True),
                     *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]  # fmt: skip
            found[name] = [(a.arg, ast.dump(d) if d else "") for a, d in pairs]
    return found


@pytest.mark.skipif(not FULL, reason="downloads 400 MB: make reliability")
@pytest.mark.parametrize("wheel", CALLED)
def test_stand_ins_have_the_signatures_of_the_published_wheels(wheel):
    name = wheel.partition("==")[0].replace("-", "_")
    folder = cache_folder() / "peer-wheels"
    if not list(folder.glob(f"{name}-*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
            wheel,
        ]
        if subprocess.run(command, capture_output=True).returncode:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"{wheel} cannot be downloaded here")
    with zipfile.ZipFile(next(folder.glob(f"{name}-*.whl"))) as archive:
        for path, names in CALLED[wheel].items():
            published = signatures(archive.read(path).decode())
            ours = signatures((fake_peers.HERE / path).read_text())
            for called in names:
                assert ours[called] == published[called], called
        init = "flashinfer/comm/__init__.py"
        if init in archive.namelist():
            exported = archive.read(init).decode()
            assert all(
                f" as {called}" in exported
                for called in CALLED[wheel]["flashinfer/comm/allreduce.py"]
            )
            assert "kAllReduce = 0" in archive.read("flashinfer/comm/trtllm_ar.py").decode()


def test_the_run_file_names_the_peer_in_each_of_its_cases(tmp_path):
    """Without GPUs too, where every peer is refused."""
    done = mpirun(2, "-m", "bench.allreduce", *ONE, "--mode", "isolated", "--device", "cpu", "--peer", "vllm", "--out",
                  str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.jsonl")
    head = json.loads(path.read_text().splitlines()[0])
    assert {case["library"] for case in head["cases"] if case["algorithm"] == "vllm"} == {"vLLM"}
