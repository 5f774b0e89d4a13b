// Two-shot all-reduce: see two_shot.h. The own segment is summed from the send buffer into the
// output. If REGISTERED, an owner reads all inputs in their users' buffers, and A copies nothing.
#include "include/two_shot.h"

template <bool REGISTERED> DEVICE void two_shot(const Arguments& a) {
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  const auto copy_in = [&](Segment s, char* to) {
    if (!REGISTERED) copy(Slab{to}, a.send + s.start * ELEMENT_BYTES, s.count);
  };
  const auto add = [&](Segment s, auto input, char* sums) {
    const long at = s.start * ELEMENT_BYTES;
    const Output output{a.receive + at};
    if (WORLD == 1) return copy(output, a.send + at, s.count);
    Sources<WORLD> inputs;  // by hand: with inputs_of_all gfx942 spills, registered and 8 ranks
    const int rank = afresh((int)a.rank);
    for (int r = 0; r < WORLD; ++r)
      if (REGISTERED) inputs.at[r] = (r == rank ? a.send : a.sends[r]) + at;
      else inputs.at[r] = r == rank ? a.send + at : input(r);
    reduce<COMPLETE, WORLD>(OutputAndSlab{output, {sums}}, inputs, s.count);
  };
  const auto copy_out = [&](Segment s, const char* sums) {
    copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums, s.count);
  };
  in_beats<OTHERS, PACK_ELEMENTS>(a, most, segment_of(most, 0).count * ELEMENT_BYTES, copy_in, add,
                                  copy_out);
}

RANK_KERNEL(two_shot) { two_shot<false>(a); }
RANK_KERNEL(two_shot_registered) { two_shot<true>(a); }
