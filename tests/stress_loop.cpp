// The loop that finds protocol errors: launches back to back with nothing between them but each rank's own delays. A barrier before
// each launch, as the timed loop has, hides them.
#include "../kernels/sync.h"

struct Step { void (*run)(void*); void* argument; };
struct Item { Step prepare, operation, check; };

static u64 next_random(u64* state) {  // xorshift64 (Marsaglia 2003)
  *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
  return *state;
}

// `order` is the same on all ranks, so all pick the same items; `delays` is each rank's own.
extern "C" long stress_loop(const Item* items, long n_items, long launches, u64 order, u64 delays, Watch* watch) {
  long done = 0;
  for (; done < launches && !*(volatile u64*)&watch->stop; ++done) {
    const Item& item = items[next_random(&order) % (u64)n_items];
    *(volatile u64*)&watch->iteration += 1;
    item.prepare.run(item.prepare.argument);
    const u64 draw = next_random(&delays), delay_ns = draw % 4 ? draw / 4 % 300 : draw / 4 % 5000;
    for (const u64 start = clock_ns(); clock_ns() - start < delay_ns;) breathe();
    item.operation.run(item.operation.argument);
    item.check.run(item.check.argument);
  }
  return done;
}
