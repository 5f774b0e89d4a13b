// Threads, fences, flags and accesses on CUDA, in PTX because C++ does not promise them.
#pragma once

#define MATH(function) function
#define copy_bits memcpy  // NVRTC knows only this name; HIP's clang would call a function
#include "register.h"

// From CUDA 12.8 and sm_90 on, polls are relaxed, and one fence then invalidates L1. Without this
// fence each poll invalidates L1: fence.acq_rel would also wait for all stores.
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1208
#define POLL_FLAG "ld.relaxed.sys.global.u64"
#define FENCE_ACQUIRE "fence.acquire.sys;"
#else
#define POLL_FLAG "ld.acquire.sys.global.u64"
#define FENCE_ACQUIRE ""
#endif

// One block may use all registers, 128 per thread; the default, 40, keeps fewer loads in flight.
#define UP_TO_512_THREADS __launch_bounds__(512, 1)
#define UP_TO_256_THREADS __launch_bounds__(256, 1)  // 255 registers per thread
DEVICE int thread_in_block() { return threadIdx.x; }
DEVICE int threads_in_block() { return blockDim.x; }
DEVICE int block() { return blockIdx.x; }
DEVICE int blocks() { return gridDim.x; }
DEVICE void evaluate_now(floats& x) { asm volatile("" : "+f"(x)); }
DEVICE void block_barrier() { __syncthreads(); }
DEVICE void fence_system() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
DEVICE void store_release_system(u64* p, u64 v) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
DEVICE u64 load_flag_system(const u64* p) {
  u64 v;
  asm volatile(POLL_FLAG " %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
DEVICE void fence_acquire_system() { asm volatile(FENCE_ACQUIRE ::: "memory"); }
DEVICE void finish_resets() { fence_system(); }
DEVICE void drain_stores() {}  // the barrier orders a block's stores before a thread's release
DEVICE void store_packets_system(u64* p, const u64 (&x)[2]) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1,%2};" ::"l"(p), "l"(x[0]), "l"(x[1])
               : "memory");
}
DEVICE void load_packets_system(u64 (&x)[2], const u64* p) {
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0,%1}, [%2];"
               : "=l"(x[0]), "=l"(x[1])
               : "l"(p)
               : "memory");
}
DEVICE unsigned add_relaxed_device(unsigned* p, unsigned v) { return atomicAdd(p, v); }
DEVICE u64 clock_ns() {
  u64 t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}
// In C++ the compiler split accesses, and may use ld.global.nc, which must not read peers' stores.
#define LOAD_PACK(x, from, load)                                        \
  asm volatile(load " {%0,%1,%2,%3}, [%4];"                             \
               : "=r"(x.r[0]), "=r"(x.r[1]), "=r"(x.r[2]), "=r"(x.r[3]) \
               : "l"(from)                                              \
               : "memory")
#define STORES_PACK(name, store)                                                                \
  DEVICE void name(void* p, pack x) {                                                           \
    asm volatile(store " [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(x.r[0]), "r"(x.r[1]), "r"(x.r[2]), \
                 "r"(x.r[3])                                                                    \
                 : "memory");                                                                   \
  }
DEVICE pack load_16_bytes(const void* p) {
  pack x;
  LOAD_PACK(x, p, "ld.global.v4.u32");
  return x;
}
STORES_PACK(store_16_bytes, "st.global.v4.u32")
STORES_PACK(stream_16_bytes, "st.global.cs.v4.u32")
#define store_16_bytes_system store_16_bytes  // another one on AMD alone
// At a multicast address: see multimem.h. Relaxed, as a cache could serve a weak access. Sums in
// fp32 need sm_90 and PTX 8.2.
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1202
#define LOAD_MULTIMEM_WORD(x, from, op, type)                                    \
  asm volatile("multimem.ld_reduce.relaxed.sys.global." op "." type " %0, [%1];" \
               : "=r"(x)                                                         \
               : "l"(from)                                                       \
               : "memory")
#define LOAD_MULTIMEM_PACK(x, from, op, type) \
  LOAD_PACK(x, from, "multimem.ld_reduce.relaxed.sys.global." op ".v4." type)
STORES_PACK(store_multimem, "multimem.st.relaxed.sys.global.v4.f32")
#endif
DEVICE void fence_alias() { asm volatile("fence.proxy.alias;" ::: "memory"); }
template <class T>
DEVICE T load_as(const void* p);
#define ACCESS(T, type, constraint)                                                       \
  template <>                                                                             \
  DEVICE T load_as<T>(const void* p) {                                                    \
    T x;                                                                                  \
    asm volatile("ld.global." type " %0, [%1];" : "=" constraint(x) : "l"(p) : "memory"); \
    return x;                                                                             \
  }                                                                                       \
  DEVICE void store_as(void* p, T x, Stores = CACHED) {                                   \
    asm volatile("st.global." type " [%0], %1;" ::"l"(p), constraint(x) : "memory");      \
  }
ACCESS(u64, "u64", "l")
ACCESS(unsigned short, "u16", "h")
DEVICE float float_from_half(unsigned short h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}
DEVICE unsigned short half_from_float(float f) {
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
DEVICE int wave() { return 32; }
DEVICE float shuffle_xor(float x, int distance) { return __shfl_xor_sync(~0u, x, distance); }
// ptxas fuses a multiplication with an addition unless its rounding is named.
DEVICE float rounded_product(float a, float b) { return __fmul_rn(a, b); }
