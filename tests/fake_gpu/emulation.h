// Lets a host compiler compile the kernels' HIP code: a GPU thread is a fibre of a host thread, and
// yields at barriers and when it reads a flag. Included before the first line of a kernel.
#pragma once
#define __HIP__ 1
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
// A function that begins with such an array returns it. Here it returns the block's array, as
// blocks share a thread.
#define __shared__             \
  return (float*)gpu_shared(); \
  static
// Attributes of an entry for a GPU's compiler.
#define amdgpu_flat_work_group_size(...) unused
#define amdgpu_waves_per_eu(...) unused
#undef __HIP_MEMORY_SCOPE_AGENT
#undef __HIP_MEMORY_SCOPE_SYSTEM
#define __HIP_MEMORY_SCOPE_AGENT 4
#define __HIP_MEMORY_SCOPE_SYSTEM 5

extern "C" {
void* memcpy(void*, const void*, unsigned long);
struct Lane {
  unsigned thread, threads, block, blocks;
};
__attribute__((const)) const Lane* gpu_lane();
void gpu_barrier();
void gpu_give_way();
void* gpu_shared();
int gpu_of_lane(int at, int value);
void gpu_fence(int order, const char* scope);
void gpu_loaded(const void* at, int order);
void gpu_stored(const void* at);
unsigned long long gpu_clock_ns();
char* gpu_multimem_part(const void* address, int part);
}
// Of a pack or of a word.
#define LOAD_MULTIMEM_PACK(x, from, op, type)                                  \
  const pack sums = combined<WT_WORLD>([&](int part) INLINED {                 \
    return load_pieces<unsigned>(gpu_multimem_part(from, part), sizeof x / 4); \
  });                                                                          \
  memcpy(&x, &sums, sizeof x)
#define LOAD_MULTIMEM_WORD LOAD_MULTIMEM_PACK
#define store_multimem(at, p) \
  for (int part = 0; part < WT_WORLD; ++part) store_aligned_pack(gpu_multimem_part(at, part), 0, p)

#define __builtin_amdgcn_workitem_id_x() (gpu_lane()->thread)
#define __builtin_amdgcn_workgroup_size_x() (gpu_lane()->threads)
#define __builtin_amdgcn_workgroup_id_x() (gpu_lane()->block)
#define __builtin_amdgcn_grid_size_x() (gpu_lane()->blocks * gpu_lane()->threads)
#define __builtin_amdgcn_s_barrier() gpu_barrier()
#define __builtin_amdgcn_wavefrontsize() 32
#define __builtin_amdgcn_ds_bpermute(at, value) gpu_of_lane(at, value)
#define __builtin_amdgcn_sched_group_barrier(...) ((void)0)
#define __builtin_amdgcn_sched_barrier(...) ((void)0)
#define __builtin_amdgcn_readfirstlane(uniform) (uniform)
#define __builtin_amdgcn_fence(order, scope) gpu_fence(order, scope)
#define __hip_atomic_store(p, v, order, scope) \
  (__atomic_store_n(p, v, order), gpu_stored((const void*)(p)))
#define __hip_atomic_load(p, order, scope)          \
  ({                                                \
    gpu_give_way();                                 \
    gpu_loaded((const void*)(p), __ATOMIC_RELAXED); \
    auto seen_ = __atomic_load_n(p, order);         \
    gpu_loaded((const void*)(p), order);            \
    seen_;                                          \
  })
#define __hip_atomic_fetch_add(p, v, order, scope) __atomic_fetch_add(p, v, order)
// Inline assembly of the kernels: waits that a host does not need, and a system store of 16 bytes.
// Its address is in a vector register, and the function that it calls keeps all registers but r11.
extern "C" __attribute__((preserve_all, used)) inline void gpu_stored_16(const void* at) {
  gpu_stored(at);
}
asm(".macro s_waitcnt all:vararg\n.endm\n"
    ".macro s_waitcnt_vscnt all:vararg\n.endm\n"
    ".macro s_wait_storecnt all:vararg\n.endm\n"
    ".macro global_store_dwordx4 place, words, rest:vararg\n"
    "lea -128(%rsp), %rsp\n push %rdi\n push %r11\n push %rbp\n mov %rsp, %rbp\n and $-16, %rsp\n"
    "movq \\place, %rdi\n movups \\words, (%rdi)\n call gpu_stored_16\n"
    "mov %rbp, %rsp\n pop %rbp\n pop %r11\n pop %rdi\n lea 128(%rsp), %rsp\n.endm");
// At 100 MHz, as on the hardware.
#define __builtin_readsteadycounter() (gpu_clock_ns() / 10)
