"""Breaks the kernels on purpose: the checks of test_kernels_compile must detect each broken
build."""

from pathlib import Path

import pytest

from tests.kernels.broken_kernels import HIP, PACK, PACKETS, Patch, copy_kernels
from tests.kernels.gpu_builds import WIDE, compiled, flaws_of_loops, misfits
from tests.kernels.kernel_code import broken, kernels_in, protocol
from tests.kernels.test_kernels_compile import packets
from tests.launch import few

PTX_BROKEN = [
    ("st.release", "st.relaxed"),
    ("st.release.sys", "st.release.gpu"),
    ("ld.relaxed.sys", "ld.relaxed.gpu"),
    ("ld.relaxed.sys", "ld"),
    ("fence.acquire.sys", "fence.acquire.gpu"),
]


def changed(folder: Path, path: str, old: str, new: str) -> Path:
    """Copies the kernels and replaces every `old` in this file by `new`."""
    return copy_kernels(folder, [Patch(path, old, new, times=None)])


def test_a_weaker_instruction_is_detected_in_ptx():
    text = compiled("allreduce_one_shot", "sm_90").text
    for old, new in PTX_BROKEN:
        assert old in text
        for lines in kernels_in(text.replace(old, new), "sm_90").values():
            assert broken(lines, "sm_90"), (old, new)


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


REDUCED = "combined<SOURCES, FINISH>([&](int s) { return from.load(place, s, k); })"
EARLY = PACK, f"batch[k] = {REDUCED};", f"to.put(place, k, batch[k] = {REDUCED});"


@pytest.mark.parametrize("architecture", ["sm_90", "gfx942"])
def test_a_store_after_each_load_of_a_main_loop_is_detected(architecture, tmp_path):
    folder = changed(tmp_path, *EARLY)
    text = compiled("allreduce_two_shot", architecture, folder=folder).text
    assert flaws_of_loops(text, architecture)


def test_a_wait_after_each_packet_is_detected(tmp_path):
    load = "load_packets_system(two, place(rank, u, k));"
    early = f"{load} if (Packet::missing(two[0], epoch)) fence_acquire_system();"
    folder = changed(tmp_path, PACKETS, load, early)
    assert packets("allreduce_one_shot_ll", "gfx942", folder) == [True, False]


INDEXED = (PACK, "from.load(place, s, k)", "from.load(place, (s + team.thread) % SOURCES, k)")
MISFITS = {
    "a dynamic index in PTX": ("sm_90", *INDEXED),
    "few vector registers": ("gfx1201", HIP, "amdgpu_waves_per_eu(2, 4)", "amdgpu_num_vgpr(32)"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_spills_and_dynamically_indexed_arrays_are_detected(name, tmp_path):
    architecture, *change = MISFITS[name]
    folder = changed(tmp_path, *change)
    assert misfits(compiled("allreduce_two_shot", architecture, WIDE, folder).kernels)
