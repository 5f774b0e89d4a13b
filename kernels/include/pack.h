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
  static DEVICE words both(floats low, floats high) {
    return rounded_to_bfloat16(low) >> 16 | (rounded_to_bfloat16(high) & 0xffff0000u);
  }
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
// Of one call of `reduce`. Offsets within it have 32 bits: a GPU adds them to a base as part of an access, where those
// of 64 bits take half of all registers.
constexpr long MOST_ELEMENTS = 1L << 28;

DEVICE pack load_element(const char* buffer, unsigned i) {
  pack p = {};
  Element::bits e = *(const volatile Element::bits*)(buffer + i * (unsigned)ELEMENT_BYTES);
  copy_bits(&p, &e, sizeof e);
  return p;
}
DEVICE void store_element(char* buffer, unsigned i, pack p) {
  Element::bits e;
  copy_bits(&e, &p, sizeof e);
  *(volatile Element::bits*)(buffer + i * (unsigned)ELEMENT_BYTES) = e;
}

// Where results go: a user's buffer, which may start anywhere; a slab, whose packs are aligned; or two places at once.
struct Output {
  char* at;
  DEVICE bool aligned() const { return STREAM_RECEIVE ? may_stream(at) : is_aligned(at); }
  DEVICE void put(unsigned i, pack p) const { STREAM_RECEIVE ? stream_pack(at, i, p) : store_aligned_pack(at, i, p); }
  DEVICE void put_element(unsigned i, pack p) const { store_element(at, i, p); }
};
struct Slab {
  char* at;
  DEVICE bool aligned() const { return !STREAM_SLAB || may_stream(at); }
  DEVICE void put(unsigned i, pack p) const { STREAM_SLAB ? stream_pack(at, i, p) : store_aligned_pack(at, i, p); }
  DEVICE void put_element(unsigned i, pack p) const { store_element(at, i, p); }
};
template <class A, class B> struct Both {
  A a;
  B b;
  DEVICE bool aligned() const { return a.aligned() && b.aligned(); }
  DEVICE void put(unsigned i, pack p) const { a.put(i, p), b.put(i, p); }
  DEVICE void put_element(unsigned i, pack p) const { a.put_element(i, p), b.put_element(i, p); }
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

DEVICE long smaller(long a, long b) { return a < b ? a : b; }

template <int SOURCES> struct Sources {
  const char* at[SOURCES];
  DEVICE bool aligned() const {
    bool all = true;
    for (int s = 0; s < SOURCES; ++s) all &= is_aligned(at[s]);
    return all;
  }
};

// The threads that do something together: of the whole grid, or of this block alone.
struct Team { unsigned thread, threads; };
DEVICE Team whole_grid() { return {(unsigned)thread(), (unsigned)threads()}; }
DEVICE Team this_block() { return {(unsigned)thread_in_block(), (unsigned)threads_in_block()}; }

// Reduces `count` elements of each source into `to`; one source is copied. All loads of a batch come before its stores:
// the compiler may not reorder them itself, since the buffers might overlap. Where an address is not that of a pack, as
// a user's buffer may have it, all goes element by element: a GPU that asked at each access would not batch its loads.
// An element stays with the thread that would have its pack: a peer whose buffer lies otherwise waits for that block.
template <Finish FINISH, int SOURCES, class To>
DEVICE void reduce(To to, Sources<SOURCES> from, long count, Team team = whole_grid()) {
  constexpr int BATCH = SOURCES * REGISTERS <= 16 ? 4 : 2;  // a GPU has 128 registers a thread
  const unsigned packs = to.aligned() && from.aligned() ? (unsigned)(count / PACK_ELEMENTS) : 0;
  const unsigned step = (unsigned)afresh((int)team.threads);
  const auto reduced = [&](unsigned i) {
    return combined<FINISH, SOURCES>([&](int s) { return load_aligned_pack(from.at[s], i); });
  };
  unsigned i = team.thread;
  // Prefetchers stop at a page's end, and start anew a few lines into the next. Four pages at once keep more of the
  // memory busy: 1.15 to 1.24 times as fast from 4 MiB on. What is in cache takes 1.1 times as long.
  if (SEVERAL_PAGES && PAGE_PACKS > 0)
    for (; i + BATCH * PAGE_PACKS <= packs; i += BATCH * PAGE_PACKS)
      for (unsigned j = i; j < i + PAGE_PACKS; ++j) {
        pack batch[BATCH];
        for (int k = 0; k < BATCH; ++k) batch[k] = reduced(j + k * PAGE_PACKS);
        for (int k = 0; k < BATCH; ++k) to.put(j + k * PAGE_PACKS, batch[k]);
      }
  for (; i + (BATCH - 1) * step < packs; i += BATCH * step) {
    pack batch[BATCH];
    for (int k = 0; k < BATCH; ++k) batch[k] = reduced(i + k * step);
    loads_first<BATCH * SOURCES>();
    for (int k = 0; k < BATCH; ++k) to.put(i + k * step, batch[k]);
  }
  for (; i < packs; i += step) to.put(i, reduced(i));
  for (; i * PACK_ELEMENTS < count; i += step)
    for (unsigned e = i * (unsigned)PACK_ELEMENTS; e < smaller(count, (i + 1) * PACK_ELEMENTS); ++e)
      to.put_element(e, combined<FINISH, SOURCES>([&](int s) { return load_element(from.at[s], e); }));
}
template <class To> DEVICE void copy(To to, const char* from, long count, Team team = whole_grid()) {
  reduce<PARTIAL, 1>(to, Sources<1>{{from}}, count, team);
}

// Stores elements of one's own, from the start-th of the message on, where peers will read them.
DEVICE void hand_over(const Arguments& a, unsigned epoch, long start, char* to, const char* from, long count) {
  const u64 step = FAULT == NO_FAULT ? 0 : stamp(epoch, start * ELEMENT_BYTES / a.chunk_bytes + 1);
  if (!strikes(SKIP_PUSH, a.rank, step)) copy(Slab{to}, from, count);
  flip_bit(a.rank, step, to, count * ELEMENT_BYTES);
}

// Calls each(offset in bytes, elements) for parts of a message that one `reduce` can take.
template <class Each> DEVICE void in_parts(long count, Each each) {
  for (long start = 0; start < count; start += MOST_ELEMENTS)
    each(start * ELEMENT_BYTES, smaller(count - start, MOST_ELEMENTS));
}
DEVICE void copy_message(const Arguments& a) {
  in_parts(a.count, [&](long at, long count) { copy(Output{a.receive + at}, a.send + at, count); });
}

// Cuts `count` elements into WORLD segments of whole packs; the last ones may be short or empty.
struct Segment { long start, count; };
DEVICE Segment segment_of(long count, long index) {
  const long each = (count + WORLD * PACK_ELEMENTS - 1) / (WORLD * PACK_ELEMENTS) * PACK_ELEMENTS;
  const long start = smaller(index * each, count);
  return {start, smaller(each, count - start)};
}
