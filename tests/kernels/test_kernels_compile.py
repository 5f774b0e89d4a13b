"""Compiles every kernel file as CUDA C++ and HIP C++ for GPUs that this machine need not have, and
checks each kernel's code. test_kernels_broken shows that the checks detect broken kernels."""

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from kernels.devices.layout import SOURCES
from tests.kernels import gpu_builds
from tests.kernels.broken_kernels import CUDA, HIP, SYNC, Patch, copy_kernels
from tests.kernels.gpu_builds import (
    WIDE,
    cached,
    compiled,
    flaws_of_loops,
    misfits,
    remove_old_results,
    sources,
    version,
)
from tests.kernels.kernel_code import broken, family, kernels_in, loads_at_once
from tests.launch import FULL, few

FILES = sorted(str(path.relative_to(SOURCES).with_suffix("")) for path in SOURCES.rglob("*.cu"))
ENTRY = r"^(?:\w+_KERNEL\(|KERNEL\s+)(\w+)"
OF_EXCHANGE = r"RANK_KERNEL(\1_push)\nRANK_KERNEL(\1_pull)\nRANK_KERNEL(\1_pull_registered)"
NO_COLLECTIVES = (
    "link",
    "link_parts",
    "link_probe",
    "memory_probe",
    "iteration",
    "experts/routed_records",
)
COLLECTIVES = [stem for stem in FILES if stem not in NO_COLLECTIVES]
MOVE_NOTHING = "iteration", "memory_probe", "link_parts"
UNSYNCHRONISED = {
    "copy_in",
    "push_out",
    "read_peer",
    "store_to_all",
    "read_from_all",
    "store_and_read_all",
    "copy_local",
    "link_local_copy",
    "read_own",
    "chain_link",
    "one_shot_ll",
    "one_shot_sentinel",
    "gemv",
    "gemv_stable",
    "add_rmsnorm",
    "add_rmsnorm_stable",
    "leave",
    "add_all",
}
# One kernel signals, behind a copy, and the other waits.
HALVES = {"announce": "no L", "await_copies": "no S"}
# These send packets, copies or half packs, without streaming stores.
STREAMLESS = {
    "allreduce_one_shot_ll",
    "allreduce_one_shot_sentinel",
    "allreduce_copy_engine",
    "gemv_allreduce",
    "gemv_allreduce_stable",
}


def disorder(
    kernels: dict[str, list[str]],
    architecture: str,
    uncached: bool = False,
) -> list[str]:
    """What misses in the order of a file's memory accesses, by kernel."""
    return [
        f"{kernel}: {flaw}"
        for kernel, lines in kernels.items()
        if kernel not in UNSYNCHRONISED and not (uncached and kernel.endswith("_registered"))
        for flaw in broken(lines, architecture, uncached)
        if flaw != HALVES.get(kernel)
    ]


@pytest.fixture(scope="module", autouse=True)
def old_results_removed():
    remove_old_results()


each_file = pytest.mark.parametrize("stem", FILES)
ARCHITECTURES = few(["sm_90", "gfx942", "gfx1201", "gfx1100", "sm_80", "sm_120"], 2)
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@each_file
@each_architecture
def test_every_entry_is_compiled_without_a_stack_and_loads_much_at_once(stem, architecture):
    """Main loops start several loads of 16 bytes before they store."""
    built = compiled(stem, architecture)
    source = (SOURCES / f"{stem}.cu").read_text()
    source = re.sub(r"^EXCHANGE_KERNELS\((\w+).*", OF_EXCHANGE, source, flags=re.MULTILINE)
    entries = re.findall(ENTRY, source, re.MULTILINE)
    assert entries
    assert sorted(entries) == [r.kernel for r in built.kernels]
    assert sorted(entries) == sorted(kernels_in(built.text, architecture))
    assert not misfits(built.kernels)
    if stem not in MOVE_NOTHING:
        assert not flaws_of_loops(built.text, architecture)
    assert "__local_depot" not in built.text
    assert "ld.global.nc" not in built.text, (
        "a read through the non-coherent cache may miss what a peer has written"
    )
    assert {r.wave for r in built.kernels} == {64 if architecture.startswith("gfx9") else 32}


@pytest.mark.parametrize("stem", [*COLLECTIVES, "link_probe"])
@each_architecture
def test_flags_are_released_and_acquired_in_the_order_of_the_memory_model(stem, architecture):
    assert disorder(kernels_in(compiled(stem, architecture).text, architecture), architecture) == []


UNCACHED = (("WT_UNCACHED_SLAB", "1"), ("WT_STREAM_RECEIVE", "1"))
# Files that `bind_kernel` does not bind: they have no build for uncached slabs.
WRITE_BACK = (
    "allreduce_copy_engine",
    "allreduce_rmsnorm",
    "allreduce_rmsnorm_stable",
    "experts/alltoall_routed",
    "gemv_allreduce",
    "gemv_allreduce_stable",
)
BY_SLAB_ALONE = [stem for stem in COLLECTIVES if stem not in WRITE_BACK]


@pytest.mark.parametrize("stem", BY_SLAB_ALONE)
@pytest.mark.parametrize("architecture", few(["gfx942", "gfx1201", "gfx1100"], 1))
def test_a_build_for_uncached_slabs_waits_for_its_stores_and_writes_no_cache_back(
    stem, architecture, tmp_path
):
    built = compiled(stem, architecture, UNCACHED)
    assert not misfits(built.kernels)
    assert disorder(kernels_in(built.text, architecture), architecture, True) == []
    if stem == "allreduce_one_shot":
        hasty = Patch(SYNC, "    drain_stores();\n    block_barrier();", "    block_barrier();")
        text = compiled(stem, architecture, UNCACHED, copy_kernels(tmp_path, [hasty])).text
        assert "in flight" in str(disorder(kernels_in(text, architecture), architecture, True))


# The lines that ptxas prints for every kernel with -v.
FIGURES = re.compile(
    r"ptxas info +: (\d+ bytes gmem|Compiling entry function|Function properties for"
    r"|Used \d+ registers|Compile time =).*|(ptxas +\.)? +\d+ bytes stack frame, .*|"
)
HOST = ["-x", "c++", "-march=native", "-std=c++17"]


@each_file
def test_no_compiler_prints_a_warning(stem):
    """With harmless warnings in a log, a user would miss the harmful ones. Without the full count
    the compiler's optimizer, which finds more, does not run."""
    log = compiled(stem, "sm_90", WIDE).log
    assert "Used " in log
    assert [line for line in log.rstrip("\0").splitlines() if not FIGURES.fullmatch(line)] == []
    options = [*(f"-D{name}={value}" for name, value in WIDE), "-Wall", "-Wextra"]
    effort = ["-O1", "-S", "-o", "/dev/null"] if FULL else ["-fsyntax-only"]
    source = str(SOURCES / f"{stem}.cu")
    command = ["c++", *HOST, *options, *effort, source]

    def warnings() -> str:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
        ).stderr

    assert cached(str, warnings, command, version("c++"), sources(stem)) == ""


def macros(words: str, *wide: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The macros of `"WT_ELEMENT=Int8 WT_WORLD=3"`, before others."""
    return (*re.findall(r"(\w+)=(\w+)", words), *wide)


GEMV, QUANTIZED = "gemv_allreduce", "allreduce_two_shot_quantized"
STABLE = "gemv_allreduce_stable"
QUANTIZED_ONCE = "allreduce_one_shot_quantized"
TYPES = (
    "WT_ELEMENT=Float8_e4m3 WT_REDOP=Sum",
    "WT_ELEMENT=Int64 WT_REDOP=Max",
    "WT_ELEMENT=Float16 WT_REDOP=Avg",
    "WT_ELEMENT=Float64 WT_REDOP=Prod",
    "WT_ELEMENT=Int32 WT_REDOP=Min",
    "WT_ELEMENT=Float8_e5m2 WT_REDOP=Avg",
    "WT_ELEMENT=Int8 WT_REDOP=Sum",
    "WT_ELEMENT=Uint8 WT_REDOP=Avg",
)
FORMATS = [
    (GEMV, macros("WT_WEIGHT=Int8 WT_TOKENS=8", *WIDE)),
    (STABLE, macros("WT_WEIGHT=Int8 WT_TOKENS=8 WT_ELEMENT=Float32 WT_WORLD=1")),
    (QUANTIZED, macros("WT_WIRE_BITS=6", *WIDE)),
    (QUANTIZED_ONCE, macros("WT_WIRE_BITS=6", *WIDE)),
    (QUANTIZED, macros("WT_WIRE_BITS=4")),
    (QUANTIZED, macros("WT_WIRE_BITS=4 WT_ELEMENT=Float16 WT_WORLD=3")),
    (QUANTIZED, macros("WT_WIRE_BITS=6 WT_ELEMENT=Float16 WT_WORLD=3")),
    (QUANTIZED_ONCE, macros("WT_WIRE_BITS=4 WT_ELEMENT=Float16 WT_WORLD=3")),
    (GEMV, macros("WT_WEIGHT=Bfloat16 WT_TOKENS=8")),
    (GEMV, macros("WT_WEIGHT=Int8 WT_TOKENS=5 WT_ELEMENT=Float16")),
    (STABLE, macros("WT_WEIGHT=Bfloat16 WT_TOKENS=4 WT_ELEMENT=Float32 WT_WORLD=1")),
    (STABLE, macros("WT_TOKENS=2 WT_ELEMENT=Float16")),
]
TYPED = [
    (stem, macros(words))
    for stem in ("allreduce_two_shot", "reduce_scatter", "allgather", "link_probe")
    for words in TYPES
]
VARIANTS = [*FORMATS[:5], *TYPED[:2], *FORMATS[5:], *TYPED[2:]]


STREAMING = {
    "sm_": r"st\.global\.cs\.v4\.u32",
    "gfx9": r"_store_dwordx4.* nt$",
    "gfx1": r"_store_b128.* (slc|th:)",
}


@pytest.mark.parametrize(
    ("variant", "architecture"),
    [
        *product([(stem, WIDE) for stem in COLLECTIVES], ARCHITECTURES),
        *few(product(VARIANTS, ("sm_90", "gfx1201")), 12),
    ],
    ids=str,
)
def test_every_type_and_format_fits_also_for_eight_ranks(variant, architecture):
    stem, options = variant
    built = compiled(stem, architecture, options)
    assert not misfits(built.kernels)
    assert not flaws_of_loops(built.text, architecture)
    if options == WIDE:
        (pattern,) = (p for start, p in STREAMING.items() if architecture.startswith(start))
        streams = re.search(pattern, built.text, re.MULTILINE)
        assert bool(streams) != (stem in STREAMLESS), (
            f"{stem}: STREAMLESS names the files that WT_STREAM_SLAB does not change, no other"
        )


FP8 = macros("WT_ELEMENT=Float8_e4m3 WT_REDOP=Avg WT_STREAM_SLAB=1 WT_WORLD=8")
WITHOUT_FP8 = "allreduce_multimem", QUANTIZED, QUANTIZED_ONCE
# By architecture and kernel: AMD's scalar registers that do not fit, and NVIDIA's bytes of stack.
KNOWN_SPILLS = {
    "gfx942": {
        "two_shot_push": 3,
        "two_shot_push_registered": 3,
        "two_shot_registered": 2,
        "one_shot_sentinel": 2,
        "ping_pong_pull": 2,
        "ping_pong_push": 2,
    },
    "sm_90": {"reduce_scatter_pull_registered": 8},
}


@pytest.mark.parametrize("stem", [stem for stem in BY_SLAB_ALONE if stem not in WITHOUT_FP8])
@pytest.mark.parametrize("architecture", few(["gfx942", "sm_90", "gfx1201", "gfx1100"], 1))
def test_fp8_with_eight_ranks_spills_only_where_the_pages_say_so(stem, architecture):
    """docs/experiments/kernels.md names them."""
    kernels = compiled(stem, architecture, FP8).kernels
    known = KNOWN_SPILLS.get(architecture, {})
    found = {each.kernel: each.spills or each.stack_bytes for each in misfits(kernels)}
    assert found == {each.kernel: known[each.kernel] for each in kernels if each.kernel in known}


def test_a_command_prints_what_the_kernels_of_a_file_take(capsys):
    compiled("allreduce_ring", "sm_90")  # or skips, without a compiler
    gpu_builds.main("allreduce_ring", "sm_90", "WT_WORLD=3")
    assert re.search(r"^ring +0 +0 +0$", capsys.readouterr().out, re.MULTILINE)
    with pytest.raises(SystemExit, match="'WT_WORLD' is no MACRO=VALUE"):
        gpu_builds.main("allreduce_ring", "sm_90", "WT_WORLD")
    with pytest.raises(SystemExit, match=r"allreduce_rign for sm_90: .*No such file"):
        gpu_builds.main("allreduce_rign", "sm_90")


@pytest.mark.parametrize("architecture", few(["gfx942", "gfx1100", "gfx1201"], 1))
def test_a_build_with_the_hdp_flush_writes_the_register_between_the_data_and_the_flag(architecture):
    """In one wave, and the kernel waits for the store. Other builds do not store there."""
    for macros in ((), (("WT_HDP_FLUSH", "1"),)):
        built = compiled("allreduce_one_shot", architecture, (*macros, ("WT_ELEMENT", "Float16")))
        assert not misfits(built.kernels)
        lines = kernels_in(built.text, architecture)["one_shot_push"]
        assert broken(lines, architecture, flushes=True) == ([] if macros else ["no H"])


# The instructions that store two packets, and that load two or one, past the GPU's own caches.
PACKETS = {
    "sm_": (r"st\.relaxed\.sys\.global\.v2\.u64", r"ld\.relaxed\.sys\.global\.v2\.u64"),
    "gfx942": (r"global_store_dwordx4 .* sc0 sc1$", r"global_load_dwordx2 .* sc0 sc1$"),
    "gfx1100": (r"global_store_b128 ", r"global_load_b64 .* glc$"),
    "gfx1201": (r"global_store_b128 .* scope:SCOPE_SYS$", r"global_load_b64 .* scope:SCOPE_SYS$"),
}


def packets(
    stem: str,
    architecture: str,
    folder: Path = SOURCES,
) -> list[bool]:
    """Whether a thread stores two packets with one instruction, and whether it starts the loads of
    its four packets at once."""
    [lines] = kernels_in(compiled(stem, architecture, (), folder).text, architecture).values()
    store, load = PACKETS[family(architecture)]
    loads = loads_at_once(lines, load)
    is_stored = any(re.match(store, line) for line in lines)
    return [is_stored, loads >= (2 if architecture.startswith("sm_") else 4)]


AGENT = Patch(HIP, "__HIP_MEMORY_SCOPE_SYSTEM", "__HIP_MEMORY_SCOPE_AGENT", times=None)
OWN_GPU = {
    "sm_": [Patch(CUDA, "relaxed.sys", "relaxed.gpu", times=None)],
    "gfx": [
        AGENT,
        Patch(HIP, "off sc0 sc1", "off"),
        Patch(HIP, "off scope:SCOPE_SYS", "off"),
    ],
}


@pytest.mark.parametrize("stem", ["allreduce_one_shot_ll", "allreduce_one_shot_sentinel"])
@each_architecture
def test_a_packet_travels_whole(stem, architecture, tmp_path):
    """Otherwise a reader could see the new epoch, or half of a word, and take stale bytes for the
    data."""
    assert packets(stem, architecture) == [True, True]
    if architecture == "gfx1100" or stem != "allreduce_one_shot_ll":
        return  # gfx1100 has no scopes; the other file has the same accesses
    folder = copy_kernels(tmp_path, OWN_GPU[architecture[:3]])
    assert packets(stem, architecture, folder) == [False, False]
