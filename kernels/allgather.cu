// All-gather: every rank gets every rank's segment; (n-1) segments come to each.
//
// Direct: one step, in which a rank hands its segment to all (push, pull: exchange.h).
// Ring: n-1 steps; each rank passes segments on to its right, chunk by chunk, several chunks on their way at once.
#include "include/exchange.h"

template <Direction DIRECTION> DEVICE void all_gather(const Arguments& a) {
  Slowed<> slowed;
  const long segment_bytes = a.count * ELEMENT_BYTES;
  const auto place = [&](long rank, long start) { return a.receive + rank * segment_bytes + start * ELEMENT_BYTES; };
  exchange<DIRECTION, ALL>(
      a, [&](long) { return a.send; },
      [&](long start, long n) {
        const char* own = a.send + start * ELEMENT_BYTES;
        if (own != place(a.rank, start)) copy(Output{place(a.rank, start)}, own, n);
      },
      [&](long start, long n, auto inbox) {
        for (int d = 1; d < WORLD; ++d) {
          const long writer = (a.rank + d) % WORLD;
          copy(Output{place(writer, start)}, inbox(writer), n);
        }
      });
}

extern "C" __global__ UP_TO_512_THREADS void all_gather_push(LAUNCHED_WITH(Arguments) a) {
  all_gather<PUSH>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void all_gather_pull(LAUNCHED_WITH(Arguments) a) {
  all_gather<PULL>(of_this_rank(a));
}

extern "C" __global__ UP_TO_512_THREADS void all_gather_pull_registered(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  const long segment_bytes = a.count * ELEMENT_BYTES;
  const auto get = [&](long writer, const char* from) {
    char* place = a.receive + writer * segment_bytes;
    if (from != place) in_parts(a.count, [&](long at, long n) { copy(Output{place + at}, from + at, n); });
  };
  in_users_buffers(a, [&] { get(a.rank, a.send); }, [&] {
    for (int d = 1; d < WORLD; ++d) get((a.rank + d) % WORLD, of_thread(a.sends, (a.rank + d) % WORLD));
  });
}

// Stage s sends the segment of rank - s on, and keeps it; the last only keeps it.
extern "C" __global__ UP_TO_512_THREADS void all_gather_ring(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  around_the_ring(a, [&](int stage, long start, long n, const char* came, Slab sent) {
    const long owner = (a.rank - stage + WORLD) % WORLD;
    const Output kept{a.receive + (owner * a.count + start) * ELEMENT_BYTES};
    const char* from = stage == 0 ? a.send + start * ELEMENT_BYTES : came;
    if (stage == WORLD - 1) { if (from != kept.at) copy(kept, from, n); }
    else if (from == kept.at) copy(sent, from, n);
    else copy(Both<Output, Slab>{kept, sent}, from, n);
  });
}
