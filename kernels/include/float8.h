// fp8 as OCP defines it: a sign, an exponent and MANTISSA bits. Codes above LARGEST are NaN, except
// the first of e5m2, which is infinity. In integers: only some GPUs have instructions for it.
#pragma once
#include "platform.h"

DEVICE words magnitude(floats x) { return reinterpret<words>(x) & 0x7fffffffu; }
DEVICE words clamped_magnitude(unsigned limit_bits, floats x) {
  return least_of(magnitude(x), words{} + limit_bits);
}

template <int MANTISSA, unsigned BIAS, unsigned LARGEST>
struct Float8 {
  static constexpr int SHIFT = 23 - MANTISSA;
  // As bits of fp32: the largest value, and the least normal one.
  static constexpr unsigned LARGEST_BITS = (LARGEST << SHIFT) + ((127 - BIAS) << 23);
  static constexpr unsigned NORMAL_BITS = (128 - BIAS) << 23;
  static constexpr unsigned NAN_CODE = 0x7f, LAST_EXPONENT = NAN_CODE >> MANTISSA;

  // The nearest codes, ties to even; a value beyond LARGEST, also infinity, becomes LARGEST, and
  // NaN becomes NaN: as cvt.rn.satfinite of PTX, but for a NaN's sign. The sum with 2^SHIFT times
  // the power of two below a value, or the least normal one, counts the value in steps of its code.
  static DEVICE words codes(floats x) {
    const words size = clamped_magnitude(LARGEST_BITS, x);
    const words above = most_of(size & 0x7f800000u, words{} + NORMAL_BITS) - NORMAL_BITS;
    const words power = above + (NORMAL_BITS + (SHIFT << 23));
    const floats sum = reinterpret<floats>(size) + reinterpret<floats>(power);
    const words code = reinterpret<words>(sum) - power + (above >> SHIFT);
    const words is_nan = (0x7f800000u - magnitude(x)) >> 31;
    return (code | (reinterpret<words>(x) >> 24 & 0x80u)) + is_nan * (NAN_CODE - LARGEST);
  }
  // Of the low byte of each lane. The exponent of fp32 is 127 - BIAS higher, but the last one's.
  static DEVICE floats values(words codes) {
    const words size = codes & 0x7fu, is_special = (size + (NAN_CODE - LARGEST)) >> 7;
    const words bits = size << SHIFT | (codes & 0x80u) << 24;
    return reinterpret<floats>(bits | is_special * ((255 - LAST_EXPONENT) << 23)) *
           reinterpret<float>((254 - BIAS) << 23);
  }
};
typedef Float8<3, 7, 0x7e> E4m3;
typedef Float8<2, 15, 0x7b> E5m2;
