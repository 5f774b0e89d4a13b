// Two-shot all-reduce: a reduce-scatter and an all-gather, both direct. Each rank sends and reads
// 2 (n-1)/n S bytes. A chunk has one segment per rank, its owner. In beat b a rank
//   A. for chunk b:   copies the segments of the input into its own slab
//   B. for chunk b-1: sums its segment over all ranks into its slab, in rank order, rounded once
//   C. for chunk b-2: copies the sums of the segments from their owners' slabs to its output
// and then signals. One flag per beat orders all, since each part needs only the peers' previous
// beat: in it they read the data, two beats old, that A and B overwrite. One rank makes each sum.
// If PUSHES, A stores into the owners' slabs and B into all slabs: a rank reads its own slab alone.
// If MULTICASTS, B sums and stores through a multicast address: see multimem.h.
#pragma once
#include "pack.h"

enum Segments { OTHERS, EVERY };  // that A and C copy: without or with the own segment
enum Transfer { PULLS, PUSHES, MULTICASTS };

// Calls copy_in(s, to), add(s, input, sums) and copy_out(s, from) for segments of units of UNIT
// elements, at most `most` of them in a chunk. input(rank) is where that rank copied its part, and
// sums(reader) the place of the sums that `reader` reads; without PUSHES all readers share one.
template <Transfer TRANSFER, Segments COPIED, long UNIT, class CopyIn, class Add, class CopyOut>
DEVICE void in_beats(const Arguments& a, long most, long segment_bytes, CopyIn copy_in, Add add,
                     CopyOut copy_out) {
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const int chunks = (int)((a.count + most - 1) / most);
  // A half of a slab: two chunks of input, two segments of sums; without PULLS two of each owner.
  const auto turn = [&](long chunk) {  // a multicast address reaches the same place of all slabs
    return TRANSFER == MULTICASTS ? 0 : turn_of(epoch, chunk, chunks);
  };
  const auto input = [&](long writer, long chunk, long owner) {
    const Place place = place_between(writer, owner, TRANSFER == PUSHES, turn(chunk));
    const long slot = (chunk & 1) * WT_WORLD + place.slot;
    return half_of(a, place.slab, epoch) + slot * segment_bytes;
  };
  const auto sums = [&](long owner, long chunk, long reader) {
    const Place place = TRANSFER == PULLS ? Place{slab_in_turn(owner, turn(chunk)), 0}
                                          : place_between(owner, reader, true, turn(chunk));
    const long slot = TRANSFER != PULLS ? (chunk & 1) * WT_WORLD + place.slot : chunk & 1;
    return half_of(a, place.slab, epoch) + (2 * WT_WORLD + slot) * segment_bytes;
  };
  const auto part = [&](long chunk, long segment) {
    const Segment s = segment_of<UNIT>(smaller(most, a.count - chunk * most), segment);
    return Segment{chunk * most + s.start, s.count};
  };
  // int, and afresh against unrolling: gfx9 has too few scalar registers.
  for (int beat = 0; beat < chunks + 2; ++beat) {
    if (beat > 0) wait(a, peers, stamp(epoch, beat));

    if (beat < chunks)  // A
      for (int d = COPIED == OTHERS; d < afresh(WT_WORLD); ++d) {
        const long owner = (a.rank + d) % WT_WORLD;
        copy_in(part(beat, owner), input(a.rank, beat, owner));
      }
    if (beat >= 1 && beat <= chunks)  // B
      add(
          part(beat - 1, a.rank), [&](long rank) { return input(rank, beat - 1, a.rank); },
          [&](long reader) { return sums(a.rank, beat - 1, reader); });
    if (beat >= 2)  // C
      for (int d = COPIED == OTHERS; d < afresh(WT_WORLD); ++d) {
        const long owner = (a.rank + d) % WT_WORLD;
        copy_out(part(beat - 2, owner), sums(owner, beat - 2, a.rank));
      }

    if (TRANSFER == MULTICASTS) fence_aliases();
    if (beat < chunks + 1) signal(a, peers, stamp(epoch, beat + 1));
  }
  leave_launch(a, epoch);
}
