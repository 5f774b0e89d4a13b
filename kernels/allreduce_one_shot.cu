// One-shot all-reduce: every rank gets every rank's whole input and sums it alone.
//
// One step; each rank sends (n-1) S bytes and reads as many. The least latency, and the most bytes.
//   1. hand over: store the input into every peer's slab (push), or once into one's own (pull)
//   2. signal every peer, wait for every peer
//   3. sum all inputs in rank order, in fp32 for 16-bit types, and round once: every rank computes the same bits
#include "include/exchange.h"

// Sums n elements, from the start-th on, of one's own input and of the peers', from_peer(rank).
template <class Peer> DEVICE void sum_all(const Arguments& a, long start, long n, Peer from_peer) {
  Sources<WORLD> inputs;
  const int rank = afresh((int)a.rank);
  for (int r = 0; r < WORLD; ++r) inputs.at[r] = r == rank ? a.send + start * ELEMENT_BYTES : from_peer(r);
  reduce<COMPLETE, WORLD>(Output{a.receive + start * ELEMENT_BYTES}, inputs, n);
}

template <Direction DIRECTION> DEVICE void one_shot(const Arguments& a) {
  Slowed<> slowed;
  exchange<DIRECTION, ALL>(a, [&](long) { return a.send; }, [](long, long) {},
                           [&](long start, long n, auto inbox) { sum_all(a, start, n, inbox); });
}

extern "C" __global__ UP_TO_512_THREADS void one_shot_push(LAUNCHED_WITH(Arguments) a) {
  one_shot<PUSH>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void one_shot_pull(LAUNCHED_WITH(Arguments) a) {
  one_shot<PULL>(of_this_rank(a));
}

extern "C" __global__ UP_TO_512_THREADS void one_shot_pull_registered(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  in_users_buffers(a, [] {}, [&] {
    in_parts(a.count, [&](long at, long n) {
      sum_all(a, at / ELEMENT_BYTES, n, [&](int r) { return a.sends[r] + at; });
    });
  });
}
