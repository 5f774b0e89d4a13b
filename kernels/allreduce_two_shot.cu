// Two-shot all-reduce: a reduce-scatter, then an all-gather, both direct.
//
// Two steps; each rank sends and reads 2 (n-1)/n S bytes. A chunk of the message has one segment a rank, and a rank
// works in beats. In beat b it does
//   A. of chunk b:   copies the segments that others own into its own slab, where their owners will read them
//   B. of chunk b-1: sums its own segment of all ranks, in rank order and rounded once, into its output and its slab
//   C. of chunk b-2: copies the sums of the other segments from their owners' slabs into its output
// and signals the beat's end. Each part waits only for what its peers did in the beat before, so one flag a beat orders
// all three; and what part A or B overwrites, two beats old, was read by the peers in the beat before. One rank computes
// a sum, so every rank gets the same bits. Over registered buffers owners read the others' input where it lies: part A
// copies nothing, and its beat says only that a rank has come.
#include "include/pack.h"

template <bool REGISTERED> DEVICE void two_shot(const Arguments& a) {
  Slowed<> slowed;
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  const long segment_bytes = segment_of(most, 0).count * ELEMENT_BYTES;
  // A slab's half: two chunks of input, then two segments of sums.
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
        hand_over(a, epoch, s.start, input(a.rank, beat, owner), a.send + s.start * ELEMENT_BYTES, s.count);
      }
    if (beat >= 1 && beat <= chunks) {  // B
      const long chunk = beat - 1;
      const Segment s = part(chunk, a.rank);
      Sources<WORLD> inputs;
      const int rank = afresh((int)a.rank);
      for (int r = 0; r < WORLD; ++r)
        if (REGISTERED) inputs.at[r] = (r == rank ? a.send : a.sends[r]) + s.start * ELEMENT_BYTES;
        else inputs.at[r] = r == rank ? a.send + s.start * ELEMENT_BYTES : input(r, chunk, a.rank);
      reduce<COMPLETE, WORLD>(Both<Output, Slab>{{a.receive + s.start * ELEMENT_BYTES}, {sums(a.rank, chunk)}}, inputs,
                              s.count);
    }
    if (beat >= 2)  // C
      for (int d = 1; d < afresh(WORLD); ++d) {  // not unrolled: gfx9 has no scalar registers for that
        const long chunk = beat - 2, owner = (a.rank + d) % WORLD;
        const Segment s = part(chunk, owner);
        copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums(owner, chunk), s.count);
      }

    if (beat < chunks + 1) signal(a, peers, stamp(epoch, beat + 1));
  }
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void two_shot(LAUNCHED_WITH(Arguments) a) { two_shot<false>(of_this_rank(a)); }
extern "C" __global__ UP_TO_512_THREADS void two_shot_registered(LAUNCHED_WITH(Arguments) a) {
  two_shot<true>(of_this_rank(a));
}
