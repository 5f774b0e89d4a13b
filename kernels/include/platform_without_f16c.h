// fp16 for a host CPU without instructions for it; part of platform.h.
#pragma once

// Lane by lane: slow, and right wherever the compiler knows the type. In the order of memory, as above.
constexpr int LANES = VECTOR_BYTES / 4;
struct all_halves { unsigned short of[2 * LANES]; };
DEVICE floats low_halves(words w) {
  floats f;
  for (int i = 0; i < LANES; ++i) f[i] = (float)reinterpret<_Float16>(reinterpret<all_halves>(w).of[i]);
  return f;
}
DEVICE floats high_halves(words w) {
  const two_half_words h = reinterpret<two_half_words>(w);
  return low_halves(reinterpret<words>(two_half_words{h.high, h.low}));
}
DEVICE words halves(floats low, floats high) {
  all_halves h;
  for (int i = 0; i < LANES; ++i) {
    h.of[i] = reinterpret<unsigned short>((_Float16)low[i]);
    h.of[i + LANES] = reinterpret<unsigned short>((_Float16)high[i]);
  }
  return reinterpret<words>(h);
}
