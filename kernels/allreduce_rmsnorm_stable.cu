// As allreduce_rmsnorm, with the same bits at 1, 2, 4 and 8 ranks, on each grid and machine: the
// parts are subtrees of leaves.h in fp32, as gemv_stable leaves them, and stable_norm.h has the
// order of the norm. The bits are those of gemv_allreduce_stable and add_rmsnorm_stable. A rank
// pushes its parts into its peers' slabs, (n-1) 4/ELEMENT_BYTES S bytes, whole tokens at a time.
#include "include/stable_norm.h"  // first: it sets the width of vectors

#include "include/exchange.h"

RANK_KERNEL(allreduce_rmsnorm_stable) {
  const Norm& n = more_of<Norm>(a);
  const long row_bytes = n.hidden * 4, stride = stride_of(row_bytes);
  const Launch launch(n.ranks);
  const auto give = [&](long, long start, long tokens, char* slot) {
    for_tokens_of_block(start, start + tokens, [&](long t) {
      copy(Slab{slot + (t - start) * stride}, n.ranks.send + t * row_bytes,
           row_bytes / ELEMENT_BYTES, this_block());
    });
  };
  const auto take = [&](long start, long tokens, auto inbox) {
    for_tokens_of_block(start, start + tokens, [&](long t) {
      const auto from_peer = [&](int r) { return inbox(r) + (t - start) * stride; };
      const auto parts = inputs_of_all(n.ranks, n.ranks.send + t * row_bytes, from_peer);
      Subtrees subtrees;
      for (int s = 0; s < Subtrees::SOURCES; ++s)
        subtrees.at[s] = s < WT_WORLD ? parts.at[s] : n.row_scales;
      stable_norm_row(n, t, subtrees);
    });
  };
  exchange_from<PUSH, ALL>(launch, 0, n.tokens, n.ranks.chunk_bytes / stride, give, take);
  launch.leave();
}

// The compute alone: `send` is the sum, rounded to WT_ELEMENT.
RANK_KERNEL(add_rmsnorm_stable) {
  const Norm& n = more_of<Norm>(a);
  for_tokens_of_block(0, n.tokens, [&](long t) {
    stable_norm_row(n, t, RoundedSums{n.ranks.send + t * n.hidden * ELEMENT_BYTES});
  });
}
