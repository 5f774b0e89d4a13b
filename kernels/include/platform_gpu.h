// A GPU: types, and code that CUDA and HIP share; part of platform.h.
#pragma once

#define DEVICE __device__ __forceinline__
#define UNROLLED _Pragma("unroll")     // for loops over registers, which have no addresses
#define NO_UNROLL _Pragma("unroll 1")  // for a loop with a body that fills all registers
#define LAUNCHED_WITH(T) const T       // the one argument of a kernel: by value
constexpr int REGISTERS = 4;           // per pack
#define LANES                          // a register has one
#if defined(__CUDACC__)
#include "platform_cuda.h"
#else
#include "platform_hip.h"
#endif

DEVICE float square_root(float x) { return MATH(sqrtf)(x); }
DEVICE float plus_square(float sum, float x) { return MATH(fmaf)(x, x, sum); }
// Instructions: AMD's compiler spills scalar registers if it compares.
DEVICE float least_of(float a, float b) { return MATH(fminf)(a, b); }
DEVICE float most_of(float a, float b) { return MATH(fmaxf)(a, b); }
DEVICE double least_of(double a, double b) { return MATH(fmin)(a, b); }
DEVICE double most_of(double a, double b) { return MATH(fmax)(a, b); }
DEVICE void cpu_relax() {}
DEVICE void yield() {}
// Without pauses: a running kernel is not stopped with its process.
struct Timer {
  u64 start_ns = 0;
  DEVICE bool passed(u64 ns) {
    const u64 now_ns = clock_ns();
    if (!start_ns) start_ns = now_ns;
    return now_ns - start_ns > ns;
  }
};

DEVICE bool is_aligned(const char* p) { return ((u64)p & 15) == 0; }
DEVICE pack load_aligned_pack(const char* buffer, unsigned i) {
  return load_16_bytes(buffer + i * 16);
}
DEVICE void store_aligned_pack(char* buffer, unsigned i, pack x, Stores stores = CACHED) {
  char* const at = buffer + i * 16;
  if (stores == SYSTEM) return store_16_bytes_system(at, x);
  stores == STREAMED ? stream_16_bytes(at, x) : store_16_bytes(at, x);
}

// Its threads have enough loads under way, and its stores do not wait for lines.
constexpr long PREFETCH_BYTES = 0;
template <bool = false, bool = false>
DEVICE void prefetch(const char*, long) {}
DEVICE bool copied_as_string(char*, const char*, long) { return false; }

// The nearest bf16, ties to even, in the upper half of the word. In integers: hardware conversions
// differ on denormals. Arithmetic made every NaN quiet, and the minimum keeps its carry out of the
// sign. Testing f != f would take scalar registers, or a branch, which breaks up a batch of loads.
DEVICE words rounded_to_bfloat16(floats f) {
  const words w = reinterpret<words>(f), sign = w & 0x80000000u;
  return sign | least_of((w ^ sign) + 0x7fffu + (w >> 16 & 1u), 0x7fffffffu);
}
DEVICE words bfloat16s(floats low, floats high) {
  return rounded_to_bfloat16(low) >> 16 | (rounded_to_bfloat16(high) & 0xffff0000u);
}

DEVICE words largest_of_lanes(words w) { return w; }

DEVICE floats low_halves(words w) { return float_from_half((unsigned short)w); }
DEVICE floats high_halves(words w) { return float_from_half((unsigned short)(w >> 16)); }
DEVICE words halves(floats low, floats high) {
  return half_from_float(low) | (unsigned)half_from_float(high) << 16;
}
// The elements of a register, in the order of memory.
DEVICE void widen_bfloat16s(words w, floats* to) {
  to[0] = reinterpret<floats>(w << 16);
  to[1] = reinterpret<floats>(w & 0xffff0000u);
}
DEVICE void widen_chars(words w, floats* to) {
  for (int i = 0; i < 4; ++i) to[i] = (float)(signed char)(w >> 8 * i);
}
// Store a pack of fp32 as 16-bit elements, which take half a pack.
template <class Join>
DEVICE void store_joined(char* at, pack p, Join join) {
  for (int i = 0; i < 2; ++i)
    ((volatile unsigned*)at)[i] =
        join(reinterpret<floats>(p.r[2 * i]), reinterpret<floats>(p.r[2 * i + 1]));
}
DEVICE void store_halves(char* at, pack p) { store_joined(at, p, halves); }
DEVICE void store_bfloat16s(char* at, pack p) { store_joined(at, p, bfloat16s); }

// A subgroup sums across its lanes without a barrier: a warp, a wave, or a smaller block.
DEVICE int lanes() { return threads_in_block() < wave() ? threads_in_block() : wave(); }
DEVICE int lane() { return thread_in_block() % lanes(); }
DEVICE int subgroup() { return thread_in_block() / lanes(); }
DEVICE int subgroups() { return threads_in_block() / lanes(); }
// Sums the lanes of each row, in all lanes. The rows advance together, which hides the latency.
DEVICE pack sums_over_lanes(floats (&rows)[REGISTERS]) {
  for (int distance = lanes() / 2; distance > 0; distance /= 2)
    for (int i = 0; i < REGISTERS; ++i) rows[i] += shuffle_xor(rows[i], distance);
  pack p;
  for (int i = 0; i < REGISTERS; ++i) p.r[i] = reinterpret<words>(rows[i]);
  return p;
}
constexpr int VECTOR_REGISTERS = 0;  // of a CPU: see leaves_cpu.h
// For leaves.h: of the chains of a row, of which eight threads hold eight each. First halves that
// lie in different threads: each step hands over half of the chains. Then those of one thread.
DEVICE float sum_of_chains(float (&chains)[8]) {
  for (int distance = 4; distance > 0; distance /= 2) {
    const bool is_upper = thread_in_block() & distance;
    for (int i = 0; i < distance; ++i) {
      const float lower = chains[i], upper = chains[i + distance];
      chains[i] = (is_upper ? upper : lower) + shuffle_xor(is_upper ? lower : upper, distance);
    }
  }
  float sum = chains[0];
  for (int distance = 4; distance > 0; distance /= 2) sum += shuffle_xor(sum, distance);
  return sum;
}
DEVICE float sum_of_halves(float (&rows)[1]) { return rows[0]; }
// The sums of four rows, in the first thread. Of a row eight threads have a leaf each, and add
// neighbours.
template <int LEAVES>
DEVICE pack of_rows(float sum) {
  for (int distance = 1; distance < LEAVES; distance *= 2) sum += shuffle_xor(sum, distance);
  pack p;
  for (int i = 0; i < REGISTERS; ++i)
    p.r[i] = reinterpret<words>(i ? shuffle_xor(sum, 8 * i) : sum);
  return p;
}
// Memory of a block, for N fp32.
template <int N>
struct BlockMemory {
  DEVICE float* at() {
    __shared__ pack of[N / REGISTERS];
    return (float*)of;
  }
};
DEVICE float* shared_by_block() {
  __shared__ float of_subgroups[16];
  return of_subgroups;
}
// The same result in every thread, on every rank. Before the first barrier threads read old slots.
DEVICE float sum_over_block(float x) {
  float* of_subgroups = shared_by_block();
  for (int distance = lanes() / 2; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
  block_barrier();
  if (lane() == 0) of_subgroups[subgroup()] = x;
  block_barrier();
  x = of_subgroups[0];
  for (int i = 1; i < subgroups(); ++i) x += of_subgroups[i];
  return x;
}
