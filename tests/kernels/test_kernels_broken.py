"""Breaks the kernels on purpose: the checks of test_kernels_compile must detect each broken
build."""

from pathlib import Path

import pytest

from tests.kernels.broken_kernels import (
    CUDA,
    HIP,
    PACK,
    PACKETS,
    PLATFORM,
    SYNC,
    Patch,
    copy_kernels,
)
from tests.kernels.gpu_builds import WIDE, compiled, flaws_of_loops, misfits
from tests.kernels.kernel_code import broken, kernels_in, protocol
from tests.launch import SLOW_TEST, few

AMD = ("gfx942", "gfx1100", "gfx1201")
STORE = "fence_system(); __hip_atomic_store("
HAND_OVER = 'void hand_over_stores() { asm volatile(WAIT_FOR_STORES ::: "memory"); }'
ACQUIRE = 'void fence_acquire_system() { __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, ""); }'
# {the change: (the architectures on which it breaks the protocol, the file, the text, its
# replacement)}
SYNCHRONISATION_BROKEN = {
    "a store not released": (("gfx942", "gfx1201"), HIP, STORE, "__hip_atomic_store("),
    "no barrier before the flag": (
        ("sm_90", "gfx942"),
        SYNC,
        "hand_over_stores();\n  block_barrier();",
        "hand_over_stores();",
    ),
    "stores not handed over": (("gfx942",), HIP, HAND_OVER, "void hand_over_stores() {}"),
    "accesses for the own GPU": (
        ("gfx942", "gfx1201"),
        HIP,
        "__HIP_MEMORY_SCOPE_SYSTEM",
        "__HIP_MEMORY_SCOPE_AGENT",
    ),
    "a load not acquired": (AMD, HIP, ACQUIRE, "void fence_acquire_system() {}"),
    "a barrier without acquire": (
        ("gfx1100", "gfx1201"),
        HIP,
        '(__ATOMIC_ACQUIRE, "workgroup")',
        '(5, "wavefront")',
    ),
    "no barrier after the wait": (
        ("sm_90", "gfx942"),
        SYNC,
        "wanted, p);\n  block_barrier();",
        "wanted, p);",
    ),
}
# {architecture: changes of its PTX}
PTX_BROKEN = {
    "sm_90": [
        ("st.release", "st.relaxed"),
        ("st.release.sys", "st.release.gpu"),
        ("ld.relaxed.sys", "ld.relaxed.gpu"),
        ("ld.relaxed.sys", "ld"),
        ("fence.acquire.sys", "fence.acquire.gpu"),
    ],
    "sm_80": [
        ("st.release", "st.relaxed"),
        ("st.release.sys", "st.release.gpu"),
        ("ld.acquire.sys", "ld.relaxed.sys"),
    ],
}


def changed(folder: Path, path: str, old: str, new: str) -> Path:
    """Copies the kernels and replaces every `old` in this file by `new`."""
    return copy_kernels(folder, [Patch(path, old, new, times=None)])


def flaws_of_one_shot(architecture: str, folder: Path) -> list[list[str]]:
    text = compiled("allreduce_one_shot", architecture, folder=folder).text
    return [broken(lines, architecture) for lines in kernels_in(text, architecture).values()]


@pytest.mark.parametrize("name", few(SYNCHRONISATION_BROKEN, 2))
def test_broken_synchronisation_is_detected(name, tmp_path):
    breaks, *change = SYNCHRONISATION_BROKEN[name]
    folder = changed(tmp_path, *change)
    for architecture in breaks:
        assert all(flaws_of_one_shot(architecture, folder)), architecture


@pytest.mark.parametrize("architecture", few(PTX_BROKEN, 1))
def test_a_weaker_instruction_is_detected_in_ptx(architecture):
    text = compiled("allreduce_one_shot", architecture).text
    for old, new in PTX_BROKEN[architecture]:
        assert old in text
        for lines in kernels_in(text.replace(old, new), architecture).values():
            assert broken(lines, architecture), (old, new)


@SLOW_TEST
def test_a_missing_wait_for_stores_is_detected_on_gfx1100(tmp_path):
    """gfx1100 has no write-back instruction: only three changes together remove every wait for the
    data."""
    patches = [
        Patch(HIP, '(__ATOMIC_RELEASE, "workgroup")', '(5, "wavefront")'),
        Patch(HIP, '(__ATOMIC_RELEASE, "")', '(5, "wavefront")'),
        Patch(PLATFORM, '"s_waitcnt_vscnt null, 0x0"', '""'),
    ]
    assert all(flaws_of_one_shot("gfx1100", copy_kernels(tmp_path, patches)))


@pytest.mark.parametrize(
    ("architecture", "letters"),
    few(
        [("sm_90", "SLIB"), ("gfx942", "WwSLIB"), ("gfx1100", "wSLlIiB"), ("gfx1201", "WwSLlIiB")],
        2,
    ),
)
def test_each_instruction_of_the_protocol_is_needed(architecture, letters):
    """Without all instructions of a kind, the check finds a flaw: each is a part of the vendor's
    model."""
    text = compiled("allreduce_one_shot", architecture).text
    for lines in kernels_in(text, architecture).values():
        kinds = protocol(lines, architecture)
        for letter in letters:
            assert letter in kinds
            left = [line for line, kind in zip(lines, kinds, strict=True) if kind != letter]
            assert broken(left, architecture), letter


REDUCED = "combined<FINISH, SOURCES>([&](int s) { return place.load(from.at[s], k); })"
LOOPS_BROKEN = {
    "each store after its load": (
        ("sm_90", "gfx942", "gfx1100", "gfx1201"),
        PACK,
        f"batch[k] = {REDUCED};",
        f"to.put(place, k, batch[k] = {REDUCED});",
    ),
    "volatile loads": (
        ("gfx942", "gfx1201"),
        HIP,
        "*(const global_words*)p",
        "*(const volatile global_words*)p",
    ),
    "narrow stores": (
        ("sm_90",),
        CUDA,
        "st.global.v4.u32 [%0], {%1,%2,%3,%4};",
        "st.global.u32 [%0], %1;",
    ),
}


@pytest.mark.parametrize("name", few(LOOPS_BROKEN, 1))
def test_a_broken_main_loop_is_detected(name, tmp_path):
    architectures, *change = LOOPS_BROKEN[name]
    folder = changed(tmp_path, *change)
    for architecture in few(architectures, 2):
        text = compiled("allreduce_two_shot", architecture, folder=folder).text
        assert flaws_of_loops(text, architecture)


def test_a_wait_after_each_packet_is_detected(tmp_path):
    load = "load_packets_system(x[u][k], place(rank, u, k));"
    early = f"{{ {load} if (WIRE::missing(x[u][k][0], epoch)) return false; }}"
    folder = changed(tmp_path, PACKETS, load, early)
    (flaw,) = flaws_of_loops(compiled("allreduce_one_shot_ll", "gfx942", (), folder).text, "gfx942")
    assert "round trips a poll" in flaw


INDEXED = (PACK, "place.load(from.at[s], k)", "place.load(from.at[(s + team.thread) % SOURCES], k)")
MISFITS = {
    "a dynamic index in PTX": ("sm_90", *INDEXED),
    "few vector registers": ("gfx1201", HIP, "amdgpu_waves_per_eu(2, 4)", "amdgpu_num_vgpr(32)"),
    "a dynamic index in assembly": ("gfx942", *INDEXED),
}


@pytest.mark.parametrize("name", few(MISFITS, 2))
def test_spills_and_dynamically_indexed_arrays_are_detected(name, tmp_path):
    architecture, *change = MISFITS[name]
    folder = changed(tmp_path, *change)
    assert misfits(compiled("allreduce_two_shot", architecture, WIDE, folder).kernels)
