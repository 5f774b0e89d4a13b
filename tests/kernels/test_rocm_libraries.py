"""ROCm's libraries for CuPy: what is said where the loader does not find them, and ROCm's wheels.

The libraries, the wheels and what loads them are real shared objects, made here."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kernels.devices import rocm_libraries
from kernels.devices.cpu import find_compiler
from tests.launch import ROOT, python

# As CuPy's: the error of its first compiled file is the cause of a long one.
CUPY = """
try:
    from cupy import _core
except ImportError as error:
    raise ImportError("\\n====\\nFailed to import CuPy.\\n\\nOriginal error:\\n====\\n") from error
__version__ = "14.2.0"
"""
CORE = """
import ctypes, pathlib
try:
    ctypes.CDLL(str(pathlib.Path(__file__).with_name("runtime.so")))
except OSError as error:
    raise ImportError(error) from None
"""
# The interface that ROCm's wheels document for programs that use them (docs/packaging of TheRock):
# a library by its short name lies in the core's package or in that of the GPU's libraries.
ROCM_SDK = """
import ctypes, pathlib
def initialize_process(*, preload_shortnames=(), rtld_global=True, **more):
    site = pathlib.Path(__file__).parent.parent
    for name in preload_shortnames:
        [found] = [*site.glob(f"_rocm_sdk_*/lib/lib{name}.so*")] or [None]
        if found is None:
            raise FileNotFoundError(f"Could not find rocm library {name!r}")
        ctypes.CDLL(str(found), ctypes.RTLD_GLOBAL)
"""
LOAD = """
from kernels.devices import gpu_driver
try:
    print(gpu_driver.load_bindings().__version__)
    print(gpu_driver.driver_library("hip")._name)
except gpu_driver.DeviceError as error:
    print(error)
"""
OTHERWISE = "; AMD's bindings need HIP and hipRTC alone: pip install rocm-bindings-hip\n"
NEEDED = "libamdhip64.so.7", "librocfft.so.0", "libroctracer64.so.4"  # by CuPy's first files
SYSTEM = *NEEDED, "libhiprtc.so.7"
CORE_WHEEL = "libamdhip64.so.7", "libhiprtc.so.7", "libroctracer64.so.4", "libamd_comgr.so.3"


def build(folder: Path, name: str, *needed: Path, flags: Sequence[str] = ()) -> Path:
    """A shared object of this name that needs these others."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [*find_compiler(), "-shared", "-fPIC", "-x", "c++", "/dev/null", "-x", "none"]
    command += ["-Wl,--no-as-needed", *map(str, needed), *flags, f"-Wl,-soname,{name}"]
    subprocess.run([*command, "-o", str(folder / name)], check=True)
    return folder / name


@pytest.fixture
def site(tmp_path):
    """A folder of packages with a CuPy that needs what the real one needs, which it does not have:
    its libraries were only there when it was built."""
    built = [build(tmp_path / "built", name) for name in NEEDED]
    (tmp_path / "site/cupy").mkdir(parents=True)
    (tmp_path / "site/rocm.py").touch()  # nor AMD's bindings
    (tmp_path / "site/cupy/__init__.py").write_text(CUPY)
    (tmp_path / "site/cupy/_core.py").write_text(CORE)
    build(tmp_path / "site/cupy", "runtime.so", *built)
    return tmp_path / "site"


def load(site: Path, *libraries: Path, program: str = LOAD) -> str:
    """What loading CuPy says where the loader finds libraries in these folders."""
    variables = {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }
    done = python(program, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheels(site: Path, *left_out: str) -> None:
    """ROCm's wheels as on a gfx1201, without some of their libraries. hipFFT brings rocFFT."""
    (site / "rocm_sdk").mkdir()
    (site / "rocm_sdk/__init__.py").write_text(ROCM_SDK)
    core, libraries = site / "_rocm_sdk_core/lib", site / "_rocm_sdk_libraries_gfx120X_all/lib"
    for name in {*CORE_WHEEL} - {*left_out}:
        build(core, name)
    for name in {"libhipblas.so.3", "librccl.so.1"} - {*left_out}:
        build(libraries, name)
    if "libhipfft.so.0" not in left_out:
        rocfft = build(libraries, "librocfft.so.0")
        build(libraries, "libhipfft.so.0", rocfft, flags=["-Wl,-rpath,$ORIGIN,--disable-new-dtags"])


def test_each_library_that_rocm_lacks_is_named_with_its_packages(site, tmp_path):
    """Who has just typed `make allreduce GPU=rocm` is not told to type it."""
    said = load(site, build(tmp_path / "system", "libamdhip64.so.7").parent)
    assert said == (
        "CuPy cannot be imported for lack of "
        "libhiprtc.so.7 (AMD's package hip-runtime-amd, Ubuntu's libhiprtc7), "
        "librocfft.so.0 (AMD's package rocfft, Ubuntu's librocfft0), "
        "libroctracer64.so.4 (AMD's package roctracer; Ubuntu has none: docs/gpu.md says what "
        f"helps){OTHERWISE}"
    )


def test_a_library_that_another_one_needs_is_named(site, tmp_path):
    runtime = build(tmp_path / "elsewhere", "libhsa-runtime64.so.1")
    for name in SYSTEM:
        build(tmp_path / "system", name, *([runtime] if name == "libamdhip64.so.7" else []))
    said = load(site, tmp_path / "system")
    lack = "libhsa-runtime64.so.1 (libamdhip64.so.7 needs it)"
    assert said == f"CuPy cannot be imported for lack of {lack}{OTHERWISE}"


def test_libraries_off_the_loader_s_path_are_named_with_their_folder(site, tmp_path):
    """AMD's page on what to do after an installation adds the folder; many skip it."""
    folder = tmp_path / "rocm/core-7.14/lib"
    for name in SYSTEM:
        build(folder, name)
    told = (
        f"from kernels.devices import rocm_libraries\nrocm_libraries.FOLDERS = {str(folder)!r},\n"
    )
    said = load(site, program=told + LOAD)
    assert said.endswith(
        f"libroctracer64.so.4 (in {folder}: export LD_LIBRARY_PATH={folder}){OTHERWISE}"
    )
    assert load(site, folder).startswith("14.2.0\n")


def test_without_cupy_the_sentence_says_what_installs_it(tmp_path):
    (tmp_path / "rocm.py").touch()
    (tmp_path / "cupy.py").write_text("raise ModuleNotFoundError(\"No module named 'cupy'\")")
    said = load(tmp_path)
    assert said.startswith("CuPy cannot be imported: No module named 'cupy'; `make allreduce GPU=")


@pytest.mark.parametrize("of_system", [(), ("libamdhip64.so.7", "librocfft.so.0")])
def test_rocm_from_wheels_is_found_where_the_system_s_is_not_complete(site, tmp_path, of_system):
    """Of Ubuntu's own ROCm, which has no tracer, nothing is loaded beside the wheels'."""
    for name in of_system:
        build(tmp_path / "system", name)
    wheels(site)
    maps = "print([line.split()[-1] for line in open('/proc/self/maps') if '.so' in line])"
    said = load(site, tmp_path / "system", program=LOAD + maps)
    assert said.startswith("14.2.0\nlibamdhip64.so.7\n")
    assert f"{site}/_rocm_sdk_core/lib/libamdhip64.so.7" in said
    assert f"{site}/_rocm_sdk_libraries_gfx120X_all/lib/librocfft.so.0" in said
    assert "/system/" not in said


def test_a_complete_system_s_rocm_comes_before_wheels(site, tmp_path):
    for name in SYSTEM:
        build(tmp_path / "system", name)
    wheels(site)
    maps = "print('_rocm_sdk' in open('/proc/self/maps').read())"
    assert load(site, tmp_path / "system", program=LOAD + maps).startswith("14.2.0\n")
    assert load(site, tmp_path / "system", program=LOAD + maps).endswith("False\n")


def test_wheels_without_their_libraries_are_told_in_one_sentence(site):
    wheels(site, "libhipfft.so.0")
    assert load(site) == (
        "ROCm's Python wheels are here and do not load: Could not find rocm library 'hipfft'; pip "
        'install "rocm[libraries]" from their index completes them\n'
    )


@pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("readelf")), reason="system tool absent: gcc"
)
def test_the_page_s_stand_in_for_the_tracer_is_one(site, tmp_path):
    """Its commands, and a library with the version of its symbols as AMD's: without that the loader
    ends a process that loads CuPy's wheel."""
    page = (ROOT / "docs/gpu.md").read_text()
    [commands] = re.findall(r"```sh\n([^`]*roctracer_start[^`]*)```", page)
    home, folder = tmp_path / "home", tmp_path / "versioned"
    home.mkdir()
    subprocess.run(["sh", "-ec", commands], check=True, env={**os.environ, "HOME": str(home)})
    [stand_in] = home.rglob("libroctracer64.so.4")
    source = 'extern "C" { void roctracer_start(); void profile() { roctracer_start(); } }'
    user = [*find_compiler(), "-x", "c++", "-shared", "-fPIC", "-", "-x", "none", str(stand_in)]
    folder.mkdir()
    subprocess.run([*user, "-o", folder / "user.so"], input=source, text=True, check=True)
    symbols = subprocess.run(
        ["readelf", "--dyn-syms", "-W", folder / "user.so"], capture_output=True
    )
    assert b"roctracer_start@ROCTRACER_4.0" in symbols.stdout
    for name in {*SYSTEM} - {"libroctracer64.so.4"}:
        build(tmp_path / "system", name)
    assert load(site, tmp_path / "system", stand_in.parent).startswith("14.2.0\n")
    program = f"import ctypes; ctypes.CDLL({str(folder / 'user.so')!r}).profile(); print('called')"
    assert load(site, stand_in.parent, program=program) == "called\n"


@pytest.mark.unit
def test_another_library_is_none_of_rocm_s():
    assert rocm_libraries.missing("libcudart.so.13: cannot open shared object file") == []
    assert rocm_libraries.missing("numpy.core.multiarray failed to import") == []
