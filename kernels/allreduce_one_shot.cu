// One-shot all-reduce: every rank gets every rank's whole input and sums it alone.
//
// One step; each rank sends (n-1) S bytes and reads as many. The least latency, and the most bytes.
//   1. hand over: store the input into every peer's slab (push), or once into one's own (pull)
//   2. signal every peer, wait for every peer
//   3. sum all inputs in rank order, in fp32 for 16-bit types, and round once: every rank computes the same bits
// A message longer than a chunk goes chunk by chunk. Two slots take turns: a peer that has signalled chunk k has read
// chunk k-1, so the slot of k-1 is free for k+1.
#include "pack.h"

enum Direction { PUSH, PULL };

template <Direction DIRECTION> DEVICE void one_shot(const Arguments& a) {
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  long start = 0, step = 0;
  do {  // once even for no elements: every launch waits for every peer
    const long n = smaller(most, a.count - start);
    const char* own = a.send + start * ELEMENT_BYTES;
    // Where rank `reader` finds the input of rank `writer`.
    const auto slot = [&](long reader, long writer) {
      return DIRECTION == PUSH ? half_of(a, reader, epoch) + ((step & 1) * WORLD + writer) * a.chunk_bytes
                               : half_of(a, writer, epoch) + (step & 1) * a.chunk_bytes;
    };

    // 1. Push starts with the next rank, so that not all ranks store into rank 0 first.
    if (DIRECTION == PULL && WORLD > 1) copy(Slab{slot(a.rank, a.rank)}, own, n);
    for (int d = 1; DIRECTION == PUSH && d < WORLD; ++d) copy(Slab{slot((a.rank + d) % WORLD, a.rank)}, own, n);

    // 2.
    signal(a, peers, stamp(epoch, step + 1));
    wait(a, peers, stamp(epoch, step + 1));

    // 3.
    Sources<WORLD> inputs;
    const int rank = afresh((int)a.rank);
    for (int r = 0; r < WORLD; ++r) inputs.at[r] = r == rank ? own : slot(a.rank, r);
    reduce<COMPLETE, WORLD>(Output{a.receive + start * ELEMENT_BYTES}, inputs, n);
    start += most, ++step;
  } while (start < a.count);
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void one_shot_push(LAUNCHED_WITH(Arguments) a) {
  one_shot<PUSH>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void one_shot_pull(LAUNCHED_WITH(Arguments) a) {
  one_shot<PULL>(of_this_rank(a));
}
