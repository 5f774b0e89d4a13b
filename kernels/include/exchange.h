// What the direct forms of a collective have in common: each rank has something for every other, and hands it over in
// one step, into the reader's slab (push) or its own (pull).
//
// A message longer than a chunk goes chunk by chunk. Two slots take turns: a peer that has signalled chunk k has taken
// chunk k-1, so the slot of k-1 is free for k+1.
#pragma once
#include "pack.h"

enum Direction { PUSH, PULL };
enum For { ONE, ALL };  // whom a rank's elements are for: another segment for each reader, or the same for all

// Performs, from `step` on, steps of
//   1. give(reader, start, n, slot): store what `reader` is to get of the next n of `count` units, for each reader
//   2. signal every peer; meanwhile(start, n); wait for every peer
//   3. take(start, n, inbox), where inbox(writer) has what `writer` gave this rank
// and returns the step after. At least one, for no units too: every launch waits for every peer. All ranks have the
// same `count`, and the same `most` units a step.
template <Direction DIRECTION, For READER, class Give, class Meanwhile, class Take>
DEVICE long exchange_from(const Arguments& a, unsigned epoch, long step, long count, long most, Give give,
                          Meanwhile meanwhile, Take take) {
  const unsigned peers = everyone_but(a.rank);
  long start = 0;
  do {
    const long n = smaller(most, count - start);
    const auto slot = [&](long reader, long writer) {
      const long places = DIRECTION == PULL && READER == ALL ? 1 : WORLD, place = DIRECTION == PUSH ? writer : reader;
      return half_of(a, DIRECTION == PUSH ? reader : writer, epoch) +
             ((step & 1) * places + (places == 1 ? 0 : place)) * a.chunk_bytes;
    };
    // Each starts with the next rank, so that not all store into rank 0 first.
    for (int d = 1; d < (DIRECTION == PULL && READER == ALL ? smaller(2, WORLD) : WORLD); ++d) {
      const long reader = (a.rank + d) % WORLD;
      if (!strikes(SKIP_PUSH, a.rank, stamp(epoch, step + 1))) give(reader, start, n, slot(reader, a.rank));
      if (FAULT == FLIP_BIT) flip_bit(a.rank, stamp(epoch, step + 1), slot(reader, a.rank), n * ELEMENT_BYTES);
    }
    signal(a, peers, stamp(epoch, step + 1));
    meanwhile(start, n);
    wait(a, peers, stamp(epoch, step + 1));
    take(start, n, [&](long writer) { return slot(a.rank, writer); });
    start += most, ++step;
  } while (start < count);
  return step;
}

// A launch of nothing else: segments of `count` elements, of which source(reader) is the one for `reader`.
template <Direction DIRECTION, For READER, class Source, class Meanwhile, class Take>
DEVICE void exchange(const Arguments& a, Source source, Meanwhile meanwhile, Take take) {
  const unsigned epoch = enter_launch(a);
  const auto give = [&](long reader, long start, long n, char* slot) {
    copy(Slab{slot}, source(reader) + start * ELEMENT_BYTES, n);
  };
  exchange_from<DIRECTION, READER>(a, epoch, 0, a.count, a.chunk_bytes / ELEMENT_BYTES, give, meanwhile, take);
  leave_launch(a, epoch);
}

// The same over the users' own buffers, which all ranks have mapped: nothing is stored on the way. A rank begins when
// every peer has come, since a buffer may be in use until then, and leaves when every peer has done with its own.
template <class Meanwhile, class Take>
DEVICE void in_users_buffers(const Arguments& a, Meanwhile meanwhile, Take take) {
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  signal(a, peers, stamp(epoch, 1));
  meanwhile();
  wait(a, peers, stamp(epoch, 1));
  take();
  signal(a, peers, stamp(epoch, 2));
  wait(a, peers, stamp(epoch, 2));
  leave_launch(a, epoch);
}

// Segments of `count` elements on their way around a ring, chunk by chunk, several chunks at once. A chunk passes
// through WORLD stages, one a beat, and enters in the beat of its number; what a stage sends lies in the right
// neighbour's inbox for its next stage, one beat later. Performs stage(s, start, n, came, sent) for n elements from
// `start` on: `came` is what stage s-1 of the left neighbour sent (null for the first), `sent` where the right one will
// read (not of the last). Two slots an inbox: what is written in beat b was read, two chunks ago, in beat b-1.
template <class Stage> DEVICE void around_the_ring(const Arguments& a, Stage stage) {
  const unsigned epoch = enter_launch(a);
  const long left = (a.rank + WORLD - 1) % WORLD, right = (a.rank + 1) % WORLD;
  const unsigned neighbours = (1u << left | 1u << right) & ~(1u << a.rank);
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  const long beats = (chunks > 0 ? chunks : 1) + WORLD - 1;  // enough for each to wait, through others, for all
  const auto inbox = [&](long rank, long s, long chunk) {
    return half_of(a, rank, epoch) + (s * 2 + chunk % 2) * a.chunk_bytes;
  };
  for (long beat = 0; beat < beats; ++beat) {
    if (beat > 0) wait(a, neighbours, stamp(epoch, beat));
    for (int s = 0; s < WORLD; ++s) {
      const long chunk = beat - s;
      if (chunk < 0 || chunk >= chunks) continue;
      const char* came = s > 0 ? inbox(a.rank, s - 1, chunk) : nullptr;
      stage(s, chunk * most, smaller(most, a.count - chunk * most), came, Slab{inbox(right, s, chunk)});
    }
    // The first beat tells everyone: a flag that is never written would, after 2^31 launches, seem to be ahead.
    if (beat < beats - 1) signal(a, beat == 0 ? everyone_but(a.rank) : neighbours, stamp(epoch, beat + 1));
  }
  leave_launch(a, epoch);
}
