// The parts of a wire, by one rank alone over the buffers of another: no flag, nobody else
// launches.
//   stores, loads, stores_and_loads: the wire up, down, and of both at once
//   dependent_loads: a read's round trip; without a load, a kernel's time in a graph
//   fenced_stores less unfenced_stores: the time until stores have drained
// In host memory all cross PCIe, also on a shared GPU.
#include "include/digest.h"
#include "include/transfer.h"

// `to` is the rank whose buffers are used, `bytes` where dependent loads go, or how much a block
// stores before a flag.
DEVICE const char* source(const Transfer& t) { return t.ranks.sends.selected(t.to); }
DEVICE char* target(const Transfer& t) { return t.ranks.receives.selected(t.to); }
DEVICE void store_zeros(char* to, long count, ThreadGroup team) {
  for_places<4>(count, is_aligned(to), team, [&](auto place) INLINED {
    for (int k = 0; k < decltype(place)::COUNT; ++k) place.store(to, k, pack{});
  });
}

// A launch ends when its stores have arrived.
KERNEL link_stores(LAUNCHED_WITH(Transfer) t) {
  in_parts(t.ranks.count, [&](long at, long n) { store_zeros(target(t) + at, n, whole_grid()); });
}
KERNEL link_loads(LAUNCHED_WITH(Transfer) t) {
  words digest = {};
  in_parts(t.ranks.count, [&](long at, long n) { copy(Digest{&digest}, source(t) + at, n); });
  use(t.ranks, digest);
}
KERNEL link_stores_and_loads(LAUNCHED_WITH(Transfer) t) {
  copy_message(target(t), source(t), t.ranks.count);
}

// One thread loads `count` words: where the next one is depends on the last.
KERNEL link_dependent_loads(LAUNCHED_WITH(Transfer) t) {
  constexpr u64 STRIDE = 4096 + 256, NEVER = 0x5ca1ab1e5ca1ab1eull;
  if (thread() != 0) return;
  u64 at = 0;
  for (long load = 0; load < t.ranks.count; ++load) {
    const u64 word = load_flag_system((const u64*)(source(t) + at));
    at = (at + STRIDE + (word == NEVER ? 8 : 0)) % (u64)t.bytes;
  }
}

// A block stores, and a flag behind its stores, `count` times, with or without a fence.
template <bool FENCE>
DEVICE void store_and_flag(const Transfer& t) {
  for (long trip = 0; trip < t.ranks.count; ++trip) {
    store_zeros(target(t), t.bytes / ELEMENT_BYTES, this_block());
    block_barrier();
    if (FENCE) fence_system();
    if (thread() == 0) *(volatile u64*)(target(t) + t.bytes) = (u64)trip;
    block_barrier();
  }
}
KERNEL link_fenced_stores(LAUNCHED_WITH(Transfer) t) { store_and_flag<true>(t); }
KERNEL link_unfenced_stores(LAUNCHED_WITH(Transfer) t) { store_and_flag<false>(t); }
