// Elements in packs, and their reduction. A pack is the machine's widest access. Arithmetic widens
// fp16, bf16 and fp8 to `values` of fp32. A result is rounded to the wire type once, when narrowed.
#pragma once
#include "float8.h"
#include "sync.h"

// A type that is computed with as stored.
template <class Lane, class Bits>
struct Plain {
  typedef Bits bits;
  struct values {
    Lane v[sizeof(pack) / sizeof(Lane)];
  };
  static DEVICE values widen(pack p) { return reinterpret<values>(p); }
  static DEVICE pack narrow(values v) { return reinterpret<pack>(v); }
};
struct Float32 : Plain<floats, unsigned> {
  static DEVICE floats rounded(floats f) { return f; }
  static DEVICE void in_order(words w, floats* to) { *to = reinterpret<floats>(w); }
  static DEVICE void store_sums(char* at, pack sums) { store_aligned_pack(at, 0, sums); }
};
typedef Plain<doubles, u64> Float64;
typedef Plain<ints, unsigned> Int32;
typedef Plain<longs, u64> Int64;
struct Int8 : Plain<int8s, unsigned char> {
  // The elements of a register as fp32, in the order of memory.
  static DEVICE void in_order(words w, floats* to) { widen_chars(w, to); }
};
typedef Plain<uint8s, unsigned char> Uint8;

// A type with several elements in a word, computed with in fp32: `unpacked` and `packed` change a
// register between both. Like Float32, one of 16 bits has also
//   rounded: the nearest elements, as fp32
//   in_order: the elements of a register as fp32, in the order of memory (of a CPU's bf16 alone
//     `unpacked` has another)
//   store_sums: stores a pack of fp32 as elements
template <class Type, class Bits>
struct Widened {
  typedef Bits bits;
  static constexpr int IN_WORD = 4 / sizeof(bits);
  struct values {
    floats v[IN_WORD * REGISTERS];
  };
  static DEVICE values widen(pack p) {
    values v;
    for (int i = 0; i < REGISTERS; ++i) Type::unpacked(p.r[i], v.v + IN_WORD * i);
    return v;
  }
  static DEVICE pack narrow(values v) {
    pack p;
    for (int i = 0; i < REGISTERS; ++i) p.r[i] = Type::packed(v.v + IN_WORD * i);
    return p;
  }
  static DEVICE floats rounded(floats f) {
    floats both[IN_WORD] = {f, f};
    Type::unpacked(Type::packed(both), both);
    return both[0];
  }
  static DEVICE void in_order(words w, floats* to) { Type::unpacked(w, to); }
};
template <class Format>
struct Coded : Widened<Coded<Format>, unsigned char> {
  static DEVICE void unpacked(words w, floats* to) {
    UNROLLED
    for (int k = 0; k < 4; ++k) to[k] = Format::values(w >> 8 * k);
  }
  static DEVICE words packed(const floats* from) {
    words w = {};
    UNROLLED
    for (int k = 0; k < 4; ++k) w |= Format::codes(from[k]) << 8 * k;
    return w;
  }
};
typedef Coded<E4m3> Float8_e4m3;
typedef Coded<E5m2> Float8_e5m2;
struct Float16 : Widened<Float16, unsigned short> {
  static DEVICE void unpacked(words w, floats* to) {
    to[0] = low_halves(w), to[1] = high_halves(w);
  }
  static DEVICE words packed(const floats* from) { return halves(from[0], from[1]); }
  static DEVICE void store_sums(char* at, pack sums) { store_halves(at, sums); }
};
struct Bfloat16 : Widened<Bfloat16, unsigned short> {
  static DEVICE void unpacked(words w, floats* to) {
    to[0] = reinterpret<floats>(w << 16), to[1] = reinterpret<floats>(w & 0xffff0000u);
  }
  static DEVICE words packed(const floats* from) { return bfloat16s(from[0], from[1]); }
  static DEVICE void in_order(words w, floats* to) { widen_bfloat16s(w, to); }
  static DEVICE void store_sums(char* at, pack sums) { store_bfloat16s(at, sums); }
};

DEVICE bool differ(pack x, pack y) {
  const auto a = reinterpret<Pieces<u64>>(x), b = reinterpret<Pieces<u64>>(y);
  u64 bits = 0;
  for (unsigned k = 0; k < sizeof(pack) / 8; ++k) bits |= a.of[k] ^ b.of[k];
  return bits != 0;
}

#define COMBINES(Name, result)                   \
  struct Name {                                  \
    template <class Lane>                        \
    static DEVICE Lane combine(Lane a, Lane b) { \
      return result;                             \
    }                                            \
    template <class Lane>                        \
    static DEVICE Lane finish(Lane a) {          \
      return a;                                  \
    }                                            \
  };
COMBINES(Sum, a + b)  // the sum
COMBINES(Prod, a* b)
COMBINES(Min, least_of(a, b))
COMBINES(Max, most_of(a, b))
struct Avg : Sum {
  static DEVICE floats finish(floats a) { return a * (1.0f / WT_WORLD); }
  static DEVICE doubles finish(doubles a) { return a * (1.0 / WT_WORLD); }
  template <class Lane>
  static DEVICE Lane finish(Lane a) {
    return a / WT_WORLD;  // as NCCL divides
  }
};

typedef WT_ELEMENT Element;
constexpr unsigned VALUES = sizeof(Element::values) / sizeof(Element::values::v[0]);
constexpr long ELEMENT_BYTES = sizeof(Element::bits);
constexpr long PACK_ELEMENTS = sizeof(pack) / ELEMENT_BYTES;
// Limit of one `reduce`: a GPU's access adds a 32-bit offset; 64 bits take half of all registers.
constexpr long MOST_ELEMENTS = 1L << 28;

// Part i of a user's buffer of `count` pieces, at any multiple of a piece's size, as the first
// BYTES of a pack; behind the end are zeros.
template <class Piece, int BYTES = sizeof(pack), class Index>
DEVICE pack load_pack(const char* from, Index i, Index count) {
  constexpr int N = BYTES / sizeof(Piece);
  const char* at = from + i * BYTES;
  const Index left = count - i * N;
  if (left < N) return load_pieces<Piece>(at, (int)left);
  if (BYTES == sizeof(pack) && is_aligned(at)) return load_aligned_pack(at, 0);
  if (BYTES > 8 || (u64)at % 8) return load_pieces<Piece>(at, N);
  return reinterpret<pack>(Pieces<u64>{{load_as<u64>(at)}});
}
template <class Piece, int BYTES = sizeof(pack), class Index>
DEVICE void store_pack(char* to, Index i, Index count, pack p) {
  constexpr int N = BYTES / sizeof(Piece);
  char* at = to + i * BYTES;
  const Index left = count - i * N;
  if (left < N) return store_pieces<Piece>(at, p, (int)left);
  if (BYTES == sizeof(pack) && is_aligned(at)) return store_aligned_pack(at, 0, p);
  if (BYTES > 8 || (u64)at % 8) return store_pieces<Piece>(at, p, N);
  store_as(at, reinterpret<Pieces<u64>>(p).of[0]);
}

// Destinations of a reduction. A user's buffer may start anywhere.
template <Stores STORES>
struct Destination {
  char* at;
  DEVICE bool aligned() const { return is_aligned(at); }
  template <class Place>
  DEVICE void put(Place place, int k, pack p) const {
    place.store(at, k, p, STORES);
  }
};
using Output = Destination<RECEIVE_STORES>;
using Slab = Destination<SLAB_STORES>;
struct OutputAndSlab {
  Output output;
  Slab slab;
  DEVICE bool aligned() const { return output.aligned() && slab.aligned(); }
  template <class Place>
  DEVICE void put(Place place, int k, pack p) const {
    output.put(place, k, p), slab.put(place, k, p);
  }
};

// Combines load(s) of every source s, in the order of the sources, and rounds once.
enum Finish { PARTIAL, COMPLETE };
template <int SOURCES, Finish FINISH = COMPLETE, class Load>
DEVICE pack combined(Load load) {
  if (SOURCES == 1) return load(0);
  auto sum = Element::widen(load(0));
  for (int s = 1; s < SOURCES; ++s) {
    const auto next = Element::widen(load(s));
    UNROLLED
    for (unsigned k = 0; k < VALUES; ++k) sum.v[k] = WT_REDOP::combine(sum.v[k], next.v[k]);
  }
  if (FINISH == COMPLETE) {
    UNROLLED
    for (unsigned k = 0; k < VALUES; ++k) sum.v[k] = WT_REDOP::finish(sum.v[k]);
  }
  return Element::narrow(sum);
}

DEVICE long smaller(long a, long b) { return a < b ? a : b; }

template <int SOURCES>
struct Sources {
  static constexpr int COUNT = SOURCES;
  const char* at[SOURCES];
  DEVICE bool aligned() const {
    bool all = true;
    for (const char* source : at) all &= is_aligned(source);
    return all;
  }
  template <class Place>
  DEVICE pack load(Place place, int s, int k) const {
    return place.load(at[s], k);
  }
};
// The inputs of all ranks, in rank order: `own` for this rank, from_peer(rank) for the others.
template <class Peer>
DEVICE Sources<WT_WORLD> inputs_of_all(const Arguments& a, const char* own, Peer from_peer) {
  Sources<WT_WORLD> inputs;
  const int rank = rematerialized((int)a.rank);
  for (int r = 0; r < WT_WORLD; ++r) inputs.at[r] = r == rank ? own : from_peer(r);
  return inputs;
}

// The threads that share a piece of work: the whole grid, or one block.
struct ThreadGroup {
  unsigned thread, threads;
};
DEVICE ThreadGroup whole_grid() { return {(unsigned)thread(), (unsigned)threads()}; }
DEVICE ThreadGroup this_block() {
  return {(unsigned)thread_in_block(), (unsigned)threads_in_block()};
}

// A place in a buffer: a batch of N packs, `step` packs apart, or a single element in lane 0 of an
// empty pack.
template <int N>
struct Packs {
  static constexpr int COUNT = N;
  unsigned first, step;
  DEVICE unsigned at(int k) const { return first + k * step; }
  DEVICE pack load(const char* from, int k) const { return load_aligned_pack(from, at(k)); }
  DEVICE void store(char* to, int k, pack p, Stores stores = CACHED) const {
    store_aligned_pack(to, at(k), p, stores);
  }
};
struct SingleElement {
  static constexpr int COUNT = 1;
  unsigned at;  // in bytes
  DEVICE pack load(const char* from, int) const {
    pack p = {};
    const Element::bits e = *(const volatile Element::bits*)(from + at);
    copy_bits(&p, &e, sizeof e);
    return p;
  }
  DEVICE void store(char* to, int, pack p, Stores = CACHED) const {
    Element::bits e;
    copy_bits(&e, &p, sizeof e);
    *(volatile Element::bits*)(to + at) = e;
  }
};

// Calls each(place) for this thread's places. Unaligned elements go alone, by the same thread:
// an aligned peer waits for its block. Testing each access would keep a GPU from batching loads.
template <int BATCH, class Each>
DEVICE void for_places(long count, bool aligned, ThreadGroup team, Each each) {
  const unsigned packs = aligned ? (unsigned)(count / PACK_ELEMENTS) : 0;
  const unsigned step = (unsigned)rematerialized((int)team.threads);
  unsigned i = team.thread;
  // Prefetchers of a CPU stop at the end of a page and restart a few lines into the next. Four
  // pages at once keep more memory busy: 1.15 to 1.24 times as fast from 4 MiB on, 1.1 times as
  // long in cache.
  if constexpr (ON_CPU && WT_SEVERAL_PAGES != 0) {
    constexpr unsigned PAGE_PACKS = 4096 / OWN_PACK_BYTES;
    for (; i + BATCH * PAGE_PACKS <= packs; i += BATCH * PAGE_PACKS)
      for (unsigned k = i; k < i + PAGE_PACKS; ++k) each(Packs<BATCH>{k, PAGE_PACKS});
  }
  for (; i + (BATCH - 1) * step < packs; i += BATCH * step) each(Packs<BATCH>{i, step});
  for (; i < packs; i += step) each(Packs<1>{i, step});
  for (; i * PACK_ELEMENTS < count; i += step)
    for (unsigned e = i * (unsigned)PACK_ELEMENTS; e < smaller(count, (i + 1) * PACK_ELEMENTS); ++e)
      each(SingleElement{e * (unsigned)ELEMENT_BYTES});
}

// Reduces `count` elements of each source into `to`; a single source is copied. All loads of a
// batch precede its stores: the compiler must not reorder them, since the buffers could overlap.
template <Finish FINISH = COMPLETE, class To, class From>
DEVICE void reduce(To to, From from, long count, ThreadGroup team = whole_grid()) {
  constexpr int SOURCES = From::COUNT;
  // A GPU thread has 128 registers, and sums of fp8 take twice as many as sums of halves.
  constexpr int MOST_PACKS = SOURCES * REGISTERS <= 16 ? 4 : 2;
  constexpr int BATCH = SOURCES > 1 && VALUES > 8 ? MOST_PACKS / 2 : MOST_PACKS;
  // Widening fills the window of instructions in which a CPU finds its next loads.
  constexpr bool PREFETCHES =
      PREFETCH_BYTES && SOURCES > 1 && sizeof(Element::values) > sizeof(pack);
  const long bytes = count * ELEMENT_BYTES;
  if (PREFETCHES)
    for (const char* source : from.at) prefetch(source, smaller(PREFETCH_BYTES, bytes));
  for_places<BATCH>(count, to.aligned() && from.aligned(), team, [&](auto place) INLINED {
    constexpr int N = decltype(place)::COUNT;
    pack batch[N];
    if constexpr (PREFETCHES && N > 1) {
      const long ahead = place.at(0) * OWN_PACK_BYTES + PREFETCH_BYTES;
      if (ahead + (N - 1) * OWN_PACK_BYTES < bytes)
        for (const char* source : from.at) prefetch(source + ahead, N * sizeof(pack));
    }
    UNROLLED
    for (int k = 0; k < N; ++k)
      batch[k] = combined<SOURCES, FINISH>([&](int s) { return from.load(place, s, k); });
    if (N > 1) loads_first<N * SOURCES>();
    UNROLLED
    for (int k = 0; k < N; ++k) to.put(place, k, batch[k]);
  });
}
template <class To>
DEVICE void copy(To to, const char* from, long count, ThreadGroup team = whole_grid()) {
  reduce(to, Sources<1>{{from}}, count, team);
}
DEVICE void copy(Destination<CACHED> to, const char* from, long count,
                 ThreadGroup team = whole_grid()) {
  if (!copied_as_string(to.at, from, count * ELEMENT_BYTES))
    reduce(to, Sources<1>{{from}}, count, team);
}

// Calls body(offset in bytes, elements) for parts of a message that one `reduce` can take.
template <long MOST = MOST_ELEMENTS, class Body>
DEVICE void in_parts(long count, Body body) {
  for (long start = 0; start < count; start += MOST)
    body(start * ELEMENT_BYTES, smaller(count - start, MOST));
}
// Copies a message of any length into a user's buffer.
DEVICE void copy_message(char* to, const char* from, long count) {
  in_parts(count, [&](long at, long n) { copy(Output{to + at}, from + at, n); });
}

// Cuts `count` elements into WT_WORLD segments of whole units; the last may be short or empty.
struct Segment {
  long start, count;
};
template <long UNIT = PACK_ELEMENTS>
DEVICE Segment segment_of(long count, long index) {
  const long most = (count + WT_WORLD * UNIT - 1) / (WT_WORLD * UNIT) * UNIT;
  const long start = smaller(index * most, count);
  return {start, smaller(most, count - start)};
}
