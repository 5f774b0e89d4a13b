// A row-parallel linear layer in decoding, and the all-reduce after it, in one launch.
//
// Each rank has `inner` of the columns of a matrix, so that what it computes for each of `hidden` rows is a part of a
// sum. Rows are cut into one segment a rank, whose owner sums them, and a segment into steps. A rank
//   1. computes the others' segments first, its right neighbour's first of all, and pushes each row's part, as soon as
//      it is there, to its owner; then signals the step
//   2. computes its own segment last, to each of whose rows it adds the others' parts, in rank order and rounded once;
//      and pushes the sum to everyone, into their output (registered) or their slab (copied); then signals the step
//   3. waits for the others' sums and, from the slab, copies them
// So nothing is stored to be read again, and all but the last flag passes under the computing of what comes after it.
// With STREAM_SLAB it is, in `send` and `receive`, and pushed together: what goes around the caches has to.
// Two hops; each rank sends 2 (n-1)/n S bytes. One rank computes a sum, so every rank gets the same bits.
// A part is rounded to the wire's type, ELEMENT, before it is summed, the rank's own too: bit by bit what `gemv`, which
// is the compute alone, and then the one-shot all-reduce give.
#include "gemv.h"

// Whose parts a CPU begins to fetch is so many bytes of weights away: from a far core they take half a microsecond. At
// 128 KiB they had left the nearest cache again: of 68 us, 2 more.
constexpr long AHEAD_BYTES = 32 << 10;

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
    block_barrier();
    for (int t = 0; t < TOKENS; ++t) {
      const long at = (t * hidden + rows.start) * ELEMENT_BYTES;
      copy(decltype(to){to.at + at}, from + at, rows.count, this_block());
    }
  };
  // A slab's half: parts that each rank pushes here, then sums.
  char* sums[WORLD];
  for (int r = 0; r < WORLD; ++r) {
    char* slab = half_of(a, r, epoch) + WORLD * bytes;
    sums[r] = r == a.rank ? a.receive : REGISTERED ? a.receives[r] : slab;
  }

  long done = 0;
  for (long d = 1; d < WORLD; ++d)  // 1
    for (long step = 0; step < steps; ++step) {
      const long owner = (a.rank + d) % WORLD;
      const Segment rows = rows_of(owner, step);
      char *parts = half_of(a, owner, epoch) + a.rank * bytes, *staged = const_cast<char*>(a.send);
      compute_rows(g, rows.start, rows.start + rows.count, [&](long at, pack part) {
        Ordered<Element>::put((STREAM_SLAB ? staged : parts) + at, part);
      });
      if (STREAM_SLAB) copy_rows(Slab{parts}, staged, rows);
      signal(a, peers, stamp(epoch, ++done));
    }
  const char* parts = half_of(a, a.rank, epoch);
  const long tile_bytes = ROWS * g.inner * WEIGHT::BYTES, ahead_rows = (AHEAD_BYTES / tile_bytes + 1) * ROWS;
  for (long step = 0; step < steps; ++step) {  // 2
    const Segment rows = rows_of(a.rank, step);
    wait(a, peers, stamp(epoch, (WORLD - 2) * steps + step + 1));  // the last to come to this step's rows has pushed
    const auto ahead = [&](long at) {
      for (int d = 1; d < WORLD; ++d) prefetch(parts + (a.rank + d) % WORLD * bytes + at);
    };
    for (long row = rows.start; row < rows.start + ahead_rows; row += ROWS) ahead(row * ELEMENT_BYTES);
    compute_rows(g, rows.start, rows.start + rows.count, [&](long at, pack own) {
      floats sum[REGISTERS] = {};
      ahead(at + ahead_rows * ELEMENT_BYTES);
      for (int r = 0; r < WORLD; ++r) {
        pack part;
        if (r != a.rank) part = Ordered<Element>::get(parts + r * bytes + at);
        for (int j = 0; j < REGISTERS; ++j) {
          if (r == a.rank) part.r[j] = reinterpret<words>(Ordered<Element>::rounded(reinterpret<floats>(own.r[j])));
          sum[j] = r == 0 ? reinterpret<floats>(part.r[j]) : sum[j] + reinterpret<floats>(part.r[j]);
        }
      }
      pack p;
      for (int j = 0; j < REGISTERS; ++j) {
        summed_so_far(sum[j]);  // before the next token's
        p.r[j] = reinterpret<words>(sum[j]);
      }
      for (int r = 0; r < WORLD; ++r)
        if (!STREAM_SLAB || r == a.rank) Ordered<Element>::put(sums[r] + at, p);
    });
    for (int r = 0; STREAM_SLAB && r < WORLD; ++r)
      if (r != a.rank) copy_rows(Slab{sums[r]}, a.receive, rows);
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
