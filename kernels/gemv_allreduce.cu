// A row-parallel linear layer in decoding (GEMV) and the all-reduce after it, in one launch. A rank
// has `inner` columns of the matrix: its product for a row is one part of a sum.
//   1. a block computes this rank's parts of its rows, and stores each for all peers
//   2. it adds all ranks' parts of these rows, in rank order and rounded once
// One flag: each rank sends (n-1) S bytes, rounded to WT_ELEMENT, and S is short. The own parts
// stay in the receive buffer: lines that a peer reads its user would have to fetch back. The bits
// are those of `gemv` and a one-shot all-reduce.
#include "include/gemv.h"

GEMV_KERNEL(gemv_allreduce) {
  const Gemv& g = more_of<Gemv>(launched);
  const Arguments& a = g.ranks;
  const Launch launch(a);
  const Segment rows = g.rows_of_block();
  const auto parts = [&](long writer, long reader) {
    return launch.place(writer, reader, true, false, 0, 1, WT_TOKENS * g.hidden * ELEMENT_BYTES);
  };
  g.compute_rows(rows, [&](long at, pack part) {
    Element::store_sums(a.receive + at, part);
    for_each_peer(a, [&](long reader) { Element::store_sums(parts(a.rank, reader) + at, part); });
  });
  launch.meet(1);
  for (int t = 0; t < WT_TOKENS; ++t) {
    const long at = (t * g.hidden + rows.start) * ELEMENT_BYTES;
    const auto from_peer = [&](long writer) { return parts(writer, a.rank) + at; };
    const auto inputs = inputs_of_all(a, a.receive + at, from_peer);
    reduce(Output{a.receive + at}, inputs, rows.count, this_block());
  }
  launch.leave();
}

// The compute alone, into `send`.
GEMV_KERNEL(gemv) {
  const Gemv& g = more_of<Gemv>(launched);
  char* to = const_cast<char*>(g.ranks.send);
  g.compute_rows(g.rows_of_block(),
                 [&](long at, pack sums) { Element::store_sums(to + at, sums); });
}
