// A matmul beside a collective: c = a b, in fp32, without tensor cores. An item is 8 rows of `a`
// times 16 columns of `b`. A thread computes a pack of the columns, with its sums in registers.
#include "include/pack.h"

struct Gemm {
  const char* a;  // [rows][inner]
  const char* b;  // [inner][columns]
  char* c;        // [rows][columns]
  long columns, inner;
  long first, items;  // a launch computes items [first, first + items), numbered row by row
};
struct Background {
  Gemm gemm;
  long items;          // after the last of them the first is next
  long long* ends_ns;  // [most]: the time at which each multiplication ended
  long most;
  long done;  // multiplications so far; the host reads it meanwhile
  u64 stop;   // the host sets it
};
constexpr int ROWS = 8;
constexpr long PACKS = 64 / sizeof(pack);  // of an item's columns

DEVICE void multiply(const Gemm& g, long first, long items) {
  const unsigned packs = (unsigned)(g.columns / 16 * PACKS);
  for (long i = first * PACKS + thread(); i < (first + items) * PACKS; i += threads()) {
    const unsigned row = (unsigned)(i / packs) * ROWS, column = (unsigned)(i % packs);
    const float* a = (const float*)g.a + row * g.inner;
    floats sums[ROWS][REGISTERS] = {};
    for (long k = 0; k < g.inner; ++k) {
      const pack b = load_aligned_pack(g.b, (unsigned)k * packs + column);
      for (int r = 0; r < ROWS; ++r)
        for (int j = 0; j < REGISTERS; ++j)
          sums[r][j] += a[r * g.inner + k] * reinterpret<floats>(b.r[j]);
    }
    for (int r = 0; r < ROWS; ++r) {
      pack c;
      for (int j = 0; j < REGISTERS; ++j) c.r[j] = reinterpret<words>(sums[r][j]);
      store_aligned_pack(g.c, (row + (unsigned)r) * packs + column, c);
    }
  }
}

KERNEL gemm(LAUNCHED_WITH(Gemm) g) { multiply(g, g.first, g.items); }

// A CPU's launch has a reference to the host's Background, not const: the host sees `done`, and
// this `stop`. A GPU's launch has a copy and runs to `most`; its address would need a stack.
KERNEL multiply_until_stopped(LAUNCHED_WITH(Background) b) {
  for (long done = b.done; done < b.most; ++done) {
    if (ON_CPU && *(const volatile u64*)&b.stop) return;
    multiply(b.gemm, done % b.items, 1);
    if (thread() == 0) b.ends_ns[done] = (long long)clock_ns();
    if (ON_CPU) *(volatile long*)const_cast<long*>(&b.done) = done + 1;
  }
}
