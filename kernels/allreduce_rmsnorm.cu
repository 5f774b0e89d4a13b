// All-reduce, residual and RMSNorm in one launch: what stands after each row-parallel layer of a transformer.
//
// For each token, a row of `hidden` elements:
//   sum = all ranks' inputs, in rank order, rounded to the wire's type as an all-reduce rounds it
//   residual_out = sum + residual, rounded
//   normed = residual_out / sqrt(mean(residual_out^2) + epsilon) * weight, in fp32, rounded
//   with OUTPUT, codes of a byte and a scale for the row: normed, rounded once more
// Bit by bit what the one- or two-shot all-reduce and then `add_rmsnorm` give, which is the compute alone; what is
// saved is a launch, and a sum that is stored and read again. One step; each rank sends (n-1) S bytes, whole tokens at a
// time:
//   1. hand over: store the rows into every peer's slab (push), or once into one's own (pull), or leave them where they
//      are (registered)
//   2. signal every peer, wait for every peer
//   3. a block takes a token: sums its row, adds, and keeps it; then reads what it has kept, and scales it
#include "include/exchange.h"
#include "include/norm.h"

// Calls each(token) for those of [start, start + n) that this block has. A place in a slot is the same block's in every
// step and on every rank, since blocks wait for each other's likes alone.
template <class Each> DEVICE void tokens_of_block(long start, long n, Each each) {
  for (long t = start + block(); t < start + n; t += blocks()) each(t);
}
DEVICE long stride(const Norm& n) { return (n.hidden * ELEMENT_BYTES + 63) / 64 * 64; }

// A token's row in all ranks, in their order, of which the peers' are peer(rank).
template <class Peer> DEVICE Sources<WORLD> rows_of_all(const Arguments& a, const char* own, Peer peer) {
  Sources<WORLD> rows;
  const int rank = afresh((int)a.rank);
  for (int r = 0; r < WORLD; ++r) {
    const char* theirs = peer(r);  // asked for of every rank: branches would part the loads that this takes
    rows.at[r] = r == rank ? own : theirs;
  }
  return rows;
}

template <Direction DIRECTION> DEVICE void through_slabs(const Arguments& launched) {
  Slowed<> slowed;
  const Norm& n = *(const Norm*)launched.more;
  const Arguments& a = n.ranks;
  const long row_bytes = n.hidden * ELEMENT_BYTES;
  const unsigned epoch = enter_launch(a);
  const auto give = [&](long, long start, long tokens, char* slot) {
    tokens_of_block(start, tokens, [&](long t) {
      copy(Slab{slot + (t - start) * stride(n)}, a.send + t * row_bytes, n.hidden, this_block());
    });
  };
  const auto take = [&](long start, long tokens, auto inbox) {
    tokens_of_block(start, tokens, [&](long t) {
      const long at = (t - start) * stride(n);
      norm_row<WORLD>(n, t, rows_of_all(a, a.send + t * row_bytes, [&](int r) { return inbox(r) + at; }));
    });
  };
  exchange_from<DIRECTION, ALL>(a, epoch, 0, n.tokens, n.step_tokens, give, [](long, long) {}, take);
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void allreduce_rmsnorm_push(LAUNCHED_WITH(Arguments) a) {
  through_slabs<PUSH>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void allreduce_rmsnorm_pull(LAUNCHED_WITH(Arguments) a) {
  through_slabs<PULL>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void allreduce_rmsnorm_pull_registered(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Norm& n = *(const Norm*)of_this_rank(launched).more;
  const Arguments& a = n.ranks;
  in_users_buffers(a, [] {}, [&] {
    const Sources<WORLD> all = rows_of_all(a, a.send, [&](int r) { return a.sends[r]; });
    tokens_of_block(0, n.tokens, [&](long t) {
      Sources<WORLD> rows;
      for (int r = 0; r < WORLD; ++r) rows.at[r] = all.at[r] + t * n.hidden * ELEMENT_BYTES;
      norm_row<WORLD>(n, t, rows);
    });
  });
}

// The compute alone: `send` is the sum.
extern "C" __global__ UP_TO_512_THREADS void add_rmsnorm(LAUNCHED_WITH(Arguments) launched) {
  const Norm& n = *(const Norm*)of_this_rank(launched).more;
  tokens_of_block(0, n.tokens, [&](long t) {
    norm_row<1>(n, t, Sources<1>{{n.ranks.send + t * n.hidden * ELEMENT_BYTES}});
  });
}
