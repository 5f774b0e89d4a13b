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
DEVICE Slot slot_at(const Routing& r, char* at) {
  char* choices = at + r.step_tokens * r.row_stride();
  return {at, (Choice*)choices, (int*)(choices + r.step_tokens * r.top_k * sizeof(Choice))};
}

// Returns the step after its last.
template <Path PATH>
DEVICE long dispatch(const Launch& launch, const Routing& r) {
  const long rank = r.ranks.rank, stride = r.row_stride();
  const int* counting = r.number_choices();
  const auto give = [&](long reader, long start, long n, char* at) {
    const Slot slot = slot_at(r, at);
    if (start == 0)
      for (long e = thread_in_block(); e < r.experts; e += threads_in_block())
        slot.counts[e] = counting[e];
    for_tokens_of_block(start, smaller(start + n, r.tokens), [&](long t) {
      const Choice* choices = r.choices_of(r.choices, t);
      Choice* sent = r.choices_of(slot.choices, t - start);
      for (long c = thread_in_block(); c < r.top_k; c += threads_in_block()) sent[c] = choices[c];
      if (r.is_for(choices, reader))
        copy(Slab{slot.rows + (t - start) * stride}, r.own_row(t), r.ranks.count, this_block());
    });
  };
  const auto take = [&](long start, long n, auto inbox) {
    if (start == 0)
      r.place_rows([&](long s) { return s == rank ? counting : slot_at(r, inbox(s)).counts; });
    const auto take_from = [&](long s) {
      for_tokens_of_block(start, smaller(start + n, r.tokens_of[s]), [&](long t) {
        if (s == rank) return r.store_token(s, t, r.choices_of(r.choices, t), r.own_row(t));
        const Slot slot = slot_at(r, inbox(s));
        r.store_token(s, t, r.choices_of(slot.choices, t - start),
                      slot.rows + (t - start) * stride);
      });
    };
    for_each_peer(r.ranks, take_from, 0);
  };
  return exchange_from<PATH, ONE>(launch, 0, r.most_tokens, r.step_tokens, give, take);
}

template <Path PATH>
DEVICE void combine(const Launch& launch, const Routing& r, long step) {
  const long stride = r.row_stride();
  const auto give = [&](long reader, long start, long n, char* slot) {
    for_tokens_of_block(start, smaller(start + n, r.tokens_of[reader]), [&](long t) {
      if (r.is_for(r.choices_of(r.came, reader * r.most_tokens + t), r.ranks.rank))
        r.weighted_sum(Slab{slot + (t - start) * stride},
                       [&](auto term) { r.local_terms(reader, t, term); });
    });
  };
  const auto take = [&](long start, long n, auto inbox) {
    for_tokens_of_block(start, smaller(start + n, r.tokens), [&](long t) {
      const auto part_of = [&](long peer) { return inbox(peer) + (t - start) * stride; };
      r.weighted_sum(Output{r.ranks.receive + t * r.row_bytes()},
                     [&](auto term) { r.all_terms(t, part_of, term); });
    });
  };
  exchange_from<PATH, ONE>(launch, step, r.most_tokens, r.step_tokens, give, take);
}

enum Way { DISPATCH, COMBINE, ROUND_TRIP };
template <Way WAY, Path PATH>
DEVICE void route(const Arguments& launched) {
  const Routing& r = more_of<Routing>(launched);
  const Launch launch(r.ranks);
  long step = 0;
  if (WAY != COMBINE) step = dispatch<PATH>(launch, r);
  block_barrier();  // without it a thread would add rows that another thread has yet to store
  if (WAY != DISPATCH) combine<PATH>(launch, r, step);
  launch.leave();
}

RANK_KERNEL(dispatch_push) { route<DISPATCH, PUSH>(a); }
RANK_KERNEL(dispatch_pull) { route<DISPATCH, PULL>(a); }
RANK_KERNEL(combine_push) { route<COMBINE, PUSH>(a); }
RANK_KERNEL(combine_pull) { route<COMBINE, PULL>(a); }
RANK_KERNEL(round_trip_push) { route<ROUND_TRIP, PUSH>(a); }
RANK_KERNEL(round_trip_pull) { route<ROUND_TRIP, PULL>(a); }
