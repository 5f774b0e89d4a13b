"""Tests the software GPU that replaces CuPy's: its behaviour, and its interface against the real
CuPy if installed."""

import inspect
import json
import re
from importlib.util import find_spec

import pytest

from tests.fake_gpu import environment
from tests.launch import python

OPENED = """
import ctypes, mmap
import numpy as np
from kernels.devices.device import Arguments
from kernels.devices.gpu import DeviceError, GpuDevice
from kernels.devices.gpu_driver import visible_gpus
device = GpuDevice(visible_gpus()[1][0])
memory = device.store(np.zeros(4096, np.uint8))
"""
# A heap may begin at low addresses, which could be numbers; the start of a mapping may be the end
# of the device's memory.
WILD_POINTER = """
pages = np.frombuffer(mmap.mmap(-1, 1 << 20), np.uint8)
wild = pages.ctypes.data + pages.nbytes // 2
arguments = Arguments(send=wild, receive=memory.address, count=16)
launch = device.caller(device.step("link_probe", "copy_local", arguments))
try:
    launch()
except DeviceError as error:
    print(error)
"""
HOST_READ = "print(ctypes.c_char.from_address(memory.address).value)"


def test_a_wild_pointer_is_a_fault_on_a_fake_gpu():
    done = python(OPENED + WILD_POINTER, **environment())
    assert "IllegalAddress" in done.stdout, done.stderr


def test_the_host_cannot_read_device_memory_on_a_fake_gpu():
    done = python(OPENED + HOST_READ, **environment(closed=1))
    assert done.returncode == -11, (done.returncode, done.stdout, done.stderr)


INTERFACE = """
import inspect, json, cupy
def parameters(f):
    return [p for p in inspect.signature(f).parameters if p != "self"]
def members(c):
    return {n: parameters(m) for n, m in vars(c).items() if inspect.isfunction(m) and n[0] != "_"}
functions = {}
for name in ("runtime", "driver", "nvrtc", "stream"):
    module = getattr(cupy.cuda, name)
    for n, v in vars(module).items():
        if n[0] != "_" and inspect.isfunction(v) and v.__module__ == module.__name__:
            functions[f"{name}.{n}"] = parameters(v)
kinds = {
    "cuda.Stream": cupy.cuda.Stream,
    "cuda.Event": cupy.cuda.Event,
    "cuda.Graph": cupy.cuda.Graph,
    "RawModule": cupy.RawModule,
    "RawKernel": cupy.RawKernel,
}
for kind, made in kinds.items():
    functions |= {f"{kind}.{n}": p for n, p in members(made).items()}
inits = {n: parameters(kinds[n].__init__) for n in ("cuda.Stream", "cuda.Event")}
errors = {s: str(cupy.cuda.runtime.CUDARuntimeError(s)) for s in cupy._software.ERRORS}
print(json.dumps([functions, inits, errors]))
"""


def attribute(module, path):
    for name in path.split("."):
        module = getattr(module, name)
    return module


def documented_parameters(function):
    """A compiled function's parameters, from its docstring's first line: `malloc(size_t size)`."""
    match = re.match(r"[\w.]+\(([^)]*)\)", (function.__doc__ or "").strip())
    words = [word.split("=")[0].split() for word in match[1].split(",")] if match else []
    return [word[-1] for word in words if word and word[-1] != "self"] if match else None


@pytest.mark.skipif(
    find_spec("cupy") is None, reason="CuPy is not installed, so there is nothing to compare with"
)
def test_every_name_of_the_fake_gpu_has_the_parameters_and_values_of_cupy():
    import cupy

    done = python(INTERFACE, **environment())
    assert done.returncode == 0, done.stderr
    functions, inits, errors = json.loads(done.stdout)
    compared = 0
    for path, parameters in functions.items():
        module = cupy if path.startswith(("cuda", "Raw")) else cupy.cuda
        documented = documented_parameters(attribute(module, path))
        assert documented in (None, parameters), path
        compared += documented is not None
    assert compared > 35
    for path, parameters in inits.items():
        assert [*inspect.signature(attribute(cupy, path).__init__).parameters][1:] == parameters
    assert len(errors) > 10
    assert {s: str(cupy.cuda.runtime.CUDARuntimeError(int(s))) for s in errors} == errors
