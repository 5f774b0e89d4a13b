// A pack and its registers, for platform_*.h, which define `words`, `floats` and REGISTERS.
#pragma once

struct alignas(REGISTERS * sizeof(words)) pack {
  words r[REGISTERS];
};
constexpr long OWN_PACK_BYTES = sizeof(pack);  // of this machine; PACK_BYTES of the widest one
// The parts of a pack, in the order of memory.
template <class Piece>
struct Pieces {
  Piece of[sizeof(pack) / sizeof(Piece)];
};
template <class To, class From>
DEVICE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the bits");
  To to;
  copy_bits(&to, &from, sizeof to);
  return to;
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
