// What stands before and after a library's exchange of tokens: records, each a row and its choices, made of tokens and
// taken apart again, as kernels/alltoall_routed.cu does it in its slots.
#include "routing.h"

DEVICE long record_bytes(const Arguments& a, const Routing& r) {
  return row_stride(a) + (r.top_k * (long)sizeof(Choice) + 63) / 64 * 64;
}

// Calls each(other rank, token, its record) for the tokens of which `numbers` says that they have one.
template <class Each>
DEVICE void records(const Arguments& a, const Routing& r, char* all, const int* numbers, Each each) {
  for (long s = 0; s < WORLD; ++s)
    tokens_of_block(0, r.most_tokens, r.most_tokens, [&](long t) {
      const int number = numbers[s * r.most_tokens + t];
      if (number >= 0) each(s, t, all + number * record_bytes(a, r));
    });
}

extern "C" __global__ UP_TO_512_THREADS void pack_tokens(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  const Routing& r = routing_of(a);
  const int* counting = number_choices(r);
  int* counts = r.counts + a.rank * r.experts;
  for (long e = thread_in_block(); e < r.experts; e += threads_in_block()) counts[e] = counting[e];
  records(a, r, r.out, r.record, [&](long, long t, char* record) {
    const Choice* choices = choices_of(r, r.choices, t);
    copy(Output{record}, own_row(a, t), a.count, this_block());
    for (long c = thread_in_block(); c < r.top_k; c += threads_in_block())
      ((Choice*)(record + row_stride(a)))[c] = choices[c];
  });
}

extern "C" __global__ UP_TO_512_THREADS void unpack_tokens(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  const Routing& r = routing_of(a);
  place_ranks(a, r, [&](long s) { return r.counts + s * r.experts; });
  tokens_of_block(0, r.tokens, r.tokens, [&](long t) {
    accept(a, r, a.rank, t, choices_of(r, r.choices, t), own_row(a, t));
  });
  records(a, r, r.in, r.arrived, [&](long s, long t, char* record) {
    accept(a, r, s, t, (const Choice*)(record + row_stride(a)), record);
  });
}

// The parts of a sum go back in the records that the tokens came in.
extern "C" __global__ UP_TO_512_THREADS void pack_parts(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  const Routing& r = routing_of(a);
  records(a, r, r.in, r.arrived, [&](long s, long t, char* record) {
    weigh(a, r, Output{record}, [&](auto term) { terms_here(a, r, s, t, term); });
  });
}

extern "C" __global__ UP_TO_512_THREADS void unpack_parts(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  const Routing& r = routing_of(a);
  tokens_of_block(0, r.tokens, r.tokens, [&](long t) {
    const auto part_of = [&](long d) { return r.out + r.record[d * r.most_tokens + t] * record_bytes(a, r); };
    weigh(a, r, Output{a.receive + t * row_bytes(a)}, [&](auto term) { terms_of(a, r, t, part_of, term); });
  });
}
