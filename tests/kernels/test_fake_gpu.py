"""Tests the software GPU that replaces CuPy's: its behaviour, and its interface against the real CuPy if installed."""

import inspect
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.fake_gpu import environment
from tests.launch import ROOT, mpirun

SCENARIOS = "tests/fake_gpu/scenarios.py"
MODULES = ("runtime", "driver", "nvrtc")


def run(*command, launcher=(), **faults):
    env = {**os.environ, **environment(**faults)}
    line = [*launcher, sys.executable, *command]
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("vendor", ["cuda", "hip"])
def test_copies_streams_graphs_crowds_and_registered_memory_behave_on_a_fake_gpu(vendor):
    done = run(
        SCENARIOS,
        "copies",
        "streams",
        "graphs",
        "crowds",
        "registered_memory",
        vendor=vendor,
        closed=1,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("vendor", ["cuda", "hip"])
def test_two_processes_reduce_through_each_others_memory_on_a_fake_gpu(vendor, count):
    done = mpirun(
        2, SCENARIOS, "one_shot", timeout_s=120, **environment(vendor=vendor, count=count)
    )
    assert done.returncode == 0, done.stderr


def test_stale_peer_memory_is_detected_on_a_fake_gpu():
    done = mpirun(2, SCENARIOS, "one_shot", timeout_s=120, **environment(corrupt_ipc=0))
    assert done.returncode != 0
    assert "AssertionError" in done.stderr


def test_refused_peer_access_gives_the_drivers_error_on_a_fake_gpu():
    done = mpirun(2, SCENARIOS, "one_shot", timeout_s=120, **environment(peer=0))
    assert "cudaErrorPeerAccessUnsupported" in done.stderr


def test_invalid_accesses_are_faults_on_a_fake_gpu():
    for limit in ("8192", "unlimited"):  # of the stack: it decides where memory is mapped
        done = run(
            SCENARIOS, "wild_pointers", launcher=("sh", "-c", f'ulimit -s {limit}; exec "$@"', "sh")
        )
        assert done.returncode == 0, (limit, done.stderr)
    done = run(SCENARIOS, "host_reads_device_memory", closed=1)
    assert done.returncode == -11, (done.returncode, done.stdout, done.stderr)


def test_calls_fail_as_ordered_on_a_fake_gpu():
    ordered = "malloc:rank0:cudaErrorMemoryAllocation:>1000,launchKernel:cudaErrorIllegalAddress,malloc:rank1"
    done = run(SCENARIOS, "faults", fail=ordered)
    assert done.returncode == 0, done.stderr


def seen(variables, **faults):
    env = {**os.environ, **environment(**faults), **variables}
    done = subprocess.run(
        [sys.executable, SCENARIOS, "devices"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_visible_devices_on_a_fake_gpu():
    all_three = ["0000:41:00.0", "0000:61:00.0", "0000:81:00.0"]
    assert seen({}, count=3) == str(all_three)
    assert seen({"CUDA_VISIBLE_DEVICES": "2,0"}, count=3) == str([all_three[2], all_three[0]])
    assert seen({"CUDA_VISIBLE_DEVICES": "GPU-1,9,0"}, count=3) == str(all_three[1:2])
    both = {"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}
    assert seen(both, count=3, vendor="hip") == str(all_three[2:])
    assert "cudaErrorNoDevice: no CUDA-capable device is detected" in seen(
        {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert "cudaErrorInsufficientDriver" in seen({}, driver=0)
    assert "hipErrorNoDevice: no ROCm-capable device is detected" in seen(
        {}, driver=0, vendor="hip"
    )


# --------------------------------------------------------------------------------------------- the interface of CuPy

INTERFACE = """
import inspect, json, cupy
def parameters(f): return [p for p in inspect.signature(f).parameters if p != "self"]
def members(c): return {n: parameters(m) for n, m in vars(c).items() if inspect.isfunction(m) and n[0] != "_"}
interface = {}
for name in ("runtime", "driver", "nvrtc"):
    module = getattr(cupy.cuda, name)
    own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", module.__name__) == module.__name__}
    own = {n: v for n, v in own.items() if n[0] != "_" and n.upper() != n and n != "is_hip"}
    interface[name] = {"functions": {n: parameters(v) for n, v in own.items() if inspect.isfunction(v)},
                       "constants": {n: v for n, v in own.items() if isinstance(v, int)}}
kinds = {"Stream": cupy.cuda.Stream, "Event": cupy.cuda.Event, "Graph": cupy.cuda.Graph, "RawModule": cupy.RawModule,
         "RawKernel": cupy.RawKernel, "Function": cupy.cuda.function.Function}
interface["classes"] = {n: members(k) for n, k in kinds.items()}
interface["inits"] = {n: parameters(kinds[n].__init__) for n in ("Stream", "Event")}
interface["properties"] = {n: [p for p, v in vars(k).items() if isinstance(v, property)] for n, k in kinds.items()}
interface["errors"] = {s: str(cupy.cuda.runtime.CUDARuntimeError(s)) for s in range(1000)}
print(json.dumps(interface))
"""


def documented_parameters(function):
    """A compiled function's parameters, from its docstring's first line: `malloc(size_t size) -> intptr_t`."""
    match = re.match(r"[\w.]+\(([^)]*)\)", (function.__doc__ or "").strip())
    return (
        None
        if match is None
        else [p.split("=")[0].split()[-1] for p in match[1].split(",") if p.strip()]
    )


@pytest.mark.skipif(
    find_spec("cupy") is None, reason="CuPy is not installed, so there is nothing to compare with"
)
def test_every_name_of_the_fake_gpu_has_the_parameters_and_values_of_cupy():
    import cupy

    done = run("-c", INTERFACE)
    assert done.returncode == 0, done.stderr
    fake = json.loads(done.stdout)
    compared = 0
    for name in MODULES:
        real = getattr(cupy.cuda, name)
        for function, parameters in fake[name]["functions"].items():
            documented = documented_parameters(getattr(real, function))
            assert documented in (None, parameters), f"{name}.{function}"
            compared += documented is not None
        for constant, value in fake[name]["constants"].items():
            assert getattr(real, constant) == value, constant
    assert compared > 40
    kinds = {
        "RawModule": cupy.RawModule,
        "RawKernel": cupy.RawKernel,
        "Function": cupy.cuda.function.Function,
    }
    for name, methods in fake["classes"].items():
        real = kinds.get(name) or getattr(cupy.cuda, name)
        for method, parameters in methods.items():
            documented = documented_parameters(getattr(real, method)) or [None]
            assert documented in ([None], parameters, ["self", *parameters]), f"{name}.{method}"
        assert all(hasattr(real, p) for p in fake["properties"][name])
    for name, parameters in fake["inits"].items():
        assert [*inspect.signature(getattr(cupy.cuda, name).__init__).parameters][1:] == parameters
    messages = {
        int(s): text for s, text in fake["errors"].items() if "cudaErrorUnknown" not in text
    }
    assert len(messages) > 20
    assert {s: str(cupy.cuda.runtime.CUDARuntimeError(s)) for s in messages} == messages
