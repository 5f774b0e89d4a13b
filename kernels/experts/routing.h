// What a mixture of experts does with tokens, each a row of `count` elements. Every rank has some of the tokens and
// some of the experts, and a router has chosen `top_k` experts for each token. A token goes once to each rank that has
// one of them, and stands there in a row for each: grouped by expert, then by the rank it came from, then in its order.
#pragma once
#include "../include/exchange.h"

struct Choice { int expert, place; float weight; };

struct Routing {
  Arguments ranks;           // read from memory: what a launch brings along would, with all this, not fit in registers
  long tokens, most_tokens;  // of this rank, and of that with most
  long experts, top_k, most_rows;
  long step_tokens;          // of a rank, handled at a time
  const int* owner;          // [experts]: whose each is
  const int* tokens_of;      // [WORLD]
  Choice* choices;           // [tokens][top_k]; `place`: how many of this rank's earlier choices fell on the expert
  int* counting;             // [MOST_BLOCKS][experts]: a block's own count of those
  int* first;                // [WORLD][experts]: at which row the tokens of a rank for an expert begin here
  Choice* came;              // [WORLD][most_tokens][top_k]: of every rank's tokens; `place`: the row here, or -1
  char* rows;                // what the experts get, and what they give
  // For a library, which sends records, each a row and its choices, one rank's after another's.
  char *out, *in;            // records of this rank's tokens, and those that come
  const int *record, *arrived;  // [WORLD][most_tokens]: which of `out` is for a rank, which of `in` came from it; or -1
  int* counts;               // [WORLD][experts]: how many choices of a rank fell on an expert
};

DEVICE const Routing& routing_of(const Arguments& a) { return *(const Routing*)a.more; }
DEVICE long row_bytes(const Arguments& a) { return a.count * ELEMENT_BYTES; }
DEVICE long row_stride(const Arguments& a) { return (row_bytes(a) + 63) / 64 * 64; }
DEVICE const char* own_row(const Arguments& a, long token) { return a.send + token * row_bytes(a); }
DEVICE Choice* choices_of(const Routing& r, Choice* all, long token) { return all + token * r.top_k; }

// Whether a rank has an expert that one of these choices fell on.
DEVICE bool is_for(const Routing& r, const Choice* choices, long rank) {
  bool found = false;
  for (int c = 0; c < r.top_k; ++c) found |= r.owner[choices[c].expert] == rank;
  return found;
}

// Calls each(token) for those of [start, start + n) that this block handles, below `tokens`. A place in a slot is the
// same block's in every step and on every rank: blocks do not wait for each other, and one may be steps ahead.
template <class Each> DEVICE void tokens_of_block(long start, long n, long tokens, Each each) {
  const long end = smaller(start + n, tokens);
  for (long t = start + block(); t < end; t += blocks()) each(t);
}

// Numbers this rank's choices within their experts; returns how many each expert has. Each block counts for itself, all
// get the same, and a thread counts for the experts that are its own: it walks through all choices, and changes few.
DEVICE const int* number_choices(const Routing& r) {
  int* counting = r.counting + block() * r.experts;
  const unsigned self = thread_in_block(), team = threads_in_block();
  for (long e = self; e < r.experts; e += team) counting[e] = 0;
  for (long i = 0; i < r.tokens * r.top_k; ++i) {
    const unsigned e = r.choices[i].expert;
    if (e % team == self) r.choices[i].place = counting[e]++;
  }
  block_barrier();
  return counting;
}

// Finds where the rows of each rank begin, from how many choices of a rank, counts_of(rank), fell on each expert.
template <class Counts> DEVICE void place_ranks(const Arguments& a, const Routing& r, Counts counts_of) {
  const unsigned self = thread_in_block(), team = threads_in_block();
  int row = 0;
  for (unsigned e = 0; e < r.experts; ++e) {
    if (r.owner[e] != a.rank) continue;
    for (long s = 0; s < WORLD; ++s) {
      if (e % team == self) r.first[s * r.experts + e] = row;
      row += counts_of(s)[e];
    }
  }
  block_barrier();
}

// Puts a token of rank `from` into its rows here, and keeps where these are. After a wait that gave up, choices are
// what the slot held before: no number among them may lead out of a buffer.
DEVICE void accept(const Arguments& a, const Routing& r, long from, long token, const Choice* choices,
                   const char* row) {
  Choice* came = choices_of(r, r.came, from * r.most_tokens + token);
  for (int c = 0; c < r.top_k; ++c) {
    Choice x = choices[c];
    if ((unsigned)x.expert >= r.experts) x.expert = 0;
    x.place = r.owner[x.expert] == a.rank ? r.first[from * r.experts + x.expert] + x.place : -1;
    if ((unsigned)x.place >= r.most_rows) x.place = -1;
    if (thread_in_block() == 0) came[c] = x;
    if (x.place >= 0) copy(Output{r.rows + x.place * row_bytes(a)}, row, a.count, this_block());
  }
}

// Calls term(row, weight) for the experts' rows here of a token of rank `from`.
template <class Term> DEVICE void terms_here(const Arguments& a, const Routing& r, long from, long token, Term term) {
  const Choice* came = choices_of(r, r.came, from * r.most_tokens + token);
  for (int c = 0; c < r.top_k; ++c)
    if (came[c].place >= 0) term(r.rows + came[c].place * row_bytes(a), came[c].weight);
}

// What a token of this rank becomes: each peer's part of it, part_of(peer), which is a sum already, and the rows here,
// in the order of ranks.
template <class Part, class Term>
DEVICE void terms_of(const Arguments& a, const Routing& r, long token, Part part_of, Term term) {
  const Choice* came = choices_of(r, r.came, a.rank * r.most_tokens + token);
  const int ranks = afresh(WORLD);  // not unrolled: a GPU has no registers for the terms of eight ranks
  for (int d = 0, c = 0; d < ranks;) {
    const char* row = nullptr;
    float weight = 1;
    if (d != a.rank) {
      if (is_for(r, came, d)) row = part_of(d);
      ++d;
    } else if (c == r.top_k) {
      ++d;
    } else {
      if (came[c].place >= 0) row = r.rows + came[c].place * row_bytes(a), weight = came[c].weight;
      ++c;
    }
    if (row) term(row, weight);
  }
}

// N packs of the sum of each_term(term): all loads of a term come before they are added.
template <int N, class EachTerm, class Load, class Put>
DEVICE void weigh_packs(EachTerm each_term, Load load, Put put) {
  typename Element::values sum[N];
  for (int k = 0; k < N; ++k) {
    sum[k] = Element::widen(pack{});
    for (unsigned j = 0; j < sizeof sum[k].v / sizeof *sum[k].v; ++j) sum[k].v[j] = -sum[k].v[j];
  }
  each_term([&](const char* row, float weight) {
    pack got[N];
    for (int k = 0; k < N; ++k) got[k] = load(row, k);
    loads_first<N>();
    for (int k = 0; k < N; ++k) {
      const typename Element::values next = Element::widen(got[k]);
      for (unsigned j = 0; j < sizeof next.v / sizeof *next.v; ++j) sum[k].v[j] += next.v[j] * weight;
    }
  });
  for (int k = 0; k < N; ++k) put(k, Element::narrow(sum[k]));
}

// The weighted sum of rows, each_term(term), in fp32 (fp64), rounded once. It starts from -0, to which every number may
// be added without a change.
template <class To, class EachTerm> DEVICE void weigh(const Arguments& a, const Routing& r, To to, EachTerm each_term) {
  constexpr int BATCH = 4;
  const Team team = this_block();
  const bool aligned = to.aligned() && is_aligned(r.rows) && is_aligned(r.rows + row_bytes(a));
  const unsigned packs = aligned ? (unsigned)(a.count / PACK_ELEMENTS) : 0;
  const unsigned step = (unsigned)afresh((int)team.threads);
  unsigned i = team.thread;
  for (; i + (BATCH - 1) * step < packs; i += BATCH * step)
    weigh_packs<BATCH>(each_term, [&](const char* row, int k) { return load_aligned_pack(row, i + k * step); },
                       [&](int k, pack p) { to.put(i + k * step, p); });
  for (; i < packs; i += step)
    weigh_packs<1>(each_term, [&](const char* row, int) { return load_aligned_pack(row, i); },
                   [&](int, pack p) { to.put(i, p); });
  for (; i * PACK_ELEMENTS < a.count; i += step)
    for (unsigned e = i * (unsigned)PACK_ELEMENTS; e < smaller(a.count, (i + 1) * PACK_ELEMENTS); ++e)
      weigh_packs<1>(each_term, [&](const char* row, int) { return load_element(row, e); },
                     [&](int, pack p) { to.put_element(e, p); });
}
