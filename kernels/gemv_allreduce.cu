// A row-parallel linear layer in decoding (GEMV) and the all-reduce after it, in one launch. A rank
// has `inner` columns of the matrix: its product for a row is one part of a sum. Two ranks built
// with WT_SWAP exchange all parts at once. Else each owns and sums a segment of the `hidden` rows:
//   1. it computes the others' segments, its right neighbour's first; pushes each part to its owner
//   2. computes its own segment; in each step it adds all parts in rank order, rounds once, and
//      pushes the sums into every rank's output (registered) or slab (copied)
//   3. waits for the sums of the other segments; copied: copies them from its slab to its output
// Adding whole steps saves 1 us of a CPU's 70 us against adding tile by tile. Each rank sends
// 2 (n-1)/n S bytes, rounded to WT_ELEMENT: the bits are those of `gemv` and a one-shot all-reduce.
#include "include/gemv.h"

template <bool REGISTERED>
DEVICE void gemv_allreduce_in_segments(const Gemv& g) {
  const Arguments& a = g.ranks;
  const Launch launch(a);
  const long hidden = g.hidden, segment = (hidden / WT_WORLD + 63) / 64 * 64;
  const long bytes = WT_TOKENS * hidden * ELEMENT_BYTES;
  const long step_rows = g.step_rows * blocks(), steps = (segment - 1) / step_rows + 1;
  const auto rows_of = [&](long owner, long step) {  // this block's rows of a step
    const long end = smaller((owner + 1) * segment, hidden);
    const long at = owner * segment + step * step_rows;
    const long first = smaller(at + block() * g.step_rows, end);
    return Segment{first, smaller(first + g.step_rows, smaller(at + step_rows, end)) - first};
  };
  // Where `writer` leaves rows of an owner's segment for `reader`; row 0 of all would be at the
  // pointer. A segment begins with its slot: at its next use the same lines serve the reader.
  enum { PARTS, SUMS = WT_WORLD };
  const auto place = [&](long writer, long reader, long owner, long first_slot) {
    const Place p = place_between(writer, reader, true, launch.use_of(0, 1));
    return launch.half_of(p.slab) + (first_slot + p.slot) * bytes - owner * segment * ELEMENT_BYTES;
  };
  const auto copy_rows = [&](auto to, const char* from, Segment rows) {  // `to`: Slab or Output
    block_barrier();  // other threads of this block wrote some of the rows
    for (int t = 0; t < WT_TOKENS; ++t) {
      const long at = (t * hidden + rows.start) * ELEMENT_BYTES;
      copy(decltype(to){to.at + at}, from + at, rows.count, this_block());
    }
  };

  long done = 0;
  for_each_peer(a, [&](long owner) {  // 1
    for (long step = 0; step < steps; ++step) {
      const Segment rows = rows_of(owner, step);
      char* parts = place(a.rank, owner, owner, PARTS);
      compute_rows(g, rows.start, rows.start + rows.count, [&](long at, pack part) {
        Element::store_sums(parts + at, part, WT_STREAM_SLAB);
      });
      launch.signal(++done);
    }
  });
  for (long step = 0; step < steps; ++step) {  // 2
    const Segment rows = rows_of(a.rank, step);
    const auto keep = [&](long at, pack part) { Element::store_sums(a.receive + at, part); };
    compute_rows(g, rows.start, rows.start + rows.count, keep);
    // The left neighbour reaches this segment last: after WT_WORLD - 2 others.
    launch.wait((WT_WORLD - 2) * steps + step + 1);
    const auto sums_for = [&](long reader) {
      return REGISTERED ? a.receives.selected(reader) : place(a.rank, reader, a.rank, SUMS);
    };
    for (int t = 0; t < WT_TOKENS; ++t) {
      const long at = (t * hidden + rows.start) * ELEMENT_BYTES;
      Sources<WT_WORLD> all;
      for (int r = 0; r < WT_WORLD; ++r)
        all.at[r] = (r == a.rank ? a.receive : place(r, a.rank, a.rank, PARTS)) + at;
      // Registered, the peer's user has read these lines: stores into them would delay the sums.
      const Output sums{a.receive + at};
      const OutputAndSlab sums_for_two{sums, {sums_for((a.rank + 1) % WT_WORLD) + at}};
      if (REGISTERED)
        reduce(sums, all, rows.count, this_block());
      else
        reduce(sums_for_two, all, rows.count, this_block());
    }
    for_each_peer<FEW_REGISTERS>(
        a, [&](long reader) { copy_rows(Slab{sums_for(reader)}, a.receive, rows); },
        REGISTERED ? 1 : 2);
    launch.signal(++done);
  }
  launch.wait(WT_WORLD * steps);  // 3
  if (!REGISTERED)
    for_each_peer<FEW_REGISTERS>(a, [&](long owner) {
      for (long step = 0; step < steps; ++step)
        copy_rows(Output{a.receive}, place(owner, a.rank, owner, SUMS), rows_of(owner, step));
    });
  launch.leave();
}

// This block's rows of the whole matrix.
DEVICE Segment rows_of_block(const Gemv& g) {
  const long share = (g.hidden / ROWS + blocks() - 1) / blocks() * ROWS;
  const long first = smaller(block() * share, g.hidden);
  return {first, smaller(first + share, g.hidden) - first};
}

// Two ranks whose places change hands: each leaves its part of every row for the other as it is
// made, and adds the other's to its own, which it keeps in the receive buffer: lines that the other
// reads it would have to fetch back. One flag, and nothing is copied.
DEVICE void gemv_allreduce_of_two(const Gemv& g) {
  const Arguments& a = g.ranks;
  const Launch launch(a);
  const long peer = a.rank ^ 1, bytes = WT_TOKENS * g.hidden * ELEMENT_BYTES;
  const auto parts_of = [&](long writer) {
    const Place p = place_between(writer, writer ^ 1, true, launch.use_of(0, 1));
    return launch.half_of(p.slab) + p.slot * bytes;
  };
  const Segment rows = rows_of_block(g);
  char* parts = parts_of(a.rank);
  compute_rows(g, rows.start, rows.start + rows.count, [&](long at, pack part) {
    Element::store_sums(parts + at, part, WT_STREAM_SLAB);
    Element::store_sums(a.receive + at, part);
  });
  launch.meet(1);
  for (int t = 0; t < WT_TOKENS; ++t) {
    char* own = a.receive + (t * g.hidden + rows.start) * ELEMENT_BYTES;
    const char* other = parts_of(peer) + (own - a.receive);
    const auto inputs = inputs_of_all(a, own, [&](long) { return other; });
    reduce(Output{own}, inputs, rows.count, this_block());
  }
  launch.leave();
}

DEVICE const Gemv& gemv_of(const Arguments& a) { return *(const Gemv*)a.more; }

#define GEMV_KERNEL(name) \
  extern "C" __global__ UP_TO_256_THREADS void name(LAUNCHED_WITH(Arguments) launched)

template <bool REGISTERED>
DEVICE void gemv_allreduce_of_all(const Gemv& g) {
  if constexpr (WT_SWAP && WT_WORLD == 2)
    gemv_allreduce_of_two(g);
  else
    gemv_allreduce_in_segments<REGISTERED>(g);
}
GEMV_KERNEL(gemv_allreduce) { gemv_allreduce_of_all<false>(gemv_of(launched)); }
GEMV_KERNEL(gemv_allreduce_registered) { gemv_allreduce_of_all<true>(gemv_of(launched)); }

// The compute alone, into `send`.
GEMV_KERNEL(gemv) {
  const Gemv& g = gemv_of(launched);
  const Segment rows = rows_of_block(g);
  char* to = const_cast<char*>(g.ranks.send);
  compute_rows(g, rows.start, rows.start + rows.count,
               [&](long at, pack sums) { Element::store_sums(to + at, sums); });
}
