"""Breaks the kernels on purpose: the checks of test_kernels_compile must detect each broken build."""

from pathlib import Path

import pytest

from tests.kernels.broken_kernels import (
    CUDA,
    HIP,
    PACK,
    PATCHES,
    PLATFORM,
    SYNC,
    Patch,
    copy_kernels,
)
from tests.kernels.gpu_builds import WIDE, compiled, flaws_of_loops, misfits
from tests.kernels.kernel_code import broken, kernels_in, protocol
from tests.kernels.kernel_resources import ARCHITECTURES

STORE = "  fence_system();\n  __hip_atomic_store("
HAND_OVER = 'void hand_over_stores() { asm volatile(WAIT_FOR_STORES ::: "memory"); }'
ACQUIRE = 'void fence_acquire_system() { __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, ""); }'
EMPTY = {text: f"{text[: text.index('{')]}{{}}" for text in (HAND_OVER, ACQUIRE)}
# {the change: (the architectures on which it breaks the protocol, the file, the text, its replacement)}
SYNCHRONISATION_BROKEN = {
    "a store not released": (("gfx942", "gfx1201"), HIP, STORE, "  __hip_atomic_store("),
    "stores not handed over": (("gfx942",), HIP, HAND_OVER, EMPTY[HAND_OVER]),
    "accesses for the own GPU": (
        ("gfx942", "gfx1201"),
        HIP,
        "__HIP_MEMORY_SCOPE_SYSTEM",
        "__HIP_MEMORY_SCOPE_AGENT",
    ),
    "a load not acquired": (ARCHITECTURES[3:], HIP, ACQUIRE, EMPTY[ACQUIRE]),
    "a barrier without acquire": (
        ("gfx1100", "gfx1201"),
        HIP,
        '(__ATOMIC_ACQUIRE, "workgroup")',
        '(5, "wavefront")',
    ),
    "no barrier before the flag": (
        ("sm_90", "gfx942"),
        SYNC,
        "hand_over_stores();\n  block_barrier();",
        "hand_over_stores();",
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
    "sm_80": [
        ("st.release", "st.relaxed"),
        ("st.release.sys", "st.release.gpu"),
        ("ld.acquire.sys", "ld.relaxed.sys"),
    ],
    "sm_90": [
        ("st.release", "st.relaxed"),
        ("st.release.sys", "st.release.gpu"),
        ("ld.relaxed.sys", "ld.relaxed.gpu"),
        ("ld.relaxed.sys", "ld"),
        ("fence.acquire.sys", "fence.acquire.gpu"),
    ],
}
# Parts that an architecture does without, because of its other parts. gfx1100 has no scopes, and no write-back: a store
# that has completed is visible. On RDNA the barrier waits for stores too; compilers before LLVM 22 had gaps there.
SYNCHRONISATION_SPARE = {
    "a store not released": ("gfx1100",),
    "stores not handed over": ("gfx1100", "gfx1201"),
    "accesses for the own GPU": ("gfx1100",),
}


def changed(folder, path, old, new):
    """Copies the kernels and replaces every `old` in this file by `new`."""
    return copy_kernels(folder, [Patch(path, old, new, times=None)])


def flaws_of_one_shot(architecture: str, folder: Path) -> list[list[str]]:
    text = compiled("allreduce_one_shot", architecture, folder=folder).text
    return [broken(lines, architecture) for lines in kernels_in(text, architecture).values()]


@pytest.mark.parametrize("name", SYNCHRONISATION_BROKEN)
def test_broken_synchronisation_is_detected(name, tmp_path):
    architectures, *change = SYNCHRONISATION_BROKEN[name]
    folder = changed(tmp_path, *change)
    for architecture in architectures:
        assert all(flaws_of_one_shot(architecture, folder)), architecture
    for architecture in SYNCHRONISATION_SPARE.get(name, ()):
        assert not any(flaws_of_one_shot(architecture, folder)), architecture


@pytest.mark.parametrize("architecture", PTX_BROKEN)
def test_a_weaker_instruction_is_detected_in_ptx(architecture):
    text = compiled("allreduce_one_shot", architecture).text
    for old, new in PTX_BROKEN[architecture]:
        assert old in text
        for lines in kernels_in(text.replace(old, new), architecture).values():
            assert broken(lines, architecture), (old, new)


def test_a_missing_wait_for_stores_is_detected_on_gfx1100(tmp_path):
    """gfx1100 has no write-back instruction: only three changes together remove every wait for the data."""
    folder = copy_kernels(
        tmp_path,
        [
            Patch(HIP, '(__ATOMIC_RELEASE, "workgroup")', '(5, "wavefront")'),
            Patch(HIP, '(__ATOMIC_RELEASE, "")', '(5, "wavefront")'),
            Patch(PLATFORM, '"s_waitcnt_vscnt null, 0x0"', '""'),
        ],
    )
    assert all(flaws_of_one_shot("gfx1100", folder))


@pytest.mark.parametrize(
    ("architecture", "letters"),
    [("sm_90", "SLIB"), ("gfx942", "WwSLIB"), ("gfx1100", "wSLlIiB"), ("gfx1201", "WwSLlIiB")],
)
def test_each_instruction_of_the_protocol_is_needed(architecture, letters):
    """Without all instructions of a kind, the check finds a flaw: each is a part of the vendor's model."""
    for lines in kernels_in(
        compiled("allreduce_one_shot", architecture).text, architecture
    ).values():
        for letter in letters:
            kinds = protocol(lines, architecture)
            assert letter in kinds
            left = [line for line, kind in zip(lines, kinds, strict=True) if kind != letter]
            assert broken(left, architecture), letter


@pytest.mark.parametrize("architecture", ["sm_90", "gfx1201"])
@pytest.mark.parametrize("patch", ["without the epoch flip", "without the wait"])
def test_the_other_negative_controls_change_the_code(architecture, patch, tmp_path):
    folder = copy_kernels(tmp_path, PATCHES[patch])
    text = compiled("allreduce_two_shot", architecture, folder=folder).text
    assert text != compiled("allreduce_two_shot", architecture).text
    acquires = {
        "L" in protocol(lines, architecture) for lines in kernels_in(text, architecture).values()
    }
    assert acquires == {patch != "without the wait"}


VOLATILE = ("*(const global_words*)p", "*(const volatile global_words*)p")
REDUCED = "combined<FINISH, SOURCES>([&](int s) { return place.load(from.at[s], k); })"
AT_ONCE = (f"batch[k] = {REDUCED};", f"to.put(place, k, batch[k] = {REDUCED});")
LOOPS_BROKEN = {
    "volatile loads": (("gfx942", "gfx1201"), HIP, *VOLATILE),
    "each store after its load": (("sm_90", "gfx942", "gfx1100", "gfx1201"), PACK, *AT_ONCE),
    "narrow stores": (
        ("sm_90",),
        CUDA,
        "st.global.v4.u32 [%0], {%1,%2,%3,%4};",
        "st.global.u32 [%0], %1;",
    ),
}


@pytest.mark.parametrize("name", LOOPS_BROKEN)
def test_a_broken_main_loop_is_detected(name, tmp_path):
    architectures, *change = LOOPS_BROKEN[name]
    folder = changed(tmp_path, *change)
    for architecture in architectures:
        assert flaws_of_loops(
            compiled("allreduce_two_shot", architecture, folder=folder).text, architecture
        )


INDEXED = (PACK, "place.load(from.at[s], k)", "place.load(from.at[(s + team.thread) % SOURCES], k)")
MISFITS = {
    "few registers": (
        "sm_90",
        WIDE,
        CUDA,
        "__launch_bounds__(512, 1)",
        "__launch_bounds__(512, 4)",
    ),
    "few vector registers": (
        "gfx1201",
        WIDE,
        HIP,
        "amdgpu_waves_per_eu(2, 4)",
        "amdgpu_num_vgpr(32)",
    ),
    "a dynamic index in PTX": ("sm_90", WIDE, *INDEXED),
    "a dynamic index in assembly": ("gfx942", WIDE, *INDEXED),
}


@pytest.mark.parametrize("name", MISFITS)
def test_spills_and_dynamically_indexed_arrays_are_detected(name, tmp_path):
    architecture, macros, *change = MISFITS[name]
    kernels = compiled(
        "allreduce_two_shot", architecture, macros, changed(tmp_path, *change)
    ).kernels
    assert misfits(kernels)
    if name == "few registers":
        assert (kernels[0].registers, kernels[0].blocks) == (32, 4)
