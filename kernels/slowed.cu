// Slows the launch between note_start and linger by a known share, to calibrate the comparisons of
// runs: linger waits until the time since note_start has grown by `share`.
#include "include/platform.h"

struct Slowdown {
  u64* start_ns;  // memory of this rank's device
  double share;   // 0.05: 5 % longer
};

KERNEL note_start(LAUNCHED_WITH(Slowdown) s) {
  if (thread_in_block() == 0) *(volatile u64*)s.start_ns = clock_ns();
}

// The looks at the clock are part of the delay, and the last is half a look late on average. The
// least delay is three looks: 70 ns on a CPU, on a GPU one step of its clock.
KERNEL linger(LAUNCHED_WITH(Slowdown) s) {
  if (thread_in_block() != 0) return;
  const u64 left = clock_ns(), passed = left - *(volatile u64*)s.start_ns;
  const u64 until = left + (u64)((double)passed * s.share);
  u64 now = left, look = 0;
  while (now + 5 * look / 2 < until) {
    const u64 before = now;
    now = clock_ns();
    look = now - before;
  }
}
