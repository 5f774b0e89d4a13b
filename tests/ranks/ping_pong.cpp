// Measures the lower bound of a flag's latency between two cores. Each core writes the next number
// into the line that the other core polls, and waits for that number in its own line. Returns the
// one-way time in nanoseconds.
#include <time.h>

static long long now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

extern "C" double bare_ping_pong(unsigned long long* others, unsigned long long* own,
                                 unsigned long long round_trips, int begins) {
  const long long start = now_ns();
  for (unsigned long long i = 1; i <= round_trips; ++i) {
    if (begins) __atomic_store_n(others, i, __ATOMIC_RELEASE);
    while (__atomic_load_n(own, __ATOMIC_ACQUIRE) != i) {
    }
    if (!begins) __atomic_store_n(others, i, __ATOMIC_RELEASE);
  }
  return (double)(now_ns() - start) / (double)(2 * round_trips);
}
