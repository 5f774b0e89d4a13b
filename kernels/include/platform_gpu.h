// What CUDA and HIP have in common; part of platform.h.
#pragma once

DEVICE int blocks() { return RANKS_IN_ONE_LAUNCH ? blocks_in_grid() / WORLD : blocks_in_grid(); }  // of a rank
DEVICE int block() { return RANKS_IN_ONE_LAUNCH ? block_in_grid() % blocks() : block_in_grid(); }
DEVICE int rank_in_grid() { return block_in_grid() / blocks(); }
DEVICE void breathe() {}
DEVICE void yield() {}
// How long a wait has lasted. A kernel that has begun is not stopped with its process, so there are no pauses in it.
// That for a packet is from the first look at the clock on, which most never need; that for a flag is not, since a start
// that is set within the loop takes scalar registers that a large kernel has not on gfx942.
struct FlagWait {
  const u64 start = clock_ns();
  DEVICE bool longer_than(u64 ns) const { return clock_ns() - start > ns; }
};
struct PacketWait {
  u64 start = 0;
  DEVICE bool longer_than(u64 ns) {
    const u64 now = clock_ns();
    if (!start) start = now;
    return now - start > ns;
  }
};

DEVICE bool is_aligned(const char* p) { return ((u64)p & 15) == 0; }
DEVICE bool may_stream(const char* p) { return is_aligned(p); }
constexpr unsigned PAGE_PACKS = 0;
DEVICE void fence_stores_system() { fence_system(); }
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
// Elements of a register in the order of memory.
DEVICE void widen_halves(words w, floats* to) { to[0] = low_halves(w), to[1] = high_halves(w); }
DEVICE void widen_bfloat16s(words w, floats* to) {
  to[0] = reinterpret<floats>(w << 16), to[1] = reinterpret<floats>(w & 0xffff0000u);
}
DEVICE void widen_chars(words w, floats* to) {
  for (int i = 0; i < 4; ++i) to[i] = (float)(signed char)(w >> 8 * i);
}
// A pack of fp32 as 16-bit elements: half a pack.
DEVICE void store_halves(char* at, pack p) {
  for (int i = 0; i < 2; ++i)
    ((volatile unsigned*)at)[i] = halves(reinterpret<floats>(p.r[2 * i]), reinterpret<floats>(p.r[2 * i + 1]));
}
DEVICE void store_bfloat16s(char* at, pack p) {
  for (int i = 0; i < 2; ++i)
    ((volatile unsigned*)at)[i] = rounded_to_bfloat16(reinterpret<floats>(p.r[2 * i])) >> 16 |
                                  (rounded_to_bfloat16(reinterpret<floats>(p.r[2 * i + 1])) & 0xffff0000u);
}
template <int N> DEVICE void store_low_bytes(char* at, const words (&w)[N]) {
  for (int i = 0; i < N; i += 4)
    *(volatile unsigned*)(at + i) =
        (w[i] & 0xffu) | (w[i + 1] & 0xffu) << 8 | (w[i + 2] & 0xffu) << 16 | w[i + 3] << 24;
}

// A subgroup is what adds up across lanes without a barrier: a warp, a wave, or a block that is smaller.
DEVICE int lanes() { return threads_in_block() < wave() ? threads_in_block() : wave(); }
DEVICE int lane() { return thread_in_block() % lanes(); }
DEVICE int subgroup() { return thread_in_block() / lanes(); }
DEVICE int subgroups() { return threads_in_block() / lanes(); }
// The sums of each row's lanes, in all lanes; rows beside each other, since a lane's word takes its time.
template <int N> DEVICE void add_over_lanes(floats (&rows)[N]) {
  for (int away = lanes() / 2; away > 0; away /= 2)
    for (int i = 0; i < N; ++i) rows[i] += of_lane_xor(rows[i], away);
}
DEVICE pack sums_over_lanes(floats (&rows)[REGISTERS]) {
  add_over_lanes(rows);
  pack p;
  for (int i = 0; i < REGISTERS; ++i) p.r[i] = reinterpret<words>(rows[i]);
  return p;
}
DEVICE float* shared_by_block() {
  __shared__ float of_subgroups[MOST_SUBGROUPS];
  return of_subgroups;
}
// The same in all threads, and in every rank's block of as many: subgroups are added in their order.
DEVICE float sum_over_block(float of_thread) {
  float *of_subgroups = shared_by_block(), sum[1] = {of_thread};
  add_over_lanes(sum);
  block_barrier();  // what is there from the last sum has been read
  if (lane() == 0) of_subgroups[subgroup()] = sum[0];
  block_barrier();
  float x = of_subgroups[0];
  for (int i = 1; i < subgroups(); ++i) x += of_subgroups[i];
  return x;
}
DEVICE unsigned largest_over_block(words of_thread) {
  float* of_subgroups = shared_by_block();
  for (int away = lanes() / 2; away > 0; away /= 2)
    of_thread = most_of(of_thread, reinterpret<words>(of_lane_xor(reinterpret<float>(of_thread), away)));
  block_barrier();
  if (lane() == 0) of_subgroups[subgroup()] = reinterpret<float>(of_thread);
  block_barrier();
  for (int i = 0; i < subgroups(); ++i) of_thread = most_of(of_thread, reinterpret<words>(of_subgroups[i]));
  return of_thread;
}
