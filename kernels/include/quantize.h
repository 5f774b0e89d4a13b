// Elements as codes of 8, 6 or 4 bits, in blocks of 32 with one fp16 scale (34, 26 or 18 bytes):
//   1. scale = largest magnitude / largest code, rounded up to fp16, so that no code saturates
//   2. code = element / scale, rounded to the nearest, ties to even; element = code * scale
// The scale is 0 if all elements are 0, and NaN if one is NaN or infinite or the scale overflows:
// the block then decodes to NaNs. code * scale is exact in fp32: fusing it with a sum is safe.
#pragma once
#include "pack.h"

// codes() encodes scaled elements; values() decodes the low BITS of each lane, ignoring the others.
struct Wire {
  static constexpr int BITS = WT_WIRE_BITS;
  static constexpr unsigned MASK = (1u << BITS) - 1, HALF = 1u << (BITS - 1);
  static constexpr float LARGEST = HALF - 1;
  // The nearest integer, ties to even, clamped to +-LARGEST: 1.5 * 2^23 leaves no bits for a
  // fraction. The clamp keeps a compiler from fusing this sum with a product in x; in integers it
  // needs no masks, for which AMD has too few scalar registers.
  static DEVICE words codes(floats x) {
    const words sign = reinterpret<words>(x) & 0x80000000u;
    const words clamped = clamped_magnitude(reinterpret<unsigned>(LARGEST), x) | sign;
    return reinterpret<words>(reinterpret<floats>(clamped) + 12582912.0f) & MASK;
  }
  static DEVICE floats values(words codes) {  // puts code + HALF in the low bits of 2^23
    return reinterpret<floats>((codes & MASK) ^ (0x4b000000u + HALF)) - (8388608.0f + HALF);
  }
};

// A thread handles a unit at once: one block, or on a CPU enough blocks for a register of codes.
constexpr long BLOCK_ELEMENTS = 32;
constexpr int BLOCK_FLOATS = BLOCK_ELEMENTS * 4 / sizeof(floats);
constexpr int WHOLE = Wire::BITS == 6 ? 16 : 32 / Wire::BITS;  // codes in whole words
constexpr int BLOCKS = WHOLE > BLOCK_FLOATS ? WHOLE / BLOCK_FLOATS : 1;
constexpr int FLOATS = BLOCKS * BLOCK_FLOATS;  // registers of fp32 in a unit
constexpr int CODE_WORDS = FLOATS * Wire::BITS / 32, CODE_PACKS = CODE_WORDS / REGISTERS;
constexpr bool HAS_REST = CODE_WORDS % REGISTERS;  // a GPU's codes of 6 bits: half a pack
constexpr long UNIT_ELEMENTS = BLOCKS * BLOCK_ELEMENTS;
constexpr int UNIT_PACKS = UNIT_ELEMENTS / PACK_ELEMENTS;
constexpr long UNIT_BYTES = CODE_WORDS * sizeof(words) + 2 * BLOCKS;

// A unit, as fp32 and as codes, one behind the other: that of register k may end in the next word.
struct WideUnit {
  floats f[FLOATS];
};
struct CodedUnit {
  words codes[CODE_WORDS];
  unsigned short scales[BLOCKS];
};

DEVICE CodedUnit quantized(const WideUnit& x) {
  CodedUnit q = {};
  UNROLLED
  for (int b = 0; b < BLOCKS; ++b) {
    words largest = {};
    UNROLLED
    for (int k = b * BLOCK_FLOATS; k < (b + 1) * BLOCK_FLOATS; ++k)
      largest = most_of(largest, magnitude(x.f[k]));
    const floats exact = reinterpret<floats>(largest_of_lanes(largest)) * (1 / Wire::LARGEST);
    const words nan = words{} + 0x7fff7fffu;
    const words nearest = halves(exact, exact);
    const words up = low_halves(nearest) < exact ? nearest + 0x10001u : nearest;
    const words scale = up < 0x7c000000u ? up : nan;
    copy_bits(&q.scales[b], &scale, sizeof q.scales[b]);
    const floats stored = low_halves(scale);
    const floats inverse = stored > floats{} ? 1.0f / stored : floats{};
    UNROLLED
    for (int k = b * BLOCK_FLOATS; k < (b + 1) * BLOCK_FLOATS; ++k) {
      const words code = Wire::codes(x.f[k] * inverse);
      const int word = k * Wire::BITS / 32, shift = k * Wire::BITS % 32;
      q.codes[word] |= code << shift;
      if (shift + Wire::BITS > 32) q.codes[word + 1] |= code >> (32 - shift);
    }
  }
  return q;
}

DEVICE WideUnit dequantized(const CodedUnit& q) {
  WideUnit x;
  UNROLLED
  for (int k = 0; k < FLOATS; ++k) {
    const int word = k * Wire::BITS / 32, shift = k * Wire::BITS % 32;
    words code = q.codes[word] >> shift;
    if (shift + Wire::BITS > 32) code |= q.codes[word + 1] << (32 - shift);
    const words scale = words{} + q.scales[k / BLOCK_FLOATS] * 0x10001u;  // in both halves
    x.f[k] = Wire::values(code) * low_halves(scale);
  }
  return x;
}

// `units` units in a slab with `room` for more: packs of codes, then, behind their room, the rests,
// then scales. So a place belongs to one block, however long a segment is. A GPU's thread moves
// whole packs, half a pack if there is a rest, and one scale; those of neighbouring threads are
// adjacent, so a wave moves 64 or 128 bytes of scales.
struct CodedSlab {
  char* at;
  unsigned units, room;
  DEVICE char* rest(unsigned u) const {
    return at + (room * (unsigned)(CODE_PACKS * sizeof(pack)) + u * 8);
  }
  DEVICE char* scale(unsigned u, int b) const {
    return at + (room * (unsigned)(CODE_WORDS * sizeof(words)) + (u * BLOCKS + b) * 2);
  }
  DEVICE CodedUnit load(unsigned u) const {
    CodedUnit q;
    UNROLLED
    for (int k = 0; k < CODE_PACKS; ++k) {
      const pack codes = load_aligned_pack(at, u * CODE_PACKS + k);
      copy_bits(&q.codes[k * REGISTERS], &codes, sizeof codes);
    }
    if constexpr (HAS_REST) {
      const u64 rest = load_as<u64>(this->rest(u));
      copy_bits(&q.codes[CODE_PACKS * REGISTERS], &rest, sizeof rest);
    }
    UNROLLED
    for (int b = 0; b < BLOCKS; ++b) q.scales[b] = load_as<unsigned short>(scale(u, b));
    return q;
  }
  DEVICE void put(unsigned u, const CodedUnit& q) const {
    UNROLLED
    for (int k = 0; k < CODE_PACKS; ++k) {
      pack codes;
      copy_bits(&codes, &q.codes[k * REGISTERS], sizeof codes);
      store_aligned_pack(at, u * CODE_PACKS + k, codes, SLAB_STORES);
    }
    if constexpr (HAS_REST) {
      u64 rest;
      copy_bits(&rest, &q.codes[CODE_PACKS * REGISTERS], sizeof rest);
      store_as(this->rest(u), rest, SLAB_STORES);
    }
    UNROLLED
    for (int b = 0; b < BLOCKS; ++b) store_as(scale(u, b), q.scales[b], SLAB_STORES);
  }
};
DEVICE unsigned units_of(long count) {
  return (unsigned)((count + UNIT_ELEMENTS - 1) / UNIT_ELEMENTS);
}

// Unit u of a user's buffer of `count` elements, in whole packs; the last unit may be shorter.
DEVICE WideUnit load_unit(const char* from, unsigned u, long count) {
  pack loaded[UNIT_PACKS];
  UNROLLED
  for (int k = 0; k < UNIT_PACKS; ++k) {
    const unsigned i = u * UNIT_PACKS + k;
    loaded[k] = BLOCKS > 1 && i * PACK_ELEMENTS >= count ? pack{} : load_aligned_pack(from, i);
  }
  loads_first<UNIT_PACKS>();
  WideUnit x;
  UNROLLED
  for (int k = 0; k < UNIT_PACKS; ++k) {
    const auto v = Element::widen(loaded[k]);
    copy_bits(&x.f[k * FLOATS / UNIT_PACKS], &v, sizeof v);
  }
  return x;
}
DEVICE void put_unit(char* to, unsigned u, long count, const WideUnit& x) {
  UNROLLED
  for (int k = 0; k < UNIT_PACKS; ++k) {
    const unsigned i = u * UNIT_PACKS + k;
    if (BLOCKS > 1 && i * PACK_ELEMENTS >= count) break;
    Element::values v;
    copy_bits(&v, &x.f[k * FLOATS / UNIT_PACKS], sizeof v);
    store_aligned_pack(to, i, Element::narrow(v), RECEIVE_STORES);
  }
}

// Calls each(unit) for this thread's units.
template <class Each>
DEVICE void for_units(unsigned units, Each each) {
  const unsigned step = (unsigned)rematerialized((int)threads());
  for (unsigned u = (unsigned)thread(); u < units; u += step) each(u);
}

// Calls put(unit, sum of that unit in all sources). At most 4 sources are loaded at once: the sums
// already take a whole block's registers.
template <int SOURCES, class Put>
DEVICE void add_up(const CodedSlab (&from)[SOURCES], Put put) {
  constexpr int AT_ONCE = SOURCES < 4 ? SOURCES : 4;
  for_units(from[0].units, [&](unsigned u) INLINED {
    WideUnit total;
    UNROLLED
    for (int first = 0; first < SOURCES; first += AT_ONCE) {
      CodedUnit q[AT_ONCE];
      UNROLLED
      for (int s = 0; s < AT_ONCE; ++s)
        if (first + s < SOURCES) q[s] = from[first + s].load(u);
      loads_first<AT_ONCE*(CODE_PACKS + HAS_REST + BLOCKS)>();
      UNROLLED
      for (int s = 0; s < AT_ONCE; ++s) {
        if (first + s >= SOURCES) break;
        const WideUnit next = dequantized(q[s]);
        UNROLLED
        for (int k = 0; k < FLOATS; ++k)
          total.f[k] = first + s ? WT_REDOP::combine(total.f[k], next.f[k]) : next.f[k];
        UNROLLED
        for (int k = 0; k < FLOATS; ++k) evaluate_now(total.f[k]);
      }
    }
    put(u, total);
  });
}
