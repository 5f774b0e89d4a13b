// Residual and RMSNorm of a row, by one block: what is summed is added and kept, then read again and scaled; and, where
// OUTPUT says so, read once more and quantised, with one scale a row.
//
// A row's squares are added up in fp32 in the same order wherever it lies in memory, so every rank gets the same bits.
// Where they outgrow fp32, the row's norm is 0.
//
// A scale is the largest magnitude of the rounded `normed` over the largest code. It is 0, and so are the codes, of a
// row of zeros, or of less than fp32 has an inverse for; and NaN of a row with a NaN or an infinity, whose codes are 0.
#pragma once
#include "quantize.h"

struct Norm {
  Arguments ranks;       // of which `count` is all tokens' elements
  const char* residual;  // [tokens][hidden]
  char* residual_out;    // [tokens][hidden]; may be `residual`
  const char* weight;    // [hidden]
  char* codes;           // [tokens][hidden] of a byte each, where a pack of them may start; with OUTPUT
  char* scales;          // [tokens] fp32; with OUTPUT
  long hidden, tokens, step_tokens;  // step_tokens: handed over at a time
  double epsilon;
};

struct Unquantized {
  static constexpr float LARGEST = 1;
  static DEVICE words codes(floats) { return words{}; }
};
struct Int8Output {
  static constexpr float LARGEST = 127;
  static DEVICE words codes(floats x) { return int8_codes(x); }
};
struct E4m3Output {
  static constexpr float LARGEST = 448;
  static DEVICE words codes(floats x) { return e4m3_codes(x); }
};
constexpr bool QUANTIZED = OUTPUT::LARGEST > 1;
// Elements of a register in the order of memory.
DEVICE void widen(Float32, words w, floats* to) { *to = reinterpret<floats>(w); }
DEVICE void widen(Float16, words w, floats* to) { widen_halves(w, to); }
DEVICE void widen(Bfloat16, words w, floats* to) { widen_bfloat16s(w, to); }

constexpr int PACKS_AT_ONCE = WORLD <= 4 ? 4 : 2;  // a GPU has 128 registers a thread

// Where in a row: N packs, or an element. A batch's packs are numbered.
template <int N> struct Packs {
  static constexpr int COUNT = N;
  unsigned first, step;
  DEVICE pack load(const char* row, int k) const { return load_aligned_pack(row, first + k * step); }
  DEVICE void put(char* row, int k, pack p) const { store_aligned_pack(row, first + k * step, p); }
  DEVICE void put_codes(char* row, int k, const words (&codes)[PACK_ELEMENTS * 4 / sizeof(words)]) const {
    store_low_bytes(row + (first + k * step) * (unsigned)PACK_ELEMENTS, codes);
  }
};
struct One {
  static constexpr int COUNT = 1;
  unsigned element;
  DEVICE pack load(const char* row, int) const { return load_element(row, element); }
  DEVICE void put(char* row, int, pack p) const { store_element(row, element, p); }
  DEVICE void put_codes(char* row, int, const words (&codes)[PACK_ELEMENTS * 4 / sizeof(words)]) const {
    copy_bits(row + element, codes, 1);
  }
};

// Calls each(where, number of its first pack in a batch) along a row. Where a row does not begin where a pack may, it
// goes element by element, each by the thread and under the number that would have its pack: else two ranks whose
// buffers lie otherwise would add up in another order.
template <class Each> DEVICE void along_a_row(long hidden, bool aligned, Each each) {
  const unsigned packs = (unsigned)(hidden / PACK_ELEMENTS), step = (unsigned)threads_in_block();
  const auto elements = [&](unsigned i, int number) {
    for (unsigned e = i * (unsigned)PACK_ELEMENTS; e < (i + 1) * (unsigned)PACK_ELEMENTS; ++e) each(One{e}, number);
  };
  unsigned i = (unsigned)thread_in_block();
  if (aligned) {
    for (; i + (PACKS_AT_ONCE - 1) * step < packs; i += PACKS_AT_ONCE * step) each(Packs<PACKS_AT_ONCE>{i, step}, 0);
    for (; i < packs; i += step) each(Packs<1>{i, step}, 0);
  } else {
    for (; i + (PACKS_AT_ONCE - 1) * step < packs; i += PACKS_AT_ONCE * step)
      UNROLLED for (int k = 0; k < PACKS_AT_ONCE; ++k) elements(i + k * step, k);
    for (; i < packs; i += step) elements(i, 0);
  }
  for (long e = packs * PACK_ELEMENTS + thread_in_block(); e < hidden; e += step) each(One{(unsigned)e}, 0);
}

// What a row adds up to: fp32 lanes, of which each pack of a batch has its own.
struct Squares { floats of[PACKS_AT_ONCE]; };

template <int SOURCES, class Where>
DEVICE void add(const Where& at, int number, const Sources<SOURCES>& inputs, const char* residual, char* kept,
                Squares& squares) {
  constexpr int N = Where::COUNT;
  pack sum[N], old[N];
  for (int k = 0; k < N; ++k) {
    sum[k] = combined<COMPLETE, SOURCES>([&](int s) { return at.load(inputs.at[s], k); });
    old[k] = at.load(residual, k);
  }
  loads_first<N * (SOURCES + 1)>();
  for (int k = 0; k < N; ++k) {
    typename Element::values x = Element::widen(sum[k]);
    const typename Element::values y = Element::widen(old[k]);
    for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) x.v[j] += y.v[j];
    const pack narrow = Element::narrow(x);
    at.put(kept, k, narrow);
    x = Element::widen(narrow);
    for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) squares.of[number + k] += x.v[j] * x.v[j];
  }
}

template <class Where>
DEVICE void scale(const Where& at, const char* kept, const char* weight, float factor, char* normed, words& largest) {
  constexpr int N = Where::COUNT;
  pack row[N], by[N];
  for (int k = 0; k < N; ++k) row[k] = at.load(kept, k), by[k] = at.load(weight, k);
  loads_first<2 * N>();
  for (int k = 0; k < N; ++k) {
    typename Element::values x = Element::widen(row[k]);
    const typename Element::values w = Element::widen(by[k]);
    for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) x.v[j] = x.v[j] * factor * w.v[j];
    const pack narrow = Element::narrow(x);
    at.put(normed, k, narrow);
    if (QUANTIZED) {
      x = Element::widen(narrow);
      for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) largest = most_of(largest, magnitude(x.v[j]));
    }
  }
}

template <class Where>
DEVICE void encode(const Where& at, const char* normed, float inverse, words finite, char* codes) {
  constexpr int N = Where::COUNT, OF_REGISTER = 4 / ELEMENT_BYTES;
  pack row[N];
  for (int k = 0; k < N; ++k) row[k] = at.load(normed, k);
  loads_first<N>();
  for (int k = 0; k < N; ++k) {
    words found[REGISTERS * OF_REGISTER];
    for (int j = 0; j < REGISTERS; ++j) {
      floats x[OF_REGISTER];
      widen(Element{}, row[k].r[j], x);
      for (int m = 0; m < OF_REGISTER; ++m) found[j * OF_REGISTER + m] = OUTPUT::codes(x[m] * inverse) & finite;
    }
    at.put_codes(codes, k, found);
  }
}

// A row whose magnitudes' bits are at most `most`, as codes and a scale.
DEVICE void quantize_row(const Norm& n, long token, bool aligned, const char* normed, unsigned most) {
  const bool finite = most < 0x7f800000u;
  const float ratio = finite ? reinterpret<float>(most) / OUTPUT::LARGEST : reinterpret<float>(0x7fc00000u);
  const float step = ratio < 0x1p-126f ? 0.0f : ratio, inverse = step > 0 ? 1.0f / step : 0.0f;
  const words mask = words{} + (finite ? ~0u : 0u);
  char* codes = n.codes + token * n.hidden;
  along_a_row(n.hidden, aligned, [&](auto at, int) { encode(at, normed, inverse, mask, codes); });
  if (thread_in_block() == 0) *(volatile float*)(n.scales + token * 4) = step;
}

// Everything after the inputs have come: one token's row, by one block.
template <int SOURCES> DEVICE void norm_row(const Norm& n, long token, Sources<SOURCES> inputs) {
  const long hidden = n.hidden, start = token * hidden * ELEMENT_BYTES;
  const char *residual = n.residual + start, *weight = n.weight;  // not read anew from memory in a loop that stores
  char *kept = n.residual_out + start, *normed = n.ranks.receive + start;
  const bool aligned = inputs.aligned() && is_aligned(residual) && is_aligned(kept) && is_aligned(normed) &&
                       is_aligned(weight);
  Squares squares = {};
  along_a_row(hidden, aligned, [&](auto at, int k) { add(at, k, inputs, residual, kept, squares); });
  floats all = squares.of[0];
  for (int k = 1; k < PACKS_AT_ONCE; ++k) all += squares.of[k];
  const float factor = 1.0f / square_root(sum_over_block(all) / (float)hidden + (float)n.epsilon);

  words largest = {};
  along_a_row(hidden, aligned, [&](auto at, int) { scale(at, kept, weight, factor, normed, largest); });
  if (QUANTIZED) quantize_row(n, token, aligned, normed, largest_over_block(largest));
}
