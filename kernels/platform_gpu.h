// What CUDA and HIP have in common; part of platform.h.
#pragma once

DEVICE int blocks() { return RANKS_IN_ONE_LAUNCH ? blocks_in_grid() / WORLD : blocks_in_grid(); }  // of a rank
DEVICE int block() { return RANKS_IN_ONE_LAUNCH ? block_in_grid() % blocks() : block_in_grid(); }
DEVICE int rank_in_grid() { return block_in_grid() / blocks(); }
DEVICE void breathe() {}
DEVICE void yield() {}

DEVICE bool is_aligned(const char* p) { return ((u64)p & 15) == 0; }
DEVICE bool may_stream(const char* p) { return is_aligned(p); }
constexpr unsigned PAGE_PACKS = 0;
DEVICE void fence_streams() {}  // the end of a kernel is one
DEVICE pack load_aligned_pack(const char* buffer, unsigned i) { return load_16_bytes(buffer + i * 16); }
DEVICE void store_aligned_pack(char* buffer, unsigned i, pack x) { store_16_bytes(buffer + i * 16, x); }
DEVICE void stream_pack(char* buffer, unsigned i, pack x) { stream_16_bytes(buffer + i * 16, x); }

// A user's buffer need not start where 16 bytes divide the address: then its packs are put together from what does.
DEVICE volatile unsigned short* halves_at(const char* p) { return (volatile unsigned short*)p; }
DEVICE pack load_pack(const char* buffer, long i) {
  const char* p = buffer + i * 16;
  if (is_aligned(p)) return load_16_bytes(p);
  pack x;
#pragma unroll
  for (int k = 0; k < REGISTERS; ++k)
    if (((u64)p & 3) == 0) x.r[k] = ((const volatile unsigned*)p)[k];
    else x.r[k] = halves_at(p)[2 * k] | (unsigned)halves_at(p)[2 * k + 1] << 16;
  return x;
}
DEVICE void store_pack(char* buffer, long i, pack x) {
  char* p = buffer + i * 16;
  if (is_aligned(p)) return store_16_bytes(p, x);
#pragma unroll
  for (int k = 0; k < REGISTERS; ++k) {
    if (((u64)p & 3) == 0) ((volatile unsigned*)p)[k] = x.r[k];
    else halves_at(p)[2 * k] = (unsigned short)x.r[k], halves_at(p)[2 * k + 1] = (unsigned short)(x.r[k] >> 16);
  }
}

// In the upper half: to the nearest, ties to even, in integers, since the conversions in hardware differ on denormals.
// A NaN is quiet after arithmetic, so it stays one, and must not be carried on into the sign. Asking f != f would take
// scalar registers for each element, or a branch, and no batch of loads survives branches.
DEVICE words rounded_to_bfloat16(floats f) {
  const words w = reinterpret<words>(f), sign = w & 0x80000000u, size = (w ^ sign) + 0x7fffu + (w >> 16 & 1u);
  return sign | (size < 0x7fffffffu ? size : 0x7fffffffu);
}

DEVICE words least_of(words a, words b) { return a < b ? a : b; }
DEVICE words most_of(words a, words b) { return a > b ? a : b; }
DEVICE words largest_of_lanes(words w) { return w; }

DEVICE floats low_halves(words w) { return float_from_half((unsigned short)w); }
DEVICE floats high_halves(words w) { return float_from_half((unsigned short)(w >> 16)); }
DEVICE words halves(floats low, floats high) { return half_from_float(low) | (unsigned)half_from_float(high) << 16; }
