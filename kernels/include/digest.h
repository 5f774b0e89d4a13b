// Loads that are timed alone: what keeps the compiler from dropping them.
#pragma once
#include "pack.h"

// A destination that stores nothing: it folds all packs into one register.
struct Digest {
  words* digest;
  DEVICE bool aligned() const { return true; }
  template <class Place>
  DEVICE void put(Place, int, pack p) const {
    for (int k = 0; k < REGISTERS; ++k) *digest ^= p.r[k];
  }
};
// Without a use of the digest the compiler drops the reads. No pattern has this digest in practice.
DEVICE void use(const Arguments& a, words digest) {
  const pack p = {{digest}};
  unsigned first;
  copy_bits(&first, &p, sizeof first);
  if (first == 0x5ca1ab1eu) ((volatile unsigned*)&a.watch->phase)[1] = first;
}
