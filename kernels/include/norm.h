// Residual addition and RMSNorm of a token's row, by one block, in passes over the row:
//   1. add: sum of all sources + residual, rounded and stored in residual_out; adds up the squares.
//   2. scale: residual_out / sqrt(mean of the squares + epsilon) * weight, rounded, into `receive`
// So that every rank gets the same bits (but of NaNs), the order of the fp32 sum does not depend on
// the row's address, and multiplies are fused with their adds always (GPU) or never: a compiler
// would in some rows or kernels alone.
// If it overflows, the norm is 0.
#pragma once
#include "pack.h"

struct Norm {
  Arguments ranks;         // `count`: the elements of all tokens
  const char* residual;    // [tokens][hidden]
  char* residual_out;      // [tokens][hidden]; may be `residual`
  const char* weight;      // [hidden]
  const char* row_scales;  // [hidden] fp32, of a matrix of int8 behind fp32 parts: see leaves.h
  long hidden, tokens;
  double epsilon;
};

constexpr int PACKS_AT_ONCE = WT_WORLD <= 4 ? 4 : 2;  // a GPU has 128 registers a thread

// The second pass, over places of residual_out that this thread has stored or a barrier has shown.
// `product(a, b)` is what is rounded to WT_ELEMENT.
template <class Product>
DEVICE void scale_row(const char* residual_out, const char* weight, char* normed, long hidden,
                      bool aligned, float factor, Product product) {
  for_places<PACKS_AT_ONCE>(hidden, aligned, this_block(), [&](auto at) INLINED {
    constexpr int N = decltype(at)::COUNT;
    pack old[N], weights[N];
    for (int k = 0; k < N; ++k) {
      old[k] = at.load(residual_out, k);
      weights[k] = at.load(weight, k);
    }
    loads_first<2 * N>();
    for (int k = 0; k < N; ++k) {
      auto x = Element::widen(old[k]);
      const auto w = Element::widen(weights[k]);
      for (unsigned j = 0; j < VALUES; ++j) x.v[j] = product(x.v[j] * factor, w.v[j]);
      at.store(normed, k, Element::narrow(x));
    }
  });
}

// All passes over one token's row, by one block.
template <int SOURCES>
DEVICE void norm_row(const Norm& n, long token, const Sources<SOURCES>& inputs) {
  const long start = token * n.hidden * ELEMENT_BYTES;
  const char *residual = n.residual + start, *weight = n.weight;
  char *residual_out = n.residual_out + start, *normed = n.ranks.receive + start;
  const long hidden = n.hidden;
  const bool aligned = inputs.aligned() && is_aligned(residual) && is_aligned(residual_out) &&
                       is_aligned(normed) && is_aligned(weight);
  // A thread adds up the squares of its places one by one.
  floats squares = {};
  for_places<PACKS_AT_ONCE>(hidden, aligned, this_block(), [&](auto at) INLINED {
    constexpr int N = decltype(at)::COUNT;
    pack sum[N], old[N];
    for (int k = 0; k < N; ++k) {
      sum[k] = combined<SOURCES>([&](int s) { return at.load(inputs.at[s], k); });
      old[k] = at.load(residual, k);
    }
    loads_first<N*(SOURCES + 1)>();
    for (int k = 0; k < N; ++k) {
      auto x = Element::widen(sum[k]);
      const auto y = Element::widen(old[k]);
      for (unsigned j = 0; j < VALUES; ++j) x.v[j] += y.v[j];
      const pack narrow = Element::narrow(x);
      at.store(residual_out, k, narrow);
      x = Element::widen(narrow);
      for (floats rounded_x : x.v) squares = plus_square(squares, rounded_x);
    }
  });
  const float mean = sum_over_block(squares) / (float)hidden;
  const float factor = 1.0f / square_root(mean + (float)n.epsilon);
  const auto product = [](floats a, floats b) INLINED { return a * b; };
  scale_row(residual_out, weight, normed, hidden, aligned, factor, product);
}
