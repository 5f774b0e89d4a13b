// A matrix times a few vectors, one per token (GEMV). A subgroup computes a tile, ROWS rows for all
// WT_TOKENS: its lanes load packs in the order of memory, add up products in fp32, then their sums.
#pragma once
#include "pack.h"

#define GEMV_KERNEL(name) \
  extern "C" __global__ UP_TO_256_THREADS void name(LAUNCHED_WITH(Arguments) launched)

constexpr long WEIGHT_BYTES = sizeof(WT_WEIGHT::bits);

constexpr int ROWS = sizeof(pack) / 4;  // of a tile: its sums fill a pack of fp32
// Rows that a lane computes at once: their sums take at most 16 registers.
constexpr int MOST_ROWS_AT_ONCE = WT_TOKENS > 4 ? 2 : WT_TOKENS > 2 ? 4 : 16 / WT_TOKENS;
constexpr int ROWS_AT_ONCE = MOST_ROWS_AT_ONCE < ROWS ? MOST_ROWS_AT_ONCE : ROWS;
constexpr int WIDENED = 4 / WEIGHT_BYTES;  // registers of fp32 from one register of weights
constexpr int ACTIVATION_PACKS = ELEMENT_BYTES / WEIGHT_BYTES;  // for one pack of weights
// Tokens whose widened activations a lane holds at once: in 32 registers of a GPU.
constexpr int TOKENS_AT_ONCE = WT_TOKENS < 8 / WIDENED ? WT_TOKENS : 8 / WIDENED;

struct Gemv {
  Arguments ranks;      // `send`: this rank's parts [WT_TOKENS][hidden], written by `gemv` alone
  const char* weights;  // [copies][hidden][inner] of WT_WEIGHT; uses copy `barriers % copies`
  const char* activations;  // [WT_TOKENS] vectors [inner] of WT_ELEMENT, `stride` elements apart
  const char* row_scales;   // [hidden] fp32, for int8 weights
  long hidden, inner;       // both multiples of 64
  long stride, copies;

  // This block's rows of the whole matrix.
  DEVICE Segment rows_of_block() const {
    const long share = (hidden / ROWS + blocks() - 1) / blocks() * ROWS;
    const long first = smaller(block() * share, hidden);
    return {first, smaller(first + share, hidden) - first};
  }
  // One tile, by a subgroup: `rows` is its first row.
  DEVICE void compute_tile(const char* rows, unsigned tile, pack (&tile_sums)[WT_TOKENS]) const {
    const long row_bytes = inner * WEIGHT_BYTES;
    const unsigned packs = (unsigned)(row_bytes / OWN_PACK_BYTES);
    const char* vectors = activations;
    const long activation_bytes = stride * ELEMENT_BYTES;
    floats sums[WT_TOKENS][ROWS];
    UNROLLED
    for (int r = 0; r < ROWS; r += ROWS_AT_ONCE) {
      floats part[WT_TOKENS][ROWS_AT_ONCE] = {};
      NO_UNROLL
      for (unsigned i = lane(); i < packs; i += lanes()) {
        pack w[ROWS_AT_ONCE];
        for (int k = 0; k < ROWS_AT_ONCE; ++k)
          w[k] = load_aligned_pack(rows + (r + k) * row_bytes, i);
        UNROLLED
        for (int first = 0; first < WT_TOKENS; first += TOKENS_AT_ONCE) {
          const int n = WT_TOKENS - first < TOKENS_AT_ONCE ? WT_TOKENS - first : TOKENS_AT_ONCE;
          pack x[TOKENS_AT_ONCE][ACTIVATION_PACKS];
          UNROLLED
          for (int t = 0; t < n; ++t)
            for (int p = 0; p < ACTIVATION_PACKS; ++p)
              x[t][p] = load_aligned_pack(vectors + (first + t) * activation_bytes,
                                          i * ACTIVATION_PACKS + p);
          loads_first<ROWS_AT_ONCE + TOKENS_AT_ONCE * ACTIVATION_PACKS>();
          floats wide_x[TOKENS_AT_ONCE][REGISTERS * WIDENED];
          UNROLLED
          for (int t = 0; t < n; ++t)
            for (int p = 0; p < ACTIVATION_PACKS; ++p)
              for (int j = 0; j < REGISTERS; ++j)
                Element::in_order(x[t][p].r[j],
                                  wide_x[t] + (p * REGISTERS + j) * WIDENED / ACTIVATION_PACKS);
          for (int k = 0; k < ROWS_AT_ONCE; ++k)
            for (int j = 0; j < REGISTERS; ++j) {
              floats wide_w[WIDENED];
              WT_WEIGHT::in_order(w[k].r[j], wide_w);
              UNROLLED
              for (int t = 0; t < n; ++t)
                for (int v = 0; v < WIDENED; ++v)
                  part[first + t][k] += wide_w[v] * wide_x[t][j * WIDENED + v];
            }
        }
      }
      for (int t = 0; t < WT_TOKENS; ++t)
        for (int k = 0; k < ROWS_AT_ONCE; ++k) sums[t][r + k] = part[t][k];
    }
    for (int t = 0; t < WT_TOKENS; ++t) {
      pack p = sums_over_lanes(sums[t]);
      if (WEIGHT_BYTES == 1) {
        const pack scales = load_aligned_pack(row_scales, tile);
        for (int j = 0; j < REGISTERS; ++j) {
          const floats sum = reinterpret<floats>(p.r[j]);
          p.r[j] = reinterpret<words>(sum * reinterpret<floats>(scales.r[j]));
        }
      }
      tile_sums[t] = p;
    }
  }

  // By this block. One lane calls each(offset, sums) for every tile and token; `offset` is the
  // first sum's place in [WT_TOKENS][hidden], in bytes.
  template <class Each>
  DEVICE void compute_rows(Segment segment, Each each) const {
    const long rows = hidden, end = segment.start + segment.count;
    // A barrier begins each iteration. The watch counts these too, but lies in host memory.
    const u64 copy = ranks.own->barriers.value % (u64)copies;
    const char* matrix = weights + (long)copy * rows * inner * WEIGHT_BYTES;
    for (long row = segment.start + subgroup() * ROWS; row < end; row += subgroups() * ROWS) {
      pack sums[WT_TOKENS];
      compute_tile(matrix + row * inner * WEIGHT_BYTES, (unsigned)(row / ROWS), sums);
      if (lane() == 0) {
        UNROLLED
        for (int t = 0; t < WT_TOKENS; ++t) each((t * rows + row) * ELEMENT_BYTES, sums[t]);
      }
    }
  }
};
