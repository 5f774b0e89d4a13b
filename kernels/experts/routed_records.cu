// The launches around a library's exchange of tokens, with the rows of alltoall_routed.cu:
//   1. dispatch: pack_tokens, the library's exchange of counts and of records, unpack_tokens
//   2. combine: pack_parts, the exchange in the other direction, unpack_parts
#include "routing.h"

DEVICE long record_bytes(const Arguments& a, const Routing& r) {
  return row_stride(a) + (r.top_k * (long)sizeof(Choice) + 63) / 64 * 64;
}

// Calls each(rank, token, its record) for this block's tokens that have a record for that rank.
template <class Each>
DEVICE void for_records(const Arguments& a, const Routing& r, char* all, const int* numbers,
                        Each each) {
  for (long s = 0; s < WT_WORLD; ++s)
    for_tokens_of_block(0, r.most_tokens, [&](long t) {
      const int number = numbers[s * r.most_tokens + t];
      if (number >= 0) each(s, t, all + number * record_bytes(a, r));
    });
}

RANK_KERNEL(pack_tokens) {
  const Routing& r = routing_of(a);
  const int* counting = number_choices(r);
  int* counts = r.counts + a.rank * r.experts;
  for (long e = thread_in_block(); e < r.experts; e += threads_in_block()) counts[e] = counting[e];
  for_records(a, r, r.out, r.record, [&](long, long t, char* record) {
    const Choice* choices = choices_of(r, r.choices, t);
    copy(Output{record}, own_row(a, t), a.count, this_block());
    for (long c = thread_in_block(); c < r.top_k; c += threads_in_block())
      ((Choice*)(record + row_stride(a)))[c] = choices[c];
  });
}

RANK_KERNEL(unpack_tokens) {
  const Routing& r = routing_of(a);
  place_rows(a, r, [&](long s) { return r.counts + s * r.experts; });
  for_tokens_of_block(0, r.tokens, [&](long t) {
    store_token(a, r, a.rank, t, choices_of(r, r.choices, t), own_row(a, t));
  });
  for_records(a, r, r.in, r.arrived, [&](long s, long t, char* record) {
    store_token(a, r, s, t, (const Choice*)(record + row_stride(a)), record);
  });
}

// A part of a sum goes back in the record in which the token arrived.
RANK_KERNEL(pack_parts) {
  const Routing& r = routing_of(a);
  for_records(a, r, r.in, r.arrived, [&](long s, long t, char* record) {
    weighted_sum(a, r, Output{record}, [&](auto term) { local_terms(a, r, s, t, term); });
  });
}

RANK_KERNEL(unpack_parts) {
  const Routing& r = routing_of(a);
  for_tokens_of_block(0, r.tokens, [&](long t) {
    const auto part_of = [&](long d) {
      return r.out + r.record[d * r.most_tokens + t] * record_bytes(a, r);
    };
    weighted_sum(a, r, Output{a.receive + t * row_bytes(a)},
                 [&](auto term) { all_terms(a, r, t, part_of, term); });
  });
}
