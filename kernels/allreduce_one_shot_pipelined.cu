// One-shot all-reduce in short chunks, on GPUs alone: every second block, a giver, stores chunk
// after chunk into all peers' slabs, while the block behind it, a taker, sums those that have
// arrived. Meant for messages of some 1 MiB on over a wire: one_shot_push stores a whole chunk
// before it waits for the peers' first, and two_shot_push has three such rounds. No two GPUs have
// run it.
//   giver: waits until the peers' takers have read chunk c-2, gives chunk c, and tells the takers
//   taker: waits for chunk c of all givers, sums it, and tells the givers
// A taker waits for its own giver too, which has then read chunk c: in place the sums overwrite it.
#include "include/pack.h"

template <bool GIVES>
DEVICE void pass_chunks(const Launch& launch) {
  constexpr unsigned EVERYONE = (1u << WT_WORLD) - 1;
  const Arguments& a = launch.a;
  const unsigned size = threads_in_block();
  const ThreadGroup half{block() / 2 * size + thread_in_block(), blocks() / 2 * size};
  int step = 0;
  long at = 0;
  do {
    const long n = smaller(a.chunk_bytes, a.count * ELEMENT_BYTES - at) / ELEMENT_BYTES;
    const auto slot = [&](long reader, long writer) {
      return launch.half_of(reader) + ((step & 1) * WT_WORLD + writer) * a.chunk_bytes;
    };
    if (GIVES) {
      if (step > 1) launch.wait(step - 1);
      const auto give = [&](long to) { copy(Slab{slot(to, a.rank)}, a.send + at, n, half); };
      for_each_peer(a, give);
    } else {
      launch.wait(step + 1, EVERYONE);
      const auto inbox = [&](int writer) { return slot(a.rank, writer); };
      reduce(Output{a.receive + at}, inputs_of_all(a, a.send + at, inbox), n, half);
    }
    launch.signal(step + 1, EVERYONE, block() ^ 1);
    at = ++step * a.chunk_bytes;
  } while (at < a.count * ELEMENT_BYTES);
}

RANK_KERNEL(one_shot_pipelined) {
  const Launch launch(a);
  block() % 2 ? pass_chunks<false>(launch) : pass_chunks<true>(launch);
  launch.leave();
}
