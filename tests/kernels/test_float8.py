"""Compares the kernels' fp8 with collective.py's: in vectors, as on this CPU, and in scalars, as on
GPUs."""

import shutil

import numpy as np
import pytest

from collectives.collective import DATATYPES
from kernels.devices.layout import SOURCES
from tests.kernels.test_bfloat16 import BITS, compiled

# What a GPU has in place of vectors.
SCALARS = """#pragma once
#define DEVICE inline
typedef unsigned words;
typedef float floats;
template <class To, class From> DEVICE To reinterpret(From from) {
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
DEVICE words least_of(words a, words b) { return a < b ? a : b; }
DEVICE words most_of(words a, words b) { return a > b ? a : b; }
"""
PROGRAM = """
#include "float8.h"
template <class To, class From, class Convert>
void each(From* from, To* to, long n, Convert convert) {
  for (long i = 0; i < n; i += sizeof(words) / 4) {
    decltype(convert.take(0)) x;
    __builtin_memcpy(&x, from + i, sizeof x);
    const auto y = convert(x);
    __builtin_memcpy(to + i, &y, sizeof y);
  }
}
struct Values { words take(int); floats operator()(words x) { return FORMAT::values(x); } };
struct Codes { floats take(int); words operator()(floats x) { return FORMAT::codes(x); } };
extern "C" void values(unsigned* from, float* to, long n) { each(from, to, n, Values{}); }
extern "C" void codes(float* from, unsigned* to, long n) { each(from, to, n, Codes{}); }
"""


@pytest.mark.parametrize("machine", ["vectors", "scalars"])
@pytest.mark.parametrize("name", ["float8_e4m3", "float8_e5m2"])
def test_kernels_decode_all_codes_and_round_all_kinds_of_floats_as_the_expected_results_do(
    name, machine, tmp_path
):
    flags = [f"-DFORMAT={name.removeprefix('float8_').capitalize()}"]
    if machine == "scalars":
        shutil.copy(SOURCES / "include" / "float8.h", tmp_path)
        (tmp_path / "platform.h").write_text(SCALARS)
        flags.append(f"-I{tmp_path}")
    call, fp8 = compiled(PROGRAM, tmp_path, *flags), DATATYPES[name]
    codes = np.arange(256, dtype=np.uint32)
    values = call(
        "values", codes | 0xABCDEF00, np.zeros(256, np.float32)
    )  # only the low byte counts
    expected = fp8.decode(codes.astype(np.uint8))
    assert np.array_equal(values, expected.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(values), np.signbit(expected))
    floats, made = BITS.view(np.float32), np.zeros_like(BITS)
    with np.errstate(invalid="ignore"):
        rounded = fp8.encode(floats.astype(np.float64))
    assert np.array_equal(call("codes", floats, made), rounded)
