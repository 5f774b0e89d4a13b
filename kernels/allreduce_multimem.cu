// All-reduces summed by an NVSwitch: see multimem.h. All entries of `slab` are this rank's
// slab, and `more` is its multicast address.
#include "include/exchange.h"
#include "include/multimem.h"
#include "include/two_shot.h"

// Each rank reads the sum of all inputs: S bytes over its link, for any number of ranks.
RANK_KERNEL(one_shot_multimem) {
  const unsigned epoch = enter_launch(a);
  exchange_from<PULL, ALL>(
      a, epoch, 0, a.count, a.chunk_bytes / ELEMENT_BYTES,
      [&](long, long start, long n, char* slot) {
        copy(Slab{slot}, a.send + start * ELEMENT_BYTES, n);
        fence_aliases();
      },
      [](long, long) {},
      [&](long start, long n, auto inbox) {
        reduce_multimem(Output{a.receive + start * ELEMENT_BYTES}, multicast(a, inbox(a.rank)), n);
      });
  leave_launch(a, epoch);
}

// Each rank reads the sum of its segment and stores the sum into all slabs: 2 S/n bytes.
RANK_KERNEL(two_shot_multimem) {
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  const auto copy_in = [&](Segment s, char* to) {
    copy(Slab{to}, a.send + s.start * ELEMENT_BYTES, s.count);
  };
  const auto add = [&](Segment s, auto input, auto sums) {
    const long packs = (s.count + PACK_ELEMENTS - 1) / PACK_ELEMENTS;
    reduce_multimem(AllSlabs{multicast(a, sums(a.rank))}, multicast(a, input(a.rank)),
                    packs * PACK_ELEMENTS);
  };
  const auto copy_out = [&](Segment s, const char* sums) {
    copy(Output{a.receive + s.start * ELEMENT_BYTES}, sums, s.count);
  };
  in_beats<MULTICASTS, EVERY, PACK_ELEMENTS>(a, most, segment_of(most, 0).count * ELEMENT_BYTES,
                                             copy_in, add, copy_out);
}
