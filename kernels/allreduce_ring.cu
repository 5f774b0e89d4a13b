// Ring all-reduce, chunked and pipelined: in 2(n-1) steps each rank sends 2 (n-1)/n S bytes to its
// right neighbour. A chunk has one segment per rank and passes 2n-1 hops: sent in hop 0, added
// to in hops 1 to n-1, output from hop n-1 on. One rank sums each segment last, in rotated
// order and rounded once per hop, so every rank gets the same bits.
// Wins nowhere that was measured. With two ranks it is a two-shot, and takes as long: the row that
// names it in collectives/tables/gpu.toml, for 16 MiB in one H100's memory, is a tie (50.7 us,
// two_shot 51.0, two_shot_push 50.4). With more it moves the bytes of two-shot in n-1 times as many
// steps: with four ranks on two cores it took 1.5 times as long as the fastest form (median), in
// chains 2.0. It is for GPUs that reach only their neighbours at full speed, on which nobody has
// measured it.
#include "include/pack.h"

constexpr int SUMMED = WT_WORLD - 1, HOPS = SUMMED + WT_WORLD;  // SUMMED completes a segment

// Chunk k enters in round k and passes one hop per round: the right neighbour receives in hop
// s+1 what was sent in hop s. The slot (of two) that round b overwrites was read in round b-1.
RANK_KERNEL(ring) {
  const Launch launch(a);
  const long left = (a.rank + WT_WORLD - 1) % WT_WORLD, right = (a.rank + 1) % WT_WORLD;
  const unsigned neighbours = (1u << left | 1u << right) & launch.peers;
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  const long slot_bytes = segment_of(most, 0).count * ELEMENT_BYTES;
  // An empty message too has rounds enough for each rank to wait, through others, for all.
  const long rounds = (chunks > 0 ? chunks : 1) + HOPS - 1;
  const auto inbox = [&](long rank, long s, long chunk) {
    const long slab = slab_of_use(rank, launch.use_of(chunk, chunks));
    return launch.half_of(slab) + (s * 2 + chunk % 2) * slot_bytes;
  };
  const auto hop = [&](int s, long start, long n, const char* received, Slab sent) INLINED {
    const Segment segment = segment_of(n, (a.rank - s + 2 * WT_WORLD) % WT_WORLD);
    const long at = (start + segment.start) * ELEMENT_BYTES;
    const Output output{a.receive + at};
    const Sources<2> sum{{received, a.send + at}};
    if (WT_WORLD == 1) return copy(output, a.send + at, segment.count);
    if (s == 0) return copy(sent, a.send + at, segment.count);
    if (s < SUMMED) return reduce<PARTIAL>(sent, sum, segment.count);
    if (s == SUMMED) return reduce(OutputAndSlab{output, sent}, sum, segment.count);
    if (s < HOPS - 1) return copy(OutputAndSlab{output, sent}, received, segment.count);
    copy(output, received, segment.count);
  };
  for (long round = 0; round < rounds; ++round) {
    // Left has sent the data of this round; right has read the slots that this round overwrites.
    if (round > 0) launch.wait(round, neighbours);
    for (int s = 0; s < HOPS; ++s) {
      const long chunk = round - s;
      if (chunk < 0 || chunk >= chunks) continue;
      const char* received = s > 0 ? inbox(a.rank, s - 1, chunk) : nullptr;
      hop(s, chunk * most, smaller(most, a.count - chunk * most), received,
          Slab{inbox(right, s, chunk)});
    }
    if (round < rounds - 1) launch.signal(round + 1, neighbours);
  }
  launch.leave();
}
