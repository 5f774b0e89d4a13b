// All-reduces summed by an NVSwitch: see multimem.h. All entries of `slab` are this rank's
// slab, and `more` is its multicast address.
// Not measured yet: two-shot should win from four ranks on, as a link's bytes hardly grow with
// them.
#include "include/exchange.h"
#include "include/multimem.h"
#include "include/two_shot.h"

// Each rank reads the sum of all inputs. The switch reads each slab for each rank: n S bytes.
RANK_KERNEL(one_shot_multimem) {
  const Launch launch(a);
  exchange_from<PULL, ALL>(
      launch, 0, a.count, a.chunk_bytes / ELEMENT_BYTES,
      [&](long, long start, long n, char* slot) {
        copy(Slab{slot}, a.send + start * ELEMENT_BYTES, n);
        fence_aliases();
      },
      [&](long start, long n, auto inbox) {
        reduce(Output{a.receive + start * ELEMENT_BYTES}, AllInputs{multicast(a, inbox(a.rank))},
               n);
      });
  launch.leave();
}

// Each rank reads the sum of its segment and stores the sum into all slabs. The switch reads each
// slab once: a link carries S + S/n bytes each way.
RANK_KERNEL(two_shot_multimem) {
  const auto add = [&](Segment s, auto input, auto sums) {
    const long packs = (s.count + PACK_ELEMENTS - 1) / PACK_ELEMENTS;
    reduce(AllSlabs{multicast(a, sums(a.rank))}, AllInputs{multicast(a, input(a.rank))},
           packs * PACK_ELEMENTS);
  };
  in_rounds<MULTICASTS, EVERY>(a, add);
}
