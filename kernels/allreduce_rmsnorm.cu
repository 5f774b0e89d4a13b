// All-reduce, residual addition and RMSNorm in one launch, as after a transformer's linear layer.
// For each token, a row of `hidden` elements:
//   sum = all ranks' inputs, added in rank order and rounded to WT_ELEMENT, as an all-reduce does
//   residual_out = sum + residual, rounded
//   normed = residual_out / sqrt(mean(residual_out^2) + epsilon) * weight, in fp32, rounded
// The bits are those of a one- or two-shot all-reduce and `add_rmsnorm`, the compute alone; this
// saves a launch. A block takes a token. Each rank gets the parts of all tokens, (n-1) S bytes,
// whole tokens at a time: it pulls them out of its peers' slabs or out of their registered send
// buffers, or they push them into its slab. No sum is stored.
#include "include/exchange.h"
#include "include/norm.h"

template <Path PATH>
DEVICE void exchange_and_norm(const Norm& n) {
  const long row_bytes = n.hidden * ELEMENT_BYTES, stride = stride_of(row_bytes);
  const Launch launch(n.ranks);
  const auto give = [&](long, long start, long tokens, char* slot) {
    for_tokens_of_block(start, start + tokens, [&](long t) {
      copy(Slab{slot + (t - start) * stride}, n.ranks.send + t * row_bytes, n.hidden, this_block());
    });
  };
  const auto take = [&](long start, long tokens, auto inbox) {
    for_tokens_of_block(start, start + tokens, [&](long t) {
      const auto from_peer = [&](int r) { return inbox(r) + (t - start) * stride; };
      norm_row<WT_WORLD>(n, t, inputs_of_all(n.ranks, n.ranks.send + t * row_bytes, from_peer));
    });
  };
  exchange_from<PATH, ALL>(launch, 0, n.tokens, n.ranks.chunk_bytes / stride, give, take);
  launch.leave();
}
RANK_KERNEL(allreduce_rmsnorm_push) { exchange_and_norm<PUSH>(more_of<Norm>(a)); }
RANK_KERNEL(allreduce_rmsnorm_pull) { exchange_and_norm<PULL>(more_of<Norm>(a)); }

RANK_KERNEL(allreduce_rmsnorm_pull_registered) {
  const Norm& n = more_of<Norm>(a);
  in_users_buffers(n.ranks, [&] {
    for_tokens_of_block(0, n.tokens, [&](long t) {
      const long at = t * n.hidden * ELEMENT_BYTES;
      const auto from_peer = [&](int r) { return n.ranks.sends[r] + at; };
      norm_row<WT_WORLD>(n, t, inputs_of_all(n.ranks, n.ranks.send + at, from_peer));
    });
  });
}

// The compute alone: `send` is the sum.
RANK_KERNEL(add_rmsnorm) {
  const Norm& n = more_of<Norm>(a);
  for_tokens_of_block(0, n.tokens, [&](long t) {
    norm_row<1>(n, t, Sources<1>{{n.ranks.send + t * n.hidden * ELEMENT_BYTES}});
  });
}
