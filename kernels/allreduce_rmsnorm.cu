// All-reduce, residual and RMSNorm in one launch: what stands after each row-parallel layer of a transformer.
//
// For each token, a row of `hidden` elements:
//   sum = all ranks' inputs, in rank order, rounded to the wire's type as an all-reduce rounds it
//   residual_out = sum + residual, rounded
//   normed = residual_out / sqrt(mean(residual_out^2) + epsilon) * weight, in fp32, rounded
// Bit by bit what the one-shot all-reduce and then `add_rmsnorm` give, which is the compute alone; what is saved is a
// launch, and a sum that is stored and read again. One step; each rank sends (n-1) S bytes, whole tokens at a time:
//   1. hand over: store the rows into every peer's slab (push), or once into one's own (pull), or leave them where they
//      are (registered)
//   2. signal every peer, wait for every peer
//   3. a block takes a token: sums its row, adds, and keeps it; then reads what it has kept, and scales it
#include "exchange.h"

struct Norm {
  Arguments ranks;       // of which `count` is all tokens' elements
  const char* residual;  // [tokens][hidden]
  char* residual_out;    // [tokens][hidden]; may be `residual`
  const char* weight;    // [hidden]
  long hidden, tokens, step_tokens;  // step_tokens: handed over at a time
  double epsilon;
};
constexpr int PACKS_AT_ONCE = WORLD <= 4 ? 4 : 2;  // a GPU has 128 registers a thread

// What a row adds up to: fp32 lanes, of which each pack of a batch has its own.
struct Squares { floats of[PACKS_AT_ONCE]; };

// Adds and keeps N packs of a row, load(from, k) being pack k of what lies at `from`.
template <int N, int SOURCES, class Load, class Keep>
DEVICE void add(const Sources<SOURCES>& inputs, const char* residual, Squares& squares, Load load, Keep keep) {
  pack sum[N], old[N];
  for (int k = 0; k < N; ++k) {
    sum[k] = combined<COMPLETE, SOURCES>([&](int s) { return load(inputs.at[s], k); });
    old[k] = load(residual, k);
  }
  loads_first<N * (SOURCES + 1)>();
  for (int k = 0; k < N; ++k) {
    typename Element::values x = Element::widen(sum[k]);
    const typename Element::values y = Element::widen(old[k]);
    for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) x.v[j] += y.v[j];
    const pack kept = Element::narrow(x);
    keep(k, kept);
    x = Element::widen(kept);
    for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) squares.of[k] += x.v[j] * x.v[j];
  }
}

// Scales N packs of the row that was kept.
template <int N, class Load, class Put>
DEVICE void scale(const char* row, const char* weight, float factor, Load load, Put put) {
  pack kept[N], by[N];
  for (int k = 0; k < N; ++k) kept[k] = load(row, k), by[k] = load(weight, k);
  loads_first<2 * N>();
  for (int k = 0; k < N; ++k) {
    typename Element::values x = Element::widen(kept[k]);
    const typename Element::values w = Element::widen(by[k]);
    for (unsigned j = 0; j < sizeof x.v / sizeof *x.v; ++j) x.v[j] = x.v[j] * factor * w.v[j];
    put(k, Element::narrow(x));
  }
}

// Calls whole(i) and four(i), for a pack and for PACKS_AT_ONCE packs of a row from the i-th on, and element(e) for what
// no pack holds, or for all of a row that does not begin where a pack may.
template <class Four, class Whole, class Single>
DEVICE void along_a_row(long hidden, bool aligned, Four four, Whole whole, Single single) {
  const unsigned packs = aligned ? (unsigned)(hidden / PACK_ELEMENTS) : 0, step = (unsigned)threads_in_block();
  unsigned i = (unsigned)thread_in_block();
  for (; i + (PACKS_AT_ONCE - 1) * step < packs; i += PACKS_AT_ONCE * step) four(i, step);
  for (; i < packs; i += step) whole(i);
  for (long e = packs * PACK_ELEMENTS + thread_in_block(); e < hidden; e += threads_in_block()) single((unsigned)e);
}

// Everything after the inputs have come: one token's row, by one block.
template <int SOURCES> DEVICE void norm_row(const Norm& n, long token, Sources<SOURCES> inputs) {
  const long hidden = n.hidden, at = token * hidden * ELEMENT_BYTES;
  const char *residual = n.residual + at, *weight = n.weight;  // not read anew from memory in a loop that stores
  const Output kept{n.residual_out + at}, normed{n.ranks.receive + at};
  const bool aligned = inputs.aligned() && is_aligned(residual) && is_aligned(kept.at) && is_aligned(normed.at) &&
                       is_aligned(weight);
  Squares squares = {};
  along_a_row(hidden, aligned,
    [&](unsigned i, unsigned step) {
      add<PACKS_AT_ONCE>(inputs, residual, squares,
                         [&](const char* from, int k) { return load_aligned_pack(from, i + k * step); },
                         [&](int k, pack p) { store_aligned_pack(kept.at, i + k * step, p); });
    },
    [&](unsigned i) {
      add<1>(inputs, residual, squares, [&](const char* from, int) { return load_aligned_pack(from, i); },
             [&](int, pack p) { store_aligned_pack(kept.at, i, p); });
    },
    [&](unsigned e) {
      add<1>(inputs, residual, squares, [&](const char* from, int) { return load_element(from, e); },
             [&](int, pack p) { kept.put_element(e, p); });
    });
  floats all = squares.of[0];
  for (int k = 1; k < PACKS_AT_ONCE; ++k) all += squares.of[k];
  const float factor = 1.0f / square_root(sum_over_block(all) / (float)hidden + (float)n.epsilon);

  along_a_row(hidden, aligned,
    [&](unsigned i, unsigned step) {
      scale<PACKS_AT_ONCE>(kept.at, weight, factor,
                           [&](const char* from, int k) { return load_aligned_pack(from, i + k * step); },
                           [&](int k, pack p) { store_aligned_pack(normed.at, i + k * step, p); });
    },
    [&](unsigned i) {
      scale<1>(kept.at, weight, factor, [&](const char* from, int) { return load_aligned_pack(from, i); },
               [&](int, pack p) { store_aligned_pack(normed.at, i, p); });
    },
    [&](unsigned e) {
      scale<1>(kept.at, weight, factor, [&](const char* from, int) { return load_element(from, e); },
               [&](int, pack p) { normed.put_element(e, p); });
    });
}

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
