// Sums and stores that an NVSwitch makes (NVLS): an access to a multicast address reaches the same
// place of every rank's slab. PTX ISA, "multimem.ld_reduce": only multimem may use such an address.
// The switch chooses the order and the rounding of a sum.
//
// A rank fills its slab through another address of the same memory. PTX ISA, "Causality Order":
// accesses through aliases are ordered only if a `fence.proxy.alias` lies on the path between them.
// One thread of a block makes it before each signal; the ends of kernels order aliases too.
#pragma once
#include "pack.h"

// The instruction of a type and an operation, for a pack and for a word; most have none.
template <class Type, class Operation>
struct Multimem {
  static constexpr bool EXISTS = false;
  template <class T>
  static DEVICE void load(T&, const char*) {}
};
#define MULTIMEM(TYPE, OPERATION, op, type)                                                    \
  template <>                                                                                  \
  struct Multimem<TYPE, OPERATION> {                                                           \
    static constexpr bool EXISTS = HAS_MULTIMEM;                                               \
    static DEVICE void load(pack& x, const char* at) { LOAD_MULTIMEM_PACK(x, at, op, type); }  \
    static DEVICE void load(words& x, const char* at) { LOAD_MULTIMEM_WORD(x, at, op, type); } \
  };
MULTIMEM(Float32, Sum, "add", "f32")
MULTIMEM(Float16, Sum, "add.acc::f32", "f16x2")
MULTIMEM(Float16, Min, "min", "f16x2")
MULTIMEM(Float16, Max, "max", "f16x2")
MULTIMEM(Bfloat16, Sum, "add.acc::f32", "bf16x2")
MULTIMEM(Bfloat16, Min, "min", "bf16x2")
MULTIMEM(Bfloat16, Max, "max", "bf16x2")
using Switch = Multimem<Element, WT_REDOP>;

template <int N>
DEVICE pack load_from_switch(Packs<N> place, const char* from, int k) {
  pack x = {};
  Switch::load(x, from + place.at(k) * sizeof(pack));
  return x;
}
DEVICE pack load_from_switch(SingleElement place, const char* from, int) {
  pack x = {};
  Switch::load(x.r[0], from + place.at() / 4 * 4);
  x.r[0] = x.r[0] >> place.at() % 4 * 8;  // the element to the front
  return x;
}
// The ranks' elements at a place, combined. Without multimem a loop over the ranks' parts.
template <class Place>
DEVICE pack load_combined(Place place, const char* from, int k) {
  if constexpr (Switch::EXISTS)
    return load_from_switch(place, from, k);
  else
    return combined<WT_WORLD>([&](int r) { return place.load(MULTIMEM_PART(from, r), k); });
}

// A destination in all slabs, for whole packs.
struct AllSlabs {
  char* at;
  DEVICE bool aligned() const { return true; }
  template <int N>
  DEVICE void put(Packs<N> place, int k, pack p) const {
    if constexpr (Switch::EXISTS)
      store_multimem(at + place.at(k) * sizeof(pack), p);
    else
      for (int r = 0; r < WT_WORLD; ++r) place.store(MULTIMEM_PART(at, r), k, p);
  }
  DEVICE void put(SingleElement, int, pack) const {}
};

// Combines `count` elements of all ranks' slabs into `to`.
template <class To>
DEVICE void reduce_multimem(To to, const char* from, long count) {
  for_places<4>(count, to.aligned(), whole_grid(), [&](auto place) INLINED {
    constexpr int N = decltype(place)::COUNT;
    pack batch[N];
    UNROLLED
    for (int k = 0; k < N; ++k) batch[k] = load_combined(place, from, k);
    if (N > 1) loads_first<N * WT_WORLD>();
    UNROLLED
    for (int k = 0; k < N; ++k) to.put(place, k, batch[k]);
  });
}

// The multicast address of a place in this rank's slab; `more` is the slab's.
DEVICE char* multicast(const Arguments& a, const char* place) {
  return (char*)a.more + (place - a.slab.at_use(a.rank));
}
