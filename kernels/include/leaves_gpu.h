// The sums of leaves on a GPU, in the order of leaves.h. Four rows are a tile, of a group of 32
// threads. Eight threads have a row, and eight neighbouring columns each of a period of CHAINS.
#pragma once

constexpr int THREAD_COLUMNS = 8, ROW_THREADS = CHAINS / THREAD_COLUMNS;
constexpr int GROUP_THREADS = ON_CPU ? 1 : ROW_THREADS * ROWS;  // in one warp or wave
// A thread loads this many periods of a row at once: 64 bytes, fewer beside many tokens' registers.
constexpr int PERIODS = WT_TOKENS > 4 ? 2 : WT_TOKENS > 2 ? 4 : 8 / WEIGHT_BYTES;
// Of each of these and each token a vector, of which as many as 32 registers hold.
constexpr int VECTORS = PERIODS * WT_TOKENS;
constexpr int VECTORS_AT_ONCE = VECTORS < 16 / ELEMENT_BYTES ? VECTORS : 16 / ELEMENT_BYTES;

// A thread's columns of a period, as they are stored.
template <class Type>
struct Columns {
  static constexpr int BYTES = THREAD_COLUMNS * sizeof(typename Type::bits);
  static constexpr int PACKS = BYTES > 16 ? 2 : 1, WORDS = BYTES / 4 / PACKS;
  pack packs[PACKS];

  // From `column` of a leaf on. Whole: all columns of a period exist, otherwise all of a thread's
  // or none, in whose place are zeros.
  template <bool WHOLE>
  DEVICE void load(const char* leaf, long column, long leaf_columns) {
    const bool exists = WHOLE || column < leaf_columns;
    const char* at = leaf + (exists ? column : 0) * (long)sizeof(typename Type::bits);
    UNROLLED
    for (int p = 0; p < PACKS; ++p) {
      packs[p] =
          BYTES > 8 ? load_aligned_pack(at, p) : reinterpret<pack>(Pieces<u64>{{load_as<u64>(at)}});
      for (int j = 0; j < WORDS; ++j) packs[p].r[j] = exists ? packs[p].r[j] : 0;
    }
  }
  DEVICE void widen(floats (&to)[THREAD_COLUMNS]) const {
    constexpr int WIDE = THREAD_COLUMNS / PACKS / WORDS;
    UNROLLED
    for (int i = 0; i < PACKS * WORDS; ++i)
      Type::in_order(packs[i / WORDS].r[i % WORDS], to + i * WIDE);
  }
};

// Adds the thread's columns of PERIODS periods, from column `first` of a leaf on.
template <class Weight, class Vector, bool WHOLE>
DEVICE void add_periods(const char* row, const char* vector, long vector_bytes, long leaf_columns,
                        long first, floats (&chains)[WT_TOKENS][THREAD_COLUMNS]) {
  Columns<Weight> w[PERIODS];
  Columns<Vector> x[VECTORS_AT_ONCE];
  floats wide_w[THREAD_COLUMNS], wide_x[THREAD_COLUMNS];
  UNROLLED
  for (int p = 0; p < PERIODS; ++p)
    w[p].template load<WHOLE>(row, first + p * CHAINS, leaf_columns);
  UNROLLED
  for (int i = 0; i < VECTORS; i += VECTORS_AT_ONCE) {
    const int n = VECTORS - i < VECTORS_AT_ONCE ? VECTORS - i : VECTORS_AT_ONCE;
    UNROLLED
    for (int k = 0; k < n; ++k)
      x[k].template load<WHOLE>(vector + (i + k) % WT_TOKENS * vector_bytes,
                                first + (i + k) / WT_TOKENS * CHAINS, leaf_columns);
    constexpr int LOADS = VECTORS_AT_ONCE * Columns<Vector>::PACKS;
    i == 0 ? loads_first<LOADS + PERIODS>() : loads_first<LOADS>();
    UNROLLED
    for (int k = 0; k < n; ++k) {
      const int token = (i + k) % WT_TOKENS;
      if (token == 0) w[(i + k) / WT_TOKENS].widen(wide_w);
      x[k].widen(wide_x);
      UNROLLED
      for (int c = 0; c < THREAD_COLUMNS; ++c)
        chains[token][c] = plus_product(chains[token][c], wide_w[c], wide_x[c]);
    }
  }
}
template <class Weight, class Vector>
DEVICE void add_leaf(const char* row, const char* vector, long vector_bytes, long leaf_columns,
                     floats (&chains)[WT_TOKENS][THREAD_COLUMNS]) {
  constexpr long STEP = CHAINS * PERIODS;
  long first = thread_in_block() % ROW_THREADS * THREAD_COLUMNS;
  const long whole = leaf_columns / STEP * STEP;
  for (; first < whole; first += STEP)
    add_periods<Weight, Vector, true>(row, vector, vector_bytes, leaf_columns, first, chains);
  if (whole < leaf_columns)
    add_periods<Weight, Vector, false>(row, vector, vector_bytes, leaf_columns, first, chains);
}

template <class Weight, class Vector>
DEVICE void compute_tile_on_gpu(const Gemv& g, const char* rows, pack (&tile_sums)[WT_TOKENS]) {
  const long leaf_columns = g.inner / OWN_LEAVES, vector_bytes = g.stride * ELEMENT_BYTES;
  const char* row = rows + thread_in_block() % GROUP_THREADS / ROW_THREADS * g.inner * WEIGHT_BYTES;
  floats sums[WT_TOKENS] = {};  // of a row's leaves, of which thread k of eight has leaf k
  NO_UNROLL
  for (int leaf = 0; leaf < OWN_LEAVES; ++leaf) {
    floats chains[WT_TOKENS][THREAD_COLUMNS] = {};
    const long first = leaf * leaf_columns;
    add_leaf<Weight, Vector>(row + first * WEIGHT_BYTES, g.activations + first * ELEMENT_BYTES,
                             vector_bytes, leaf_columns, chains);
    UNROLLED
    for (int t = 0; t < WT_TOKENS; ++t) {
      const floats sum = sum_of_chains(chains[t]);
      if (thread_in_block() % ROW_THREADS == leaf) sums[t] = sum;
    }
  }
  UNROLLED
  for (int t = 0; t < WT_TOKENS; ++t) tile_sums[t] = of_rows<OWN_LEAVES>(sums[t]);
}
