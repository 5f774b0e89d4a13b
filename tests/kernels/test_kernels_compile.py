"""Compiles every kernel file as CUDA C++ and HIP C++ for GPUs that this machine need not have, and checks each kernel's
assembly. test_kernels_broken shows that the checks detect broken kernels.
"""

import re
import struct
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from kernels.devices.compile_cache import SOURCES, CompileError
from kernels.devices.device import Arguments
from tests.kernels import kernel_resources as resources
from tests.kernels.broken_kernels import CUDA, HIP, ONE_LAUNCH, PLATFORM, Patch, copy_kernels
from tests.kernels.gpu_builds import (
    WIDE,
    Built,
    cached,
    compiled,
    flaws_of_loops,
    misfits,
    remove_old_results,
    sources,
    version,
)
from tests.kernels.kernel_code import broken, family, kernels_in
from tests.kernels.kernel_resources import ARCHITECTURES, Resources
from tests.launch import few

FILES = sorted(str(path.relative_to(SOURCES).with_suffix("")) for path in SOURCES.rglob("*.cu"))
ENTRY = r'^(?:RANK_KERNEL\(|(?:KERNEL|extern "C" __global__ \w+ void)\s+)(\w+)'
NO_COLLECTIVES = (
    "gemm",
    "link",
    "link_probe",
    "memory_probe",
    "iteration",
    "slowed",
    "experts/routed_records",
)
COLLECTIVES = [stem for stem in FILES if stem not in NO_COLLECTIVES]
TYPES = [
    (("ELEMENT", element), ("REDOP", redop))
    for element, redop in (
        ("Float16", "Avg"),
        ("Float64", "Prod"),
        ("Int32", "Min"),
        ("Int64", "Max"),
        ("Float8_e4m3", "Sum"),
        ("Float8_e5m2", "Avg"),
        ("Int8", "Sum"),
        ("Uint8", "Avg"),
    )
]
UNSYNCHRONISED = {
    "copy_in",
    "push_out",
    "read_peer",
    "copy_local",
    "read_own",
    "chain_link",
    "chain_link_gathered",
    "chain_link_scattered",
    "chain_link_exchanged",
    "one_shot_ll",
    "one_shot_sentinel",
    "gemv",
    "add_rmsnorm",
    "leave",
    "add_all",
    "add_two",
    "add_last_two",
    "take",
}
# One kernel signals, behind a copy, and the other waits.
HALVES = {"announce": "no L", "await_copies": "no S"}


def disorder(kernels: dict[str, list[str]], architecture: str) -> list[str]:
    """What misses in the order of a file's memory accesses, by kernel."""
    return [
        f"{kernel}: {flaw}"
        for kernel, lines in kernels.items()
        if kernel not in UNSYNCHRONISED
        for flaw in broken(lines, architecture)
        if flaw != HALVES.get(kernel)
    ]


# These send packets or copies, without streaming stores.
STREAMLESS = {"allreduce_one_shot_ll", "allreduce_one_shot_sentinel", "allreduce_copy_engine"}


COMPILERS = ThreadPoolExecutor(2)  # compiles at once


@pytest.fixture(scope="module", autouse=True)
def compiled_ahead(request):
    """Starts the compiles of all chosen tests before the first test runs."""
    remove_old_results()
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        if item.module is request.module and callspec and "stem" in callspec.params:
            architecture = callspec.params.get(
                "architecture", "sm_90" if "macros" in callspec.params else "sm_120"
            )
            begun(callspec.params["stem"], architecture, callspec.params.get("macros", ()), SOURCES)
    yield
    COMPILERS.shutdown(cancel_futures=True)


@cache
def begun(*arguments) -> "Future[Built]":
    return COMPILERS.submit(compiled, *arguments)


def built(
    stem: str, architecture: str, macros=(), folder: Path = SOURCES
) -> tuple[str, list[Resources]]:
    build = begun(stem, architecture, macros, folder).result()
    return build.text, build.kernels


each_file = pytest.mark.parametrize("stem", FILES)
ONE_OF_A_KIND = ("sm_90", "gfx942", "gfx1201", "gfx1100")
by_kind = [*ONE_OF_A_KIND, *sorted(set(ARCHITECTURES) - set(ONE_OF_A_KIND))]
each_architecture = pytest.mark.parametrize("architecture", few(by_kind, 3))
some_architectures = pytest.mark.parametrize("architecture", few(by_kind, 4))


@each_file
@each_architecture
def test_every_entry_is_compiled_and_uses_no_stack(stem, architecture):
    text, kernels = built(stem, architecture)
    source = (SOURCES / f"{stem}.cu").read_text()
    entries = re.findall(ENTRY, source, re.MULTILINE)
    assert entries
    assert sorted(entries) == [r.kernel for r in kernels] == sorted(kernels_in(text, architecture))
    assert not misfits(kernels)
    assert "__local_depot" not in text
    assert "ld.global.nc" not in text, (
        "a read through the non-coherent cache may miss what a peer has written"
    )
    assert {r.wave for r in kernels} == {64 if architecture.startswith("gfx9") else 32}


@each_file
@each_architecture
def test_main_loops_start_several_16_byte_loads_before_they_store(stem, architecture):
    if stem not in ("iteration", "gemm", "slowed", "memory_probe"):  # these move no messages
        assert not flaws_of_loops(built(stem, architecture)[0], architecture)


@each_file
def test_a_cubin_is_complete(stem):
    """CuPy's own call drops the last byte, and a driver refuses such a file."""
    code = begun(stem, "sm_120", (), SOURCES).result().binary
    headers, size, count = (
        struct.unpack_from("<Q", code, 0x20)[0],
        *struct.unpack_from("<HH", code, 0x36),
    )
    assert code[:4] == b"\x7fELF"
    assert len(code) == headers + size * count
    assert code[-1] == 0


# The lines that ptxas prints for every kernel with -v.
FIGURES = re.compile(
    r"ptxas info +: (\d+ bytes gmem|Compiling entry function|Function properties for"
    r"|Used \d+ registers|Compile time =).*|(ptxas +\.)? +\d+ bytes stack frame, .*|"
)


@each_file
@pytest.mark.parametrize("macros", few([WIDE, (("WORLD", "1"),)], 1), ids=str)
def test_no_compiler_prints_a_warning(stem, macros):
    """With harmless warnings in a log, a user would miss the harmful ones."""
    log = begun(stem, "sm_90", macros, SOURCES).result().log  # skips without a compiler
    assert "Used " in log
    assert [line for line in log.rstrip("\0").splitlines() if not FIGURES.fullmatch(line)] == []
    options = ["-std=c++17", *(f"-D{name}={value}" for name, value in macros)]
    source = SOURCES / f"{stem}.cu"
    host = ["-x", "c++", "-march=native"]
    hip = [
        "-x",
        "hip",
        "--cuda-device-only",
        "-nogpulib",
        "-nogpuinc",
        "--offload-arch=gfx942",
        "-include",
        str(resources.PRELUDE),
    ]
    strict = [*options, "-O1", "-Wall", "-Wextra", "-S", "-o", "/dev/null", str(source)]

    def warnings_of(target: list[str]) -> str:
        def make() -> str:
            return subprocess.run(
                [*target, *strict], capture_output=True, text=True, check=True
            ).stderr

        return cached(str, make, target, strict, version(target[0]), sources(stem))

    targets = [["g++", *host], [resources.clang(), *hip], [resources.clang(), *host]]
    for warnings in COMPILERS.map(warnings_of, few(targets, 2)):
        assert not warnings


@pytest.mark.parametrize("macros", [WIDE], ids=["wide"])
@pytest.mark.parametrize("stem", COLLECTIVES)
@some_architectures
def test_kernels_for_eight_ranks_in_bfloat16_fit(stem, architecture, macros):
    text, kernels = built(stem, architecture, macros)
    assert not misfits(kernels)
    assert not flaws_of_loops(text, architecture)
    streaming = {
        "sm_": r"st\.global\.cs\.v4\.u32",
        "gfx9": r"_store_dwordx4.* nt$",
        "gfx1": r"_store_b128.* (slc|th:)",
    }
    streams = re.search(
        streaming[architecture[: 3 if architecture[0] == "s" else 4]], text, re.MULTILINE
    )
    assert bool(streams) != (stem in STREAMLESS)


@pytest.mark.parametrize(
    "macros",
    [
        (("WIRE", "Fp8Blocks"), *WIDE),
        (("WIRE", "Int4Blocks"),),
        (("WIRE", "Int4Blocks"), ("ELEMENT", "Float16"), ("WORLD", "3")),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["sm_90", "gfx942", "gfx1201"])
def test_every_wire_format_fits(architecture, macros):
    text, kernels = built("allreduce_two_shot_quantized", architecture, macros)
    assert not misfits(kernels)
    assert not flaws_of_loops(text, architecture)


@pytest.mark.parametrize(
    "macros",
    [
        (*WIDE, ("WEIGHT", "Int8"), ("TOKENS", "8")),
        (("WEIGHT", "Bfloat16"), ("TOKENS", "8")),
        (("WEIGHT", "Int8"), ("TOKENS", "5"), ("ELEMENT", "Float16")),
    ],
    ids=str,
)
@some_architectures
def test_gemv_with_several_tokens_fits_for_every_weight_type(architecture, macros):
    text, kernels = built("gemv_allreduce", architecture, macros)
    assert not misfits(kernels)
    assert not flaws_of_loops(text, architecture)


@pytest.mark.parametrize("architecture", ["gfx942", "gfx1201"])
def test_the_compute_of_a_gemv_reads_no_host_memory(architecture):
    """The watch lies there, and one read across PCIe takes longer than a small product's loads."""
    lines = kernels_in(built("gemv_allreduce", architecture)[0], architecture)["gemv"]
    loaded = {line.rpartition(" ")[2] for line in lines if line.startswith("s_load_")}
    assert hex(Arguments.own.offset) in loaded
    assert hex(Arguments.watch.offset) not in loaded


@pytest.mark.parametrize(
    "macros", [(("OUTPUT", "Int8Blocks"),), (("OUTPUT", "Fp8Blocks"), *WIDE)], ids=str
)
@some_architectures
def test_allreduce_rmsnorm_fits_for_every_output_type(architecture, macros):
    """Codes are bytes: a thread writes four codes from one register, or eight from two."""
    kernels = built("allreduce_rmsnorm", architecture, macros)[1]
    assert not misfits(kernels)


@pytest.mark.parametrize("macros", few(TYPES, 5), ids=str)
@pytest.mark.parametrize("architecture", ["sm_90", "gfx1201"])
@pytest.mark.parametrize(
    "stem", ["allreduce_two_shot", "reduce_scatter", "allgather", "link_probe"]
)
def test_every_datatype_fits(stem, architecture, macros):
    text, kernels = built(stem, architecture, macros)
    assert not misfits(kernels)
    assert not flaws_of_loops(text, architecture)


@pytest.mark.parametrize("stem", [*COLLECTIVES, "link_probe"])
@each_architecture
def test_flags_are_released_and_acquired_in_the_order_of_the_memory_model(stem, architecture):
    assert disorder(kernels_in(built(stem, architecture)[0], architecture), architecture) == []


@pytest.mark.parametrize("architecture", ["gfx942", "gfx1100", "gfx1201"])
def test_a_build_with_the_hdp_flush_writes_the_register_between_the_data_and_the_flag(architecture):
    """After the block's barrier, and the kernel waits for the store. Other builds do not store there."""
    for macros in ((), (("HDP_FLUSH", "1"),), (("HDP_FLUSH", "1"), *WIDE)):
        text, kernels = built("allreduce_one_shot", architecture, macros)
        assert not misfits(kernels)
        lines = "\n".join(kernels_in(text, architecture)["one_shot_push"])
        steps = (
            r"s_barrier",
            r"\bflat_store_(dword|b32) ",
            r"\bs_wait",
            r"\bglobal_store_(dwordx2|b64) ",
        )
        assert bool(re.search("(?:(?!s_barrier)[^$])*?".join(steps), lines)) == bool(macros)


# The instructions that store two packets, and that load two or one, past the GPU's own caches.
PACKETS = {
    "sm_": (r"st\.relaxed\.sys\.global\.v2\.u64", r"ld\.relaxed\.sys\.global\.v2\.u64"),
    "gfx942": (r"global_store_dwordx4 .* sc0 sc1$", r"global_load_dwordx2 .* sc0 sc1$"),
    "gfx1100": (r"global_store_b128 ", r"global_load_b64 .* glc$"),
    "gfx1201": (r"global_store_b128 .* scope:SCOPE_SYS$", r"global_load_b64 .* scope:SCOPE_SYS$"),
}


def packets(text: str, architecture: str) -> list[bool]:
    """Whether a thread stores two packets, and whether it loads each of its four packets, with one instruction."""
    [lines] = kernels_in(text, architecture).values()
    stores, loads = (
        sum(bool(re.match(pattern, line)) for line in lines)
        for pattern in PACKETS[family(architecture)]
    )
    return [stores >= 1, loads >= (2 if architecture.startswith("sm_") else 4)]


@pytest.mark.parametrize("stem", ["allreduce_one_shot_ll", "allreduce_one_shot_sentinel"])
@each_architecture
def test_a_packet_travels_whole(stem, architecture, tmp_path):
    """Otherwise a reader could see the new epoch, or half of a word, and take stale bytes for the data."""
    assert packets(built(stem, architecture)[0], architecture) == [True, True]
    if architecture == "gfx1100" or stem != "allreduce_one_shot_ll":
        return  # gfx1100 has no scopes; the other file has the same accesses
    cuda, old, new = architecture[0] == "s", "__HIP_MEMORY_SCOPE_SYSTEM", "__HIP_MEMORY_SCOPE_AGENT"
    patches = (
        [Patch(CUDA, "relaxed.sys", "relaxed.gpu", times=None)]
        if cuda
        else [
            Patch(HIP, old, new, times=None),
            Patch(PLATFORM, "off sc0 sc1", "off"),
            Patch(PLATFORM, "off scope:SCOPE_SYS", "off"),
        ]
    )
    broken_text = built(stem, architecture, (), copy_kernels(tmp_path, patches))[0]
    assert packets(broken_text, architecture) == [False, False]


@pytest.mark.parametrize("architecture", ["sm_90", "gfx942"])
@pytest.mark.parametrize("one_of", ["allgather", "allreduce_one_shot", "allreduce_two_shot"])
def test_kernels_for_all_ranks_in_one_launch_read_their_arguments_from_memory(
    one_of, architecture, tmp_path
):
    offset = Arguments.more.offset
    read = (
        rf"_param_0\+{offset}\]"
        if architecture == "sm_90"
        else rf"s_load_dwordx2 .* {hex(offset)}$"
    )
    assert not re.search(read, built(one_of, architecture)[0], re.MULTILINE)
    text, kernels = built(one_of, architecture, (), copy_kernels(tmp_path, ONE_LAUNCH))
    for kernel, lines in kernels_in(text, architecture).items():
        assert re.search(read, "\n".join(lines), re.MULTILINE), kernel
    assert not misfits(kernels)


def test_the_documented_table_has_every_kernel_on_every_architecture():
    text = (SOURCES.parent / "docs" / "experiments" / "kernels.md").read_text()
    rows = [
        tuple(line.split()[:2]) for line in text.splitlines() if re.match(r"\w+ +(sm_|gfx)\d", line)
    ]
    assert resources.HEAD in text
    wanted = {(r.kernel, a) for stem in FILES for a in ARCHITECTURES for r in built(stem, a)[1]}
    assert set(rows) == wanted, "make it anew: python -m tests.kernels.kernel_resources"
    assert len(rows) == len(wanted)


def print_only(folder: Path, monkeypatch: pytest.MonkeyPatch, *stems: str) -> None:
    """Make the table of resources read a copy of the kernels with these files alone."""
    for path in [*SOURCES.glob("include/*.h"), *(SOURCES / f"{stem}.cu" for stem in stems)]:
        target = folder / path.relative_to(SOURCES)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    monkeypatch.setattr(resources, "SOURCES", folder)


def test_the_table_uses_the_given_ranks_and_datatype(capsys, monkeypatch, tmp_path):
    built("allreduce_ring", "gfx1201")  # skips without a compiler
    print_only(tmp_path, monkeypatch, "allreduce_ring", "link")
    assert resources.main(["--arch", "gfx1201", "--world", "3", "--datatype", "bfloat16"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["3 ranks, bfloat16", resources.HEAD]
    macros = (("ELEMENT", "Bfloat16"), ("WORLD", "3"))
    kernels = sorted(
        kernel.kernel for stem in ("allreduce_ring", "link") for kernel in built(stem, "gfx1201")[1]
    )
    assert [line.split()[0] for line in printed[2:]] == kernels
    assert resources.row(built("allreduce_ring", "gfx1201", macros)[1][0]) in printed


@pytest.mark.parametrize("datatype", ["float64", "int32", "float16"])
def test_the_table_omits_kernels_without_the_datatype(capsys, monkeypatch, tmp_path, datatype):
    built("gemv_allreduce", "gfx1201")  # skips without a compiler
    print_only(tmp_path, monkeypatch, "link", "gemv_allreduce")
    assert resources.main(["--arch", "gfx1201", "--datatype", datatype]) == 0
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]}
    assert ("gemv" in shown) == (datatype == "float16")
    assert shown


def test_every_file_compiles_for_the_datatypes_that_the_table_shows():
    for stem in FILES:
        for element in ("Int32", "Float64"):
            if stem not in resources.COMPUTED_IN_FP32:
                built(stem, "gfx1201", (("ELEMENT", element),))


def test_the_table_names_the_missing_compiler(monkeypatch, capsys):
    monkeypatch.setattr(resources, "CLANGS", ("no-such-clang",))
    resources.clang.cache_clear()
    assert resources.main(["--arch", "gfx942", "gfx1100"]) == 3
    message = capsys.readouterr().err
    assert message.startswith("gfx942, gfx1100: not shown, no clang for AMD GPUs was found")
    assert message.count("\n") == 1


def test_a_kernel_that_does_not_compile_gives_one_sentence(tmp_path):
    (tmp_path / "wrong.cu").write_text("int wrong(")
    for architecture in ("sm_90", "gfx942"):
        with pytest.raises(CompileError, match=r"wrong\.cu does not compile .*error"):
            compiled("wrong", architecture, (), tmp_path)
