"""Every kernel file is real CUDA C++ and HIP C++: compiled here for GPUs that are not here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parent.parent / "kernels"
FILES = sorted(KERNELS.glob("*.cu"))
ELEMENTS = ("Float32", "Float16", "Bfloat16", "Float64", "Int32", "Int64")
# One operation a type, so that every type and every operation is compiled.
REDOPS = dict(zip(ELEMENTS, ("Sum", "Avg", "Avg", "Prod", "Min", "Max"), strict=True))
HEADERS = sorted(KERNELS.glob("*.h"))


def nvrtc_ptx(source: Path, architecture: str, *macros: str) -> str:
    """PTX by the NVRTC wheel, which needs no driver; fails with its log."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    headers = [(h.name.encode(), h.read_bytes()) for h in HEADERS]
    error, program = nvrtc.nvrtcCreateProgram(
        source.read_bytes(),
        source.name.encode(),
        len(headers),
        [text for _, text in headers],
        [name for name, _ in headers],
    )
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS
    options = [
        f"--gpu-architecture={architecture}".replace("sm_", "compute_").encode(),
        b"-std=c++17",
        *(m.encode() for m in macros),
    ]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        pytest.fail(f"{source.name} {architecture} {macros}: {log.decode()}")
    _, size = nvrtc.nvrtcGetPTXSize(program)
    ptx = b" " * size
    nvrtc.nvrtcGetPTX(program, ptx)
    return str(ptx.decode())


@pytest.mark.parametrize("source", FILES, ids=lambda f: f.stem)
def test_compiles_for_cuda_with_an_entry_and_system_scope_flags(source):
    ptx = nvrtc_ptx(source, "sm_90")
    assert ".entry" in ptx
    assert "st.release.sys" in ptx
    assert "ld.acquire.sys" in ptx
    assert "fence.acq_rel.sys" in ptx
    assert "ld.global.nc" not in ptx, "a read through the non-coherent cache may miss what a peer has written"


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("source", FILES, ids=lambda f: f.stem)
def test_compiles_for_cuda_in_every_type(source, element):
    ptx = nvrtc_ptx(
        source, "sm_90", f"-DELEMENT={element}", f"-DREDOP={REDOPS[element]}", "-DWORLD=8", "-DSTREAM_SLAB=1"
    )
    if source.stem.startswith("allreduce"):
        assert re.search(r"ld\.global\.v4\.u32", ptx), "128-bit loads"
        assert re.search(r"st\.global\.cs\.v4\.u32", ptx), "128-bit streaming stores"


@pytest.mark.parametrize("architecture", ["gfx942", "gfx1201"])
@pytest.mark.parametrize("source", FILES, ids=lambda f: f.stem)
def test_compiles_for_hip(source, architecture, tmp_path):
    clang = shutil.which("clang-22")
    if clang is None:
        pytest.skip("system tool absent: clang-22")
    out = tmp_path / "out.s"
    done = subprocess.run(
        [
            clang,
            "-x",
            "hip",
            "--cuda-device-only",
            "--no-gpu-bundle-output",
            f"--offload-arch={architecture}",
            "-nogpulib",
            "-nogpuinc",
            "-O3",
            "-S",
            "-std=c++17",
            f"-I{KERNELS}",
            "-include",
            str(Path(__file__).with_name("hip_prelude.h")),
            str(source),
            "-o",
            str(out),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search("buffer_wbl2|global_wb", out.read_text()), "written back to where a peer reads it"
