// The launches around a library's exchange of tokens, which is told all routes in advance:
//   1. dispatch: pack_tokens, the library's exchange of rows, unpack_tokens
//   2. combine: pack_parts, the exchange in the other direction, unpack_parts
#include "routing.h"

// Calls each(rank, token, its row in `all`) for this block's tokens that have one for that rank.
template <class Each>
DEVICE void for_records(const Routing& r, char* all, const int* numbers, Each each) {
  for (long s = 0; s < WT_WORLD; ++s)
    for_tokens_of_block(0, r.most_tokens, [&](long t) {
      const int number = numbers[s * r.most_tokens + t];
      if (number >= 0) each(s, t, all + number * r.row_stride());
    });
}

RANK_KERNEL(pack_tokens) {
  const Routing& r = more_of<Routing>(a);
  for_records(r, r.out, r.record, [&](long, long t, char* record) {
    copy(Output{record}, r.own_row(t), a.count, this_block());
  });
}

RANK_KERNEL(unpack_tokens) {
  const Routing& r = more_of<Routing>(a);
  const auto store = [&](long s, long t, const char* row) {
    r.local_terms(s, t, [&](char* to, float) { copy(Output{to}, row, a.count, this_block()); });
  };
  for_tokens_of_block(0, r.tokens, [&](long t) { store(a.rank, t, r.own_row(t)); });
  for_records(r, r.in, r.arrived, store);
}

// A part of a sum goes back in the place in which the token arrived.
RANK_KERNEL(pack_parts) {
  const Routing& r = more_of<Routing>(a);
  for_records(r, r.in, r.arrived, [&](long s, long t, char* record) {
    r.weighted_sum(Output{record}, [&](auto term) { r.local_terms(s, t, term); });
  });
}

RANK_KERNEL(unpack_parts) {
  const Routing& r = more_of<Routing>(a);
  for_tokens_of_block(0, r.tokens, [&](long t) {
    const auto part_of = [&](long d) {
      return r.out + r.record[d * r.most_tokens + t] * r.row_stride();
    };
    r.weighted_sum(Output{a.receive + t * r.row_bytes()},
                   [&](auto term) { r.all_terms(t, part_of, term); });
  });
}
