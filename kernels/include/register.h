// A pack and its registers, for platform_*.h, which define REGISTERS and LANES, what makes a type
// fill a register.
#pragma once

typedef unsigned words LANES;
typedef float floats LANES;
typedef double doubles LANES;
typedef int ints LANES;
typedef long long longs LANES;
typedef signed char int8s LANES;
typedef unsigned char uint8s LANES;
struct alignas(REGISTERS * sizeof(words)) pack {
  words r[REGISTERS];
};
constexpr long OWN_PACK_BYTES = sizeof(pack);  // of this machine; PACK_BYTES of the widest one
// The parts of a pack, in the order of memory.
template <class Piece>
struct Pieces {
  static constexpr int COUNT = sizeof(pack) / sizeof(Piece);
  Piece of[COUNT];
};
template <class To, class From>
DEVICE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the bits");
  To to;
  copy_bits(&to, &from, sizeof to);
  return to;
}
// The first `count` pieces of a pack, at a multiple of a piece's size; the others are zeros.
template <class Piece>
DEVICE pack load_pieces(const char* from, int count = Pieces<Piece>::COUNT) {
  Pieces<Piece> x = {};
  UNROLLED
  for (int k = 0; k < x.COUNT; ++k)
    if (k < count) x.of[k] = ((const volatile Piece*)from)[k];
  return reinterpret<pack>(x);
}
template <class Piece>
DEVICE void store_pieces(char* to, pack p, int count = Pieces<Piece>::COUNT) {
  const auto x = reinterpret<Pieces<Piece>>(p);
  UNROLLED
  for (int k = 0; k < x.COUNT; ++k)
    if (k < count) ((volatile Piece*)to)[k] = x.of[k];
}
// Of two lanes. The platforms' own, of floats, are NaN only if both are, as those of NCCL and RCCL.
template <class Lane>
DEVICE Lane least_of(Lane a, Lane b) {
  return b < a ? b : a;
}
template <class Lane>
DEVICE Lane most_of(Lane a, Lane b) {
  return a < b ? b : a;
}
