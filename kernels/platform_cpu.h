// The host CPU's words for threads, flags, the clock and accesses; part of platform.h. A block is one thread.
#pragma once

constexpr unsigned PAGE_PACKS = 4096 / VECTOR_BYTES;
DEVICE int thread_in_block() { return 0; }
DEVICE int threads_in_block() { return 1; }
DEVICE int block() { return 0; }
DEVICE int blocks() { return 1; }
DEVICE int rank_in_grid() { return 0; }
DEVICE int afresh(int x) { return x; }
template <int LOADS> DEVICE void loads_first() {}
DEVICE void summed_so_far(floats&) {}
template <class T> DEVICE T* of_thread(T* const* of_ranks, int rank) { return of_ranks[rank]; }
DEVICE void block_barrier() {}
DEVICE void store_release_system(u64* p, u64 v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
DEVICE u64 load_acquire_system(const u64* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
DEVICE void store_relaxed_system(u64* p, u64 v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
DEVICE u64 load_relaxed_system(const u64* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
DEVICE unsigned add_relaxed_device(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }

extern "C" int sched_yield();
extern "C" int clock_gettime(int, struct timespec*);
DEVICE void yield() { sched_yield(); }
DEVICE u64 clock_ns() {
  long t[2];
  clock_gettime(1, (struct timespec*)t);  // CLOCK_MONOTONIC
  return (u64)t[0] * 1000000000u + (u64)t[1];
}

DEVICE bool is_aligned(const char*) { return true; }
DEVICE bool may_stream(const char* p) { return (u64)p % VECTOR_BYTES == 0; }  // other packs would fault
DEVICE pack load_pack(const char* buffer, long i) { return {{(words)((const any_words*)buffer)[i]}}; }
DEVICE void store_pack(char* buffer, long i, pack x) { ((any_words*)buffer)[i] = (any_words)x.r[0]; }
DEVICE pack load_aligned_pack(const char* buffer, unsigned i) { return load_pack(buffer, i); }
DEVICE void store_aligned_pack(char* buffer, unsigned i, pack x) { store_pack(buffer, i, x); }

DEVICE unsigned load_2_bytes(const void* p) { return *(const volatile unsigned short*)p; }
DEVICE void store_2_bytes(void* p, unsigned x) { *(volatile unsigned short*)p = (unsigned short)x; }

DEVICE words rounded_to_bfloat16(floats f) {  // in the upper half; as in platform_gpu.h
  const words w = reinterpret<words>(f);
  return f != f ? w | 0x00400000u : w + 0x7fffu + (w >> 16 & 1u);
}
// The largest lane, in all lanes: each is compared with the one 1, 2, 4 and 8 places off, as far as there are so many.
#define WITH_LANES(step) \
  w = most_of(w, __builtin_shufflevector(w, w, WORD_NUMBERS(^ (step & (VECTOR_BYTES / 4 - 1)))));
DEVICE words least_of(words a, words b) { return a < b ? a : b; }
DEVICE words most_of(words a, words b) { return a > b ? a : b; }
DEVICE words largest_of_lanes(words w) {
  WITH_LANES(1) WITH_LANES(2) WITH_LANES(4) WITH_LANES(8)
  return w;
}

// A stream of stores is in order for whoever made it, and for others only after this.
DEVICE void fence_streams() { fence_system(); }
