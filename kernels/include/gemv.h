// A matrix times a few tokens: tiles of rows, each by a subgroup, from weights and activations in the order of memory.
//
// Products add up in fp32. A matrix is of fp16, bf16, or int8 with a scale for each row.
#pragma once
#include "pack.h"

struct Gemv {
  Arguments ranks;          // `send`: this rank's parts, [TOKENS][hidden], which `gemv` writes; `receive`: the sums
  const char* weights;      // [copies][hidden][inner]; a launch takes the copy of its iteration
  const char* activations;  // [TOKENS], `stride` elements apart, of [inner], ELEMENT
  const char* row_scales;   // [hidden] fp32, of int8 weights
  long hidden, inner;       // which 64 divides
  long stride, copies;
  long step_rows;           // of a block in a step; tiles of the subgroups of a block divide it
};

// Weights, and elements on the wire, in the order of memory.
struct Float16Weights {
  static constexpr int BYTES = 2;
  static DEVICE void widen(words w, floats* to) { widen_halves(w, to); }
};
struct Bfloat16Weights {
  static constexpr int BYTES = 2;
  static DEVICE void widen(words w, floats* to) { widen_bfloat16s(w, to); }
};
struct Int8Weights {
  static constexpr int BYTES = 1;
  static DEVICE void widen(words w, floats* to) { widen_chars(w, to); }
};
template <class E> struct Ordered;
template <> struct Ordered<Float32> {
  static DEVICE void widen(words w, floats* to) { *to = reinterpret<floats>(w); }
  static DEVICE void put(char* at, pack sums) { store_aligned_pack(at, 0, sums); }
  static DEVICE void push(char* at, pack sums) { Slab{at}.put(0, sums); }
};
// Of 16 bits: half a pack, which cannot go around the caches.
template <> struct Ordered<Float16> : Float16Weights {
  static DEVICE void put(char* at, pack sums) { store_halves(at, sums); }
  static DEVICE void push(char* at, pack sums) { put(at, sums); }
};
template <> struct Ordered<Bfloat16> : Bfloat16Weights {
  static DEVICE void put(char* at, pack sums) { store_bfloat16s(at, sums); }
  static DEVICE void push(char* at, pack sums) { put(at, sums); }
};

constexpr int ROWS = sizeof(pack) / 4;  // of a tile, whose sums are a pack of fp32
// Rows at once: as many, of those that divide a tile, as have 16 sums in registers.
constexpr int WANTED_AT_ONCE = TOKENS > 4 ? 2 : TOKENS > 2 ? 4 : 16 / TOKENS;
constexpr int AT_ONCE = WANTED_AT_ONCE < ROWS ? WANTED_AT_ONCE : ROWS;
constexpr int WIDE = 4 / WEIGHT::BYTES;                                 // registers of fp32 from one of weights
constexpr int PACKS_OF_ACTIVATIONS = ELEMENT_BYTES / WEIGHT::BYTES;     // for one of weights
constexpr int TOGETHER = TOKENS < 8 / WIDE ? TOKENS : 8 / WIDE;  // in 32 registers of a GPU

// Of a tile, by a subgroup: a pack of sums for each token.
struct Sums { pack of[TOKENS]; };
DEVICE void compute_tile(const Gemv& g, const char* rows, unsigned tile, Sums& found) {
  const long row_bytes = g.inner * WEIGHT::BYTES;
  const unsigned packs = (unsigned)(row_bytes / (long)sizeof(pack));
  const char* activations = g.activations;
  const long activation_bytes = g.stride * ELEMENT_BYTES;
  floats sums[TOKENS][ROWS];
  UNROLLED for (int r = 0; r < ROWS; r += AT_ONCE) {
    floats sum[TOKENS][AT_ONCE] = {};
    AS_WRITTEN for (unsigned i = lane(); i < packs; i += lanes()) {
      pack w[AT_ONCE];
      for (int k = 0; k < AT_ONCE; ++k) w[k] = load_aligned_pack(rows + (r + k) * row_bytes, i);
      UNROLLED for (int first = 0; first < TOKENS; first += TOGETHER) {
        const int n = TOKENS - first < TOGETHER ? TOKENS - first : TOGETHER;
        pack x[TOGETHER][PACKS_OF_ACTIVATIONS];
        UNROLLED for (int t = 0; t < n; ++t)
          for (int p = 0; p < PACKS_OF_ACTIVATIONS; ++p)
            x[t][p] = load_aligned_pack(activations + (first + t) * activation_bytes, i * PACKS_OF_ACTIVATIONS + p);
        loads_first<AT_ONCE + TOGETHER * PACKS_OF_ACTIVATIONS>();
        floats wide_x[TOGETHER][REGISTERS * WIDE];
        UNROLLED for (int t = 0; t < n; ++t)
          for (int p = 0; p < PACKS_OF_ACTIVATIONS; ++p)
            for (int j = 0; j < REGISTERS; ++j)
              Ordered<Element>::widen(x[t][p].r[j], wide_x[t] + (p * REGISTERS + j) * WIDE / PACKS_OF_ACTIVATIONS);
        for (int k = 0; k < AT_ONCE; ++k)
          for (int j = 0; j < REGISTERS; ++j) {
            floats wide_w[WIDE];
            WEIGHT::widen(w[k].r[j], wide_w);
            UNROLLED for (int t = 0; t < n; ++t)
              for (int v = 0; v < WIDE; ++v) sum[first + t][k] += wide_w[v] * wide_x[t][j * WIDE + v];
          }
      }
    }
    for (int t = 0; t < TOKENS; ++t)
      for (int k = 0; k < AT_ONCE; ++k) sums[t][r + k] = sum[t][k];
  }
  for (int t = 0; t < TOKENS; ++t) {
    pack p = sums_over_lanes(sums[t]);
    if (WEIGHT::BYTES == 1) {
      const pack scales = load_aligned_pack(g.row_scales, tile);
      for (int j = 0; j < REGISTERS; ++j)
        p.r[j] = reinterpret<words>(reinterpret<floats>(p.r[j]) * reinterpret<floats>(scales.r[j]));
    }
    found.of[t] = p;
  }
}

// A group of tiles from `row` on. The same code for the fused kernel and for the compute alone: inlined into both, a
// compiler made one of them 3 % slower. Called for each tile, it is 5 % slower.
constexpr int GROUP = REGISTERS == 1 ? 4 : 1;
SEPARATE void compute_group(const Gemv& g, const char* weights, long row, long end, Sums (&found)[GROUP]) {
  for (int i = 0; i < GROUP && row < end; ++i, row += subgroups() * ROWS)
    compute_tile(g, weights + row * g.inner * WEIGHT::BYTES, (unsigned)(row / ROWS), found[i]);
}

// Rows [first, end) of the matrix, by this block: each(bytes from the first, sums) for those of a token, by one lane.
template <class Each> DEVICE void compute_rows(const Gemv& g, long first, long end, Each each) {
  const long hidden = g.hidden;
  const u64 copy = *(volatile const u64*)&g.ranks.watch->iteration % (u64)g.copies;
  const char* weights = g.weights + (long)copy * hidden * g.inner * WEIGHT::BYTES;
  for (long row = first + subgroup() * ROWS; row < end;) {
    Sums sums[GROUP];
    compute_group(g, weights, row, end, sums);
    for (int i = 0; i < GROUP && row < end; ++i, row += subgroups() * ROWS)
      if (lane() == 0)
        UNROLLED for (int t = 0; t < TOKENS; ++t) each((t * hidden + row) * ELEMENT_BYTES, sums[i].of[t]);
  }
}
