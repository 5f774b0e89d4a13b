// All-to-all: every rank has a segment for each rank; (n-1) segments leave each and as many come, in one step.
#include "include/exchange.h"

template <Direction DIRECTION> DEVICE void all_to_all(const Arguments& a) {
  Slowed<> slowed;
  const long segment_bytes = a.count * ELEMENT_BYTES;
  const auto source = [&](long reader) { return a.send + reader * segment_bytes; };
  const auto place = [&](long writer, long start) {
    return Output{a.receive + writer * segment_bytes + start * ELEMENT_BYTES};
  };
  exchange<DIRECTION, ONE>(
      a, source, [&](long start, long n) { copy(place(a.rank, start), source(a.rank) + start * ELEMENT_BYTES, n); },
      [&](long start, long n, auto inbox) {
        for (int d = 1; d < WORLD; ++d) {
          const long writer = (a.rank + d) % WORLD;
          copy(place(writer, start), inbox(writer), n);
        }
      });
}

extern "C" __global__ UP_TO_512_THREADS void all_to_all_push(LAUNCHED_WITH(Arguments) a) {
  all_to_all<PUSH>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void all_to_all_pull(LAUNCHED_WITH(Arguments) a) {
  all_to_all<PULL>(of_this_rank(a));
}

extern "C" __global__ UP_TO_512_THREADS void all_to_all_pull_registered(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  const long segment_bytes = a.count * ELEMENT_BYTES;
  const auto get = [&](long writer, const char* sent) {
    in_parts(a.count, [&](long at, long n) {
      copy(Output{a.receive + writer * segment_bytes + at}, sent + a.rank * segment_bytes + at, n);
    });
  };
  in_users_buffers(a, [&] { get(a.rank, a.send); }, [&] {
    for (int d = 1; d < WORLD; ++d) get((a.rank + d) % WORLD, of_thread(a.sends, (a.rank + d) % WORLD));
  });
}
