// Elements in packs, and what a reduction does to them.
//
// A pack is the widest access of the machine. For arithmetic it is widened to `Values`: fp16 and bf16 to fp32, the
// others as they are; a result is rounded to the wire type once, when it is narrowed. Which element lies where inside a
// pack is this file's own business. What a pack does not divide, the tail, goes element by element in lane 0 of an
// otherwise empty pack.
#pragma once
#include "sync.h"

template <class Lane, int N> struct Values { Lane v[N]; };

// A type whose lanes are computed with as they are stored.
template <class Lane, class Bits> struct Plain {
  typedef Bits bits;
  typedef Values<Lane, sizeof(pack) / sizeof(Lane)> values;
  static DEVICE values widen(pack p) { return reinterpret<values>(p); }
  static DEVICE pack narrow(values v) { return reinterpret<pack>(v); }
};
struct Float32 : Plain<floats, unsigned> {};
struct Float64 : Plain<doubles, u64> {};
struct Int32 : Plain<ints, unsigned> {};
struct Int64 : Plain<longs, u64> {};

// A 16-bit type, two to a word, computed with in fp32.
template <class Halves> struct Widened {
  typedef unsigned short bits;
  typedef Values<floats, 2 * REGISTERS> values;
  static DEVICE values widen(pack p) {
    values v;
    for (int i = 0; i < REGISTERS; ++i) v.v[2 * i] = Halves::low(p.r[i]), v.v[2 * i + 1] = Halves::high(p.r[i]);
    return v;
  }
  static DEVICE pack narrow(values v) {
    pack p;
    for (int i = 0; i < REGISTERS; ++i) p.r[i] = Halves::both(v.v[2 * i], v.v[2 * i + 1]);
    return p;
  }
};
struct HalfPairs {
  static DEVICE floats low(words w) { return low_halves(w); }
  static DEVICE floats high(words w) { return high_halves(w); }
  static DEVICE words both(floats low, floats high) { return halves(low, high); }
};
struct Bfloat16Pairs {
  static DEVICE floats low(words w) { return reinterpret<floats>(w << 16); }
  static DEVICE floats high(words w) { return reinterpret<floats>(w & 0xffff0000u); }
  // To the nearest, ties to even, in integers on every machine: the conversions in hardware differ on denormals.
  static DEVICE words rounded(floats f) {
    const words w = reinterpret<words>(f);
    return f != f ? w | 0x00400000u : w + 0x7fffu + (w >> 16 & 1u);
  }
  static DEVICE words both(floats low, floats high) { return rounded(low) >> 16 | (rounded(high) & 0xffff0000u); }
};
struct Float16 : Widened<HalfPairs> {};
struct Bfloat16 : Widened<Bfloat16Pairs> {};

struct Unscaled { template <class Lane> static DEVICE Lane finish(Lane a) { return a; } };
struct Sum : Unscaled {
  template <class Lane> static DEVICE Lane combine(Lane a, Lane b) { return a + b; }  // the sum
};
struct Prod : Unscaled { template <class Lane> static DEVICE Lane combine(Lane a, Lane b) { return a * b; } };
struct Min : Unscaled { template <class Lane> static DEVICE Lane combine(Lane a, Lane b) { return b < a ? b : a; } };
struct Max : Unscaled { template <class Lane> static DEVICE Lane combine(Lane a, Lane b) { return a < b ? b : a; } };
struct Avg : Sum {
  static DEVICE floats finish(floats a) { return a * (1.0f / WORLD); }
  static DEVICE doubles finish(doubles a) { return a * (1.0 / WORLD); }
};

typedef ELEMENT Element;
constexpr long ELEMENT_BYTES = sizeof(Element::bits);
constexpr long PACK_ELEMENTS = sizeof(pack) / ELEMENT_BYTES;

DEVICE pack load_element(const char* buffer, long i) {
  pack p = {};
  Element::bits e = ((const volatile Element::bits*)buffer)[i];
  copy_bits(&p, &e, sizeof e);
  return p;
}
DEVICE void store_element(char* buffer, long i, pack p) {
  Element::bits e;
  copy_bits(&e, &p, sizeof e);
  ((volatile Element::bits*)buffer)[i] = e;
}

// Where results go: a user's buffer, which may start anywhere; a slab, whose packs are aligned; or two places at once.
struct Output {
  char* at;
  DEVICE void put(long i, pack p) const { store_pack(at, i, p); }
  DEVICE void put_element(long i, pack p) const { store_element(at, i, p); }
};
struct Slab {
  char* at;
  DEVICE void put(long i, pack p) const { STREAM_SLAB ? stream_pack(at, i, p) : store_pack(at, i, p); }
  DEVICE void put_element(long i, pack p) const { store_element(at, i, p); }
};
template <class A, class B> struct Both {
  A a;
  B b;
  DEVICE void put(long i, pack p) const { a.put(i, p), b.put(i, p); }
  DEVICE void put_element(long i, pack p) const { a.put_element(i, p), b.put_element(i, p); }
};

// Combines pack i of every source, in the order of the sources, and rounds once.
enum Finish { PARTIAL, COMPLETE };
template <Finish FINISH, int SOURCES, class Load> DEVICE pack combined(Load load) {
  if (SOURCES == 1) return load(0);
  typename Element::values sum = Element::widen(load(0));
  for (int s = 1; s < SOURCES; ++s) {
    const typename Element::values next = Element::widen(load(s));
    for (unsigned k = 0; k < sizeof sum.v / sizeof *sum.v; ++k) sum.v[k] = REDOP::combine(sum.v[k], next.v[k]);
  }
  if (FINISH == COMPLETE)
    for (unsigned k = 0; k < sizeof sum.v / sizeof *sum.v; ++k) sum.v[k] = REDOP::finish(sum.v[k]);
  return Element::narrow(sum);
}

template <int SOURCES> struct Sources { const char* at[SOURCES]; };

// Reduces `count` elements of each source into `to`; one source is copied. All loads of a batch come before its stores:
// the compiler may not reorder them itself, since the buffers might overlap.
template <Finish FINISH, int SOURCES, class To> DEVICE void reduce(To to, Sources<SOURCES> from, long count) {
  constexpr int BATCH = 4;
  const long packs = count / PACK_ELEMENTS, step = threads();
  long i = thread();
  for (; i + (BATCH - 1) * step < packs; i += BATCH * step) {
    pack batch[BATCH];
    for (int k = 0; k < BATCH; ++k)
      batch[k] = combined<FINISH, SOURCES>([&](int s) { return load_pack(from.at[s], i + k * step); });
    for (int k = 0; k < BATCH; ++k) to.put(i + k * step, batch[k]);
  }
  for (; i < packs; i += step) to.put(i, combined<FINISH, SOURCES>([&](int s) { return load_pack(from.at[s], i); }));
  for (long e = packs * PACK_ELEMENTS + thread(); e < count; e += step)
    to.put_element(e, combined<FINISH, SOURCES>([&](int s) { return load_element(from.at[s], e); }));
}
template <class To> DEVICE void copy(To to, const char* from, long count) {
  reduce<PARTIAL, 1>(to, Sources<1>{{from}}, count);
}

DEVICE long smaller(long a, long b) { return a < b ? a : b; }

// Cuts `count` elements into WORLD segments of whole packs; the last ones may be short or empty.
struct Segment { long start, count; };
DEVICE Segment segment_of(long count, long index) {
  const long each = (count + WORLD * PACK_ELEMENTS - 1) / (WORLD * PACK_ELEMENTS) * PACK_ELEMENTS;
  const long start = smaller(index * each, count);
  return {start, smaller(each, count - start)};
}
