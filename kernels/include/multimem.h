// Sums and stores that an NVSwitch makes (NVLS): an access to a multicast address reaches the same
// place of every rank's slab. PTX ISA, "multimem.ld_reduce": only multimem may use such an address.
// The switch chooses the order and the rounding of a sum.
//
// A rank fills its slab through another address of the same memory. PTX ISA, "Causality Order":
// accesses through aliases are ordered only if a `fence.proxy.alias` lies on the path between them.
// One thread of a block makes it before each signal; the ends of kernels order aliases too.
#pragma once
#include "pack.h"

// The instruction of a type and an operation, for a pack and for a word; most have none, and no
// rank asks for them.
template <class Type, class Operation>
struct Multimem {
  template <class T>
  static DEVICE void load(T&, const char*) {}
};
#define MULTIMEM(TYPE, OPERATION, op, type)                                                    \
  template <>                                                                                  \
  struct Multimem<TYPE, OPERATION> {                                                           \
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

// What the switch combines, as one source.
struct AllInputs : Sources<1> {
  DEVICE bool aligned() const { return true; }
  template <int N>
  DEVICE pack load(Packs<N> place, int, int k) const {
    pack x = {};
    Switch::load(x, at[0] + place.at(k) * sizeof(pack));
    return x;
  }
  DEVICE pack load(SingleElement place, int, int) const {
    pack x = {};
    Switch::load(x.r[0], at[0] + place.at / 4 * 4);
    x.r[0] = x.r[0] >> place.at % 4 * 8;  // the element to the front
    return x;
  }
};

// A destination in all slabs, for whole packs.
struct AllSlabs {
  char* at;
  DEVICE bool aligned() const { return true; }
  template <int N>
  DEVICE void put(Packs<N> place, int k, pack p) const {
    store_multimem(at + place.at(k) * sizeof(pack), p);
  }
  DEVICE void put(SingleElement, int, pack) const {}
};

// The multicast address of a place in this rank's slab; `more` is the slab's.
DEVICE char* multicast(const Arguments& a, const char* place) {
  return (char*)a.more + (place - a.slab.at_use(a.rank));
}
