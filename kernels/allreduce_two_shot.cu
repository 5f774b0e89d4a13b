// Two-shot all-reduce: see two_shot.h. Wins for longer messages than one-shot does (copied,
// collectives/tables/): between two cores of a CPU from 16 KiB to 1 MiB on, the longer their round
// trip the later; among four ranks on two cores from 64 KiB on (push, then pull); between two ranks
// on one H100 from 8 MiB on, in single calls, and through host memory from 4 MiB on (push). Nobody
// has measured two GPUs.
//   pull: an owner reads the inputs in their writers' slabs; registered, in the users' buffers
//   push: inputs go into the owners' slabs and sums into all slabs; registered, sums go into the
//     users' receive buffers: peers have begun by then, as the owner has their part of the chunk
#include "include/exchange.h"
#include "include/two_shot.h"

// Sums a segment, which is `at` bytes into the buffers, in the output and for all readers: for the
// first of them in the same pass. Each thread then copies its own stores: gfx942 has no registers
// for seven more destinations. `PLACES`: 1 if all readers read the same sum.
template <int PLACES = WT_WORLD - 1, class PlaceFor>
DEVICE void sum_and_spread(const Arguments& a, long at, long count, const Sources<WT_WORLD>& inputs,
                           PlaceFor place_for) {
  const Output output{a.receive + at};
  if (WT_WORLD == 1) return copy(output, a.send + at, count);
  reduce(OutputAndSlab{output, place_for((a.rank + 1) % WT_WORLD)}, inputs, count);
  if (PLACES > 1)
    for_each_peer(a, [&](long reader) { copy(place_for(reader), output.at, count); }, 2);
}

template <Transfer TRANSFER, bool REGISTERED>
DEVICE void two_shot(const Arguments& a) {
  constexpr bool READS_USERS = REGISTERED && TRANSFER == PULLS;
  constexpr bool STORES_USERS = REGISTERED && TRANSFER == PUSHES;
  const auto add = [&](Segment s, auto input, auto sums) INLINED {
    const long at = s.start * ELEMENT_BYTES;
    Sources<WT_WORLD> inputs;  // by hand: with inputs_of_all gfx942 spills, registered and 8 ranks
    const int rank = rematerialized((int)a.rank);
    for (int r = 0; r < WT_WORLD; ++r)
      if (READS_USERS)
        inputs.at[r] = (r == rank ? a.send : a.sends[r]) + at;
      else
        inputs.at[r] = r == rank ? a.send + at : input(r);
    sum_and_spread<TRANSFER == PULLS ? 1 : WT_WORLD - 1>(a, at, s.count, inputs, [&](long peer) {
      const int reader = rematerialized((int)(TRANSFER == PULLS ? a.rank : peer));
      return Slab{STORES_USERS ? a.receives[reader] + at : sums(reader)};
    });
  };
  in_rounds<TRANSFER, OTHERS, !READS_USERS, !STORES_USERS>(a, add);
}

RANK_KERNEL(two_shot_push) { two_shot<PUSHES, false>(a); }
RANK_KERNEL(two_shot_push_registered) { two_shot<PUSHES, true>(a); }
RANK_KERNEL(two_shot) { two_shot<PULLS, false>(a); }
RANK_KERNEL(two_shot_registered) { two_shot<PULLS, true>(a); }

// An owner reads its segment in all ranks' send buffers and stores the sums into all receive
// buffers: nothing passes through a slab. In place too, since no other rank touches the segment:
// there it wins on CPU cores at nearly every size. A peer's user has read its receive buffer: a CPU
// prefetches the lines that the next part stores there (at 2 to 8 MiB 0.8 to 0.9 times as long),
// since stores fetch lines almost one by one. Non-temporal stores need no lines: prefetches
// would make them 1.2 to 1.4 times as long between cores without a common cache, where `auto` uses
// them.
constexpr long PREFETCHED_BYTES = 2048;
RANK_KERNEL(two_shot_direct_registered) {
  const Segment own = segment_of(a.count, a.rank);
  const auto sum = [&](long part, long n) {
    const long at = own.start * ELEMENT_BYTES + part, bytes = n * ELEMENT_BYTES;
    const auto place_for = [&](long reader) { return Slab{a.receives.selected(reader) + at}; };
    if (!WT_STREAM_SLAB && WT_WORLD > 1)
      prefetch<true>(place_for((a.rank + 1) % WT_WORLD).at + bytes,
                     smaller(PREFETCHED_BYTES, own.count * ELEMENT_BYTES - part - bytes));
    const auto inputs = inputs_of_all(a, a.send + at, [&](int r) { return a.sends[r] + at; });
    sum_and_spread(a, at, n, inputs, place_for);
  };
  in_users_buffers(a, [&] {
    in_parts<ON_CPU ? PREFETCHED_BYTES / ELEMENT_BYTES : MOST_ELEMENTS>(own.count, sum);
  });
}
