"""The real hipRTC compiles every kernel file, and declares the names that hiprtc_names.h has. It
needs no GPU: docs/testing.md says how to get it."""

import ctypes
import json
import os
import shutil
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernels.compile_matrix import HIPRTC_NAMES
from tests.kernels.gpu_builds import WIDE, misfits
from tests.kernels.kernel_resources import HIP, PRELUDE, Resources
from tests.kernels.test_kernels_compile import FILES
from tests.launch import ROOT, few

UNPACKED = "WIRETAX_HIPRTC"  # the folder that unpack_hiprtc.sh has filled
NAMES = "libhiprtc.so.7", "libhiprtc.so.6"
ABSENT = f"no hipRTC is here: set {UNPACKED} (docs/testing.md)"


def compiler() -> tuple[list[str], str]:
    """The command of a Python that can load hipRTC, and the library. Skips without one."""
    if folder := os.environ.get(UNPACKED):
        libraries = Path(folder, "usr/lib/x86_64-linux-gnu").resolve()
        loader = Path(folder, "usr/lib64/ld-linux-x86-64.so.2").resolve()
        name = next(name for name in NAMES if (libraries / name).exists())
        return [str(loader), "--library-path", str(libraries), sys.executable], name
    for name in NAMES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return [sys.executable], name
    pytest.skip(ABSENT)


def compiled(
    folder: Path, architecture: str, names: list[str], *macros: str, by: str = ""
) -> dict[str, str]:
    """hipRTC's log of each of these files; their code objects are in the folder."""
    launcher, library = compiler()
    library = by or library
    module = "-m", "tests.kernels.hiprtc_process"
    done = subprocess.run(
        [*launcher, *module, library, architecture, str(folder), *macros],
        input="\n".join(names),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"AMD_COMGR_CACHE": "0"},
    )
    assert done.returncode == 0, done.stderr
    logs: dict[str, str] = json.loads(done.stdout)
    return logs


def resources(code: bytes) -> list[Resources]:
    """What each kernel of a code object takes, by its metadata (LLVM's AMDGPUUsage, Code Object
    V3): a note of type 32 that the name AMDGPU begins, in MessagePack."""
    at = code.index(b"AMDGPU\0\0", 64)
    _, size, kind = struct.unpack_from("<III", code, at - 12)
    assert kind == 32
    notes: Any = msgspec.msgpack.decode(code[at + 8 : at + 8 + size])
    return [
        Resources(
            each[".name"],
            each[".group_segment_fixed_size"],
            each[".private_segment_fixed_size"],
            each[".vgpr_spill_count"] + each[".sgpr_spill_count"],
            each[".wavefront_size"],
        )
        for each in notes["amdhsa.kernels"]
    ]


@pytest.mark.parametrize("macros", few([(), WIDE], 1), ids=len)
@pytest.mark.parametrize("architecture", few(["gfx1201", "gfx942", "gfx1100", "gfx90a"], 2))
def test_the_real_hiprtc_compiles_every_file_without_a_word_or_a_spill(
    architecture, macros, tmp_path
):
    """As a device calls it, with the comparison of constants and structures behind each file."""
    logs = compiled(tmp_path, architecture, list(FILES), *("=".join(pair) for pair in macros))
    assert logs == dict.fromkeys(FILES, "")
    for stem in FILES:
        kernels = resources((tmp_path / f"{Path(stem).name}.bin").read_bytes())
        assert kernels
        assert misfits(kernels) == [], stem
        assert {each.wave for each in kernels} == {64 if architecture.startswith("gfx9") else 32}


def test_amd_s_bindings_compile_what_the_library_compiles(tmp_path, monkeypatch):
    """Byte for byte, and their own refusal is the library's."""
    if find_spec("rocm") is None:
        pytest.skip("AMD's bindings are not installed: rocm-bindings-hip")
    if folder := os.environ.get(UNPACKED):  # whose packages have no link, as they name it
        _, name = compiler()
        rocm = tmp_path / "rocm/lib"
        rocm.mkdir(parents=True)
        (rocm / "libhiprtc.so").symlink_to(Path(folder, "usr/lib/x86_64-linux-gnu", name).resolve())
        monkeypatch.setenv("ROCM_PATH", str(rocm.parent))
    wrong = tmp_path / "wrong.cu"
    wrong.write_text("int x = nonsense;")
    outputs = []
    for by in "", "bindings":
        output = tmp_path / f"by {by}"
        output.mkdir()
        logs = compiled(output, "gfx1201", ["allreduce_ring", str(wrong.with_suffix(""))], by=by)
        said = [text.partition("/input/")[2] for text in logs.values()]  # after a folder of its own
        outputs.append((said, (output / "allreduce_ring.bin").read_bytes()))
    assert outputs[0] == outputs[1]
    assert outputs[1][0] == ["", "wrong.cu:1:9: error: use of undeclared identifier 'nonsense'"]


@pytest.mark.parametrize(
    "clash", ["struct half2 { int low, high; };", "enum { MASK1, MASK2 };", "int x = nonsense;"]
)
def test_the_real_hiprtc_refuses_a_name_of_its_own(clash, tmp_path):
    source = tmp_path / "clash.cu"
    source.write_text(clash)
    logs = compiled(tmp_path, "gfx1201", [str(source.with_suffix(""))])
    assert "hipRTC refuses it: " in str(logs)
    assert "error" in str(logs)


def declared(*options: str) -> set[str]:
    """The names that a header declares or defines, in the global namespace."""
    clang = shutil.which("clang-22")
    if clang is None:
        pytest.skip("system tool absent: clang-22")
    version = "-D__HIPCC_RTC__", "-DHIP_VERSION_MAJOR=7", "-DHIP_VERSION_MINOR=2"
    command = [clang, *HIP, "--offload-arch=gfx1201", "-std=c++17", "-w", *version]

    def output(*more: str) -> str:
        done = subprocess.run([*command, *more, "/dev/null"], capture_output=True, text=True)
        return done.stdout  # clang 22 lacks a macro of older headers, and lists all else

    def macros(*more: str) -> set[str]:
        lines = output("-dM", "-E", *more).splitlines()
        return {line.split()[1].partition("(")[0] for line in lines}

    def walk(node: Any) -> set[str]:
        found = set[str]()
        for each in node.get("inner", []):
            found |= walk(each) if each["kind"] in ("LinkageSpecDecl", "EnumDecl") else set()
            found |= {each["name"]} if "name" in each else set()
        return found

    tree = json.loads(output("-fsyntax-only", "-Xclang", "-ast-dump=json", *options))
    return walk(tree) | macros(*options) - macros()


def test_hiprtc_names_has_every_name_of_the_real_header(tmp_path):
    """Those that begin as it says, and operators, aside. The library of the header is data alone,
    and so loads everywhere."""
    _, library = compiler()
    folder = os.environ.get(UNPACKED)
    name = library.replace("libhiprtc", "libhiprtc-builtins")
    data = ctypes.CDLL(f"{folder}/usr/lib/x86_64-linux-gnu/{name}" if folder else name)
    size = ctypes.c_uint.in_dll(data, "__hipRTC_header_size").value
    start = ctypes.addressof(ctypes.c_char.in_dll(data, "__hipRTC_header"))
    (header := tmp_path / "hiprtc_runtime.h").write_bytes(ctypes.string_at(start, size))
    real = declared("-include", str(header))
    ours = declared("-include", str(PRELUDE), "-include", str(HIPRTC_NAMES))
    assert {"half2", "rsqrtf", "MASK1", "threadIdx"} <= real & ours
    left_out = "hip", "HIP", "__", "tex", "surf", "operator"
    assert sorted(each for each in real - ours if not each.startswith(left_out)) == []
