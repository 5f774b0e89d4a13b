// Reduce-scatter: rank r gets the sum of every rank's segment r; each sends (n-1) segments.
//
// Direct: one step, in which a rank hands each other its segment (push, pull: exchange.h), and sums its own of all in
// rank order, rounded once. Ring: n-1 steps; a segment's sum grows on its way, with one rounding to the wire's type a
// hop.
#include "include/exchange.h"

template <Direction DIRECTION> DEVICE void reduce_scatter(const Arguments& a) {
  Slowed<> slowed;
  const long segment_bytes = a.count * ELEMENT_BYTES;
  exchange<DIRECTION, ONE>(
      a, [&](long reader) { return a.send + reader * segment_bytes; }, [](long, long) {},
      [&](long start, long n, auto inbox) {
        Sources<WORLD> inputs;
        const int rank = afresh((int)a.rank);
        for (int r = 0; r < WORLD; ++r)
          inputs.at[r] = r == rank ? a.send + rank * segment_bytes + start * ELEMENT_BYTES : inbox(r);
        reduce<COMPLETE, WORLD>(Output{a.receive + start * ELEMENT_BYTES}, inputs, n);
      });
}

extern "C" __global__ UP_TO_512_THREADS void reduce_scatter_push(LAUNCHED_WITH(Arguments) a) {
  reduce_scatter<PUSH>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void reduce_scatter_pull(LAUNCHED_WITH(Arguments) a) {
  reduce_scatter<PULL>(of_this_rank(a));
}

extern "C" __global__ UP_TO_512_THREADS void reduce_scatter_pull_registered(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  const long segment_bytes = a.count * ELEMENT_BYTES;
  in_users_buffers(a, [] {}, [&] {
    in_parts(a.count, [&](long at, long n) {
      Sources<WORLD> inputs;
      const int rank = afresh((int)a.rank);
      for (int r = 0; r < WORLD; ++r) inputs.at[r] = (r == rank ? a.send : a.sends[r]) + rank * segment_bytes + at;
      reduce<COMPLETE, WORLD>(Output{a.receive + at}, inputs, n);
    });
  });
}

// In stage s a rank adds its own elements to the partial sum of segment rank - 1 - s that came from the left, and sends
// it on; in the last the segment is its own and the sum complete.
extern "C" __global__ UP_TO_512_THREADS void reduce_scatter_ring(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  around_the_ring(a, [&](int stage, long start, long n, const char* came, Slab sent) {
    const long owner = (a.rank - 1 - stage + 2 * WORLD) % WORLD;
    const char* own = a.send + (owner * a.count + start) * ELEMENT_BYTES;
    const Output kept{a.receive + start * ELEMENT_BYTES};
    if (WORLD == 1) { if (own != kept.at) copy(kept, own, n); }
    else if (stage == 0) copy(sent, own, n);
    else if (stage < WORLD - 1) reduce<PARTIAL, 2>(sent, Sources<2>{{came, own}}, n);
    else reduce<COMPLETE, 2>(kept, Sources<2>{{came, own}}, n);
  });
}
