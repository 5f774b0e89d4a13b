// Elements as codes of 8 or 4 bits, in blocks of 32 that share a scale of 16 bits: an element is its code times it.
//
// A scale is the largest magnitude of its block over the largest code, rounded up to fp16, so that nothing saturates.
// It is 0 for a block of zeros; and NaN where a block has a NaN or an infinity, or outgrows fp16's scales: such a block
// comes back as NaNs, never as numbers that could be true. A code times a scale is exact in fp32, so it does not matter
// whether a compiler fuses it with a sum. Codes are those of registers, each with its neighbours' in one word: which
// element of a block has which is this file's own business.
#pragma once
#include "pack.h"

DEVICE words magnitude(floats x) { return reinterpret<words>(x) & 0x7fffffffu; }

DEVICE words magnitude_up_to(unsigned most, floats x) { return least_of(magnitude(x), words{} + most); }

// To the nearest integer from -most to most, whose bits as a float are given, ties to even; in the low bits of a lane.
// What is added leaves no room for a fraction. The limit also keeps a compiler from fusing that sum with the product
// that x may be, and as that of an integer it needs no mask, for which AMD's scalar registers are too few.
DEVICE words rounded(unsigned most, floats x) {
  const words sign = reinterpret<words>(x) & 0x80000000u;
  return reinterpret<words>(reinterpret<floats>(magnitude_up_to(most, x) | sign) + 12582912.0f);  // 1.5 * 2^23
}
DEVICE words int8_codes(floats x) { return rounded(0x42fe0000u, x) & 0xffu; }

// e4m3: a sign, 4 bits of exponent, 3 of mantissa; to the nearest, ties to even, 448 for all above. Above 2^-6 the bits
// of fp32 are rounded; below it the steps are 2^-9 throughout, those of fp32 at 2^14. Each part counts from 2^-6, code
// 8, and stays there where it is the other's turn.
DEVICE words e4m3_codes(floats x) {
  const words size = magnitude_up_to(0x43e00000u, x), turn = words{} + 0x3c800000u, high = most_of(size, turn);
  const words normal = (high + 0x7ffffu + (high >> 20 & 1u)) >> 20;
  const words small = reinterpret<words>(reinterpret<floats>(least_of(size, turn)) + 16384.0f);
  return (normal + small - (0x46800000u + (120u << 3) + 8u)) | (reinterpret<words>(x) >> 24 & 0x80u);
}

// Of each: a code's bits, what the largest stands for, the codes, and what those in the low bits stand for; the higher
// bits are others'.
struct Int8Blocks {
  static constexpr int BITS = 8;
  static constexpr float LARGEST = 127;
  static DEVICE words codes(floats x) { return int8_codes(x); }
  static DEVICE floats values(words codes) {  // the code plus 128 in the low bits of 2^23
    return reinterpret<floats>((codes & 0xffu) ^ 0x4b000080u) - 8388736.0f;
  }
};
struct Fp8Blocks {
  static constexpr int BITS = 8;
  static constexpr float LARGEST = 448;
  static DEVICE words codes(floats x) { return e4m3_codes(x); }
  static DEVICE floats values(words codes) {  // fp32's exponents begin 120 lower
    return reinterpret<floats>((codes & 0x7fu) << 20 | (codes & 0x80u) << 24) * 0x1p120f;
  }
};
struct Int4Blocks {
  static constexpr int BITS = 4;
  static constexpr float LARGEST = 7;
  static DEVICE words codes(floats x) { return rounded(0x40e00000u, x) & 0xfu; }
  static DEVICE floats values(words codes) { return reinterpret<floats>((codes & 0xfu) ^ 0x4b000008u) - 8388616.0f; }
};

typedef WIRE Wire;
// What a thread takes at once: a block, or on a CPU as many as have a register full of codes.
constexpr long BLOCK_ELEMENTS = 32;
constexpr int BLOCK_FLOATS = BLOCK_ELEMENTS * 4 / sizeof(floats), WORD_CODES = 32 / Wire::BITS;
constexpr int BLOCKS = WORD_CODES > BLOCK_FLOATS ? WORD_CODES / BLOCK_FLOATS : 1, FLOATS = BLOCKS * BLOCK_FLOATS;
constexpr int CODE_PACKS = FLOATS / WORD_CODES / REGISTERS;
constexpr long UNIT_ELEMENTS = BLOCKS * BLOCK_ELEMENTS;
constexpr int UNIT_PACKS = UNIT_ELEMENTS / PACK_ELEMENTS;
constexpr long UNIT_BYTES = CODE_PACKS * sizeof(pack) + 2 * BLOCKS;

struct Wide { floats f[FLOATS]; };
struct Quantized { pack codes[CODE_PACKS]; unsigned scales[BLOCKS]; };

DEVICE floats scale_in_lanes(unsigned half) { return low_halves(words{} + (half & 0xffffu) * 0x10001u); }

DEVICE Quantized quantized(const Wide& x) {
  Quantized q = {};
  UNROLLED for (int b = 0; b < BLOCKS; ++b) {
    words largest = {};
    UNROLLED for (int k = b * BLOCK_FLOATS; k < (b + 1) * BLOCK_FLOATS; ++k)
      largest = most_of(largest, magnitude(x.f[k]));
    const floats exact = reinterpret<floats>(largest_of_lanes(largest)) * (1 / Wire::LARGEST);
    const words nearest = halves(exact, exact), nan = words{} + 0x7fff7fffu;
    const words up = (low_halves(nearest) < exact ? nearest + 0x10001u : nearest) & 0x7fff7fffu;
    const words scale = up < 0x7c000000u ? up : nan;
    copy_bits(&q.scales[b], &scale, sizeof q.scales[b]);
    const floats stored = low_halves(scale), inverse = stored > floats{} ? 1.0f / stored : floats{};
    UNROLLED for (int k = b * BLOCK_FLOATS; k < (b + 1) * BLOCK_FLOATS; ++k)
      q.codes[k / WORD_CODES / REGISTERS].r[k / WORD_CODES % REGISTERS] |=
          Wire::codes(x.f[k] * inverse) << k % WORD_CODES * Wire::BITS;
  }
  return q;
}

DEVICE Wide dequantized(const Quantized& q) {
  Wide x;
  UNROLLED for (int k = 0; k < FLOATS; ++k)
    x.f[k] = Wire::values(q.codes[k / WORD_CODES / REGISTERS].r[k / WORD_CODES % REGISTERS] >>
                          k % WORD_CODES * Wire::BITS) * scale_in_lanes(q.scales[k / BLOCK_FLOATS]);
  return x;
}

// Quantised elements in a slab, `units` of them: all codes, then all scales. A GPU's threads move codes in whole packs,
// and a scale each: those of neighbours lie side by side, so that a wave moves 64 or 128 bytes at once.
struct Codes {
  char* at;
  unsigned units;
  DEVICE char* scale(unsigned u, int b) const {
    return at + (units * (unsigned)(CODE_PACKS * sizeof(pack)) + (u * BLOCKS + b) * 2);
  }
  DEVICE Quantized load(unsigned u) const {
    Quantized q;
    UNROLLED for (int k = 0; k < CODE_PACKS; ++k) q.codes[k] = load_aligned_pack(at, u * CODE_PACKS + k);
    UNROLLED for (int b = 0; b < BLOCKS; ++b) q.scales[b] = load_2_bytes(scale(u, b));
    return q;
  }
  DEVICE void put(unsigned u, const Quantized& q) const {
    UNROLLED for (int k = 0; k < CODE_PACKS; ++k) Slab{at}.put(u * CODE_PACKS + k, q.codes[k]);
    UNROLLED for (int b = 0; b < BLOCKS; ++b) store_2_bytes(scale(u, b), q.scales[b]);
  }
};
DEVICE unsigned units_of(long count) { return (unsigned)((count + UNIT_ELEMENTS - 1) / UNIT_ELEMENTS); }

// Elements of a user, so many packs of them: the last unit may have fewer blocks than others. Where an address is not
// that of a pack, its packs are put together from elements.
struct Elements { Element::bits e[PACK_ELEMENTS]; };
template <bool ALIGNED> DEVICE Wide load_unit(const char* from, unsigned u, unsigned packs) {
  pack loaded[UNIT_PACKS];
  UNROLLED for (int k = 0; k < UNIT_PACKS; ++k) {
    const unsigned i = u * UNIT_PACKS + k;
    if (BLOCKS > 1 && i >= packs) {
      loaded[k] = {};
    } else if (ALIGNED) {
      loaded[k] = load_aligned_pack(from, i);
    } else {
      Elements x;
      UNROLLED for (int e = 0; e < PACK_ELEMENTS; ++e)
        x.e[e] = ((const volatile Element::bits*)from)[i * PACK_ELEMENTS + e];
      loaded[k] = reinterpret<pack>(x);
    }
  }
  loads_first<UNIT_PACKS>();
  Wide x;
  UNROLLED for (int k = 0; k < UNIT_PACKS; ++k) {
    const typename Element::values v = Element::widen(loaded[k]);
    copy_bits(&x.f[k * FLOATS / UNIT_PACKS], &v, sizeof v);
  }
  return x;
}
template <bool ALIGNED> DEVICE void put_unit(Output to, unsigned u, unsigned packs, const Wide& x) {
  UNROLLED for (int k = 0; k < UNIT_PACKS; ++k) {
    const unsigned i = u * UNIT_PACKS + k;
    if (BLOCKS > 1 && i >= packs) break;
    typename Element::values v;
    copy_bits(&v, &x.f[k * FLOATS / UNIT_PACKS], sizeof v);
    if (ALIGNED) {
      to.put(i, Element::narrow(v));
    } else {
      const Elements narrow = reinterpret<Elements>(Element::narrow(v));
      UNROLLED for (int e = 0; e < PACK_ELEMENTS; ++e)
        ((volatile Element::bits*)to.at)[i * PACK_ELEMENTS + e] = narrow.e[e];
    }
  }
}
