// A host CPU: types, instructions, threads, flags, the clock and accesses; part of platform.h.
#pragma once

#define __global__
#define UP_TO_512_THREADS
#define UP_TO_256_THREADS
#define DEVICE inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 32")
#define NO_UNROLL
#define LAUNCHED_WITH(T) const T&  // by reference: the timed loop calls a `void (*)(void*)`
constexpr int REGISTERS = 1;
template <int...>
struct Numbers {};
#if defined(__AVX512F__) && WT_MOST_VECTOR_BYTES == 64
#define VECTOR_BYTES 64
typedef Numbers<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> WordNumbers;
#elif defined(__AVX__)
#define VECTOR_BYTES 32
typedef Numbers<0, 1, 2, 3, 4, 5, 6, 7> WordNumbers;
#else
#define VECTOR_BYTES 16
typedef Numbers<0, 1, 2, 3> WordNumbers;
#endif
constexpr int VECTOR_WORDS = VECTOR_BYTES / 4;
// Separate types, no template: g++ 12 silently drops a vector_size that depends on a parameter.
#define VECTOR vector_size(VECTOR_BYTES)
#define LANES __attribute__((VECTOR))
typedef unsigned any_words __attribute__((VECTOR, aligned(1), may_alias));
typedef unsigned aligned_words __attribute__((VECTOR, may_alias));

typedef unsigned half_words __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef unsigned short shorts __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef signed char chars __attribute__((vector_size(VECTOR_BYTES / 4)));
#define copy_bits __builtin_memcpy
#include "register.h"

// A register of those words of a and b, one behind the other, that number(0), number(1) ... name.
template <class Part, class Number, int... I>
DEVICE auto shuffled(Part a, Part b, Number number, Numbers<I...>) {
  return __builtin_shufflevector(a, b, number(I)...);
}

// `best` is a, if one of both is NaN.
template <class Lane>
DEVICE Lane number_of(Lane best, Lane a, Lane b) {
  asm("" : "+x"(best));  // g++ would turn the instruction back into a second comparison
  return a == a ? best : b;
}
#define OF_NUMBERS(Lane)                                                          \
  DEVICE Lane least_of(Lane a, Lane b) { return number_of(b < a ? b : a, a, b); } \
  DEVICE Lane most_of(Lane a, Lane b) { return number_of(a < b ? b : a, a, b); }
OF_NUMBERS(floats)
OF_NUMBERS(doubles)

#if defined(__x86_64__)
DEVICE void cpu_relax() { __builtin_ia32_pause(); }
// A release store on x86 orders earlier ordinary stores. Non-temporal stores it does not order:
// they wait in write-combining buffers, and a flag could become visible before them.
DEVICE void fence_system() { asm volatile("sfence" ::: "memory"); }
// Copies with the processor's own loop, which need not fetch the lines that it overwrites: 0.6 to
// 0.9 times as long; below 16 KiB its start costs more. Later stores, such as a flag, follow it
// (Intel SDM 3A, "Fast-String Operation and Out-of-Order Stores"). Returns whether it has copied.
DEVICE bool copied_as_string(char* to, const char* from, long bytes) {
  if (bytes < WT_LEAST_STRING_BYTES) return false;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
  return true;
}
#else
DEVICE bool copied_as_string(char*, const char*, long) { return false; }
DEVICE void cpu_relax() {}
DEVICE void fence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif

#define CONVERTS(name, To, From, constraint, instruction) \
  DEVICE To name(From from) {                             \
    To to;                                                \
    asm(instruction : "=v"(to) : constraint(from));       \
    return to;                                            \
  }
#if defined(__AVX2__)
// In assembly: g++ 12 converts byte by byte.
CONVERTS(ints_from_chars, ints, chars, "vm", "vpmovsxbd %1, %0")
CONVERTS(words_from_shorts, words, shorts, "vm", "vpmovzxwd %1, %0")
#else
DEVICE words words_from_shorts(shorts s) { return __builtin_convertvector(s, words); }
DEVICE ints ints_from_chars(chars c) { return __builtin_convertvector(c, ints); }
#endif

#if defined(__AVX__)
DEVICE void stream_pack(char* buffer, unsigned i, pack x) {
  asm volatile("vmovntdq %1, %0" : "=m"(((aligned_words*)buffer)[i]) : "v"(x.r[0]));
}
#else
DEVICE void stream_pack(char* buffer, unsigned i, pack x) { ((aligned_words*)buffer)[i] = x.r[0]; }
#endif

#if defined(__F16C__)
// g++ 12 does not vectorise conversions of _Float16; integer code takes 2.6 to 4 times as long.
CONVERTS(floats_from_halves, floats, half_words, "vm", "vcvtph2ps %1, %0")
CONVERTS(halves_from_floats, half_words, floats, "v", "vcvtps2ph $0, %1, %0")
#else  // slow, and correct wherever the compiler supports _Float16
typedef _Float16 float16s __attribute__((vector_size(VECTOR_BYTES / 2)));
DEVICE floats floats_from_halves(half_words h) {
  return __builtin_convertvector(reinterpret<float16s>(h), floats);
}
DEVICE half_words halves_from_floats(floats f) {
  return reinterpret<half_words>(__builtin_convertvector(f, float16s));
}
#endif

#if defined(__AVX512BF16__) && VECTOR_BYTES == 64
typedef unsigned short all_shorts __attribute__((VECTOR));
DEVICE unsigned short subnormals(floats x) {
  unsigned short lanes;
  asm("vfpclassps $0x20, %1, %0" : "=k"(lanes) : "v"(x));
  return lanes;
}
// Rounds to bf16, into the lower and the upper half of each word, with an instruction that takes
// subnormal numbers for 0. Does nothing and returns false if a number is subnormal.
DEVICE bool rounded_at_once(floats low, floats high, words& both) {
  if (subnormals(low) | subnormals(high)) return false;
  all_shorts h;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(h) : "v"(low), "v"(high));
  both = reinterpret<words>(__builtin_shufflevector(h, h, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                                    6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12,
                                                    28, 13, 29, 14, 30, 15, 31));
  return true;
}
#else
DEVICE bool rounded_at_once(floats, floats, words&) { return false; }
#endif

DEVICE int thread_in_block() { return 0; }
DEVICE int threads_in_block() { return 1; }
DEVICE int block() { return 0; }
DEVICE int blocks() { return 1; }
DEVICE void evaluate_now(floats&) {}
DEVICE void block_barrier() {}
DEVICE void store_release_system(u64* p, u64 v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
DEVICE u64 load_flag_system(const u64* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
DEVICE void store_packets_system(u64* p, const u64 (&x)[2]) {
  for (int k = 0; k < 2; ++k) store_release_system(p + k, x[k]);
}
DEVICE void fence_acquire_system() {}
DEVICE unsigned add_relaxed_device(unsigned* p, unsigned v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
// A release store orders all earlier stores but non-temporal ones. For others a fence would only
// delay a launch until its last store reaches the peer: 0.1 to 0.5 us per flag.
DEVICE void drain_stores() {
  if (WT_STREAM_SLAB || WT_STREAM_RECEIVE) fence_system();
}

extern "C" int sched_yield();
extern "C" int clock_gettime(int, struct timespec*);
DEVICE void yield() { sched_yield(); }
DEVICE u64 clock_ns() {
  long t[2];
  clock_gettime(1, (struct timespec*)t);  // CLOCK_MONOTONIC
  return (u64)t[0] * 1000000000u + (u64)t[1];
}

// The duration of a wait. More than PAUSE_NS between two looks means that this process was stopped.
// Such a pause does not count, or the continued process would report its peers as late.
constexpr u64 PAUSE_NS = 1000000000;
struct Timer {
  u64 start_ns = 0, last_look_ns = 0;
  DEVICE bool passed(u64 ns) {
    const u64 now_ns = clock_ns(), since_look_ns = now_ns - last_look_ns;
    if (since_look_ns > PAUSE_NS) start_ns += since_look_ns;  // the first look sets it to now
    last_look_ns = now_ns;
    return now_ns - start_ns > ns;
  }
};

DEVICE void finish_resets() {}                        // packets release
DEVICE bool is_aligned(const char*) { return true; }  // packs may begin anywhere
DEVICE pack load_aligned_pack(const char* buffer, unsigned i) {
  return {{(words)((const any_words*)buffer)[i]}};
}
// A streaming store at an address that is not aligned would fault.
DEVICE void store_aligned_pack(char* buffer, unsigned i, pack x, Stores stores = CACHED) {
  if (stores == STREAMED && (u64)buffer % VECTOR_BYTES == 0)
    stream_pack(buffer, i, x);
  else
    ((any_words*)buffer)[i] = (any_words)x.r[0];
}
// Fetches lines to read. A reduction that widens its elements does so this far ahead: on an EPYC it
// then takes 0.8 times as long from the lines of a far core, and as long as before from those of a
// near one. Walking several pages does without.
constexpr long PREFETCH_BYTES = WT_SEVERAL_PAGES ? 0 : 4096;
template <bool FOR_STORES = false, bool IN_L2 = false>
DEVICE void prefetch(const char* at, long bytes) {
  for (long i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, FOR_STORES, IN_L2 ? 2 : 3);
}
template <class T>
DEVICE T load_as(const void* p) {
  return *(const volatile T*)p;
}
template <class T>
DEVICE void store_as(void* p, T x, Stores = CACHED) {
  *(volatile T*)p = x;
}

DEVICE floats low_halves(words w) {
  return floats_from_halves(reinterpret<Pieces<half_words>>(w).of[0]);
}
DEVICE floats high_halves(words w) {
  return floats_from_halves(reinterpret<Pieces<half_words>>(w).of[1]);
}
// A shuffle. Through memory, a load would span two stores, which takes a two-shot 1.2 to 1.5 times.
DEVICE words halves(floats low, floats high) {
  const auto same = [](int i) INLINED { return i; };
  return shuffled(halves_from_floats(low), halves_from_floats(high), same, WordNumbers{});
}
// As on a GPU, with the same bits: 8 % faster here.
DEVICE words rounded_to_bfloat16(floats f) {
  const words w = reinterpret<words>(f);
  return f != f ? w | 0x00400000u : w + 0x7fffu + (w >> 16 & 1u);
}
DEVICE words bfloat16s(floats low, floats high) {
  words both;
  if (rounded_at_once(low, high, both)) return both;
  return rounded_to_bfloat16(low) >> 16 | (rounded_to_bfloat16(high) & 0xffff0000u);
}
// The elements of a register, in the order of memory.
DEVICE void widen_bfloat16s(words w, floats* to) {
  const auto h = reinterpret<Pieces<shorts>>(w);
  for (int i = 0; i < 2; ++i)
    to[i] = reinterpret<floats>(__builtin_convertvector(h.of[i], words) << 16);
}
DEVICE void widen_chars(words w, floats* to) {
  const auto q = reinterpret<Pieces<chars>>(w);
  for (int i = 0; i < 4; ++i) to[i] = __builtin_convertvector(ints_from_chars(q.of[i]), floats);
}
// Store a pack of fp32 as 16-bit elements, which take half a pack.
DEVICE void store_halves(char* at, pack p) {
  const half_words h = halves_from_floats(reinterpret<floats>(p.r[0]));
  copy_bits(at, &h, sizeof h);
}
DEVICE void store_bfloat16s(char* at, pack p) {
  const words rounded = rounded_to_bfloat16(reinterpret<floats>(p.r[0]));
  const shorts h = __builtin_convertvector(rounded >> 16, shorts);
  copy_bits(at, &h, sizeof h);
}

// A subgroup sums across its lanes without a barrier. On a CPU it is one vector.
DEVICE int lane() { return 0; }
DEVICE int lanes() { return 1; }
DEVICE int subgroup() { return 0; }
DEVICE int subgroups() { return 1; }
// Sums the lanes of each row, one row per fp32 of a pack: adds neighbours until one vector is left.
DEVICE pack sums_over_lanes(floats (&rows)[VECTOR_WORDS]) {
  const auto even = [](int i) INLINED { return 2 * i; };
  const auto odd = [](int i) INLINED { return 2 * i + 1; };
  for (int n = VECTOR_WORDS / 2; n > 0; n /= 2)
    for (int i = 0; i < n; ++i)
      rows[i] = shuffled(rows[2 * i], rows[2 * i + 1], even, WordNumbers{}) +
                shuffled(rows[2 * i], rows[2 * i + 1], odd, WordNumbers{});
  return {{reinterpret<words>(rows[0])}};
}
DEVICE float sum_over_block(floats f) {
  floats rows[VECTOR_BYTES / 4] = {f};
  return reinterpret<floats>(sums_over_lanes(rows).r[0])[0];
}
DEVICE float square_root(float x) { return __builtin_sqrtf(x); }
// A product that no compiler fuses with its addition.
DEVICE floats rounded_product(floats a, floats b) {
  floats product = a * b;
  asm("" : "+x"(product));
  return product;
}
// A compiler would fuse both in some kernels alone.
DEVICE floats plus_square(floats sum, floats x) { return sum + rounded_product(x, x); }
// The largest lane, in all lanes: compares lanes 1, 2, 4 and 8 places apart.
template <int DISTANCE>
DEVICE words with_other_lanes(words w) {
  const auto other = [](int i) INLINED { return i ^ DISTANCE % VECTOR_WORDS; };
  return most_of(w, shuffled(w, w, other, WordNumbers{}));
}
DEVICE words largest_of_lanes(words w) {
  return with_other_lanes<8>(with_other_lanes<4>(with_other_lanes<2>(with_other_lanes<1>(w))));
}

// The rest is for leaves.h.
// Of a row's chains, in registers: the sums of halves, as far as these lie in different registers.
template <int N>
DEVICE floats sum_of_chains(floats (&chains)[N]) {
  UNROLLED
  for (int n = N / 2; n > 0; n /= 2) UNROLLED
  for (int i = 0; i < n; ++i) chains[i] += chains[i + n];
  return chains[0];
}
// Registers of fp32 from memory.
#if defined(__AVX512VL__)
constexpr int VECTOR_REGISTERS = 32;
#else
constexpr int VECTOR_REGISTERS = 16;
#endif
template <class Part>
DEVICE Part load_part(const char* at) {
  typedef Part any_part __attribute__((aligned(1), may_alias));
  return *(const any_part*)at;
}
struct Float32;  // of pack.h, as the others
struct Float16;
struct Bfloat16;
struct Int8;
DEVICE floats load_floats(const Float32*, const char* at) {
  return reinterpret<floats>(load_aligned_pack(at, 0).r[0]);
}
DEVICE floats load_floats(const Float16*, const char* at) {
  return floats_from_halves(load_part<half_words>(at));
}
DEVICE floats load_floats(const Bfloat16*, const char* at) {
  return reinterpret<floats>(words_from_shorts(load_part<shorts>(at)) << 16);
}
DEVICE floats load_floats(const Int8*, const char* at) {
  return __builtin_convertvector(ints_from_chars(load_part<chars>(at)), floats);
}
// The further halves. A step adds two rows at once, each in its lanes, and leaves both in a
// register: a blend has the lanes that stay, a shuffle those that are added. At the end a lane has
// a row's sum.
template <int HALF>
DEVICE void add_halves(floats (&rows)[VECTOR_WORDS]) {
  const auto stay = [](int i) INLINED { return i % VECTOR_WORDS + (i & HALF ? VECTOR_WORDS : 0); };
  const auto come = [](int i) INLINED {
    return (i ^ HALF) % VECTOR_WORDS + (i & HALF ? VECTOR_WORDS : 0);
  };
  if constexpr (HALF < VECTOR_WORDS)
    for (int i = 0; i < HALF; ++i)
      rows[i] = shuffled(rows[i], rows[i + HALF], stay, WordNumbers{}) +
                shuffled(rows[i], rows[i + HALF], come, WordNumbers{});
}
DEVICE floats sum_of_halves(floats (&rows)[VECTOR_WORDS]) {
  add_halves<8>(rows);
  add_halves<4>(rows);
  add_halves<2>(rows);
  add_halves<1>(rows);
  return rows[0];
}
// Memory of a block, for N fp32.
template <int N>
struct BlockMemory {
  floats of[N * 4 / VECTOR_BYTES];
  DEVICE floats* at() { return of; }
};
template <int>
DEVICE pack of_rows(floats sums) {
  return {{reinterpret<words>(sums)}};
}
