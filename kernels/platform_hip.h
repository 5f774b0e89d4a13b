// HIP's words for threads, fences, flags and 16-byte accesses; part of platform.h, as the compiler's own built-ins.
#pragma once

DEVICE int thread_in_block() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE int threads_in_block() { return __builtin_amdgcn_workgroup_size_x(); }
DEVICE int block() { return __builtin_amdgcn_workgroup_id_x(); }
DEVICE int blocks() { return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
DEVICE void block_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
DEVICE void fence_system() { __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, ""); }
DEVICE void store_release_system(u64* p, u64 v) {
  __hip_atomic_store(p, v, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_SYSTEM);
}
DEVICE u64 load_acquire_system(const u64* p) {
  return __hip_atomic_load(p, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_SYSTEM);
}
DEVICE unsigned add_relaxed_device(unsigned* p, unsigned v) {
  return __hip_atomic_fetch_add(p, v, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
DEVICE u64 clock_ns() { return __builtin_readsteadycounter() * 10; }  // s_memrealtime counts at 100 MHz
typedef unsigned four_words __attribute__((ext_vector_type(4)));
DEVICE pack load_16_bytes(const void* p) { return reinterpret<pack>(*(const volatile four_words*)p); }
DEVICE void store_16_bytes(void* p, pack x) { *(volatile four_words*)p = reinterpret<four_words>(x); }
DEVICE void stream_16_bytes(void* p, pack x) {
  __builtin_nontemporal_store(reinterpret<four_words>(x), (four_words*)p);
}
DEVICE float float_from_half(unsigned short h) { return (float)reinterpret<_Float16>(h); }
DEVICE unsigned short half_from_float(float f) { return reinterpret<unsigned short>((_Float16)f); }
