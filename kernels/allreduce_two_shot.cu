// Two-shot all-reduce: a reduce-scatter followed by an all-gather, both direct.
//
// Two steps; each rank sends and reads 2 (n-1)/n S bytes. A chunk of the message has one segment
// per rank, its owner. A rank works in beats. Beat b does
//   A. for chunk b:   copies the other owners' segments of the input into its own slab
//   B. for chunk b-1: sums its own segment over all ranks, in rank order and rounded once, into its
//                     output and its slab
//   C. for chunk b-2: copies the sums of the other segments from their owners' slabs to its output
// and then signals. Each part needs only the peers' previous beat, so one flag per beat orders all
// three parts; the peers read the data that A and B overwrite, two beats old, in the previous beat.
// One rank computes each sum, so every rank gets the same bits. Over registered buffers an owner
// reads the inputs in their users' buffers: A copies nothing, and its beat only signals that the
// rank has entered.
#include "include/pack.h"

template <bool REGISTERED> DEVICE void two_shot(const Arguments& a) {
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  const long segment_bytes = segment_of(most, 0).count * ELEMENT_BYTES;
  // A half of a slab: two chunks of input, then two segments of sums.
  const auto input = [&](long rank, long chunk, long segment) {
    return half_of(a, rank, epoch) + ((chunk & 1) * WORLD + segment) * segment_bytes;
  };
  const auto sums = [&](long rank, long chunk) {
    return half_of(a, rank, epoch) + (2 * WORLD + (chunk & 1)) * segment_bytes;
  };
  const auto part = [&](long chunk, long segment) {
    const Segment s = segment_of(smaller(most, a.count - chunk * most), segment);
    return Segment{chunk * most + s.start, s.count};
  };

  if (WORLD == 1) copy_message(a);
  for (long beat = 0; WORLD > 1 && beat < chunks + 2; ++beat) {
    if (beat > 0) wait(a, peers, stamp(epoch, beat));

    if (!REGISTERED && beat < chunks)  // A
      for (int d = 1; d < WORLD; ++d) {
        const long owner = (a.rank + d) % WORLD;
        const Segment s = part(beat, owner);
        copy(Slab{input(a.rank, beat, owner)}, a.send + s.start * ELEMENT_BYTES, s.count);
      }
    if (beat >= 1 && beat <= chunks) {  // B
      const long chunk = beat - 1;
      const Segment s = part(chunk, a.rank);
      const long at = s.start * ELEMENT_BYTES;
      Sources<WORLD> inputs;  // by hand: with inputs_of_all gfx942 spills, registered and 8 ranks
      const int rank = afresh((int)a.rank);
      for (int r = 0; r < WORLD; ++r)
        if (REGISTERED) inputs.at[r] = (r == rank ? a.send : a.sends[r]) + at;
        else inputs.at[r] = r == rank ? a.send + at : input(r, chunk, a.rank);
      const OutputAndSlab to{{a.receive + at}, {sums(a.rank, chunk)}};
      reduce<COMPLETE, WORLD>(to, inputs, s.count);
    }
    if (beat >= 2)  // C
      // afresh: not unrolled, since gfx9 has too few scalar registers.
      for (int d = 1; d < afresh(WORLD); ++d) {
        const long chunk = beat - 2, owner = (a.rank + d) % WORLD;
        const Segment s = part(chunk, owner);
        copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums(owner, chunk), s.count);
      }

    if (beat < chunks + 1) signal(a, peers, stamp(epoch, beat + 1));
  }
  leave_launch(a, epoch);
}

RANK_KERNEL(two_shot) { two_shot<false>(a); }
RANK_KERNEL(two_shot_registered) { two_shot<true>(a); }
