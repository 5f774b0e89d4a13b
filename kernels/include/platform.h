// What a build sets, and the machine: a CPU, where a block is one thread and a register a GNU
// vector of full width, or a GPU, where a register is a word and one access moves a pack of four.
// Only platform*.h contain #if.
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
#ifndef WT_WIRE_BITS  // of a code, 8, 6 or 4: see quantize.h
#define WT_WIRE_BITS 8
#endif
#ifndef WT_STREAM_SLAB  // 1: stores into the slab bypass the caches
#define WT_STREAM_SLAB 0
#endif
#ifndef WT_STREAM_RECEIVE  // 1: stores into the receive buffer too
#define WT_STREAM_RECEIVE 0
#endif
#ifndef WT_UNCACHED_SLAB  // 1: AMD's caches hold no line of a slab: see store_release_system
#define WT_UNCACHED_SLAB 0
#endif
#ifndef WT_HDP_FLUSH  // 1: flush the host data path of peers' AMD GPUs before a flag: see sync.h
#define WT_HDP_FLUSH 0
#endif
#ifndef WT_LEAST_STRING_BYTES  // of a copy by a CPU's string loop, which sanitizers do not see
#define WT_LEAST_STRING_BYTES 16384
#endif
#ifndef WT_MOST_BYTES  // of a message that packets carry: see packets.h
#define WT_MOST_BYTES 32768
#endif
#ifndef WT_MOST_VECTOR_BYTES  // of a CPU's registers: leaves.h sets it before it includes this
#define WT_MOST_VECTOR_BYTES 64
#endif
#ifndef WT_SEVERAL_PAGES  // 1: a CPU walks several pages at once; no effect on a GPU
#define WT_SEVERAL_PAGES 0
#endif

// Begins a kernel that the host launches with one argument.
#define KERNEL extern "C" __global__ UP_TO_512_THREADS void
typedef unsigned long long u64;
#define INLINED __attribute__((always_inline))  // for lambdas: g++ calls one that is used twice

// How packs are stored: into the caches, around them, or at once as far as other devices see.
enum Stores { CACHED, STREAMED, SYSTEM };
constexpr Stores SLAB_STORES = WT_UNCACHED_SLAB ? SYSTEM : WT_STREAM_SLAB ? STREAMED : CACHED;
constexpr Stores RECEIVE_STORES = WT_STREAM_RECEIVE ? STREAMED : CACHED;

#if defined(__CUDACC__) || defined(__HIP__)
#define ON_CPU 0
#include "platform_gpu.h"
#else
#define ON_CPU 1
#include "platform_cpu.h"
#endif

#ifndef __CUDACC__
DEVICE void fence_alias() {}
DEVICE void load_packets_system(u64 (&x)[2], const u64* p) {
  for (int k = 0; k < 2; ++k) x[k] = load_flag_system(p + k);
}
#endif
#ifndef __HIP__  // what AMD's compiler alone needs to be told
DEVICE int rematerialized(int x) { return x; }
constexpr bool ARGUMENTS_IN_HOST_MEMORY = false;
template <int LOADS>
DEVICE void loads_first() {}
#endif
#ifndef LOAD_MULTIMEM_PACK  // no rank has a multicast address
#define LOAD_MULTIMEM_PACK(x, from, op, type) ((void)x, (void)from)
#define LOAD_MULTIMEM_WORD LOAD_MULTIMEM_PACK
DEVICE void store_multimem(char*, pack) {}
#endif
