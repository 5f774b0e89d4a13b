// How ranks wait for one another: epochs, flags and barriers over memory that peers have mapped.
//
// Each rank owns a control block, which all ranks map. A flag lies in the block of the rank that reads it, has one
// writer, and holds a stamp: the launch's epoch above, the step within the launch below. A stamp only grows, so that
// all algorithms share the flags, and a reader asks "at least", by the sign of a difference, which stays right when the
// epoch wraps at 2^32.
//
// The slab has two halves; a launch uses the one its epoch's low bit names. Nobody waits at the end of a launch: to
// reach launch e+2, which writes into the half of e again, a rank has finished e+1, for which every peer had to enter
// e+1, so had left e. This needs every launch to wait, at least through others, for every peer.
#pragma once
#include "faults.h"

constexpr int MOST_RANKS = 8;
constexpr int MOST_BLOCKS = 128;
constexpr long PACKET_BYTES = 66 << 10;  // a writer's room for packets, in each half: 32 KiB of data and a rest
constexpr int POLLS_PER_LOOK = 50;  // a look at the clock costs 20 ns or more; 50 polls of a flag in cache, about 1 us

struct alignas(128) Line { u64 value; };  // 128 bytes: the CPU's prefetcher and the GPU fetch lines in pairs

// What a rank counts for itself. In its own device's memory, so that a captured graph replays correctly and no count
// crosses the wire: where flags lie in the host's memory, an atomic there is more than every slot can carry.
struct Own {
  Line epoch;    // of this rank's last launch
  Line ticket;   // blocks that have left the launch
  Line meetings; // barriers of the timed loop, counted apart so that they do not turn the half over
};

struct Control {
  Line meet[MOST_RANKS];
  Line flags[MOST_BLOCKS][MOST_RANKS];
};

// Where a rank's progress and its last words are kept: host memory, which the host reads while a kernel runs.
struct Watch {
  u64 stop;                                      // anything but 0 ends every wait
  u64 timed_out, peer, block, seen, wanted;      // written once, by the wait that ran into the time-out
  u64 iteration, calls, phase;                   // of the timed loop; calls: within the iteration's chain
  u64 epoch;                                     // of the last launch before the last meeting
};

struct Arguments {
  const char* send;
  char* receive;
  long count;                    // elements
  long chunk_bytes;              // of the message, handled at a time
  long half_bytes;               // of a slab
  u64 timeout_ns;
  long rank, yields;             // yields: more ranks than cores, so give the core away while waiting
  char* slab[MOST_RANKS];        // every rank's, as mapped here
  Control* control[MOST_RANKS];
  Watch* watch;
  Own* own;
  const char* sends[MOST_RANKS]; // every rank's send and receive buffer, as mapped here, where they are registered
  char* receives[MOST_RANKS];
  const Arguments* everyone;     // with RANKS_IN_ONE_LAUNCH: every rank's arguments
  const void* more;              // what a kernel takes besides: Routing, Norm, Gemv
};

// What this block is to act on.
DEVICE const Arguments& of_this_rank(const Arguments& a) {
  return RANKS_IN_ONE_LAUNCH ? a.everyone[rank_in_grid()] : a;
}

DEVICE long thread() { return (long)block() * threads_in_block() + thread_in_block(); }
DEVICE long threads() { return (long)blocks() * threads_in_block(); }

DEVICE unsigned everyone_but(long rank) { return ((1u << WORLD) - 1) & ~(1u << rank); }
DEVICE u64 stamp(unsigned epoch, long step) { return (u64)epoch << 32 | (u64)step; }
DEVICE bool reached(u64 seen, u64 wanted) { return (long long)(seen - wanted) >= 0; }

// Ends a wait for `peer`, and all others. The launch then runs on to its end over stale data, and the host, which finds
// the watch marked, throws its result away.
DEVICE void give_up(const Arguments& a, int peer, u64 seen, u64 wanted) {
  volatile Watch* w = a.watch;
  w->peer = peer, w->block = block(), w->seen = seen, w->wanted = wanted;
  w->timed_out = 1, w->stop = 1;
}

// Spins until `flag` has reached `wanted`, or until the clock or the host says so: nothing spins for ever.
DEVICE void await_acquire_system(const Arguments& a, const u64* flag, u64 wanted, int peer) {
  if (WITHOUT_WAIT || reached(load_acquire_system(flag), wanted)) return;
  FlagWait waited;
  for (int polls = 1;; ++polls) {
    const u64 seen = load_acquire_system(flag);
    if (reached(seen, wanted)) return;
    breathe();
    if (polls % POLLS_PER_LOOK) continue;
    if (*(volatile u64*)&a.watch->stop) return;
    if (waited.longer_than(a.timeout_ns)) return give_up(a, peer, seen, wanted);
    if (a.yields) yield();
  }
}

// Tells `peers` (a bit each) that all that this block has stored, it has stored. Without the fence, thread 0's flag can
// overtake a store of its own that goes around the caches, or of another thread, and the peer sums what was there
// before. Without the block barrier it can be set while another thread has yet to store.
DEVICE void signal(const Arguments& a, unsigned peers, u64 reached_stamp) {
  if (!WITHOUT_FENCE_SYSTEM) fence_stores_system();
  block_barrier();
  for (int p = thread_in_block(); p < WORLD; p += threads_in_block())
    if (peers >> p & 1) {
      u64 value = reached_stamp;
      if constexpr (FAULT == DROP_FLAG) { if (strikes(DROP_FLAG, a.rank, value, p)) continue; }
      if constexpr (FAULT == STALE_EPOCH) { if (strikes(STALE_EPOCH, a.rank, value, p)) value -= 1ull << 32; }
      store_release_system(&of_thread(a.control, p)->flags[block()][a.rank].value, value);
    }
}

// Waits until each of `peers` has signalled at least `wanted`. One thread waits for one peer; without the block barrier
// the others would read a slab that is not yet written.
DEVICE void wait(const Arguments& a, unsigned peers, u64 wanted) {
  for (int p = thread_in_block(); p < WORLD; p += threads_in_block())
    if (peers >> p & 1) await_acquire_system(a, &a.control[a.rank]->flags[block()][p].value, wanted, p);
  block_barrier();
}

// A flag goes to `partner` and comes back, `count` times, with stamps from `step` on; the lower rank begins.
DEVICE void bounce(const Arguments& a, int partner, unsigned epoch, long step, long count) {
  if (thread() != 0) return;
  u64* ping = &of_thread(a.control, partner)->flags[0][a.rank].value;
  const u64* pong = &a.control[a.rank]->flags[0][partner].value;
  for (long i = step; i < step + count; ++i) {
    if (a.rank < partner) store_release_system(ping, stamp(epoch, i));
    await_acquire_system(a, pong, stamp(epoch, i), partner);
    if (a.rank > partner) store_release_system(ping, stamp(epoch, i));
  }
}

// The epoch of this launch: one more than that of the last.
DEVICE unsigned enter_launch(const Arguments& a) { return (unsigned)a.own->epoch.value + 1; }

// The half of a rank's slab that a launch may use. With one half only, a fast rank's next launch overwrites what a slow
// peer has yet to read.
DEVICE char* half_of(const Arguments& a, long rank, unsigned epoch) {
  return a.slab[afresh((int)rank)] + (WITHOUT_EPOCH_FLIP ? 0 : epoch & 1) * a.half_bytes;
}

// The last block out advances the epoch: any earlier, and a block still to come would enter the launch after.
DEVICE void leave_launch(const Arguments& a, unsigned epoch) {
  if (STREAM_RECEIVE) fence_streams();
  block_barrier();
  if (thread_in_block() == 0 && add_relaxed_device((unsigned*)&a.own->ticket.value, 1) + 1 == (unsigned)blocks()) {
    a.own->ticket.value = 0;
    a.own->epoch.value = epoch;
  }
}

// The first variable of a kernel that can be made to take SLOWED_PERCENT longer than it needs, which shows what a
// comparison sees. The looks at the clock are a part of the delay: one on entry, two or more on leaving, the last of
// which is half a look late on average. The least delay is three looks, 70 ns on a CPU; on a GPU a step of its clock.
template <bool ON = (SLOWED_PERCENT > 0)> struct Slowed {
  DEVICE ~Slowed() {}  // said, since compilers take a variable that does nothing for a mistake
};
template <> struct Slowed<true> {
  const u64 start = clock_ns();
  DEVICE ~Slowed() {
    if (thread_in_block() != 0) return;
    const u64 left = clock_ns(), until = left + (u64)((double)(left - start) * (SLOWED_PERCENT / 100.));
    for (u64 now = left, look = 0; now + 5 * look / 2 < until;) {
      const u64 before = now;
      now = clock_ns(), look = now - before;
    }
  }
};
