// Residual addition and RMSNorm of a token's row, by one block, for allreduce_rmsnorm.cu.
//
// Passes over the row:
//   1. add: sum of all sources + residual, rounded and stored in residual_out; adds up the squares
//   2. scale: residual_out / sqrt(mean of the squares + epsilon) * weight, rounded, into `receive`
//   3. with OUTPUT, encode: that row as codes of one byte, with one scale a row
// The order of the fp32 sum does not depend on the row's address, so every rank gets the same bits.
// If the sum overflows, the norm is 0.
// A scale is the largest magnitude of the rounded norm divided by the largest code. Scale and codes
// are 0 if the scale has no inverse in fp32, as for a row of zeros. If an element is NaN or
// infinite, the scale is NaN and the codes are 0.
#pragma once
#include "quantize.h"

struct Norm {
  Arguments ranks;           // `count`: the elements of all tokens
  const char* residual;      // [tokens][hidden]
  char* residual_out;        // [tokens][hidden]; may be `residual`
  const char* weight;        // [hidden]
  char* codes;               // [tokens][hidden] bytes, aligned to a pack of codes; with OUTPUT
  char* scales;              // [tokens] fp32; with OUTPUT
  long hidden, tokens;
  long step_tokens;          // tokens that are handed over in one step
  double epsilon;
};

struct Unquantized {
  static constexpr float LARGEST = 1;
  static DEVICE words codes(floats) { return words{}; }
};
typedef Int8Blocks Int8Output;
typedef Fp8Blocks E4m3Output;
constexpr bool QUANTIZED = OUTPUT::LARGEST > 1;

constexpr int PACKS_AT_ONCE = WORLD <= 4 ? 4 : 2;  // a GPU has 128 registers a thread
constexpr int PACK_CODES = PACK_ELEMENTS * 4 / sizeof(words);  // registers with a pack's codes

// Destinations within a row.
using Row = Destination<false, true>;
struct CodeRow {
  char* at;
  DEVICE void put(unsigned i, const words (&codes)[PACK_CODES]) const {
    store_low_bytes(at + i * (unsigned)PACK_ELEMENTS, codes);
  }
  DEVICE void put_element(unsigned i, const words (&codes)[PACK_CODES]) const {
    copy_bits(at + i, codes, 1);
  }
};

// Adds the squares of a thread's packs to the sum with the pack's number: `squares`.
template <int SOURCES, class Place>
DEVICE void add(const Place& at, const Sources<SOURCES>& inputs, const char* residual,
                char* residual_out, floats (&squares)[PACKS_AT_ONCE]) {
  constexpr int N = Place::COUNT;
  pack sum[N], old[N];
  for (int k = 0; k < N; ++k) {
    sum[k] = combined<COMPLETE, SOURCES>([&](int s) { return at.load(inputs.at[s], k); });
    old[k] = at.load(residual, k);
  }
  loads_first<N * (SOURCES + 1)>();
  for (int k = 0; k < N; ++k) {
    typename Element::values x = Element::widen(sum[k]);
    const typename Element::values y = Element::widen(old[k]);
    for (unsigned j = 0; j < VALUES; ++j) x.v[j] += y.v[j];
    const pack narrow = Element::narrow(x);
    at.put(Row{residual_out}, k, narrow);
    x = Element::widen(narrow);
    for (int n = 0; n < PACKS_AT_ONCE; ++n)
      if (n == at.number + k)
        for (floats rounded_x : x.v) squares[n] += rounded_x * rounded_x;
  }
}

// With OUTPUT, also raises `largest` to the magnitudes of the rounded results.
template <class Place>
DEVICE void scale(const Place& at, const char* residual_out, const char* weight, float factor,
                  char* normed, words& largest) {
  constexpr int N = Place::COUNT;
  pack row[N], weights[N];
  for (int k = 0; k < N; ++k) row[k] = at.load(residual_out, k), weights[k] = at.load(weight, k);
  loads_first<2 * N>();
  for (int k = 0; k < N; ++k) {
    typename Element::values x = Element::widen(row[k]);
    const typename Element::values w = Element::widen(weights[k]);
    for (unsigned j = 0; j < VALUES; ++j) x.v[j] = x.v[j] * factor * w.v[j];
    const pack narrow = Element::narrow(x);
    at.put(Row{normed}, k, narrow);
    if (QUANTIZED) {
      x = Element::widen(narrow);
      for (floats rounded_x : x.v) largest = most_of(largest, magnitude(rounded_x));
    }
  }
}

template <class Place>
DEVICE void encode(const Place& at, const char* normed, float inverse, words mask, char* codes) {
  constexpr int N = Place::COUNT, WORD_ELEMENTS = 4 / ELEMENT_BYTES;
  pack row[N];
  for (int k = 0; k < N; ++k) row[k] = at.load(normed, k);
  loads_first<N>();
  for (int k = 0; k < N; ++k) {
    words encoded[PACK_CODES];
    for (int j = 0; j < REGISTERS; ++j) {
      floats x[WORD_ELEMENTS];
      Element::in_order(row[k].r[j], x);
      for (int m = 0; m < WORD_ELEMENTS; ++m)
        encoded[j * WORD_ELEMENTS + m] = OUTPUT::codes(x[m] * inverse) & mask;
    }
    at.put(CodeRow{codes}, k, encoded);
  }
}

// Writes a row's codes and scale. largest_bits: the row's largest magnitude, as bits of a float.
DEVICE void quantize_row(const Norm& n, long token, bool aligned, const char* normed,
                         unsigned largest_bits) {
  const bool finite = largest_bits < 0x7f800000u;
  const float nan = reinterpret<float>(0x7fc00000u);
  const float ratio = finite ? reinterpret<float>(largest_bits) / OUTPUT::LARGEST : nan;
  const float step = ratio < 0x1p-126f ? 0.0f : ratio, inverse = step > 0 ? 1.0f / step : 0.0f;
  const words mask = words{} + (finite ? ~0u : 0u);
  char* codes = n.codes + token * n.hidden;
  for_places<PACKS_AT_ONCE>(n.hidden, aligned, this_block(), [&](auto at) INLINED {
    encode(at, normed, inverse, mask, codes);
  });
  if (thread_in_block() == 0) *(volatile float*)(n.scales + token * 4) = step;
}

// All passes over one token's row, by one block.
template <int SOURCES> DEVICE void norm_row(const Norm& n, long token, Sources<SOURCES> inputs) {
  const long hidden = n.hidden, start = token * hidden * ELEMENT_BYTES;
  // Local copies: a loop that stores would otherwise load these pointers again each time.
  const char *residual = n.residual + start, *weight = n.weight;
  char *residual_out = n.residual_out + start, *normed = n.ranks.receive + start;
  const bool aligned = inputs.aligned() && is_aligned(residual) && is_aligned(residual_out) &&
                       is_aligned(normed) && is_aligned(weight);
  floats squares[PACKS_AT_ONCE] = {};
  for_places<PACKS_AT_ONCE>(hidden, aligned, this_block(), [&](auto at) INLINED {
    add(at, inputs, residual, residual_out, squares);
  });
  floats all = squares[0];
  for (int k = 1; k < PACKS_AT_ONCE; ++k) all += squares[k];
  const float mean = sum_over_block(all) / (float)hidden;
  const float factor = 1.0f / square_root(mean + (float)n.epsilon);

  words largest = {};
  for_places<PACKS_AT_ONCE>(hidden, aligned, this_block(), [&](auto at) INLINED {
    scale(at, residual_out, weight, factor, normed, largest);
  });
  if (QUANTIZED) quantize_row(n, token, aligned, normed, largest_over_block(largest));
}
