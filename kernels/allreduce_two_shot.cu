// Two-shot all-reduce: see two_shot.h. The own segment is summed from the send buffer into the
// output. If REGISTERED, an owner reads all inputs in their users' buffers, and A copies nothing.
#include "include/exchange.h"
#include "include/two_shot.h"

template <bool REGISTERED>
DEVICE void two_shot(const Arguments& a) {
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  const auto copy_in = [&](Segment s, char* to) {
    if (!REGISTERED) copy(Slab{to}, a.send + s.start * ELEMENT_BYTES, s.count);
  };
  const auto add = [&](Segment s, auto input, auto sums) {
    const long at = s.start * ELEMENT_BYTES;
    const Output output{a.receive + at};
    if (WT_WORLD == 1) return copy(output, a.send + at, s.count);
    Sources<WT_WORLD> inputs;  // by hand: with inputs_of_all gfx942 spills, registered and 8 ranks
    const int rank = afresh((int)a.rank);
    for (int r = 0; r < WT_WORLD; ++r)
      if (REGISTERED)
        inputs.at[r] = (r == rank ? a.send : a.sends[r]) + at;
      else
        inputs.at[r] = r == rank ? a.send + at : input(r);
    reduce<COMPLETE, WT_WORLD>(OutputAndSlab{output, {sums(rank)}}, inputs, s.count);
  };
  const auto copy_out = [&](Segment s, const char* sums) {
    copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums, s.count);
  };
  in_beats<PULLS, OTHERS, PACK_ELEMENTS>(a, most, segment_of(most, 0).count * ELEMENT_BYTES,
                                         copy_in, add, copy_out);
}

// If REGISTERED, an owner stores its sums into the users' receive buffers, and C copies nothing.
// Peers have begun by then: the owner has their part of the chunk.
template <bool REGISTERED>
DEVICE void two_shot_push(const Arguments& a) {
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  const auto copy_in = [&](Segment s, char* to) {
    copy(Slab{to}, a.send + s.start * ELEMENT_BYTES, s.count);
  };
  const auto add = [&](Segment s, auto input, auto sums) {
    const long at = s.start * ELEMENT_BYTES;
    const Output output{a.receive + at};
    const auto place = [&](long d) {
      const int reader = afresh((int)((a.rank + d) % WT_WORLD));
      return Slab{REGISTERED ? a.receives[reader] + at : sums(reader)};
    };
    if (WT_WORLD == 1) return copy(output, a.send + at, s.count);
    Sources<WT_WORLD> inputs;  // by hand, as in two_shot
    const int rank = afresh((int)a.rank);
    for (int r = 0; r < WT_WORLD; ++r) inputs.at[r] = r == rank ? a.send + at : input(r);
    reduce<COMPLETE, WT_WORLD>(OutputAndSlab{output, place(1)}, inputs, s.count);
    // Each thread copies its own stores. gfx942 has no registers for seven more destinations above.
    for (int d = 2; d < afresh(WT_WORLD); ++d) copy(place(d), output.at, s.count);
  };
  const auto copy_out = [&](Segment s, const char* sums) {
    if (!REGISTERED) copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums, s.count);
  };
  in_beats<PUSHES, OTHERS, PACK_ELEMENTS>(a, most, segment_of(most, 0).count * ELEMENT_BYTES,
                                          copy_in, add, copy_out);
}

RANK_KERNEL(two_shot_push) { two_shot_push<false>(a); }
RANK_KERNEL(two_shot_push_registered) { two_shot_push<true>(a); }
RANK_KERNEL(two_shot) { two_shot<false>(a); }
RANK_KERNEL(two_shot_registered) { two_shot<true>(a); }

// An owner reads its segment in all ranks' send buffers and stores the sums into all receive
// buffers: nothing passes through a slab. In place too, since no other rank touches the segment.
// A peer's user has read its receive buffer: a CPU claims the lines that the next part stores there
// (at 2 to 8 MiB 0.8 to 0.9 times as long), since stores fetch lines almost one by one. Stores
// around the caches need no lines. Claims would make them 1.2 to 1.4 times as long between cores
// without a common cache, where `auto` uses them.
RANK_KERNEL(two_shot_direct_registered) {
  in_users_buffers(
      a, [] {},
      [&] {
        const Segment own = segment_of(a.count, a.rank);
        const auto sum = [&](long part, long n) {
          const long at = own.start * ELEMENT_BYTES + part;
          const Output output{a.receive + at};
          const auto place = [&](long d) {
            return Slab{of_thread(a.receives, (int)((a.rank + d) % WT_WORLD)) + at};
          };
          if (WT_WORLD == 1) return copy(output, a.send + at, n);
          const long stored = part + n * ELEMENT_BYTES;
          if (!WT_STREAM_SLAB)
            claim(place(1).at + n * ELEMENT_BYTES, own.count * ELEMENT_BYTES - stored);
          const auto inputs = inputs_of_all(a, a.send + at, [&](int r) { return a.sends[r] + at; });
          reduce<COMPLETE, WT_WORLD>(OutputAndSlab{output, place(1)}, inputs, n);
          for (int d = 2; d < afresh(WT_WORLD); ++d) copy(place(d), output.at, n);
        };
        in_parts<CLAIMED_ELEMENTS>(own.count, sum);
      });
}
