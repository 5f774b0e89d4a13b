// Tokens of a mixture of experts: which rank gets which token, and where its rows are stored.
// A token is a row of `count` elements. Each rank has some of the tokens and experts; a router has
// chosen `top_k` experts for each token. A token is sent once to each rank with such an expert and
// copied there into a row for each, by expert, then by the token's rank, then in order of tokens.
#pragma once
#include "../include/exchange.h"

struct Choice {
  int expert, place;
  float weight;
};

struct Routing {
  Arguments ranks;           // read from memory: by value, all this would not fit in registers
  long tokens, most_tokens;  // of this rank, and of the rank with most
  long experts, top_k, most_rows;
  long step_tokens;      // tokens of a rank that are handled in one step
  const int* owner;      // [experts]: the rank that has the expert
  const int* tokens_of;  // [WT_WORLD]: tokens of each rank
  Choice* choices;       // [tokens][top_k]; `place`: how many earlier ones chose the expert
  int* counting;         // [MOST_BLOCKS][experts]: each block's count of this rank's choices
  int* first;            // [WT_WORLD][experts]: the first row here for a rank's tokens, by expert
  Choice* came;          // [WT_WORLD][most_tokens][top_k] of all ranks; `place`: row here or -1
  char* rows;            // the experts' inputs, and later their results
  // For a library, which sends rows grouped by rank.
  char *out, *in;      // rows of this rank's tokens, and the rows that arrive
  const int* record;   // [WT_WORLD][most_tokens]: a token's row in `out`, or -1
  const int* arrived;  // [WT_WORLD][most_tokens]: its row in `in`, or -1

  DEVICE long row_bytes() const { return ranks.count * ELEMENT_BYTES; }
  DEVICE long row_stride() const { return stride_of(row_bytes()); }
  DEVICE const char* own_row(long token) const { return ranks.send + token * row_bytes(); }
  DEVICE Choice* choices_of(Choice* all, long t) const { return all + t * top_k; }

  // True if `rank` has an expert among these choices of a token.
  DEVICE bool is_for(const Choice* token, long rank) const {
    bool any = false;
    for (int c = 0; c < top_k; ++c) any |= owner[token[c].expert] == rank;
    return any;
  }

  // Sets the `place` of this rank's choices and returns their number for each expert. Every block
  // counts for itself. A thread reads all choices and writes those for the experts that it counts.
  DEVICE const int* number_choices() const {
    int* counts = counting + block() * experts;
    const ThreadGroup team = this_block();
    for (long e = team.thread; e < experts; e += team.threads) counts[e] = 0;
    for (long i = 0; i < tokens * top_k; ++i) {
      const unsigned e = choices[i].expert;
      if (e % team.threads == team.thread) choices[i].place = counts[e]++;
    }
    block_barrier();
    return counts;
  }

  // Computes `first`. counts_of(rank) gives that rank's number of choices of each expert.
  template <class Counts>
  DEVICE void place_rows(Counts counts_of) const {
    const ThreadGroup team = this_block();
    int row = 0;
    for (unsigned e = 0; e < experts; ++e) {
      if (owner[e] != ranks.rank) continue;
      for (long s = 0; s < WT_WORLD; ++s) {
        if (e % team.threads == team.thread) first[s * experts + e] = row;
        row += counts_of(s)[e];
      }
    }
    block_barrier();
  }

  // Copies a token of rank `from` into its rows here, noted in `came`. After a time-out the choices
  // are old contents of the slot: no number in them may lead out of a buffer.
  DEVICE void store_token(long from, long token, const Choice* chosen, const char* row) const {
    Choice* noted = choices_of(came, from * most_tokens + token);
    for (int c = 0; c < top_k; ++c) {
      Choice x = chosen[c];
      if ((unsigned)x.expert >= experts) x.expert = 0;
      const bool is_here = owner[x.expert] == ranks.rank;
      x.place = is_here ? first[from * experts + x.expert] + x.place : -1;
      if ((unsigned)x.place >= most_rows) x.place = -1;
      if (thread_in_block() == 0) noted[c] = x;
      if (x.place < 0) continue;
      copy(Output{rows + x.place * row_bytes()}, row, ranks.count, this_block());
    }
  }

  // Calls term(row, weight) for the rows here of a token of rank `from`.
  template <class Term>
  DEVICE void local_terms(long from, long token, Term term) const {
    const Choice* noted = choices_of(came, from * most_tokens + token);
    for (int c = 0; c < top_k; ++c)
      if (noted[c].place >= 0) term(rows + noted[c].place * row_bytes(), noted[c].weight);
  }

  // Calls term(row, weight) for the parts of the result of this rank's token, in rank order: the
  // weighted sum part_of(peer) of each peer that has one, and each row here.
  template <class Part, class Term>
  DEVICE void all_terms(long token, Part part_of, Term term) const {
    const Choice* noted = choices_of(came, ranks.rank * most_tokens + token);
    // Not unrolled: a GPU lacks registers for eight ranks' terms.
    const int end = rematerialized(WT_WORLD);
    for (int d = 0, c = 0; d < end;) {
      const char* row = nullptr;
      float weight = 1;
      if (d != ranks.rank) {
        if (is_for(noted, d)) row = part_of(d);
        ++d;
      } else if (c == top_k) {
        ++d;
      } else {
        if (noted[c].place >= 0) {
          row = rows + noted[c].place * row_bytes();
          weight = noted[c].weight;
        }
        ++c;
      }
      if (row) term(row, weight);
    }
  }

  // The sum of row * weight over each_term(term), in fp32 (fp64 for Float64), rounded once. It
  // starts from -0, because -0 + x is x for every x. All loads of a term come before its additions.
  template <class To, class EachTerm>
  DEVICE void weighted_sum(To to, EachTerm each_term) const {
    const bool aligned = to.aligned() && is_aligned(rows) && is_aligned(rows + row_bytes());
    for_places<4>(ranks.count, aligned, this_block(), [&](auto place) INLINED {
      constexpr int N = decltype(place)::COUNT;
      Element::values sum[N];
      for (auto& values : sum) {
        values = Element::widen(pack{});
        for (auto& lane : values.v) lane = -lane;
      }
      each_term([&](const char* row, float weight) {
        pack loaded[N];
        for (int k = 0; k < N; ++k) loaded[k] = place.load(row, k);
        loads_first<N>();
        for (int k = 0; k < N; ++k) {
          const auto next = Element::widen(loaded[k]);
          for (unsigned j = 0; j < VALUES; ++j) sum[k].v[j] += next.v[j] * weight;
        }
      });
      for (int k = 0; k < N; ++k) to.put(place, k, Element::narrow(sum[k]));
    });
  }
};
