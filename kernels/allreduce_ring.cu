// Ring all-reduce, chunked and pipelined: each rank talks to its two neighbours only.
//
// 2(n-1) steps; each rank sends 2 (n-1)/n S bytes, all to the rank on its right. A chunk of the message has one segment
// a rank and passes through 2n-1 stages, one a beat; chunk k enters in beat k, so that several chunks are on their way
// at once:
//   stage 0               send one's own segment `rank`
//   stages 1 .. n-2       add one's own input to the partial sum that came from the left, send it on
//   stage n-1             the same, and the sum is complete: keep it and send it on
//   stages n .. 2n-2      keep the complete segment that came from the left and, but for the last stage, send it on
// What stage s sends lands in inbox s of the right neighbour, which reads it in its stage s+1, one beat later.
// Each segment is summed in rotated order, with one rounding to the wire type a hop, by one rank: all get its bits.
#include "include/pack.h"

constexpr int STAGES = 2 * WORLD - 1;
constexpr int SLOTS = 2;  // of an inbox: what is written in beat b was read, two chunks ago, in beat b-1

extern "C" __global__ UP_TO_512_THREADS void ring(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  const unsigned epoch = enter_launch(a);
  const long left = (a.rank + WORLD - 1) % WORLD, right = (a.rank + 1) % WORLD;
  const unsigned neighbours = 1u << left | 1u << right;
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  const long segment_bytes = segment_of(most, 0).count * ELEMENT_BYTES;
  const auto inbox = [&](long rank, long stage, long chunk) {
    return half_of(a, rank, epoch) + (stage * SLOTS + chunk % SLOTS) * segment_bytes;
  };

  if (WORLD == 1) copy_message(a);
  for (long beat = 0; WORLD > 1 && beat < chunks + STAGES - 1; ++beat) {
    // Left has sent what this beat reads; right has read what this beat overwrites.
    if (beat > 0) wait(a, neighbours, stamp(epoch, beat));

    for (int stage = 0; stage < STAGES; ++stage) {
      const long chunk = beat - stage;
      if (chunk < 0 || chunk >= chunks) continue;
      const long index = (a.rank - stage + 2 * WORLD) % WORLD;  // falling from one's own, twice around
      const Segment s = segment_of(smaller(most, a.count - chunk * most), index);
      const char* own = a.send + (chunk * most + s.start) * ELEMENT_BYTES;
      const Output kept{a.receive + (chunk * most + s.start) * ELEMENT_BYTES};
      const Slab sent{inbox(right, stage, chunk)};
      const char* came = stage > 0 ? inbox(a.rank, stage - 1, chunk) : nullptr;

      if (stage == 0) hand_over(a, epoch, chunk * most, sent.at, own, s.count);
      else if (stage < WORLD - 1) reduce<PARTIAL, 2>(sent, Sources<2>{{came, own}}, s.count);
      else if (stage == WORLD - 1)
        reduce<COMPLETE, 2>(Both<Output, Slab>{kept, sent}, Sources<2>{{came, own}}, s.count);
      else if (stage < STAGES - 1) copy(Both<Output, Slab>{kept, sent}, came, s.count);
      else copy(kept, came, s.count);
    }

    // The first beat tells everyone: a flag that is never written would, after 2^31 launches, seem to be ahead.
    if (beat < chunks + STAGES - 2) signal(a, beat == 0 ? everyone_but(a.rank) : neighbours, stamp(epoch, beat + 1));
  }
  leave_launch(a, epoch);
}
