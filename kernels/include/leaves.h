// A matrix times a few vectors in an order that neither the ranks nor the grid nor the machine
// changes. The columns of all ranks are cut into LEAVES equal leaves. In a leaf, column c goes to
// the chain c % CHAINS, which adds up its products in fp32, by ascending column and from zero on.
// Then halves are added until one is left: chain i + chain i + 32, then i + 16, ... i + 1. In numpy:
//   sums = np.zeros(CHAINS, np.float32)
//   for c in range(0, len(w), CHAINS): sums[:len(w) - c] += (w * x)[c:c + CHAINS]
//   while len(sums) > 1: sums = sums[:len(sums) // 2] + sums[len(sums) // 2:]
// Neighbouring leaves are added in a binary tree, of which a rank has a subtree with the leaves of
// its own columns. The rest of the tree adds what the ranks exchange, in fp32. The sum is scaled by
// its row (int8), and rounded to WT_ELEMENT, once.
// A product of 16-bit elements or int8 has at most 22 bits: fp32 holds it, and fused with its
// addition or not it has the same bits. A product with fp32 activations is rounded before it is
// added, everywhere: `rounded_product`.
#pragma once
#define WT_MOST_VECTOR_BYTES 32  // a sum over the lanes of wider vectors takes longer
#include "gemv.h"

constexpr int LEAVES = 8, CHAINS = 64;
constexpr int OWN_LEAVES = LEAVES / WT_WORLD;
static_assert(OWN_LEAVES * WT_WORLD == LEAVES, "a rank has a subtree: 1, 2, 4 or 8 ranks");

// A row's threads: eight of a GPU, that each load eight columns of a period of CHAINS.
constexpr int ROW_THREADS = ON_CPU ? 1 : 8;
constexpr int GROUP_THREADS = ON_CPU ? 1 : ROW_THREADS * ROWS;  // of a tile, in one warp or wave
// Registers of fp32 with a thread's chains, and the columns of a period that it loads.
constexpr int HELD = CHAINS / ROW_THREADS / (int)(sizeof(floats) / 4);
constexpr int LOADED = CHAINS / ROW_THREADS;
constexpr int ROWS_HELD = ON_CPU ? 4 : 1;             // rows that a thread computes at once
constexpr int TOKENS_HELD = ON_CPU ? 1 : WT_TOKENS;   // and tokens
constexpr int ROWS_OF_THREAD = ON_CPU ? ROWS : 1;

// A thread's columns of a period, of which only the first `columns` exist, as fp32; zeros behind.
template <class Type>
DEVICE void load_columns(const char* at, long columns, floats (&to)[HELD]) {
  constexpr int BYTES = LOADED * sizeof(typename Type::bits);
  constexpr int PACK = BYTES < (int)sizeof(pack) ? BYTES : (int)sizeof(pack);
  constexpr int USED = REGISTERS * PACK / (int)sizeof(pack);  // registers of a pack
  constexpr int WIDE = 4 / sizeof(typename Type::bits);       // registers of fp32 from one of them
  const long left = columns * (long)sizeof(typename Type::bits);
  UNROLLED
  for (int p = 0; p < BYTES / PACK; ++p) {
    pack x;
    const char* from = at + p * PACK;
    if (left >= (p + 1) * PACK)
      x = PACK == sizeof(pack) ? load_aligned_pack(from, 0)
                               : reinterpret<pack>(Pieces<u64>{{load_as<u64>(from)}});
    else
      x = load_words(from, left > p * PACK ? (int)(left - p * PACK) / 4 : 0);
    UNROLLED
    for (int j = 0; j < USED; ++j) Type::in_order(x.r[j], to + (p * USED + j) * WIDE);
  }
}

DEVICE floats plus_product(floats sum, floats w, floats x) {
  return ELEMENT_BYTES == 4 ? sum + rounded_product(w, x) : sum + w * x;
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

struct Leaves {
  const Gemv& g;

  // The chains of ROWS_HELD rows in a leaf from column `first` on, for TOKENS_HELD tokens.
  DEVICE void add_leaf(const char* row, const char* vector, long leaf_columns,
                       floats (&chains)[TOKENS_HELD][ROWS_HELD][HELD]) const {
    const long row_bytes = g.inner * WEIGHT_BYTES, vector_bytes = g.stride * ELEMENT_BYTES;
    const int thread_column = ON_CPU ? 0 : thread_in_block() % ROW_THREADS * LOADED;
    row += thread_column * WEIGHT_BYTES;
    vector += thread_column * ELEMENT_BYTES;
    const auto add = [&](long column, auto exists) INLINED {
      floats x[TOKENS_HELD][HELD];
      UNROLLED
      for (int t = 0; t < TOKENS_HELD; ++t)
        load_columns<Element>(vector + t * vector_bytes + column * ELEMENT_BYTES, exists(column),
                              x[t]);
      UNROLLED
      for (int r = 0; r < ROWS_HELD; ++r) {
        floats w[HELD];
        const char* at = row + r * row_bytes + column * WEIGHT_BYTES;
        load_columns<WT_WEIGHT>(at, exists(column), w);
        prefetch(at + ROWS_HELD * row_bytes, LOADED * WEIGHT_BYTES);
        UNROLLED
        for (int t = 0; t < TOKENS_HELD; ++t)
          UNROLLED
          for (int h = 0; h < HELD; ++h)
            chains[t][r][h] = plus_product(chains[t][r][h], w[h], x[t][h]);
      }
    };
    long column = 0;
    for (; column + CHAINS <= leaf_columns; column += CHAINS)
      add(column, [](long) INLINED { return (long)LOADED; });
    if (column < leaf_columns)
      add(column, [&](long at) INLINED {
        const long left = leaf_columns - at - thread_column;
        return left < 0 ? 0L : smaller(left, (long)LOADED);
      });
  }

  // One tile, by a group of threads: this rank's subtree of ROWS rows for each token, in a pack of
  // its first thread.
  DEVICE void compute_tile(const char* rows, pack (&tile_sums)[WT_TOKENS]) const {
    if constexpr (ON_CPU) return compute_tile_on_cpu<WT_WEIGHT, Element>(g, rows, tile_sums);
    const long leaf_columns = g.inner / OWN_LEAVES, row_bytes = g.inner * WEIGHT_BYTES;
    floats row_sums[WT_TOKENS][OWN_LEAVES][ROWS_OF_THREAD];
    const int own_row = ON_CPU ? 0 : thread_in_block() % GROUP_THREADS / ROW_THREADS;
    NO_UNROLL
    for (int r = 0; r < ROWS_OF_THREAD; r += ROWS_HELD)
      for (int leaf = 0; leaf < OWN_LEAVES; ++leaf)
        for (int t = 0; t < WT_TOKENS; t += TOKENS_HELD) {
          floats chains[TOKENS_HELD][ROWS_HELD][HELD] = {};
          const long first = leaf * leaf_columns;
          add_leaf(rows + (own_row + r) * row_bytes + first * WEIGHT_BYTES,
                   g.activations + (t * g.stride + first) * ELEMENT_BYTES, leaf_columns, chains);
          UNROLLED
          for (int k = 0; k < TOKENS_HELD; ++k)
            UNROLLED
            for (int i = 0; i < ROWS_HELD; ++i)
              row_sums[t + k][leaf][r + i] = sum_of_chains(chains[k][i]);
        }
    for (int t = 0; t < WT_TOKENS; ++t) {
      floats of_leaves[OWN_LEAVES];
      for (int leaf = 0; leaf < OWN_LEAVES; ++leaf)
        of_leaves[leaf] = sum_of_halves(row_sums[t][leaf]);
      tile_sums[t] = of_rows(sum_of_tree(of_leaves));
    }
  }

  // By this block. One thread calls each(place, sums) for every tile and token; `place` is the first
  // sum's in [WT_TOKENS][hidden], in elements.
  template <class Each>
  DEVICE void compute_rows(Segment segment, Each each) const {
    const long end = segment.start + segment.count, row_bytes = g.inner * WEIGHT_BYTES;
    const u64 copy = g.ranks.own->meetings.value % (u64)g.copies;
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
      sums.r[j] = reinterpret<words>(rounded_product(reinterpret<floats>(sums.r[j]),
                                                     reinterpret<floats>(scales.r[j])));
    return sums;
  }
};
