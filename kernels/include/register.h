// A pack and its registers, for platform_*.h, which define `words`, `floats` and REGISTERS.
#pragma once

struct alignas(REGISTERS * sizeof(words)) pack {
  words r[REGISTERS];
};
template <class To, class From>
DEVICE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the bits");
  To to;
  copy_bits(&to, &from, sizeof to);
  return to;
}
DEVICE words least_of(words a, words b) { return a < b ? a : b; }
DEVICE words most_of(words a, words b) { return a > b ? a : b; }
