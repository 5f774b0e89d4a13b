// norm.h's pass over a row with the same bits on all numbers of ranks, threads and machines. The
// sum of a row is rounded to WT_ELEMENT, the residual is added, and this is rounded again: x. The
// squares are added in CHAINS chains: column c goes to the chain c % CHAINS, which adds the rounded
// squares in fp32, by ascending column and from zero on. Then halves are added until one is left:
// chain i + chain i + 1024, then i + 512, ... i + 1. In numpy, with x in fp32:
//   sums = np.zeros(CHAINS, np.float32)
//   for c in range(0, len(x), CHAINS): sums[:len(x) - c] += (x * x)[c:c + CHAINS]
//   while len(sums) > 1: sums = sums[:len(sums) // 2] + sums[len(sums) // 2:]
//   factor = np.float32(1) / np.sqrt(sums[0] / np.float32(len(x)) + np.float32(epsilon))
//   normed = x * factor * weight, rounded to WT_ELEMENT
// The square root and the division are IEEE's, which the defaults of g++, clang, NVRTC and hipRTC
// promise. Their fast-math options do not, nor -fno-hip-fp32-correctly-rounded-divide-sqrt.
#pragma once
#include "leaves.h"
#include "norm.h"

// So many that 256 threads have packs of their own: of a row of 8192, four each, at once.
constexpr int CHAINS_OF_NORM = 2048;
constexpr unsigned PERIOD = CHAINS_OF_NORM / PACK_ELEMENTS;  // in packs
constexpr int WIDE_PACKS = 4 / ELEMENT_BYTES;                // of fp32, for one pack of elements

// Elements in the order of memory, as fp32, and back.
DEVICE Element::values values_in_order(pack p) {
  Element::values x;
  for (int j = 0; j < REGISTERS; ++j) Element::in_order(p.r[j], x.v + j * WIDE_PACKS);
  return x;
}
template <int N>
DEVICE void store_in_order(char* to, Packs<N> at, int k, const Element::values& x) {
  if constexpr (!ON_CPU)
    at.store(to, k, Element::narrow(x));
  else  // where `narrow` takes bf16 in another order
    for (int i = 0; i < WIDE_PACKS; ++i)
      Element::store_sums(to + at.at(k) * sizeof(pack) + i * sizeof(pack) / WIDE_PACKS,
                          {{reinterpret<words>(x.v[i])}});
}
DEVICE void store_in_order(char* to, SingleElement at, int k, const Element::values& x) {
  at.store(to, k, Element::narrow(x));
}

// The sum of a row as an all-reduce leaves it.
struct RoundedSums {
  static constexpr int PACKS = 1;
  const char* at;
  DEVICE bool aligned() const { return is_aligned(at); }
  template <class Place>
  DEVICE void load(Place place, int k, pack (&to)[PACKS]) const {
    to[0] = place.load(at, k);
  }
  DEVICE Element::values sums(const pack (&loaded)[PACKS]) const {
    return values_in_order(loaded[0]);
  }
};

// The sum of the ranks' subtrees in fp32, as Leaves::root has it.
struct Subtrees {
  static constexpr bool SCALED = WEIGHT_BYTES == 1;
  static constexpr int SOURCES = WT_WORLD + SCALED, PACKS = SOURCES * WIDE_PACKS;
  const char* at[SOURCES];  // by rank; then the scales of the matrix's rows
  DEVICE bool aligned() const {
    bool all = true;
    for (const char* source : at) all &= is_aligned(source);
    return all;
  }
  template <int N>
  DEVICE void load(Packs<N> place, int k, pack (&to)[PACKS]) const {
    for (int p = 0; p < PACKS; ++p)
      to[p] = load_aligned_pack(at[p / WIDE_PACKS], place.at(k) * WIDE_PACKS + p % WIDE_PACKS);
  }
  DEVICE void load(SingleElement place, int, pack (&to)[PACKS]) const {
    const long from = place.at / ELEMENT_BYTES * 4;
    for (int p = 0; p < PACKS; ++p) to[p] = {};
    for (int s = 0; s < SOURCES; ++s)
      to[s * WIDE_PACKS].r[0] = reinterpret<words>(floats{*(const volatile float*)(at[s] + from)});
  }
  DEVICE Element::values sums(const pack (&loaded)[PACKS]) const {
    Element::values x;
    UNROLLED
    for (unsigned i = 0; i < VALUES; ++i) {
      floats subtrees[WT_WORLD];
      const auto of = [&](int s) INLINED {
        return reinterpret<floats>(loaded[s * WIDE_PACKS + i / REGISTERS].r[i % REGISTERS]);
      };
      for (int r = 0; r < WT_WORLD; ++r) subtrees[r] = of(r);
      const floats root = sum_of_tree(subtrees);
      x.v[i] = Element::rounded(SCALED ? rounded_product(root, of(SOURCES - 1)) : root);
    }
    return x;
  }
};

template <class Sum, int N>
DEVICE Sum sum_by_halves(Sum (&sums)[N]) {
  UNROLLED
  for (int n = N / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) sums[i] += sums[i + n];
  return sums[0];
}

// The chains of a row, in memory of its block. A pack's chains belong to one thread.
struct Chains {
  floats* at;

  template <int N>
  DEVICE void add_squares(Packs<N> place, int k, const Element::values& x) const {
    floats* own = at + place.at(k) % PERIOD * VALUES;
    for (unsigned j = 0; j < VALUES; ++j) own[j] += rounded_product(x.v[j], x.v[j]);
  }
  DEVICE void add_squares(SingleElement place, int, const Element::values& x) const {
    const floats squares = rounded_product(x.v[0], x.v[0]);
    float square;
    copy_bits(&square, &squares, sizeof square);
    ((float*)at)[place.at / ELEMENT_BYTES % CHAINS_OF_NORM] += square;
  }
  // Leaves so many chains of N times as many.
  template <int N>
  DEVICE void halve(int left) const {
    const int step = left * 4 / (int)sizeof(floats);
    for (int i = thread_in_block(); i < step; i += threads_in_block()) {
      floats sums[N];
      for (int k = 0; k < N; ++k) sums[k] = at[i + k * step];
      at[i] = sum_by_halves(sums);
    }
    block_barrier();
  }
  // In all threads. Few steps, each with a barrier: 2048, 128 and 16 chains.
  DEVICE float sum() const {
    block_barrier();
    halve<16>(128);
    halve<8>(16);
    float last[16];
    copy_bits(last, at, sizeof last);
    return sum_by_halves(last);
  }
};

// All passes over one token's row, by one block.
template <class Source>
DEVICE void stable_norm_row(const Norm& n, long token, const Source& source) {
  const long start = token * n.hidden * ELEMENT_BYTES, hidden = n.hidden;
  const char *residual = n.residual + start, *weight = n.weight;
  char *residual_out = n.residual_out + start, *normed = n.ranks.receive + start;
  const bool aligned = source.aligned() && is_aligned(residual) && is_aligned(residual_out) &&
                       is_aligned(normed) && is_aligned(weight);
  constexpr int AT_ONCE = Source::PACKS <= 4 ? 4 : Source::PACKS <= 8 ? 2 : 1;
  BlockMemory<CHAINS_OF_NORM> memory;
  const Chains chains{memory.at()};
  const auto add = [&](auto at) INLINED {
    constexpr int N = decltype(at)::COUNT;
    pack loaded[N][Source::PACKS], old[N];
    for (int k = 0; k < N; ++k) {
      source.load(at, k, loaded[k]);
      old[k] = at.load(residual, k);
    }
    loads_first<N*(Source::PACKS + 1)>();
    for (int k = 0; k < N; ++k) {
      auto x = source.sums(loaded[k]);
      const auto y = values_in_order(old[k]);
      for (unsigned j = 0; j < VALUES; ++j) x.v[j] = Element::rounded(x.v[j] + y.v[j]);
      store_in_order(residual_out, at, k, x);
      chains.add_squares(at, k, x);
    }
  };
  block_barrier();  // all threads have read the sum of the row before
  for (unsigned p = thread_in_block(); p < PERIOD; p += threads_in_block()) {
    for (unsigned j = 0; j < VALUES; ++j) chains.at[p * VALUES + j] = floats{};
    if constexpr (!ON_CPU) for_places<AT_ONCE>(hidden, aligned, ThreadGroup{p, PERIOD}, add);
  }
  // A CPU's one thread goes through the row in the order of memory.
  if constexpr (ON_CPU) for_places<AT_ONCE>(hidden, aligned, this_block(), add);
  const float mean = chains.sum() / (float)hidden;
  const float factor = 1.0f / square_root(mean + (float)n.epsilon);
  // AMD's compiler would multiply, add 0 and round to fp16 in one instruction, which loses a -0.
  const auto product = [](floats a, floats b) INLINED { return rounded_product(a, b); };
  scale_row(residual_out, weight, normed, hidden, aligned, factor, product);
}
