// Threads, fences, flags and accesses on HIP; part of platform.h. In compiler built-ins.
#pragma once

#define MATH(function) __builtin_##function
#define copy_bits __builtin_memcpy
#include "register.h"

// Waits until the stores of the own wave are in L2, and its write-backs are done.
#if defined(__GFX9__)
#define WAIT_FOR_STORES "s_waitcnt vmcnt(0)"
#elif defined(__GFX12__)
#define WAIT_FOR_STORES "s_wait_storecnt 0x0"
#else
#define WAIT_FOR_STORES "s_waitcnt_vscnt null, 0x0"
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

// One block of this size, 2 or 4 waves per SIMD, may use all registers. By default the compiler
// leaves room for further waves that do not exist, keeps fewer loads in flight, or spills.
#define UP_TO_512_THREADS \
  __attribute__((amdgpu_flat_work_group_size(1, 512), amdgpu_waves_per_eu(2, 4)))
#define UP_TO_256_THREADS \
  __attribute__((amdgpu_flat_work_group_size(1, 256), amdgpu_waves_per_eu(1, 2)))
DEVICE int thread_in_block() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE int threads_in_block() { return __builtin_amdgcn_workgroup_size_x(); }
DEVICE int block() { return __builtin_amdgcn_workgroup_id_x(); }
DEVICE int blocks() { return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
constexpr bool ARGUMENTS_IN_HOST_MEMORY = true;  // ROCm's
// Hides x, which all threads share, from the compiler: what depends on x is then computed at its
// use. Computed before all loops, it exceeds the 102 scalar registers of gfx9.
DEVICE int rematerialized(int x) {
  asm volatile("" : "+v"(x));
  return __builtin_amdgcn_readfirstlane(x);
}
// Issues LOADS loads before the first arithmetic. By default the scheduler waits for the first two
// loads before it issues more. The last barrier keeps later loads out of the count.
template <int LOADS>
DEVICE void loads_first() {
  __builtin_amdgcn_sched_group_barrier(0x20, LOADS, 0);  // loads from memory
  __builtin_amdgcn_sched_group_barrier(0x2, 1, 0);       // vector arithmetic
  __builtin_amdgcn_sched_barrier(0);
}
// Completes a partial sum before the next addend: the operands of all sums exceed the registers.
DEVICE void evaluate_now(floats& x) { asm volatile("" : "+v"(x)); }
DEVICE void block_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
// One wave's write-back covers the stores of a block's waves that are in L2, no store in flight.
DEVICE void drain_stores() { asm volatile(WAIT_FOR_STORES ::: "memory"); }
DEVICE void finish_resets() { drain_stores(); }  // stores of system scope
// LLVM up to 22 (gfx9) and 20 (gfx12) does not wait for a write-back when no store is in flight
// (pull requests 178316, 135340): a flag could overtake data in L2.
DEVICE void fence_system() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "");
  asm volatile(WAIT_FOR_STORES ::: "memory");
}
// All memory is global. Through a loaded pointer the compiler would use slower, flat accesses.
#define GLOBAL __attribute__((address_space(1)))
typedef unsigned four_words __attribute__((ext_vector_type(4)));
typedef GLOBAL four_words global_words;
// A fence also writes back what earlier kernels left in L2. Into uncached slabs all stores have the
// scope of the system, and have arrived once they have ended.
DEVICE void store_release_system(u64* p, u64 v) {
  WT_UNCACHED_SLAB ? drain_stores() : fence_system();
  __hip_atomic_store((GLOBAL u64*)p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
}
// LLVM has no atomic access of 16 bytes. This is its 8-byte store, twice as wide.
template <class T>
DEVICE void store_16_bytes_system(void* p, const T& x) {
  four_words four;
  copy_bits(&four, &x, sizeof four);
  asm volatile(STORE_16_BYTES_SYSTEM ::"v"(p), "v"(four) : "memory");
}
DEVICE void store_packets_system(u64* p, const u64 (&x)[2]) { store_16_bytes_system(p, x); }
DEVICE u64 load_flag_system(const u64* p) {
  return __hip_atomic_load((const GLOBAL u64*)p, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
}
DEVICE void fence_acquire_system() { __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, ""); }
DEVICE unsigned add_relaxed_device(unsigned* p, unsigned v) {
  return __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
// wall_clock64: 100 MHz on gfx94x and gfx10 to 12 (LLVM's libc, time_utils.h), 25 MHz on gfx90a.
DEVICE u64 clock_ns() { return __builtin_readsteadycounter() * 10; }
// Not volatile: the compiler would make each volatile access coherent with the whole system and
// wait for it before the next. The acquire before and the release after order these accesses.
DEVICE pack load_16_bytes(const void* p) { return reinterpret<pack>(*(const global_words*)p); }
DEVICE void store_16_bytes(void* p, pack x) { *(global_words*)p = reinterpret<four_words>(x); }
DEVICE void stream_16_bytes(void* p, pack x) {
  __builtin_nontemporal_store(reinterpret<four_words>(x), (global_words*)p);
}
template <class T>
DEVICE T load_as(const void* p) {
  return *(const GLOBAL T*)p;
}
template <class T>
DEVICE void store_as(void* p, T x, Stores stores = CACHED) {
  if (stores == SYSTEM)
    __hip_atomic_store((GLOBAL T*)p, x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
  else
    *(GLOBAL T*)p = x;
}
DEVICE float float_from_half(unsigned short h) { return (float)reinterpret<_Float16>(h); }
DEVICE unsigned short half_from_float(float f) { return reinterpret<unsigned short>((_Float16)f); }
DEVICE int wave() { return __builtin_amdgcn_wavefrontsize(); }
DEVICE float shuffle_xor(float x, int distance) {
  const int from = (thread_in_block() % wave()) ^ distance;
  return reinterpret<float>(__builtin_amdgcn_ds_bpermute(from << 2, reinterpret<int>(x)));
}
DEVICE float rounded_product(float a, float b) {
  float product = a * b;
  evaluate_now(product);
  return product;
}
