// The sums of leaves on a CPU, in the order of leaves.h. A register has eight neighbouring chains,
// or four. A core adds up as many rows at once as have room for their chains in its registers.
#pragma once

constexpr int EIGHT = 8;  // a leaf has a multiple of 8 columns, since a rank has one of 64
constexpr int REGISTERS_OF_EIGHT = EIGHT * 4 / (int)sizeof(floats);
static_assert(REGISTERS_OF_EIGHT * sizeof(floats) == EIGHT * 4 || !ON_CPU, "leaves.h comes first");
constexpr int EIGHTS_OF_PERIOD = CHAINS / EIGHT;
// A processor fetches one line after another ahead by itself, and not those of several rows in
// turn. From DRAM 512-byte rows take 0.4 times as long with lines fetched in the order of memory:
// for short leaves so many bytes ahead, for longer ones a tile ahead, and into L2 alone. L1 has the
// activations: rows of 28 KiB take 1.5 times as long if lines of the next ones displace these.
constexpr long FETCHED_AHEAD = 4096;

template <int N>
struct Count {
  static constexpr int value = N;
};
// Calls each(Count<n>{}), 1 <= n <= 8, whose loops over n are compiled for this number.
template <class Each>
DEVICE void with_count(long n, Each each) {
  switch (n) {
    case 1:
      return each(Count<1>{});
    case 2:
      return each(Count<2>{});
    case 3:
      return each(Count<3>{});
    case 4:
      return each(Count<4>{});
    case 5:
      return each(Count<5>{});
    case 6:
      return each(Count<6>{});
    case 7:
      return each(Count<7>{});
    default:
      return each(Count<8>{});
  }
}
constexpr int largest_power_below(int n, int power = 1) {
  return 2 * power < n ? largest_power_below(n, 2 * power) : power;
}

namespace {  // kernels of other sizes in the same process have functions of the same name
template <class Weight, class Vector>
struct LeafSums {
  static constexpr int TOKENS_AT_ONCE = WT_TOKENS > 1 ? 2 : 1;
  const Gemv& g;
  const char* rows;  // of the tile
  floats (&sums)[WT_TOKENS][OWN_LEAVES][ROWS];

  template <class Type>
  static DEVICE floats load(const char* at, int number) {
    const long bytes = sizeof(floats) / 4 * sizeof(typename Type::bits);
    return load_floats((const Type*)nullptr, at + number * bytes);
  }

  // All leaves, of N registers or, if LONGER, of more than a period. A chain of a shorter leaf has
  // one product. That of an upper half goes to the chain that it would be added to next: the bits
  // are the same, as no chain is -0.
  template <int N, bool LONGER>
  __attribute__((noinline)) void add_tile() const {
    constexpr int HELD = LONGER ? N : largest_power_below(N);
    constexpr int FIT = VECTOR_REGISTERS / 2 / (HELD * TOKENS_AT_ONCE);
    constexpr int MOST = FIT < 2 ? 1 : FIT < 4 ? 2 : FIT < 8 ? 4 : 8;
    constexpr int ROWS_AT_ONCE = MOST < ROWS ? MOST : ROWS;
    // Longer leaves of all rows of a tile in turn, so that the activations of one stay in L1.
    constexpr int TOGETHER = LONGER ? ROWS : ROWS_AT_ONCE;
    const char* next = rows + TOGETHER * g.inner * WEIGHT_BYTES + (LONGER ? 0 : FETCHED_AHEAD);
    for (int first = 0; first < ROWS; first += TOGETHER)
      for (int leaf = 0; leaf < OWN_LEAVES; ++leaf) {
        const auto add_rows = [&](int token, auto tokens) INLINED {
          constexpr int T = decltype(tokens)::value;
          for (int r = 0; r < TOGETHER; r += ROWS_AT_ONCE)
            add_leaf<N, LONGER, HELD, ROWS_AT_ONCE, T>(first + r, leaf, token, next);
        };
        for (int t = 0; t + TOKENS_AT_ONCE <= WT_TOKENS; t += TOKENS_AT_ONCE)
          add_rows(t, Count<TOKENS_AT_ONCE>{});
        if (WT_TOKENS % TOKENS_AT_ONCE) add_rows(WT_TOKENS - 1, Count<1>{});
      }
  }
  // One leaf, for R rows and T tokens, the first of which are `row` and `token`.
  template <int N, bool LONGER, int HELD, int R, int T>
  DEVICE void add_leaf(int row, int leaf, int token, const char*& next) const {
    const long columns = g.inner / OWN_LEAVES, first = leaf * columns;
    const long row_bytes = g.inner * WEIGHT_BYTES, vector_bytes = g.stride * ELEMENT_BYTES;
    const char* matrix = rows + row * row_bytes + first * WEIGHT_BYTES;
    const char* vectors = g.activations + token * vector_bytes + first * ELEMENT_BYTES;
    // A processor fetches rows of four lines itself: from a cache, 64 columns then take 0.8 times.
    constexpr int SHORT_BYTES = OWN_LEAVES * N * EIGHT / REGISTERS_OF_EIGHT * WEIGHT_BYTES;
    constexpr bool FETCHES = LONGER || SHORT_BYTES > 256;
    floats chains[T][R][HELD];
    const auto add = [&](long column, auto registers, bool begins) INLINED {
      constexpr int COUNT = decltype(registers)::value;
      constexpr int BYTES = R * COUNT * EIGHT / REGISTERS_OF_EIGHT * WEIGHT_BYTES;
      if (FETCHES && token == 0) prefetch<false, LONGER>(next, BYTES), next += BYTES;
      UNROLLED
      for (int n = 0; n < COUNT; ++n) {
        floats x[T];
        UNROLLED
        for (int t = 0; t < T; ++t)
          x[t] = load<Vector>(vectors + t * vector_bytes + column * ELEMENT_BYTES, n);
        UNROLLED
        for (int r = 0; r < R; ++r) {
          const floats w = load<Weight>(matrix + r * row_bytes + column * WEIGHT_BYTES, n);
          UNROLLED
          for (int t = 0; t < T; ++t) {
            floats& chain = chains[t][r][n % HELD];
            chain = plus_product(begins && n < HELD ? floats{} : chain, w, x[t]);
          }
        }
      }
    };
    const auto finish = [&] INLINED {
      UNROLLED
      for (int t = 0; t < T; ++t) UNROLLED
      for (int r = 0; r < R; ++r) sums[token + t][leaf][row + r] = sum_of_chains(chains[t][r]);
    };
    add(0, Count<N>{}, true);
    if (!LONGER) return finish();
    long column = CHAINS;
    NO_UNROLL
    for (; column + CHAINS <= columns; column += CHAINS) add(column, Count<N>{}, false);
    if (column == columns) return finish();
    with_count((columns - column) / EIGHT, [&](auto eights) INLINED {
      add(column, Count<decltype(eights)::value % EIGHTS_OF_PERIOD * REGISTERS_OF_EIGHT>{}, false);
      finish();
    });
  }
};

template <class Weight, class Vector, int TILE_ROWS = ROWS>
DEVICE void compute_tile_on_cpu(const Gemv& g, const char* rows, pack (&tile_sums)[WT_TOKENS]) {
  floats sums[WT_TOKENS][OWN_LEAVES][TILE_ROWS];
  const LeafSums<Weight, Vector> leaves{g, rows, sums};
  const long eights = g.inner / OWN_LEAVES / EIGHT;
  if (eights > EIGHTS_OF_PERIOD)
    leaves.template add_tile<EIGHTS_OF_PERIOD * REGISTERS_OF_EIGHT, true>();
  else
    with_count(eights, [&](auto count) INLINED {
      leaves.template add_tile<decltype(count)::value * REGISTERS_OF_EIGHT, false>();
    });
  for (int t = 0; t < WT_TOKENS; ++t) {
    floats of_leaves[OWN_LEAVES];
    for (int leaf = 0; leaf < OWN_LEAVES; ++leaf) of_leaves[leaf] = sum_of_halves(sums[t][leaf]);
    tile_sums[t] = of_rows<OWN_LEAVES>(sum_of_tree(of_leaves));
  }
}
}  // namespace
