// A matmul to stand beside a collective: c = a b in fp32, without tensor cores, for what each loses to the other.
//
// An item is eight rows of a times sixteen columns of b. A thread takes a pack of these columns: eight sums, which stay
// in registers while `inner` goes by. On a CPU an item is a launch, and the times of their ends tell how fast it goes.
#include "include/pack.h"

struct Gemm {
  const char* a;  // [rows][inner]
  const char* b;  // [inner][columns]
  char* c;        // [rows][columns]
  long columns, inner;
  long first, items;  // of those to be done in this launch: all columns of eight rows, then of the next eight
};
constexpr int ROWS = 8;
constexpr long PACKS = 64 / sizeof(pack);  // of an item's columns

extern "C" __global__ UP_TO_512_THREADS void gemm(LAUNCHED_WITH(Gemm) g) {
  const unsigned packs = (unsigned)(g.columns / 16 * PACKS);
  for (long i = g.first * PACKS + thread(); i < (g.first + g.items) * PACKS; i += threads()) {
    const unsigned row = (unsigned)(i / packs) * ROWS, column = (unsigned)(i % packs);
    const float* a = (const float*)g.a + row * g.inner;
    floats sums[ROWS][REGISTERS] = {};
    for (long k = 0; k < g.inner; ++k) {
      const pack b = load_aligned_pack(g.b, (unsigned)k * packs + column);
      for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < REGISTERS; ++j) sums[r][j] += a[r * g.inner + k] * reinterpret<floats>(b.r[j]);
    }
    for (int r = 0; r < ROWS; ++r) {
      pack c;
      for (int j = 0; j < REGISTERS; ++j) c.r[j] = reinterpret<words>(sums[r][j]);
      store_aligned_pack(g.c, (row + (unsigned)r) * packs + column, c);
    }
  }
}
