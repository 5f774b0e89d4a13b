// Direct exchange: each rank hands elements to every other in one step.
// Two slots serve a message's chunks in turn: a peer that has signalled chunk k has read chunk k-1.
#pragma once
#include "pack.h"

// Readers find elements in their own slab, in the writer's, or in its registered send buffer.
enum Path { PUSH, PULL, REGISTERED };
// A rank's elements: different for each reader, the same for all, or encoded once for all.
enum Readers { ONE, ALL, ALL_AT_ONCE };

// Calls each(token) for this block's tokens of [start, end): the same places in every step and on
// every rank, because a block waits only for the same block of each peer.
template <class Each>
DEVICE void for_tokens_of_block(long start, long end, Each each) {
  for (long t = start + block(); t < end; t += blocks()) each(t);
}
// The bytes of a row in a slot, where each row begins its own cache line.
DEVICE long stride_of(long row_bytes) { return (row_bytes + 63) / 64 * 64; }

struct Nothing {
  template <class... T>
  DEVICE void operator()(T...) const {}
};

// Performs these steps, numbered from `step` on, and returns the number of the step after:
//   1. give(reader, start, n, slot), for each reader: store its part of the next n of `count`
//      units; or, ALL_AT_ONCE, give(start, n, outbox): outbox(reader) is the slot, also the own
//   2. signal every peer; call meanwhile(start, n); wait for every peer
//   3. take(start, n, inbox): inbox(writer) holds the units that `writer` gave to this rank
// A count of 0 also takes a step, since a launch waits for every peer. All have the same `most`.
template <Path PATH, Readers READERS, class Give, class Take, class Meanwhile = Nothing>
DEVICE long exchange_from(const Launch& launch, long step, long count, long most, Give give,
                          Take take, Meanwhile meanwhile = {}) {
  const Arguments& a = launch.a;
  constexpr bool SHARED = PATH != PUSH && READERS == ALL;  // all readers share one slot
  constexpr int END = SHARED && WT_WORLD > 1 ? 2 : WT_WORLD;
  const long steps = (count + most - 1) / most;
  long start = 0;
  do {
    const long n = smaller(most, count - start);
    const auto slot = [&](long reader, long writer) {
      return launch.place(writer, reader, PATH == PUSH, SHARED, step, steps, a.chunk_bytes);
    };
    if constexpr (READERS == ALL_AT_ONCE) {
      give(start, n, [&](long reader) { return slot(reader, a.rank); });
    } else {
      const auto give_to = [&](long reader) { give(reader, start, n, slot(reader, a.rank)); };
      for_each_peer(a, give_to, 1, END);
    }
    launch.signal(step + 1);
    meanwhile(start, n);
    launch.wait(step + 1);
    take(start, n, [&](long writer) { return slot(a.rank, writer); });
    start += most;
    ++step;
  } while (start < count);
  return step;
}

// Reads or writes in the users' registered buffers. The first wait protects a buffer that its user
// still fills or reads; the second keeps it until every peer has finished with it.
template <class Take, class Meanwhile = Nothing>
DEVICE void in_users_buffers(const Arguments& a, Take take, Meanwhile meanwhile = {}) {
  const Launch launch(a);
  launch.signal(1);
  meanwhile();
  launch.wait(1);
  take();
  launch.meet(2);
  launch.leave();
}

// `at` bytes into a rank's segment of `count` elements, in a buffer with one for each or for all.
template <Readers READERS, class Byte>
DEVICE Byte* segment_for(const Arguments& a, Byte* buffer, long rank, long at) {
  return (READERS == ONE ? buffer + rank * a.count * ELEMENT_BYTES : buffer) + at;
}

// A launch that only hands over segments, and copies this rank's own to `own` unless that is null.
// Then calls take(at, n, from) for n elements `at` bytes into a segment: from(writer) has them.
template <Path PATH, Readers READERS, class Take>
DEVICE void exchange(const Arguments& a, char* own, Take take) {
  const auto copy_own = [&](long at, long n) INLINED {
    if (own) copy(Output{own + at}, segment_for<READERS>(a, a.send, a.rank, at), n);
  };
  if constexpr (PATH == REGISTERED) {
    const auto take_part = [&](long at, long n) {
      take(at, n, [&](long writer) {
        return segment_for<READERS>(a, a.sends.selected(writer), a.rank, at);
      });
    };
    in_users_buffers(
        a, [&] { in_parts(a.count, take_part); }, [&] { in_parts(a.count, copy_own); });
  } else {
    // On a CPU what all ranks read goes into a slab and its own place in one pass: 0.9 of the time.
    // A GPU's packs would need both addresses aligned.
    constexpr bool BOTH = ON_CPU && READERS == ALL && WT_WORLD > 1;
    const Launch launch(a);
    exchange_from<PATH, READERS>(
        launch, 0, a.count, a.chunk_bytes / ELEMENT_BYTES,
        [&](long reader, long start, long n, char* slot) {
          const long at = start * ELEMENT_BYTES;
          const char* from = segment_for<READERS>(a, a.send, reader, at);
          if (BOTH && own && reader == (a.rank + 1) % WT_WORLD)
            copy(OutputAndSlab{{own + at}, {slot}}, from, n);
          else
            copy(Slab{slot}, from, n);
        },
        [&](long start, long n, auto inbox) { take(start * ELEMENT_BYTES, n, inbox); },
        [&](long start, long n) INLINED {
          if (!BOTH) copy_own(start * ELEMENT_BYTES, n);
        });
    launch.leave();
  }
}

// Reduces the segments that all ranks have for this rank, in rank order and rounded once.
template <Path PATH, Readers READERS>
DEVICE void exchange_and_reduce(const Arguments& a) {
  exchange<PATH, READERS>(a, nullptr, [&](long at, long n, auto from) {
    const char* own = segment_for<READERS>(a, a.send, a.rank, at);
    reduce(Output{a.receive + at}, inputs_of_all(a, own, from), n);
  });
}

// Stores the segments that all ranks have for this rank one after another, in rank order.
template <Path PATH, Readers READERS>
DEVICE void exchange_and_gather(const Arguments& a) {
  char* own = segment_for<ONE>(a, a.receive, a.rank, 0);
  const bool in_place = segment_for<READERS>(a, a.send, a.rank, 0) == own;
  exchange<PATH, READERS>(a, in_place ? nullptr : own, [&](long at, long n, auto from) {
    for_each_peer(a, [&](long writer) {
      copy(Output{segment_for<ONE>(a, a.receive, writer, at)}, from(writer), n);
    });
  });
}

// The entries NAME_push, NAME_pull and NAME_pull_registered of a collective.
#define EXCHANGE_KERNELS(NAME, exchange_and_do, READERS)          \
  RANK_KERNEL(NAME##_push) { exchange_and_do<PUSH, READERS>(a); } \
  RANK_KERNEL(NAME##_pull) { exchange_and_do<PULL, READERS>(a); } \
  RANK_KERNEL(NAME##_pull_registered) { exchange_and_do<REGISTERED, READERS>(a); }
