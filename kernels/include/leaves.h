// A matrix times a few vectors in an order that neither the ranks nor the grid nor the machine
// changes. The columns of all ranks are cut into LEAVES equal leaves. In a leaf, column c goes to
// the chain c % CHAINS, which adds up its products in fp32, by ascending column and from zero on.
// Then halves are added until one is left: chain i + chain i + 32, then i + 16, ... i + 1. In
// numpy:
//   sums = np.zeros(CHAINS, np.float32)
//   for c in range(0, len(w), CHAINS): sums[:len(w) - c] += (w * x)[c:c + CHAINS]
//   while len(sums) > 1: sums = sums[:len(sums) // 2] + sums[len(sums) // 2:]
// Neighbouring leaves are added in a binary tree, of which a rank has a subtree with the leaves of
// its own columns. The rest of the tree adds what the ranks exchange, in fp32. The sum is scaled by
// its row (int8), and rounded to WT_ELEMENT, once.
// A product is rounded to fp32 before it is added, on every machine. That of two fp16 elements, or
// of int8 and fp16, has at most 22 bits and is within fp32's range, so it needs no rounding: there
// a compiler may fuse multiplication and addition.
#pragma once
#define WT_MOST_VECTOR_BYTES 32  // a sum over the lanes of wider vectors takes longer
#include "gemv.h"

constexpr int LEAVES = 8, CHAINS = 64;
constexpr int OWN_LEAVES = LEAVES / WT_WORLD;
static_assert(OWN_LEAVES * WT_WORLD == LEAVES, "a rank has a subtree: 1, 2, 4 or 8 ranks");

template <class Weight, class Vector>
constexpr bool IS_EXACT = false;
template <>
constexpr bool IS_EXACT<Float16, Float16> = true;
template <>
constexpr bool IS_EXACT<Int8, Float16> = true;

DEVICE floats plus_product(floats sum, floats w, floats x) {
  return sum + (IS_EXACT<WT_WEIGHT, Element> ? w * x : rounded_product(w, x));
}

// Adds neighbours, then their sums, until one is left, in the first.
template <class Sum, int N>
DEVICE Sum sum_of_tree(Sum (&sums)[N]) {
  UNROLLED
  for (int n = N / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
  return sums[0];
}

#include "leaves_cpu.h"
#include "leaves_gpu.h"

struct Leaves {
  const Gemv& g;

  // One tile, by a group of threads: this rank's subtree of ROWS rows for each token, in a pack of
  // its first thread.
  DEVICE void compute_tile(const char* rows, pack (&tile_sums)[WT_TOKENS]) const {
    if constexpr (ON_CPU)
      compute_tile_on_cpu<WT_WEIGHT, Element>(g, rows, tile_sums);
    else
      compute_tile_on_gpu<WT_WEIGHT, Element>(g, rows, tile_sums);
  }

  // By this block. One thread calls each(place, sums) for every tile and token; `place` is the
  // first sum's in [WT_TOKENS][hidden], in elements.
  template <class Each>
  DEVICE void compute_rows(Segment segment, Each each) const {
    const long end = segment.start + segment.count, row_bytes = g.inner * WEIGHT_BYTES;
    const u64 copy = g.ranks.own->barriers.value % (u64)g.copies;
    const char* matrix = g.weights + (long)copy * g.hidden * row_bytes;
    const int group = thread_in_block() / GROUP_THREADS;
    const int groups = threads_in_block() / GROUP_THREADS;
    for (long row = segment.start + group * ROWS; row < end; row += groups * ROWS) {
      pack sums[WT_TOKENS];
      compute_tile(matrix + row * row_bytes, sums);
      if (thread_in_block() % GROUP_THREADS == 0) {
        UNROLLED
        for (int t = 0; t < WT_TOKENS; ++t) each(t * g.hidden + row, sums[t]);
      }
    }
  }

  // The root of ROWS sums from `row` on, of the subtrees that parts(rank) has in fp32.
  template <class Parts>
  DEVICE pack root(long row, Parts parts) const {
    pack of_rank[WT_WORLD], sums;
    for (int r = 0; r < WT_WORLD; ++r) of_rank[r] = load_aligned_pack(parts(r), 0);
    for (int j = 0; j < REGISTERS; ++j) {
      floats subtrees[WT_WORLD];
      for (int r = 0; r < WT_WORLD; ++r) subtrees[r] = reinterpret<floats>(of_rank[r].r[j]);
      sums.r[j] = reinterpret<words>(sum_of_tree(subtrees));
    }
    return WEIGHT_BYTES == 1 ? scaled(sums, row) : sums;
  }
  DEVICE pack scaled(pack sums, long row) const {
    const pack scales = load_aligned_pack(g.row_scales + row * 4, 0);
    for (int j = 0; j < REGISTERS; ++j)
      // Rounded to fp32 before it is to fp16: AMD's compiler would use one instruction for both.
      sums.r[j] = reinterpret<words>(
          rounded_product(reinterpret<floats>(sums.r[j]), reinterpret<floats>(scales.r[j])));
    return sums;
  }
};
