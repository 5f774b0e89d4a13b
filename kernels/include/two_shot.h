// Two-shot all-reduce: a reduce-scatter and an all-gather, both direct. Each rank sends and reads
// 2 (n-1)/n S bytes. A chunk has one segment per rank, its owner. In round b a rank
//   A. for chunk b:   copies the segments of the input into its own slab
//   B. for chunk b-1: sums its segment over all ranks into its slab, in rank order, rounded once
//   C. for chunk b-2: copies the sums of the segments from their owners' slabs to its output
// and then signals. One flag per round orders all, since each part needs only the peers' previous
// round: in it they read the data, two rounds old, that A and B overwrite. One rank makes each sum.
// If PUSHES, A stores into the owners' slabs and B into all slabs: a rank reads its own slab alone.
// If MULTICASTS, B sums and stores through a multicast address: see multimem.h.
#pragma once
#include "pack.h"

enum Segments { EVERY, OTHERS };  // that A and C copy: with or without the own segment, the first
enum Transfer { PULLS, PUSHES, MULTICASTS };

// Calls copy_in(s, to), add(s, input, sums) and copy_out(s, from) for segments of units of UNIT
// elements, at most `most` of them in a chunk. input(rank) is where that rank copied its part, and
// sums(reader) the place of the sums that `reader` reads; without PUSHES all readers share one.
template <Transfer TRANSFER, Segments FIRST, long UNIT, class CopyIn, class Add, class CopyOut>
DEVICE void in_rounds(const Arguments& a, long most, long segment_bytes, CopyIn copy_in, Add add,
                      CopyOut copy_out) {
  const Launch launch(a);
  const int chunks = (int)((a.count + most - 1) / most);
  // A half of a slab: two chunks of input, two segments of sums; without PULLS two of each owner.
  const auto input = [&](long writer, long chunk, long owner) {
    return launch.place(writer, owner, TRANSFER == PUSHES, false, chunk, chunks, segment_bytes);
  };
  const auto sums = [&](long owner, long chunk, long reader) {
    return launch.place(owner, reader, true, TRANSFER == PULLS, chunk, chunks, segment_bytes) +
           2 * WT_WORLD * segment_bytes;
  };
  const auto part = [&](long chunk, long segment) {
    const Segment s = segment_of<UNIT>(smaller(most, a.count - chunk * most), segment);
    return Segment{chunk * most + s.start, s.count};
  };
  for (int round = 0; round < chunks + 2; ++round) {
    if (round > 0) launch.wait(round);

    if (round < chunks)  // A
      for_each_peer(
          a, [&](long owner) { copy_in(part(round, owner), input(a.rank, round, owner)); }, FIRST);
    if (round >= 1 && round <= chunks)  // B
      add(
          part(round - 1, a.rank), [&](long rank) { return input(rank, round - 1, a.rank); },
          [&](long reader) { return sums(a.rank, round - 1, reader); });
    if (round >= 2)  // C
      for_each_peer(
          a, [&](long owner) { copy_out(part(round - 2, owner), sums(owner, round - 2, a.rank)); },
          FIRST);

    if (TRANSFER == MULTICASTS) fence_aliases();
    if (round < chunks + 1) launch.signal(round + 1);
  }
  launch.leave();
}

// The same for segments of whole packs, copied as they are, or not copied.
template <Transfer TRANSFER, Segments FIRST, bool COPIES_IN = true, bool COPIES_OUT = true,
          class Add>
DEVICE void in_rounds(const Arguments& a, Add add) {
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  const auto copy_in = [&](Segment s, char* to) {
    if (COPIES_IN) copy(Slab{to}, a.send + s.start * ELEMENT_BYTES, s.count);
  };
  const auto copy_out = [&](Segment s, const char* sums) {
    if (COPIES_OUT) copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums, s.count);
  };
  in_rounds<TRANSFER, FIRST, PACK_ELEMENTS>(a, most, segment_of(most, 0).count * ELEMENT_BYTES,
                                            copy_in, add, copy_out);
}
