"""Compares the CPU's rounding of sums to bf16 with collective.py's: with the processor's
instruction, and without."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from collectives.collective import DATATYPES
from kernels.devices.cpu import FLAGS, find_compiler
from kernels.devices.layout import SOURCES

PROGRAM = """
#include "platform.h"
extern "C" void join(const float* low, const float* high, unsigned* to, long n) {
  for (long i = 0; i < n; i += sizeof(words) / 4) {
    floats x, y;
    __builtin_memcpy(&x, low + i, sizeof x);
    __builtin_memcpy(&y, high + i, sizeof y);
    const words both = bfloat16s(x, y);
    __builtin_memcpy(to + i, &both, sizeof both);
  }
}
"""


# Every sign, exponent and first 8 bits of mantissa, at, next to and between the places where
# rounding changes.
BITS = (
    np.arange(1 << 17, dtype=np.uint32)[:, None] << 15 | np.array([0, 1, 0x4000, 0x7FFF], np.uint32)
).ravel()


def compiled(program, folder, *flags):
    """A function that calls an entry of a program over this CPU's platform.h, or over the folder's
    own, with arrays and their length."""
    source, binary = folder / "program.cpp", folder / "program.so"
    source.write_text(program)
    output = [f"-I{SOURCES / 'include'}", str(source), "-o", str(binary)]
    subprocess.run([*find_compiler(), *FLAGS, *flags, *output], check=True)
    library = ctypes.CDLL(str(binary))

    def call(entry, *arrays):
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
        getattr(library, entry)(*pointers, ctypes.c_long(len(arrays[0])))
        return arrays[-1]

    return call


with_instruction = pytest.mark.skipif(
    "avx512_bf16" not in Path("/proc/cpuinfo").read_text(),
    reason="this processor has no instruction that rounds to bf16",
)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="instruction", marks=with_instruction),
        pytest.param(["-U__AVX512BF16__"], id="integers"),
    ],
)
def test_all_kinds_of_floats_are_rounded_as_the_expected_results_are(flags, tmp_path):
    call = compiled(PROGRAM, tmp_path, *flags)
    # In this order few vectors have a subnormal number. In the other order, where 1 of 32 numbers
    # is subnormal, most have.
    draw = np.random.default_rng(1)
    mixed = np.where(draw.random(len(BITS)) < 1 / 32, BITS & 0x807FFFFF, BITS)
    for low in (BITS, draw.permutation(mixed)):
        high = np.roll(low, 5)
        both = call("join", low, high, np.zeros_like(low))
        for got, exact in ((both & 0xFFFF, low), (both >> 16, high)):
            is_number = ~np.isnan(exact.view(np.float32))
            with np.errstate(invalid="ignore"):
                expected = DATATYPES["bfloat16"].encode(exact.view(np.float32).astype(np.float64))
            assert np.array_equal(got[is_number], expected[is_number])
            assert np.array_equal(got[~is_number], exact[~is_number] >> 16 | 0x40), (
                "a NaN keeps its sign, and is quiet"
            )
