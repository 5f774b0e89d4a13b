"""Reading the logs of NCCL and RCCL, recorded on real machines; the real header and library."""

import ctypes
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

from collectives.library import gpu_library as library_gpu
from collectives.library import nccl
from kernels.devices.cpu import load
from tests.launch import ROOT, python

pytestmark = pytest.mark.unit

RECORDED = ROOT / "tests/recorded"


def recorded(name: str) -> str:
    return (RECORDED / f"nccl_debug_{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "ways", "kinds"),
    [
        (
            "two_gpus_shm",
            {"1 -> 0": ["SHM/direct/direct"], "0 -> 1": ["SHM/direct/direct"]},
            {"coll": 2, "collnet": 0, "nvls": 0, "p2p": 2},
        ),
        (
            "h20_two_hosts",
            {"1 -> 0": ["P2P/CUMEM"], "3 -> 1": ["NET/IB/2/GDRDMA"], "0 -> 2": ["NET/IB/3/GDRDMA"]},
            {"coll": 8, "collnet": 0, "nvls": 0, "p2p": 8},
        ),
        (
            "rccl_mi250x",
            {"7 -> 5": ["P2P/IPC"], "1 -> 4": ["NET/Socket/1"], "3 -> 6": ["NET/Socket/2"]},
            {},
        ),
        ("no_driver", {}, {}),
    ],
)
def test_the_transport_of_a_recorded_log(name, ways, kinds):
    result = nccl.transports(recorded(name))
    assert ways.items() <= result.items()
    # Lines about trees, rings and the order of channels look similar, but are not transports.
    lines = [line for line in recorded(name).splitlines() if " via " in line]
    assert len(result) == len(
        {tuple(re.findall(r"(\d+)(?:\[\w+\])? -> (\d+)", line)[0]) for line in lines}
    )
    assert nccl.channels(recorded(name)) == kinds


# From NVIDIA/nccl's docs/userguide/source/troubleshooting/logging.rst, and logs of users that
# GitHub has: of 2.23, with symmetric windows, and with copy engines. The second is by the format in
# the library 2.32.3.
DECISIONS = [
    (
        "node-01:631871:631871 [0] NCCL INFO AllReduce: 33554432 Bytes -> Algo RING proto SIMPLE "
        "channel{Lo..Hi}={0..31}",
        "RING SIMPLE, 32 channels",
    ),
    (
        "node-01:1:1 [0] NCCL INFO AllReduce: 4096 Bytes -> Algo TREE proto LL "
        "channel{Lo..Hi}={0..0} cgaClusterSize 4",
        "TREE LL, 1 channel",
    ),
    (
        "AllReduce [Symmetric]: 2097152 Bytes -> Kernel AllReduce_RSxLDMC_AGxSTMC nchannels 16 "
        "nthreads 512 nWorks 1",
        "AllReduce_RSxLDMC_AGxSTMC, 16 channels",
    ),
    (
        "NCCL INFO AlltoAll [Copy Engine]: 134217728 Bytes -> cudaMemcpy",
        "copy engines",
    ),
    # Numbers, at an earlier place in the source, and no channels.
    (
        "2: node-0:309:309 [0] NCCL INFO AllGather: 37756928 Bytes -> Algo 1 proto 2 time "
        "2860.208008",
        None,
    ),
]


@pytest.mark.parametrize(("line", "ran"), DECISIONS)
def test_what_the_last_call_ran_is_read_from_a_log(line, ran):
    assert nccl.decision(line) == ran
    earlier = "NCCL INFO AllReduce: 8 Bytes -> Algo NVLS proto LL128 channel{Lo..Hi}={0..1}\n"
    assert nccl.decision(f"{earlier}{line}\n") == (ran or "NVLS LL128, 2 channels")
    assert nccl.decision(recorded("nvls")) is None


def file_of_nccl(wanted: str) -> Path:
    """A file as NVIDIA ships it. Skips if it is not installed."""
    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        try:
            for file in importlib.metadata.files(name) or []:
                if file.name == wanted:
                    return Path(str(file.locate()))
        except importlib.metadata.PackageNotFoundError:
            continue
    pytest.skip("NCCL is not installed: pip install nvidia-nccl-cu13")


def test_calls_and_constants_match_the_real_header():
    header = file_of_nccl("nccl.h").read_text()
    called = "".join(
        (ROOT / f"collectives/library/{name}.py").read_text() for name in ("nccl", "gpu_library")
    )
    for call in {*re.findall(r'(?:calls\.|")(nccl[A-Z]\w+)', called)} - {"ncclAllToAll"}:  # RCCL's
        assert re.search(rf"\b{call}\b", header), call
    for name, number in (library_gpu.TYPES | library_gpu.OPS).items():
        name = name.replace("_", "").capitalize()
        assert re.search(rf"\bnccl{name}\s*=\s*{number}\b", header), name
    assert re.search(rf"#define NCCL_WIN_COLL_SYMMETRIC 0x0?{library_gpu.SYMMETRIC}\b", header)
    assert re.search(r"#define NCCL_UNIQUE_ID_BYTES 128", header)


def places_in_cpp(structure: str, fields: list[str], folder: Path) -> list[int]:
    """The offset of each field, and the size, of the C++ structure `Config` with this text."""
    source = folder / "config.cpp"
    offsets = ", ".join(f"__builtin_offsetof(Config, {field})" for field in fields)
    source.write_text(
        "typedef unsigned long size_t;\n"
        f'{structure}\nextern "C" long places[] = {{{offsets}, sizeof(Config)}};\n'
    )
    return list((ctypes.c_long * (len(fields) + 1)).in_dll(load(source, {}), "places"))


FIELDS = [name for name, *_ in nccl.Configuration._fields_]
PLACES = [getattr(nccl.Configuration, name).offset for name in FIELDS]


def test_the_configuration_lies_in_memory_as_in_the_fake_nccl(tmp_path):
    """Which has the fields of 2.27, or of 2.18."""
    library = (ROOT / "tests/fake_gpu/nccl_library.cc").read_text()
    [fake] = re.findall(r"struct Config \{.*?^\};", library, re.DOTALL | re.MULTILINE)
    whole = [*PLACES, ctypes.sizeof(nccl.Configuration)]
    assert places_in_cpp(fake, FIELDS, tmp_path) == whole
    old = FIELDS.index("trafficClass")
    size = len(nccl.configuration(None, None, nccl.WINDOWS_SINCE - 1))
    assert places_in_cpp(f"#define OLD\n{fake}", FIELDS[:old], tmp_path) == [*PLACES[:old], size]


def test_the_configuration_lies_in_memory_as_in_the_real_header(tmp_path):
    header = file_of_nccl("nccl.h").read_text()
    declaration = r"typedef struct ncclConfig_v\d+ (\{.*?^\}) ncclConfig_t;"
    [real] = re.findall(declaration, header, re.DOTALL | re.MULTILINE)
    later = re.findall(r"(\w+);", real)[len(FIELDS) :]  # fields of versions after 2.27 follow ours
    assert re.findall(r"(\w+);", real) == [*FIELDS, *later]
    assert places_in_cpp(f"struct Config {real};", FIELDS, tmp_path)[:-1] == PLACES


def test_the_fake_packages_match_the_real_ones():
    for module in ("nccl.bindings.nccl", "cupy.cuda.nccl"):
        assert callable(pytest.importorskip(module).get_version)


LOADS = """
import ctypes
from collectives.library import nccl
name, _ = nccl.library_of_torch(VENDOR)
if not name:
    ctypes.CDLL(SYSTEM)
print(bool(name), nccl.loaded_file(VENDOR))
"""


@pytest.mark.parametrize(
    ("vendor", "brought", "file"),
    [
        (
            "cuda",
            ["torch/lib/libtorch_cuda.so", "nvidia/nccl/lib/libnccl.so.2"],
            "True nvidia/nccl/lib/libnccl.so.2, which torch loads too",
        ),
        (
            "hip",
            ["torch/lib/libtorch_hip.so", "torch/lib/librccl.so"],
            "False librccl.so.1; torch loads another, with a HIP of its own",
        ),
        ("cuda", ["torch/lib/libtorch_cpu.so"], "False libnccl.so.2"),
    ],
)
def test_the_library_beside_torch_is_torchs(tmp_path, vendor, brought, file):
    """Without loading torch, whose module here would fail."""
    empty, site = tmp_path / "empty.c", tmp_path / "site-packages"
    empty.write_text("")
    library = tmp_path / nccl.LIBRARIES[vendor][1]
    subprocess.run(["cc", "-shared", "-o", library, empty], check=True)
    for name in ("torch/__init__.py", *brought):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(library.read_bytes())
    code = LOADS.replace("VENDOR", repr(vendor)).replace("SYSTEM", repr(str(library)))
    done = python(code, PYTHONPATH=f"{site}:{ROOT}")
    assert (done.stdout, done.stderr) == (f"{file}\n", "")
