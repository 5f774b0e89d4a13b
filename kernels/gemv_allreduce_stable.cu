// As gemv_allreduce, with the same bits at 1, 2, 4 and 8 ranks, on each grid and machine: leaves.h
// has the order of the sum. A rank sends its subtree's sums in fp32, (n-1) 4/ELEMENT_BYTES S bytes.
#include "include/leaves.h"

GEMV_KERNEL(gemv_allreduce_stable) {
  const Gemv& g = more_of<Gemv>(launched);
  const Arguments& a = g.ranks;
  const Launch launch(a);
  const Segment rows = g.rows_of_block();
  const Leaves leaves{g};
  const auto parts = [&](long writer, long reader) {
    return launch.place(writer, reader, true, false, 0, 1, WT_TOKENS * g.hidden * 4);
  };
  leaves.compute_rows(rows, [&](long place, pack part) {
    const auto store = [&](long reader) {
      store_aligned_pack(parts(a.rank, reader) + place * 4, 0, part);
    };
    for_each_peer(a, store, 0);
  });
  launch.meet(1);
  for (int t = 0; t < WT_TOKENS; ++t)
    for (long row = thread_in_block() * ROWS; row < rows.count; row += threads_in_block() * ROWS) {
      const long place = t * g.hidden + rows.start + row;
      const auto from = [&](long writer) { return parts(writer, a.rank) + place * 4; };
      const pack sums = leaves.root(rows.start + row, from);
      Element::store_sums(a.receive + place * ELEMENT_BYTES, sums);
    }
  launch.leave();
}

// The compute alone: this rank's subtrees in fp32, not scaled, into `send`.
GEMV_KERNEL(gemv_stable) {
  const Gemv& g = more_of<Gemv>(launched);
  char* to = const_cast<char*>(g.ranks.send);
  Leaves{g}.compute_rows(g.rows_of_block(), [&](long place, pack sums) {
    store_aligned_pack(to + place * 4, 0, sums);
  });
}
