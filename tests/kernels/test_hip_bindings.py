"""AMD's real bindings of HIP drive the software GPU, whose library has HIP's functions in C, where
CuPy cannot be imported."""

import inspect
import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectives.collective import DATATYPES
from collectives.communicator import Refusal
from collectives.layers.overlap import require_matmul
from tests.bench.launches import launch, stored
from tests.fake_gpu import OF_BINDINGS, environment, fake_nccl
from tests.kernels.test_fake_gpu import attribute, documented_parameters
from tests.launch import ROOT, python

LEAN = "--device hip -G 1 --mode isolated -n 2 -w 0 --max-time 30 -b 4K -e 4K"
WORDS = *LEAN.split(), "--algorithm", "ring,library"
KINDS = "RawModule", "cuda.Event", "cuda.Graph", "cuda.Stream", "ndarray"
OURS_ALONE = "called", "text"

pytestmark = pytest.mark.skipif(
    find_spec("rocm") is None, reason="AMD's bindings are not installed: rocm-bindings-hip"
)


def test_two_ranks_reduce_from_graphs_where_cupy_cannot_be_imported(tmp_path):
    """Over IPC, beside RCCL, with the right sums; the run says what drove the GPUs."""
    gpu = fake_nccl.environment(vendor="hip", gpu={"cupy": 0})
    rccl = Path(fake_nccl.library("hip")).parent  # on the loader's path, as ROCm's is
    gpu["LD_LIBRARY_PATH"] += f"{os.pathsep}{rccl}"
    done = launch(tmp_path, *WORDS, **gpu)
    assert done.returncode == 0, done.stderr
    result = stored(tmp_path)
    status = {(case.algorithm, case.variant): case.status for case in result.cases}
    assert status["ring", "copied"] == status["library", "graph"] == "ok"
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}
    assert {rank["cupy"].split()[0] for rank in result.run.world["ranks"]} == {"rocm-bindings-hip"}
    said = " ".join(done.stdout.split())
    assert "CuPy cannot be imported, so AMD's rocm-bindings-hip 10" in said
    assert "Peer memory is mapped uncached" in said


FAILING = """
from kernels.devices import gpu_driver
runtime = gpu_driver.load_bindings().cuda.runtime
for call, *arguments in (runtime.malloc, 8), (runtime.memset, 8, 0, 8), (runtime.setDevice, 7):
    try:
        call(*arguments)
    except RuntimeError as error:
        print(error)
"""


def test_errors_have_hip_s_names_or_numbers():
    """By these names ranks know that memory is full. The bindings do not know status 46."""
    faults = "malloc:hipErrorOutOfMemory,memset:hipErrorDevicesUnavailable"
    done = python(FAILING, **environment(vendor="hip", cupy=0, fail=faults))
    assert done.stdout.splitlines() == [
        "hipErrorOutOfMemory: out of memory",
        "hipMemset: 46 is not a valid hipError_t",
        "hipErrorInvalidDevice: invalid device ordinal",
    ], done.stderr


COMPILING = """
from kernels.devices import gpu_driver
nvrtc = gpu_driver.load_bindings().cuda.nvrtc
for source in "int here;", "int x = nonsense;":
    program = nvrtc.createProgram(source, "some.cu", [], [])
    try:
        nvrtc.compileProgram(program, ("-std=c++17",))
        print(nvrtc.getPTX(program)[:4], repr(nvrtc.getProgramLog(program)))
    except RuntimeError as error:
        print(error, nvrtc.getProgramLog(program).splitlines()[0].partition("some.cu")[2])
    nvrtc.destroyProgram(program)
"""


def test_a_file_compiles_or_is_refused_with_hiprtc_s_log():
    done = python(COMPILING, **environment(vendor="hip", cupy=0))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        r"b'\x7fELF' ''",
        "HIPRTC_ERROR_COMPILATION (6) :1:9: error: use of undeclared identifier 'nonsense'",
    ]


def test_cupy_drives_the_gpu_where_it_can_be_imported():
    """Beside ROCm 7 nothing changes for who has installed both."""
    program = "from kernels.devices import gpu_driver; print(gpu_driver.load_bindings().__name__)"
    assert python(program, **environment(vendor="hip")).stdout == "cupy\n"


def test_the_matmul_of_cupy_is_refused_in_words():
    from kernels.devices import hip

    device = SimpleNamespace(is_cpu=False, name="hip", xp=hip)
    world: Any = SimpleNamespace(device=device, graph=False)
    with pytest.raises(Refusal, match="this step needs CuPy's matmul, and AMD's bindings drive"):
        require_matmul(world, DATATYPES["float32"])
    device.xp = SimpleNamespace(matmul=None)  # as CuPy has one
    require_matmul(world, DATATYPES["float32"])


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_every_name_has_the_parameters_of_cupy():
    """A device calls both alike. Methods may have fewer."""
    import cupy

    from kernels.devices import hip

    compared = 0
    for module in ("runtime", "nvrtc"):
        ours = getattr(hip, module)
        for name, function in inspect.getmembers(ours, inspect.isfunction):
            if name in OURS_ALONE or name.startswith("_"):
                continue
            documented = documented_parameters(attribute(cupy.cuda, f"{module}.{name}"))
            assert documented in (None, [*inspect.signature(function).parameters]), name
            compared += documented is not None
    assert compared > 20
    for path in KINDS:
        for name, method in inspect.getmembers(attribute(hip, path), inspect.isfunction):
            if name.startswith("_"):
                continue
            documented = documented_parameters(attribute(cupy, f"{path}.{name}"))
            taken = {*inspect.signature(method).parameters} - {"self"}
            assert documented is None or taken <= {*documented}, (path, name)


SAID = """
from kernels.devices import gpu_driver, rocm_libraries
rocm_libraries.FOLDERS = {folder!r},
try:
    gpu_driver.load_bindings()
except gpu_driver.DeviceError as error:
    print(error)
"""


def test_a_rank_says_what_amd_s_bindings_lack(tmp_path):
    """Installed for ROCm 10, where the loader finds no HIP; or a HIP of ROCm 6."""
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError(\"No module named 'cupy'\")")
    library = environment(vendor="hip")["FAKE_GPU_LIBRARY"]
    for name in OF_BINDINGS:
        (tmp_path / "rocm" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "rocm" / name).symlink_to(library)
    variables = {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "ROCM_PATH": str(tmp_path),
    }
    program = SAID.format(folder=str(tmp_path / "rocm"))
    done = python(program, **variables)
    there = f"(in {tmp_path}/rocm: export LD_LIBRARY_PATH={tmp_path}/rocm)"
    assert done.stdout == (
        "CuPy cannot be imported: No module named 'cupy'; AMD's bindings lack "
        f"libamdhip64.so {there}, libhiprtc.so {there}\n"
    ), done.stderr
    done = python(program, LD_LIBRARY_PATH=str(tmp_path / "rocm"), **variables)
    assert done.stdout.endswith("AMD's bindings lack libamdhip64.so.7\n"), done.stderr
