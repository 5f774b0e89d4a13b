// All-reduce, residual addition and RMSNorm in one launch, as after a transformer's linear layer.
// For each token, a row of `hidden` elements:
//   sum = all ranks' inputs, added in rank order and rounded to WT_ELEMENT, as an all-reduce does
//   residual_out = sum + residual, rounded
//   normed = residual_out / sqrt(mean(residual_out^2) + epsilon) * weight, in fp32, rounded
// The bits are those of a one- or two-shot all-reduce and `add_rmsnorm`, the compute alone; this
// saves a launch. A block takes a token. Each rank pulls the parts of all tokens, (n-1) S bytes,
// out of its peers' slabs, whole tokens at a time, or out of their registered send buffers. No sum
// is stored.
#include "include/exchange.h"
#include "include/norm.h"

KERNEL allreduce_rmsnorm_pull(LAUNCHED_WITH(Arguments) launched) {
  const Norm& n = more_of<Norm>(launched);
  const Arguments& a = n.ranks;
  const long row_bytes = n.hidden * ELEMENT_BYTES, stride = stride_of(row_bytes);
  const Launch launch(a);
  const auto give = [&](long, long start, long tokens, char* slot) {
    for_tokens_of_block(start, start + tokens, [&](long t) {
      copy(Slab{slot + (t - start) * stride}, a.send + t * row_bytes, n.hidden, this_block());
    });
  };
  const auto take = [&](long start, long tokens, auto inbox) {
    for_tokens_of_block(start, start + tokens, [&](long t) {
      const auto from_peer = [&](int r) { return inbox(r) + (t - start) * stride; };
      norm_row<WT_WORLD>(n, t, inputs_of_all(a, a.send + t * row_bytes, from_peer));
    });
  };
  exchange_from<PULL, ALL>(launch, 0, n.tokens, n.step_tokens, give, take);
  launch.leave();
}

KERNEL allreduce_rmsnorm_pull_registered(LAUNCHED_WITH(Arguments) launched) {
  const Norm& n = more_of<Norm>(launched);
  const Arguments& a = n.ranks;
  in_users_buffers(a, [&] {
    const Sources<WT_WORLD> all = inputs_of_all(a, a.send, [&](int r) { return a.sends[r]; });
    for_tokens_of_block(0, n.tokens, [&](long t) {
      Sources<WT_WORLD> rows = all;
      for (const char*& row : rows.at) row += t * n.hidden * ELEMENT_BYTES;
      norm_row<WT_WORLD>(n, t, rows);
    });
  });
}

// The compute alone: `send` is the sum.
KERNEL add_rmsnorm(LAUNCHED_WITH(Arguments) launched) {
  const Norm& n = more_of<Norm>(launched);
  for_tokens_of_block(0, n.tokens, [&](long t) {
    norm_row<1>(n, t, Sources<1>{{n.ranks.send + t * n.hidden * ELEMENT_BYTES}});
  });
}
