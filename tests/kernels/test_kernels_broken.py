"""Breaks the kernels on purpose: the checks of test_kernels_compile must detect each broken build."""

import re

import pytest

from tests.kernels.broken_kernels import CUDA, HIP, PACK, PATCHES, Patch, copy_kernels
from tests.kernels.gpu_builds import WIDE, compiled, flaws_of_loops, misfits
from tests.kernels.kernel_code import HANDOVER, broken, family, kernels_in, protocol
from tests.kernels.kernel_resources import ARCHITECTURES

LOAD = "__hip_atomic_load((const GLOBAL u64*)p, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_SYSTEM)"
STORE = "  fence_system();\n  __hip_atomic_store("
SYNCHRONISATION_BROKEN = {
    "a relaxed store": (("sm_90",), CUDA, "st.release.sys", "st.relaxed.sys"),
    "a store for the own GPU": (("sm_90",), CUDA, "st.release.sys", "st.release.gpu"),
    "a relaxed load": (("sm_90",), CUDA, "ld.acquire.sys", "ld.relaxed.sys"),
    "a load for the own GPU": (("sm_90",), CUDA, "ld.acquire.sys", "ld.acquire.gpu"),
    "a store not released": (("gfx942", "gfx1201"), HIP, STORE, "  __hip_atomic_store("),
    "accesses for the own GPU": (ARCHITECTURES[3:], HIP, "__HIP_MEMORY_SCOPE_SYSTEM", "__HIP_MEMORY_SCOPE_AGENT"),
    "a load not acquired": (ARCHITECTURES[3:], HIP, LOAD, LOAD.replace("ACQUIRE", "RELAXED")),
    "a barrier without acquire": (("gfx1100", "gfx1201"), HIP, '(__ATOMIC_ACQUIRE, "workgroup")', '(5, "wavefront")'),
}


def changed(folder, path, old, new):
    """Copies the kernels and replaces every `old` in this file by `new`."""
    return copy_kernels(folder, [Patch(path, old, new, times=None)])


@pytest.mark.parametrize("name", SYNCHRONISATION_BROKEN)
def test_broken_synchronisation_is_detected(name, tmp_path):
    architectures, *change = SYNCHRONISATION_BROKEN[name]
    folder = changed(tmp_path, *change)
    for architecture in architectures:
        if (name, architecture) == ("accesses for the own GPU", "gfx1100"):
            continue  # gfx1100 has no scopes: loads for its own GPU also have glc
        text = compiled("allreduce_one_shot", architecture, folder=folder).text
        for lines in kernels_in(text, architecture).values():
            assert broken(protocol(lines, architecture), architecture), architecture


@pytest.mark.parametrize("architecture", ["sm_90", "gfx942", "gfx1201"])
def test_a_missing_fence_is_detected(architecture, tmp_path):
    folder = copy_kernels(tmp_path, PATCHES["without the fence before the flag"])
    text = compiled("allreduce_one_shot", architecture, folder=folder).text
    for lines in kernels_in(text, architecture).values():
        assert not re.search(HANDOVER[family(architecture)], protocol(lines, architecture))


@pytest.mark.parametrize("architecture", ["sm_90", "gfx1201"])
@pytest.mark.parametrize("patch", ["without the epoch flip", "without the wait"])
def test_the_other_negative_controls_change_the_code(architecture, patch, tmp_path):
    folder = copy_kernels(tmp_path, PATCHES[patch])
    text = compiled("allreduce_two_shot", architecture, folder=folder).text
    assert text != compiled("allreduce_two_shot", architecture).text
    acquires = {"L" in protocol(lines, architecture) for lines in kernels_in(text, architecture).values()}
    assert acquires == {patch != "without the wait"}


def test_a_missing_wait_for_stores_is_detected_on_gfx1100(tmp_path):
    """gfx1100 has no write-back instruction: only three changes together remove every wait for the data."""
    folder = changed(tmp_path, HIP, "__ATOMIC_RELEASE", "__ATOMIC_ACQUIRE")
    text = compiled("allreduce_one_shot", "gfx1100", folder=folder).text
    for lines in kernels_in(text, "gfx1100").values():
        assert not re.search(HANDOVER["gfx1100"], protocol(lines, "gfx1100"))


VOLATILE = ("*(const global_words*)p", "*(const volatile global_words*)p")
REDUCED = "combined<FINISH, SOURCES>([&](int s) { return place.load(from.at[s], k); })"
AT_ONCE = (f"batch[k] = {REDUCED};", f"to.put(place, k, batch[k] = {REDUCED});")
LOOPS_BROKEN = {
    "volatile loads": (("gfx942", "gfx1201"), HIP, *VOLATILE),
    "each store after its load": (("sm_90", "gfx942", "gfx1100", "gfx1201"), PACK, *AT_ONCE),
    "narrow stores": (("sm_90",), CUDA, "st.global.v4.u32 [%0], {%1,%2,%3,%4};", "st.global.u32 [%0], %1;"),
}


@pytest.mark.parametrize("name", LOOPS_BROKEN)
def test_a_broken_main_loop_is_detected(name, tmp_path):
    architectures, *change = LOOPS_BROKEN[name]
    folder = changed(tmp_path, *change)
    for architecture in architectures:
        assert flaws_of_loops(compiled("allreduce_two_shot", architecture, folder=folder).text, architecture)


INDEXED = (PACK, "place.load(from.at[s], k)", "place.load(from.at[(s + team.thread) % SOURCES], k)")
MISFITS = {
    "few registers": ("sm_90", WIDE, CUDA, "__launch_bounds__(512, 1)", "__launch_bounds__(512, 4)"),
    "few vector registers": ("gfx1201", WIDE, HIP, "amdgpu_waves_per_eu(2, 4)", "amdgpu_num_vgpr(32)"),
    "a dynamic index in PTX": ("sm_90", WIDE, *INDEXED),
    "a dynamic index in assembly": ("gfx942", WIDE, *INDEXED),
}


@pytest.mark.parametrize("name", MISFITS)
def test_spills_and_dynamically_indexed_arrays_are_detected(name, tmp_path):
    architecture, macros, *change = MISFITS[name]
    kernels = compiled("allreduce_two_shot", architecture, macros, changed(tmp_path, *change)).kernels
    assert misfits(kernels)
    if name == "few registers":
        assert (kernels[0].registers, kernels[0].blocks) == (32, 4)
