// Routed all-to-all: tokens to the ranks that have their experts (dispatch), and what the experts make of them back,
// weighted (combine). A token leaves once for each other rank that has one of its experts, and comes back as often.
//
// Step by step, so many tokens of every rank at a time: a token that is not for a reader leaves a hole in its slot.
// Counts go ahead of the first tokens, on the device: from those of all ranks each finds where its rows begin.
#include "routing.h"

// What lies in a slot: rows, their choices, and in a launch's first one the counts of all experts, the same from every
// block. The rows of a combine lie where those of a dispatch do.
struct Slot {
  char* rows;
  Choice* choices;
  int* counts;
};
DEVICE Slot slot_at(const Arguments& a, const Routing& r, char* at) {
  char* choices = at + r.step_tokens * row_stride(a);
  return {at, (Choice*)choices, (int*)(choices + r.step_tokens * r.top_k * sizeof(Choice))};
}

// With REGISTERED, rows stay where they are and are read from there; else they go through the slab.
template <Direction DIRECTION, bool REGISTERED> DEVICE long dispatch(const Arguments& a, unsigned epoch) {
  const Routing& r = routing_of(a);
  const int* counting = number_choices(r);
  const auto give = [&](long reader, long start, long n, char* at) {
    const Slot slot = slot_at(a, r, at);
    if (start == 0)
      for (long e = thread_in_block(); e < r.experts; e += threads_in_block()) slot.counts[e] = counting[e];
    tokens_of_block(start, n, r.tokens, [&](long t) {
      const Choice* choices = choices_of(r, r.choices, t);
      Choice* said = choices_of(r, slot.choices, t - start);
      for (long c = thread_in_block(); c < r.top_k; c += threads_in_block()) said[c] = choices[c];
      if (!REGISTERED && is_for(r, choices, reader))
        copy(Slab{slot.rows + (t - start) * row_stride(a)}, own_row(a, t), a.count, this_block());
    });
  };
  const auto take = [&](long start, long n, auto inbox) {
    if (start == 0)
      place_ranks(a, r, [&](long s) { return s == a.rank ? counting : slot_at(a, r, inbox(s)).counts; });
    for (int d = 0; d < WORLD; ++d) {
      const long s = (a.rank + d) % WORLD;
      tokens_of_block(start, n, r.tokens_of[s], [&](long t) {
        if (s == a.rank) return accept(a, r, s, t, choices_of(r, r.choices, t), own_row(a, t));
        const Slot slot = slot_at(a, r, inbox(s));
        const char* row = REGISTERED ? of_thread(a.sends, (int)s) + t * row_bytes(a)
                                     : slot.rows + (t - start) * row_stride(a);
        accept(a, r, s, t, choices_of(r, slot.choices, t - start), row);
      });
    }
  };
  const long step = exchange_from<DIRECTION, ONE>(a, epoch, 0, r.most_tokens, r.step_tokens, give,
                                                  [](long, long) {}, take);
  if (!REGISTERED) return step;
  // The tokens may not be written anew before every peer has read them.
  signal(a, everyone_but(a.rank), stamp(epoch, step + 1));
  wait(a, everyone_but(a.rank), stamp(epoch, step + 1));
  return step + 1;
}

template <Direction DIRECTION> DEVICE void combine(const Arguments& a, unsigned epoch, long step) {
  const Routing& r = routing_of(a);
  const long stride = row_stride(a);
  const auto give = [&](long reader, long start, long n, char* slot) {
    tokens_of_block(start, n, r.tokens_of[reader], [&](long t) {
      if (is_for(r, choices_of(r, r.came, reader * r.most_tokens + t), a.rank))
        weigh(a, r, Slab{slot + (t - start) * stride}, [&](auto term) { terms_here(a, r, reader, t, term); });
    });
  };
  const auto take = [&](long start, long n, auto inbox) {
    tokens_of_block(start, n, r.tokens, [&](long t) {
      const auto part_of = [&](long peer) { return inbox(peer) + (t - start) * stride; };
      weigh(a, r, Output{a.receive + t * row_bytes(a)}, [&](auto term) { terms_of(a, r, t, part_of, term); });
    });
  };
  exchange_from<DIRECTION, ONE>(a, epoch, step, r.most_tokens, r.step_tokens, give, [](long, long) {}, take);
}

enum What { DISPATCH, COMBINE, ROUND_TRIP };
template <What WHAT, Direction DIRECTION, bool REGISTERED> DEVICE void routed(const Arguments& launched) {
  Slowed<> slowed;
  const Arguments& a = routing_of(launched).ranks;
  const unsigned epoch = enter_launch(a);
  long step = 0;
  if (WHAT != COMBINE) step = dispatch<DIRECTION, REGISTERED>(a, epoch);
  block_barrier();  // without it a thread would sum rows that another has yet to put there
  if (WHAT != DISPATCH) combine<DIRECTION>(a, epoch, step);
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void dispatch_push(LAUNCHED_WITH(Arguments) a) {
  routed<DISPATCH, PUSH, false>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void dispatch_pull(LAUNCHED_WITH(Arguments) a) {
  routed<DISPATCH, PULL, false>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void dispatch_pull_registered(LAUNCHED_WITH(Arguments) a) {
  routed<DISPATCH, PULL, true>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void combine_push(LAUNCHED_WITH(Arguments) a) {
  routed<COMBINE, PUSH, false>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void combine_pull(LAUNCHED_WITH(Arguments) a) {
  routed<COMBINE, PULL, false>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void round_trip_push(LAUNCHED_WITH(Arguments) a) {
  routed<ROUND_TRIP, PUSH, false>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void round_trip_pull(LAUNCHED_WITH(Arguments) a) {
  routed<ROUND_TRIP, PULL, false>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void round_trip_pull_registered(LAUNCHED_WITH(Arguments) a) {
  routed<ROUND_TRIP, PULL, true>(of_this_rank(a));
}
