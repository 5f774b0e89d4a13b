// Routed all-to-all of a mixture of experts: dispatch sends tokens to the ranks of their experts,
// once to each; combine sends the experts' results back and adds them, weighted. In a step a
// rank hands over `step_tokens` tokens of every rank, with their choices, or (combine) the weighted
// sums of the rows here. A token that is not for a reader leaves its place in the slot unused. The
// counts of choices travel with the first tokens: from them follows where a rank's rows begin.
#include "routing.h"

// A slot; `counts` only in a launch's first step, where every block stores the same counts.
struct Slot {
  char* rows;
  Choice* choices;
  int* counts;
};
DEVICE Slot slot_at(const Arguments& a, const Routing& r, char* at) {
  char* choices = at + r.step_tokens * row_stride(a);
  return {at, (Choice*)choices, (int*)(choices + r.step_tokens * r.top_k * sizeof(Choice))};
}

// Returns the step after its last.
template <Path PATH>
DEVICE long dispatch(const Launch& launch) {
  const Arguments& a = launch.a;
  const Routing& r = routing_of(a);
  const int* counting = number_choices(r);
  const auto give = [&](long reader, long start, long n, char* at) {
    const Slot slot = slot_at(a, r, at);
    if (start == 0)
      for (long e = thread_in_block(); e < r.experts; e += threads_in_block())
        slot.counts[e] = counting[e];
    for_tokens_of_block(start, smaller(start + n, r.tokens), [&](long t) {
      const Choice* choices = choices_of(r, r.choices, t);
      Choice* sent = choices_of(r, slot.choices, t - start);
      for (long c = thread_in_block(); c < r.top_k; c += threads_in_block()) sent[c] = choices[c];
      if (is_for(r, choices, reader))
        copy(Slab{slot.rows + (t - start) * row_stride(a)}, own_row(a, t), a.count, this_block());
    });
  };
  const auto take = [&](long start, long n, auto inbox) {
    const auto counts_of = [&](long s) {
      return s == a.rank ? counting : slot_at(a, r, inbox(s)).counts;
    };
    if (start == 0) place_rows(a, r, counts_of);
    const auto take_from = [&](long s) {
      for_tokens_of_block(start, smaller(start + n, r.tokens_of[s]), [&](long t) {
        if (s == a.rank) return store_token(a, r, s, t, choices_of(r, r.choices, t), own_row(a, t));
        const Slot slot = slot_at(a, r, inbox(s));
        store_token(a, r, s, t, choices_of(r, slot.choices, t - start),
                    slot.rows + (t - start) * row_stride(a));
      });
    };
    for_each_peer(a, take_from, 0);
  };
  return exchange_from<PATH, ONE>(launch, 0, r.most_tokens, r.step_tokens, give, take);
}

template <Path PATH>
DEVICE void combine(const Launch& launch, long step) {
  const Arguments& a = launch.a;
  const Routing& r = routing_of(a);
  const long stride = row_stride(a);
  const auto give = [&](long reader, long start, long n, char* slot) {
    for_tokens_of_block(start, smaller(start + n, r.tokens_of[reader]), [&](long t) {
      if (is_for(r, choices_of(r, r.came, reader * r.most_tokens + t), a.rank))
        weighted_sum(a, r, Slab{slot + (t - start) * stride},
                     [&](auto term) { local_terms(a, r, reader, t, term); });
    });
  };
  const auto take = [&](long start, long n, auto inbox) {
    for_tokens_of_block(start, smaller(start + n, r.tokens), [&](long t) {
      const auto part_of = [&](long peer) { return inbox(peer) + (t - start) * stride; };
      weighted_sum(a, r, Output{a.receive + t * row_bytes(a)},
                   [&](auto term) { all_terms(a, r, t, part_of, term); });
    });
  };
  exchange_from<PATH, ONE>(launch, step, r.most_tokens, r.step_tokens, give, take);
}

enum Way { DISPATCH, COMBINE, ROUND_TRIP };
template <Way WAY, Path PATH>
DEVICE void route(const Arguments& launched) {
  const Launch launch(routing_of(launched).ranks);
  long step = 0;
  if (WAY != COMBINE) step = dispatch<PATH>(launch);
  block_barrier();  // without it a thread would add rows that another thread has yet to store
  if (WAY != DISPATCH) combine<PATH>(launch, step);
  launch.leave();
}

RANK_KERNEL(dispatch_push) { route<DISPATCH, PUSH>(a); }
RANK_KERNEL(dispatch_pull) { route<DISPATCH, PULL>(a); }
RANK_KERNEL(combine_push) { route<COMBINE, PUSH>(a); }
RANK_KERNEL(combine_pull) { route<COMBINE, PULL>(a); }
RANK_KERNEL(round_trip_push) { route<ROUND_TRIP, PUSH>(a); }
RANK_KERNEL(round_trip_pull) { route<ROUND_TRIP, PULL>(a); }
