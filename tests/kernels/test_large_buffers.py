"""Checks that kernels address buffers beyond 4 GiB, over mappings that take little memory."""

import ctypes
import mmap
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from kernels.devices import shared_memory
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Pattern, Watch, Wrong
from tests.launch import SLOW_TEST, printed
from tests.ranks.large_ranks import MAP_NORESERVE

FAR = 1 << 32
SIZE_BYTES = FAR + (3 << 20)


@pytest.fixture(scope="module")
def zeros():
    """Zeros that take no memory while they are only read."""
    pages = mmap.mmap(-1, SIZE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    return np.frombuffer(pages, np.uint8)


def checked(pattern_address: int, size_bytes: int, wrong: Wrong) -> None:
    device, watch = CpuDevice(), Watch()
    table = np.zeros(65 * 31, np.uint8)
    pattern = Pattern(
        pattern_address,
        table.ctypes.data,
        1,
        size_bytes,
        64 * 31,
        31,
        1,
        ctypes.addressof(wrong),
        ctypes.addressof(watch),
    )
    device.caller(device.loop_step("count_wrong", pattern))()


def test_a_wrong_element_beyond_4_gib_is_counted_at_its_place(zeros):
    wrong, place = Wrong(), FAR + 54321
    zeros[place] = 7
    checked(zeros.ctypes.data, SIZE_BYTES, wrong)
    assert (wrong.elements, wrong.offset, wrong.expected, wrong.got) == (1, place, 0, 7)
    zeros[place] = 0


def test_the_count_of_wrong_elements_never_wraps_to_none():
    """All elements of 4 GiB wrong would be 2^32, so 0 in the 32 bits that all threads add to."""
    buffer = np.ones(4096, np.uint8)
    for before in ((1 << 32) - 4096, (1 << 32) - 64, 1 << 31):
        wrong = Wrong(elements=before)
        checked(buffer.ctypes.data, len(buffer), wrong)
        assert wrong.elements == before


@SLOW_TEST
@pytest.mark.parametrize(
    "name", ["two_shot", "one_shot_pull", "one_shot_push", "two_shot_push", "ring"]
)
def test_messages_beyond_4_gib_are_reduced(name):
    said = printed(2, "tests/ranks/large_ranks.py", name)
    assert f"{name}: {(4 << 30) + 12345} elements right" in said


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max", 2000000), ("5000000", 2000000), ("4000000", 4000000 - 3000000 + 600000), ("1000", 0)],
)
def test_free_memory_is_the_least_of_the_kernels_and_the_control_groups(
    limit, expected, tmp_path, monkeypatch
):
    facts = {
        "memory.max": limit + "\n",
        "memory.current": "3000000\n",
        "memory.stat": "anon 1\ninactive_file 400000\nactive_file 200000\n",
    }
    for name, text in facts.items():
        (tmp_path / name).write_text(text)
    free = SimpleNamespace(available=2_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(shared_memory, "CONTROL_GROUP", tmp_path)
    assert shared_memory.available_bytes() == expected
