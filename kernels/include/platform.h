// Which machine this is: the only file with #if. Everything above it reads the same on CUDA, HIP and a host CPU.
//
// On the CPU a block is one thread, a register is one GNU vector as wide as the machine has, and a peer's memory is
// memory that another process maps too. On a GPU a register is one 32-bit word, and a pack is four of them: one 128-bit
// access.
#pragma once

#ifndef WORLD      // ranks; a compile-time constant, because a run-time one costs up to 20 % at small sizes
#define WORLD 2
#endif
#ifndef ELEMENT    // Float32 Float16 Bfloat16 Float64 Int32 Int64, as in pack.h
#define ELEMENT Float32
#endif
#ifndef REDOP      // Sum Prod Min Max Avg, as in pack.h
#define REDOP Sum
#endif
#ifndef WEIGHT     // of a matrix: Float16Weights Bfloat16Weights Int8Weights, as in gemv_allreduce.cu
#define WEIGHT Float16Weights
#endif
#ifndef TOKENS     // that a matrix is applied to at once, 1 to 8
#define TOKENS 1
#endif
#ifndef WIRE       // Int8Blocks Fp8Blocks Int4Blocks, as in quantize.h
#define WIRE Int8Blocks
#endif
#ifndef OUTPUT     // of a norm, besides the norm: Unquantized Int8Output E4m3Output, as in norm.h
#define OUTPUT Unquantized
#endif
#ifndef STREAM_SLAB     // 1: stores into the slab go around the caches
#define STREAM_SLAB 0
#endif
#ifndef STREAM_RECEIVE  // 1: so do those into the receive buffer, which on a CPU has to start where a pack may
#define STREAM_RECEIVE 0
#endif
#ifndef SEVERAL_PAGES   // 1: a CPU goes through several pages at once; no effect on a GPU, whose threads do anyway
#define SEVERAL_PAGES 0
#endif
#ifndef RANKS_IN_ONE_LAUNCH  // 1: a GPU's launch runs all ranks, so its grid is ranks x blocks; no effect on a CPU
#define RANKS_IN_ONE_LAUNCH 0
#endif
#ifndef SLOWED_PERCENT  // above 0: see Slowed in sync.h
#define SLOWED_PERCENT 0
#endif
// Negative controls: builds that lack one part of the protocol, which tests show to fail.
#ifndef WITHOUT_FENCE_SYSTEM
#define WITHOUT_FENCE_SYSTEM 0
#endif
#ifndef WITHOUT_EPOCH_FLIP
#define WITHOUT_EPOCH_FLIP 0
#endif
#ifndef WITHOUT_WAIT
#define WITHOUT_WAIT 0
#endif
#ifndef FAULT      // of faults.h, for tests
#define FAULT NO_FAULT
#endif

typedef unsigned long long u64;

#if defined(__CUDACC__) || defined(__HIP__)  // ------------------------------------------------------------- both GPUs

#define DEVICE __device__ __forceinline__
#define SEPARATE DEVICE            // not inlined where calls are cheap
#define UNROLLED _Pragma("unroll")  // of loops over a thread's own registers, which have no addresses
#define AS_WRITTEN _Pragma("unroll 1")  // of a loop one turn of which takes all registers
#define LAUNCHED_WITH(T) const T   // a kernel's one argument: by value
constexpr int REGISTERS = 4;       // of a pack
typedef unsigned words;
typedef float floats; typedef double doubles; typedef int ints; typedef long long longs;

struct alignas(16) pack { words r[REGISTERS]; };

#if defined(__CUDACC__)
#define COPY_BYTES memcpy  // the one name that NVRTC knows; HIP's clang takes it for a function to call
#else
#define COPY_BYTES __builtin_memcpy
#endif
DEVICE void copy_bits(void* to, const void* from, unsigned long bytes) { COPY_BYTES(to, from, bytes); }
template <class To, class From> DEVICE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the bits");
  To to;
  copy_bits(&to, &from, sizeof to);
  return to;
}

// The wait of a release for AMD's write-back, said again: LLVM up to 22 (gfx9) and 20 (gfx12) drops its own where no
// store is under way (its pull requests 178316, 135340); a flag could then overtake what lies in the L2.
#if defined(__GFX9__)
#define WAIT_FOR_WRITE_BACK "s_waitcnt vmcnt(0)"
#elif defined(__GFX12__)
#define WAIT_FOR_WRITE_BACK "s_wait_storecnt 0x0"
#else
#define WAIT_FOR_WRITE_BACK ""
#endif
#if defined(__CUDACC__)
#include "platform_cuda.h"
#else
#include "platform_hip.h"
#endif
#include "platform_gpu.h"

#else  // ------------------------------------------------------------------------------------------------- a host CPU
#undef RANKS_IN_ONE_LAUNCH
#define RANKS_IN_ONE_LAUNCH 0
#define __global__
#define UP_TO_512_THREADS
#define UP_TO_256_THREADS
#define DEVICE inline __attribute__((always_inline))
#define SEPARATE static __attribute__((noinline))
#define UNROLLED _Pragma("GCC unroll 32")
#define AS_WRITTEN
#define LAUNCHED_WITH(T) const T&  // by reference, so that every kernel is a `void (*)(void*)` for the timed loop
constexpr int REGISTERS = 1;
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define MOVNTDQ "vmovntdq"
#define WORD_NUMBERS(_) 0 _, 1 _, 2 _, 3 _, 4 _, 5 _, 6 _, 7 _, 8 _, 9 _, 10 _, 11 _, 12 _, 13 _, 14 _, 15 _
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define MOVNTDQ "vmovntdq"
#define WORD_NUMBERS(_) 0 _, 1 _, 2 _, 3 _, 4 _, 5 _, 6 _, 7 _
#else
#define VECTOR_BYTES 16
#define MOVNTDQ "movntdq"
#define WORD_NUMBERS(_) 0 _, 1 _, 2 _, 3 _
#endif
// Not one template over the element: g++ 12 silently drops a vector_size that depends on a template parameter.
#define VECTOR vector_size(VECTOR_BYTES)
typedef unsigned words __attribute__((VECTOR));
typedef float floats __attribute__((VECTOR)); typedef double doubles __attribute__((VECTOR));
typedef int ints __attribute__((VECTOR)); typedef long long longs __attribute__((VECTOR));
typedef unsigned any_words __attribute__((VECTOR, aligned(1), may_alias));
typedef unsigned aligned_words __attribute__((VECTOR, may_alias));

typedef unsigned half_words __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef unsigned short shorts __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef signed char chars __attribute__((vector_size(VECTOR_BYTES / 4)));
struct two_half_words { half_words low, high; };
struct two_shorts { shorts low, high; };
struct four_chars { chars of[4]; };

struct pack { words r[REGISTERS]; };

DEVICE void copy_bits(void* to, const void* from, unsigned long bytes) { __builtin_memcpy(to, from, bytes); }
template <class To, class From> DEVICE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the bits");
  To to;
  copy_bits(&to, &from, sizeof to);
  return to;
}

#if defined(__x86_64__)
DEVICE void breathe() { __builtin_ia32_pause(); }
// A release store on x86 orders earlier ordinary stores, not non-temporal ones: those wait in write-combining buffers.
DEVICE void fence_system() { asm volatile("sfence" ::: "memory"); }
#else
DEVICE void breathe() {}
DEVICE void fence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
#define CONVERT(to, from, constraint, instruction, operands) \
  to out;                                                    \
  asm(instruction operands : "=v"(out) : constraint(from));  \
  return out;
#if defined(__AVX2__)
DEVICE ints ints_from_chars(chars c) { CONVERT(ints, c, "vm", "vpmovsxbd", " %1, %0") }  // g++ 12: byte by byte
#else
DEVICE ints ints_from_chars(chars c) { return __builtin_convertvector(c, ints); }
#endif
#include "platform_cpu.h"

#if defined(__clang__)
DEVICE void stream_pack(char* buffer, unsigned i, pack x) {
  __builtin_nontemporal_store(x.r[0], (aligned_words*)buffer + i);
}
#elif defined(__SSE2__)
DEVICE void stream_pack(char* buffer, unsigned i, pack x) {
  asm volatile(MOVNTDQ " %1, %0" : "=m"(((aligned_words*)buffer)[i]) : "v"(x.r[0]));
}
#else
DEVICE void stream_pack(char* buffer, unsigned i, pack x) { ((aligned_words*)buffer)[i] = x.r[0]; }
#endif

#if defined(__F16C__)
// By hand, because g++ 12 vectorises neither _Float16 nor its conversions; by integers it costs 2.6 to 4 times as much.
DEVICE floats floats_from_halves(half_words h) { CONVERT(floats, h, "vm", "vcvtph2ps", " %1, %0") }
DEVICE half_words halves_from_floats(floats f) { CONVERT(half_words, f, "v", "vcvtps2ph", " $0, %1, %0") }
DEVICE floats low_halves(words w) { return floats_from_halves(reinterpret<two_half_words>(w).low); }
DEVICE floats high_halves(words w) { return floats_from_halves(reinterpret<two_half_words>(w).high); }
// Through memory it would be two stores and a load of both, which no store can be forwarded to: 1.2 to 1.5 times the time
// of a whole two-shot in cache.
DEVICE words halves(floats low, floats high) {
  return __builtin_shufflevector(halves_from_floats(low), halves_from_floats(high), WORD_NUMBERS());
}
#else
#include "platform_without_f16c.h"
#endif

#endif
