// The link alone: moves one rank's registered buffer into another's, or bounces a flag between two.
// The rank that moves the elements (push: the sender, pull: the receiver) then signals the other.
// All ranks meet before each launch, so its buffers are free; all launch, to advance their epochs.
#include "include/exchange.h"

struct Transfer {
  Arguments ranks;
  long to, from;       // the rank that this rank sends to, and receives from; -1: no rank
  const char* beside;  // the waiting rank copies this again and again meanwhile, into `kept`
  char* kept;
  long beside_bytes;
};
// Keeps the compiler from dropping the loads. No data have this digest in practice.
DEVICE void use_digest(const Arguments& a, words digest) {
  const pack p = {{digest}};
  unsigned first;
  copy_bits(&first, &p, sizeof first);
  if (first == 0x5ca1ab1eu) ((volatile unsigned*)&a.watch->phase)[1] = first;
}
constexpr long PIECE_BYTES = 64 << 10;  // copied between two looks at the flag

// A rank that waits calls meanwhile(flag, stamp). No rank leaves before everything has moved.
template <Path PATH, class Meanwhile>
DEVICE void move(const Transfer& t, Meanwhile meanwhile) {
  const Arguments& a = t.ranks;
  const unsigned epoch = enter_launch(a);
  const int other = (int)(PATH == PUSH ? t.to : t.from);
  const int awaited = (int)(PATH == PUSH ? t.from : t.to);
  if (other >= 0) {
    const char* from = PATH == PUSH ? a.send : of_thread(a.sends, other);
    char* to = const_cast<char*>(PATH == PUSH ? of_thread(a.receives, other) : a.receive);
    in_parts(a.count, [&](long at, long n) { copy(Output{to + at}, from + at, n); });
    signal(a, 1u << other, stamp(epoch, 1));
  }
  if (awaited >= 0) {
    meanwhile(&a.control[a.rank]->flags[block()][awaited].value, stamp(epoch, 1));
    wait(a, 1u << awaited, stamp(epoch, 1));
  }
  leave_launch(a, epoch);
}

KERNEL link_push(LAUNCHED_WITH(Transfer) t) {
  move<PUSH>(t, [](const u64*, u64) {});
}
KERNEL link_pull(LAUNCHED_WITH(Transfer) t) {
  move<PULL>(t, [](const u64*, u64) {});
}

// On a GPU `beside` is in host memory: a copy from the host during the peer's transfer.
KERNEL link_push_beside_host_copy(LAUNCHED_WITH(Transfer) t) {
  move<PUSH>(t, [&](const u64* flag, u64 wanted) {
    const u64 start = clock_ns();
    long at = 0;
    while (!reached(load_flag_system(flag), wanted) && clock_ns() - start < t.ranks.timeout_ns) {
      copy(Output{t.kept + at}, t.beside + at, PIECE_BYTES / ELEMENT_BYTES);
      at = (at + PIECE_BYTES) % t.beside_bytes;
    }
  });
}

// `to` and `from` are the partner. `count` round trips; the lower rank begins each.
KERNEL link_ping_pong(LAUNCHED_WITH(Transfer) t) {
  const Arguments& a = t.ranks;
  const unsigned epoch = enter_launch(a);
  if (t.to >= 0) bounce(a, (int)t.to, epoch, 1, a.count);
  leave_launch(a, epoch);
}

// -- The parts of a wire, by one rank alone over the buffers of `to`: no flag, nobody else
// launches.

// Stores `count` elements, loads them, or does both at once: GPUs' stores are posted, loads not.
template <bool STORES, bool LOADS>
DEVICE void stream(const Transfer& t) {
  constexpr int AT_ONCE = 4;  // loads in flight of a thread
  const char* from = of_thread(t.ranks.sends, (int)t.to);
  char* to = const_cast<char*>(of_thread(t.ranks.receives, (int)t.to));
  const long packs = t.ranks.count * ELEMENT_BYTES / (long)sizeof(pack), step = threads();
  words digest = {};
  for (long start = thread(); start < packs; start += AT_ONCE * step) {
    pack loaded[AT_ONCE] = {};
    UNROLLED
    for (int i = 0; i < AT_ONCE; ++i)
      if (LOADS && start + i * step < packs) loaded[i] = load_pack(from, start + i * step);
    UNROLLED
    for (int i = 0; i < AT_ONCE; ++i) {
      if (STORES && start + i * step < packs) store_pack(to, start + i * step, pack{});
      UNROLLED
      for (int r = 0; r < REGISTERS; ++r) digest ^= loaded[i].r[r];
    }
  }
  use_digest(t.ranks, digest);
  if (STORES) fence_system();  // a launch ends when its stores have arrived
}
KERNEL link_stores(LAUNCHED_WITH(Transfer) t) { stream<true, false>(t); }
KERNEL link_loads(LAUNCHED_WITH(Transfer) t) { stream<false, true>(t); }
KERNEL link_both_streams(LAUNCHED_WITH(Transfer) t) { stream<true, true>(t); }

// One thread loads `count` words of `beside_bytes`: where the next one is depends on the last.
KERNEL link_dependent_loads(LAUNCHED_WITH(Transfer) t) {
  constexpr u64 STRIDE = 4096 + 256, NEVER = 0x5ca1ab1e5ca1ab1eull;
  if (thread() != 0) return;
  const char* from = of_thread(t.ranks.sends, (int)t.to);
  u64 at = 0;
  for (long load = 0; load < t.ranks.count; ++load) {
    const u64 word = load_flag_system((const u64*)(from + at));
    at = (at + STRIDE + (word == NEVER ? 8 : 0)) % (u64)t.beside_bytes;
  }
  use_digest(t.ranks, words{} + (unsigned)(at == NEVER));
}

// A block stores `beside_bytes` and a flag behind them, `count` times, with or without a fence.
template <bool FENCE>
DEVICE void store_and_flag(const Transfer& t) {
  char* to = const_cast<char*>(of_thread(t.ranks.receives, (int)t.to));
  const long packs = t.beside_bytes / (long)sizeof(pack);
  for (long turn = 0; turn < t.ranks.count; ++turn) {
    for (long i = thread_in_block(); i < packs; i += threads_in_block()) store_pack(to, i, pack{});
    block_barrier();
    if (FENCE) fence_system();
    if (thread() == 0) *(volatile u64*)(to + t.beside_bytes) = (u64)turn;
    block_barrier();
  }
}
KERNEL link_fenced_stores(LAUNCHED_WITH(Transfer) t) { store_and_flag<true>(t); }
KERNEL link_unfenced_stores(LAUNCHED_WITH(Transfer) t) { store_and_flag<false>(t); }
