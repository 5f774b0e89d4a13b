// A row-parallel linear layer in decoding, and the all-reduce after it, in one launch.
//
// Each rank has `inner` of the columns of a matrix, so that what it computes for each of `hidden` rows is a part of a
// sum. Rows are cut into one segment a rank, whose owner sums them, and a segment into steps. A rank
//   1. computes the others' segments first, its right neighbour's first of all, and pushes each row's part, as soon as
//      it is there, to its owner; then signals the step
//   2. computes its own segment last; adds to each step of it the others' parts, in rank order and rounded once; and
//      pushes the sums to everyone, into their output (registered) or their slab (copied); then signals the step
//   3. waits for the others' sums and, from the slab, copies them
// So what is computed first passes under the computing of the rest. A step is summed when it has all been computed: of a
// CPU's 70 us, that took 1 us less than to add to each tile at once, as the parts then come from the peer in one go.
// Two hops; each rank sends 2 (n-1)/n S bytes. One rank computes a sum, so every rank gets the same bits.
// A part is rounded to the wire's type, ELEMENT, before it is summed, the rank's own too: bit by bit what `gemv`, which
// is the compute alone, and then the one-shot all-reduce give.
#include "include/gemv.h"

template <bool REGISTERED> DEVICE void gemv_allreduce(const Gemv& g) {
  Slowed<> slowed;
  const Arguments& a = g.ranks;
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long hidden = g.hidden, segment = (hidden / WORLD + 63) / 64 * 64, bytes = TOKENS * hidden * ELEMENT_BYTES;
  const long step_rows = g.step_rows * blocks(), steps = (segment - 1) / step_rows + 1;  // of a segment
  const auto rows_of = [&](long owner, long step) {  // that this block has
    const long end = smaller((owner + 1) * segment, hidden), at = owner * segment + step * step_rows;
    const long first = smaller(at + block() * g.step_rows, end);
    return Segment{first, smaller(first + g.step_rows, smaller(at + step_rows, end)) - first};
  };
  const auto copy_rows = [&](auto to, const char* from, Segment rows) {  // to a Slab or an Output
    block_barrier();  // what other threads of this block have put there
    for (int t = 0; t < TOKENS; ++t) {
      const long at = (t * hidden + rows.start) * ELEMENT_BYTES;
      copy(decltype(to){to.at + at}, from + at, rows.count, this_block());
    }
  };

  long done = 0;
  for (long d = 1; d < WORLD; ++d)  // 1
    for (long step = 0; step < steps; ++step) {
      const long owner = (a.rank + d) % WORLD;
      const Segment rows = rows_of(owner, step);
      char* parts = half_of(a, owner, epoch) + a.rank * bytes;
      compute_rows(g, rows.start, rows.start + rows.count, [&](long at, pack part) {
        Ordered<Element>::push(parts + at, part);
      });
      signal(a, peers, stamp(epoch, ++done));
    }
  const char* parts = half_of(a, a.rank, epoch);
  for (long step = 0; step < steps; ++step) {  // 2
    const Segment rows = rows_of(a.rank, step);
    compute_rows(g, rows.start, rows.start + rows.count, [&](long at, pack part) {
      Ordered<Element>::put(a.receive + at, part);
    });
    wait(a, peers, stamp(epoch, (WORLD - 2) * steps + step + 1));  // the last to come to this step's rows has pushed
    for (int t = 0; t < TOKENS; ++t) {
      const long at = (t * hidden + rows.start) * ELEMENT_BYTES;
      Sources<WORLD> all;
      for (int r = 0; r < WORLD; ++r) all.at[r] = (r == a.rank ? a.receive : parts + r * bytes) + at;
      reduce<COMPLETE, WORLD>(Output{a.receive + at}, all, rows.count, this_block());
    }
    for (long d = 1; d < afresh(WORLD); ++d) {
      const long r = (a.rank + d) % WORLD;
      copy_rows(Slab{REGISTERED ? a.receives[r] : half_of(a, r, epoch) + WORLD * bytes}, a.receive, rows);
    }
    signal(a, peers, stamp(epoch, ++done));
  }
  wait(a, peers, stamp(epoch, WORLD * steps));  // 3
  if (!REGISTERED)
    for (long d = 1; d < afresh(WORLD); ++d)
      for (long step = 0; step < steps; ++step)
        copy_rows(Output{a.receive}, parts + WORLD * bytes, rows_of((a.rank + d) % WORLD, step));
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_256_THREADS void gemv_allreduce(LAUNCHED_WITH(Arguments) a) {
  gemv_allreduce<false>(*(const Gemv*)of_this_rank(a).more);
}
extern "C" __global__ UP_TO_256_THREADS void gemv_allreduce_registered(LAUNCHED_WITH(Arguments) a) {
  gemv_allreduce<true>(*(const Gemv*)of_this_rank(a).more);
}

// The compute alone, into `send`.
extern "C" __global__ UP_TO_256_THREADS void gemv(LAUNCHED_WITH(Arguments) launched) {
  const Gemv& g = *(const Gemv*)of_this_rank(launched).more;
  const long share = (g.hidden / ROWS + blocks() - 1) / blocks() * ROWS;
  char* to = const_cast<char*>(g.ranks.send);
  const long first = smaller(block() * share, g.hidden), end = smaller(first + share, g.hidden);
  compute_rows(g, first, end, [&](long at, pack sums) {
    Ordered<Element>::put(to + at, sums);
  });
}
