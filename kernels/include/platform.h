// Selects the machine; no other file contains #if. On a CPU a block is one thread, and a register a
// GNU vector of full width. On a GPU a register is a word, and one access moves a pack of four.
#pragma once

#ifndef WT_WORLD  // number of ranks; a run-time number costs up to 20 % at small sizes
#define WT_WORLD 2
#endif
#ifndef WT_ELEMENT  // Float32 Float16 Bfloat16 Float64 Int32 Int64 Int8 Uint8, fp8: see pack.h
#define WT_ELEMENT Float32
#endif
#ifndef WT_REDOP  // Sum Prod Min Max Avg: see pack.h
#define WT_REDOP Sum
#endif
#ifndef WT_WEIGHT  // type of a matrix: Float16 Bfloat16 Int8: see gemv.h
#define WT_WEIGHT Float16
#endif
#ifndef WT_TOKENS  // tokens, 1 to 8, that one pass over a matrix serves
#define WT_TOKENS 1
#endif
#ifndef WT_WIRE_FORMAT  // Int8Blocks Fp8Blocks Int4Blocks: see quantize.h
#define WT_WIRE_FORMAT Int8Blocks
#endif
#ifndef WT_OUTPUT  // additional output of a norm: Unquantized Int8Blocks Fp8Blocks: see norm.h
#define WT_OUTPUT Unquantized
#endif
#ifndef WT_STREAM_SLAB  // 1: stores into the slab bypass the caches
#define WT_STREAM_SLAB 0
#endif
#ifndef WT_STREAM_RECEIVE  // 1: stores into the receive buffer too
#define WT_STREAM_RECEIVE 0
#endif
#ifndef WT_HDP_FLUSH  // 1: flush the host data path of peers' AMD GPUs before a flag: see sync.h
#define WT_HDP_FLUSH 0
#endif
#ifndef WT_SWAP  // 1: ranks write next where they read last: see sync.h
#if defined(__CUDACC__) || defined(__HIP__)
#define WT_SWAP 0
#else
#define WT_SWAP 1
#endif
#endif
#ifndef WT_LEAST_STRING_BYTES  // of a copy by a CPU's string loop, which sanitizers do not see
#define WT_LEAST_STRING_BYTES 16384
#endif
#ifndef WT_READ_ALONE_BYTES  // messages up to this size are read by their receiver: see sendrecv.cu
#define WT_READ_ALONE_BYTES 0
#endif
#ifndef WT_SEVERAL_PAGES  // 1: a CPU walks several pages at once; no effect on a GPU
#define WT_SEVERAL_PAGES 0
#endif

// Begins a kernel that the host launches with one argument.
#define KERNEL extern "C" __global__ UP_TO_512_THREADS void
typedef unsigned long long u64;
#define INLINED __attribute__((always_inline))  // for lambdas: g++ calls one that is used twice

// ------------------------------------------------------------------- types and compiler attributes
#if defined(__CUDACC__) || defined(__HIP__)

#define DEVICE __device__ __forceinline__
#define SEPARATE DEVICE                 // on a CPU: a function that is not inlined
#define UNROLLED _Pragma("unroll")      // for loops over registers, which have no addresses
#define AS_WRITTEN _Pragma("unroll 1")  // for a loop with a body that fills all registers
#define LAUNCHED_WITH(T) const T        // the one argument of a kernel: by value
constexpr int REGISTERS = 4;            // per pack
typedef unsigned words;
typedef float floats;
typedef double doubles;
typedef int ints;
typedef long long longs;
typedef signed char int8s;
typedef unsigned char uint8s;

#else  // a host CPU

#define __global__
#define UP_TO_512_THREADS
#define UP_TO_256_THREADS
#define DEVICE inline __attribute__((always_inline))
#define SEPARATE static __attribute__((noinline))
#define UNROLLED _Pragma("GCC unroll 32")
#define AS_WRITTEN
#define LAUNCHED_WITH(T) const T&  // by reference: the timed loop calls a `void (*)(void*)`
constexpr int REGISTERS = 1;
// WORD_NUMBERS lists the numbers of a vector's words, each followed by its argument.
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define WORD_NUMBERS(_) \
  0 _, 1 _, 2 _, 3 _, 4 _, 5 _, 6 _, 7 _, 8 _, 9 _, 10 _, 11 _, 12 _, 13 _, 14 _, 15 _
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define WORD_NUMBERS(_) 0 _, 1 _, 2 _, 3 _, 4 _, 5 _, 6 _, 7 _
#else
#define VECTOR_BYTES 16
#define WORD_NUMBERS(_) 0 _, 1 _, 2 _, 3 _
#endif
// Separate types, no template: g++ 12 silently drops a vector_size that depends on a parameter.
#define VECTOR vector_size(VECTOR_BYTES)
typedef unsigned words __attribute__((VECTOR));
typedef float floats __attribute__((VECTOR));
typedef double doubles __attribute__((VECTOR));
typedef int ints __attribute__((VECTOR));
typedef long long longs __attribute__((VECTOR));
typedef signed char int8s __attribute__((VECTOR));
typedef unsigned char uint8s __attribute__((VECTOR));
typedef unsigned any_words __attribute__((VECTOR, aligned(1), may_alias));
typedef unsigned aligned_words __attribute__((VECTOR, may_alias));

typedef unsigned half_words __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef unsigned short shorts __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef signed char chars __attribute__((vector_size(VECTOR_BYTES / 4)));
struct two_half_words {
  half_words low, high;
};
struct two_shorts {
  shorts low, high;
};
struct four_chars {
  chars of[4];
};

#endif

// ------------------------------------------------------------------------------ for every machine
struct alignas(REGISTERS * sizeof(words)) pack {
  words r[REGISTERS];
};
#if defined(__CUDACC__)
#define copy_bits memcpy  // NVRTC knows only this name; HIP's clang would call a function
#else
#define copy_bits __builtin_memcpy
#endif
template <class To, class From>
DEVICE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From), "reinterpret keeps the bits");
  To to;
  copy_bits(&to, &from, sizeof to);
  return to;
}
DEVICE words least_of(words a, words b) { return a < b ? a : b; }
DEVICE words most_of(words a, words b) { return a > b ? a : b; }

// -------------------------------------------------------------------- instructions of each machine
#if defined(__CUDACC__) || defined(__HIP__)

// Waits until the stores of the own wave are in L2, and its write-backs are done.
#if defined(__GFX9__)
#define WAIT_FOR_STORES "s_waitcnt vmcnt(0)"
#elif defined(__GFX12__)
#define WAIT_FOR_STORES "s_wait_storecnt 0x0"
#else
#define WAIT_FOR_STORES "s_waitcnt_vscnt null, 0x0"
#endif
// From CUDA 12.8 and sm_90 on, polls are relaxed, and one fence then invalidates L1. Without this
// fence each poll invalidates L1: fence.acq_rel would also wait for all stores.
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1208
#define POLL_FLAG "ld.relaxed.sys.global.u64"
#define FENCE_ACQUIRE "fence.acquire.sys;"
#else
#define POLL_FLAG "ld.acquire.sys.global.u64"
#define FENCE_ACQUIRE ""
#endif
// multimem, with sums in fp32, needs sm_90 and PTX 8.2. Elsewhere no rank has a multicast address.
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1202
#define HAS_MULTIMEM true
#endif
#if defined(__gfx942__) || defined(__gfx950__)
#define STORE_16_BYTES_SYSTEM "global_store_dwordx4 %0, %1, off sc0 sc1"
#elif defined(__GFX12__)
#define STORE_16_BYTES_SYSTEM "global_store_b128 %0, %1, off scope:SCOPE_SYS"
#elif defined(__GFX11__)
#define STORE_16_BYTES_SYSTEM "global_store_b128 %0, %1, off"
#else
#define STORE_16_BYTES_SYSTEM "global_store_dwordx4 %0, %1, off"
#endif
#if defined(__CUDACC__)
#include "platform_cuda.h"
#else
#include "platform_hip.h"
#endif
#include "platform_gpu.h"

#else  // a host CPU

#if defined(__x86_64__)
DEVICE void breathe() { __builtin_ia32_pause(); }
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
DEVICE void breathe() {}
DEVICE void fence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif

#define CONVERT(to, from, constraint, instruction, operands) \
  to out;                                                    \
  asm(instruction operands : "=v"(out) : constraint(from));  \
  return out;
#if defined(__AVX2__)
// In assembly: g++ 12 converts byte by byte.
DEVICE ints ints_from_chars(chars c){CONVERT(ints, c, "vm", "vpmovsxbd", " %1, %0")}
#else
DEVICE ints ints_from_chars(chars c) { return __builtin_convertvector(c, ints); }
#endif

#if defined(__clang__)
DEVICE void stream_pack(char* buffer, unsigned i, pack x) {
  __builtin_nontemporal_store(x.r[0], (aligned_words*)buffer + i);
}
#elif defined(__AVX__)
DEVICE void stream_pack(char* buffer, unsigned i, pack x) {
  asm volatile("vmovntdq %1, %0" : "=m"(((aligned_words*)buffer)[i]) : "v"(x.r[0]));
}
#else
DEVICE void stream_pack(char* buffer, unsigned i, pack x) { ((aligned_words*)buffer)[i] = x.r[0]; }
#endif

#if defined(__F16C__)
// g++ 12 does not vectorise conversions of _Float16; integer code takes 2.6 to 4 times as long.
DEVICE floats floats_from_halves(half_words h){
    CONVERT(floats, h, "vm", "vcvtph2ps", " %1, %0")} DEVICE half_words
    halves_from_floats(floats f) {
  CONVERT(half_words, f, "v", "vcvtps2ph", " $0, %1, %0")
}
#else  // slow, and correct wherever the compiler supports _Float16
typedef _Float16 float16s __attribute__((vector_size(VECTOR_BYTES / 2)));
DEVICE floats floats_from_halves(half_words h) {
  return __builtin_convertvector(reinterpret<float16s>(h), floats);
}
DEVICE half_words halves_from_floats(floats f) {
  return reinterpret<half_words>(__builtin_convertvector(f, float16s));
}
#endif

#if defined(__AVX512BF16__)
typedef unsigned short all_shorts __attribute__((VECTOR));
// Rounds to bf16, into the lower and the upper half of each word, with an instruction that takes
// subnormal numbers for 0. Does nothing and returns false if a number is subnormal.
DEVICE bool rounded_at_once(floats low, floats high, words& both) {
  unsigned short low_subnormal, high_subnormal;
  asm("vfpclassps $0x20, %1, %0" : "=k"(low_subnormal) : "v"(low));
  asm("vfpclassps $0x20, %1, %0" : "=k"(high_subnormal) : "v"(high));
  if (low_subnormal | high_subnormal) return false;
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
#if defined(__AVX2__) && !defined(__AVX512F__)
DEVICE bool may_have_nan(floats a, floats b) {
  floats unordered;
  asm("vcmpunordps %2, %1, %0" : "=x"(unordered) : "x"(a), "x"(b));
  return __builtin_ia32_movmskps256(unordered);
}
#else
DEVICE bool may_have_nan(floats, floats) { return true; }
#endif
#include "platform_cpu.h"

#endif

#ifndef HAS_MULTIMEM
#define HAS_MULTIMEM false
#endif
#ifndef LOAD_MULTIMEM_PACK
#define LOAD_MULTIMEM_PACK(x, from, op, type) ((void)x, (void)from)
#define LOAD_MULTIMEM_WORD LOAD_MULTIMEM_PACK
#endif
#ifndef MULTIMEM_PART  // a rank's part of a multicast address, for the software GPU of the tests
#define MULTIMEM_PART(address, rank) ((void)(rank), address)
#endif
