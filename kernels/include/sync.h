// Synchronisation between ranks, over memory that peers have mapped: epochs, flags and barriers. A
// flag lies in its reader's control block, has one writer, and holds a stamp: the launch's epoch
// above, the step below. Stamps only grow, so all algorithms share the flags.
//
// A launch uses the half of the slab that its epoch's low bit names. No rank waits at the end of a
// launch: a rank in launch e+2, which writes into the half of e again, has finished e+1, in which
// every peer signalled, having left e. So every launch must wait for every peer, directly or not.
//
// Which places may a rank write? Any rank may write them: SWAPS needs no more than these rules.
//   Launch e+2: no rank uses the half of e any more, so all its places are free.
//   Exchange: a peer's signal of step s follows its reads of s-1. In s+1 places of s-1 are free.
//   Two-shot: data of round b are read in b+1, which all signal. In b+2 all places of b are free.
//   Ring: a rank waits for its neighbours alone. In round b+2 it writes a place of round b that its
//   right neighbour read in b+1 and signalled, or, with SWAPS, that it read itself.
//   Send and receive: a sender waits until the receiver has signalled the slot's last chunk. With
//   SWAPS the answer's sender has read all its slots itself, and a receiver stores into slots
//   that it has read, before it signals.
// In a step one rank writes data into a place; all ranks compute which, from the same epoch and
// step. Slots keep their layout, and a pack its place in a slot: a block waits only for its like.
#pragma once
#include "platform.h"

// device.py has the same values and structures: each compilation compares them (layout.py).
constexpr int MOST_RANKS = 8;
constexpr int MOST_BLOCKS = 128;
constexpr long PACK_BYTES = 64;          // of the widest machine
constexpr long HALF_BYTES = 4 << 20;     // of a slab, at least
constexpr long PACKET_BYTES = 66 << 10;  // a writer's room for packets, in each half
constexpr long PACKETS_BYTES = 4 * MOST_RANKS * PACKET_BYTES;  // behind a slab's halves
static_assert(PACK_BYTES % sizeof(pack) == 0, "a user's buffer of whole packs has them here too");
// A look at the clock costs 20 ns or more; 50 polls of a flag in cache take about 1 us.
constexpr int POLLS_PER_LOOK = 50;
constexpr bool SWAPS = ON_CPU;  // ranks write next where they read last: see use_of

// 128 bytes: the CPU's prefetcher and the GPU fetch cache lines in pairs.
struct alignas(128) Line {
  u64 value, rest[15];
};

// A rank's own counters, on its device: a graph replays correctly, and no atomic crosses the wire.
struct Own {
  Line epoch;     // of this rank's last launch
  Line ticket;    // blocks that have left the launch
  Line barriers;  // barriers of the timed loop, counted apart so that they do not flip the half
  Line hdp_flush[MOST_RANKS];  // addresses of the ranks' registers, 0 where none is needed
};

struct Control {
  Line meet[MOST_RANKS];
  Line flags[MOST_BLOCKS][MOST_RANKS];
};

// A rank's progress and its last wait, in host memory: the host reads it while a kernel runs.
struct Watch {
  u64 stop;                                  // any value but 0 ends every wait
  u64 timed_out, peer, block, seen, wanted;  // written once, by the wait that timed out
  u64 iteration, calls, phase;               // of the timed loop; calls: in the iteration's chain
  u64 epoch;                                 // of the last launch before the last barrier
};

// A pointer for each rank, as mapped here. Pick one by
//   [rank]: a constant, once loops are unrolled, or what is used at once
//   at_use(rank): the same for all threads, looked up again at each use: see rematerialized
//   selected(rank): in registers, without another read of a kernel's arguments
template <class T>
struct PeerPointers {
  T* of_rank[MOST_RANKS];
  DEVICE T* operator[](long rank) const { return of_rank[rank]; }
  DEVICE T* at_use(long rank) const { return of_rank[rematerialized((int)rank)]; }
  DEVICE T* selected(long rank) const {
    if (!ARGUMENTS_IN_HOST_MEMORY) return of_rank[rank];
    T* pointer = of_rank[0];
    for (int r = 1; r < WT_WORLD; ++r) pointer = r == (int)rank ? of_rank[r] : pointer;
    return pointer;
  }
};

struct Arguments {
  const char* send;
  char* receive;
  long count;        // elements
  long chunk_bytes;  // part of the message that a step handles
  long half_bytes;   // of a slab
  u64 timeout_ns;
  long rank, yields;  // yields: ranks outnumber cores: a waiting rank yields its core
  PeerPointers<char> slab;
  PeerPointers<Control> control;
  Watch* watch;
  Own* own;
  PeerPointers<const char> sends;  // the users' buffers, if they are registered
  PeerPointers<char> receives;
  const void* more;  // further arguments: Routing, Norm, Gemv; a multicast address
};

template <class T>
DEVICE const T& more_of(const Arguments& a) {
  return *(const T*)a.more;
}

#define RANK_KERNEL(name) KERNEL name(LAUNCHED_WITH(Arguments) a)

DEVICE long thread() { return (long)block() * threads_in_block() + thread_in_block(); }
DEVICE long threads() { return (long)blocks() * threads_in_block(); }

// At least `wanted`, and of this launch or the next, as no peer is further ahead: a block that
// short messages do not use has old flags. Right also where the epoch wraps at 2^32.
DEVICE bool reached(u64 seen, u64 wanted) {
  return seen - wanted < (2ull << 32) - (unsigned)wanted;
}

// Ends every wait. The launch runs on over stale data; the host sees the time-out and discards it.
DEVICE void give_up(const Arguments& a, int peer, u64 seen, u64 wanted) {
  volatile Watch* w = a.watch;
  w->peer = peer;
  w->block = block();
  w->seen = seen;
  w->wanted = wanted;
  w->timed_out = 1;
  w->stop = 1;
}

// Calls poll(seen) until it returns true, the host stops the wait, or the wait times out. A rank
// that shares its core yields it after so many `looks` at the stop. `seen` is local: outside the
// loop it would take scalar registers that gfx942 lacks.
template <class Poll, class TimedOut>
DEVICE void spin(const Arguments& a, Poll poll, TimedOut timed_out, int looks = 1) {
  Timer timer;
  for (int polls = 1;; ++polls) {
    u64 seen;
    if (poll(seen)) return;
    cpu_relax();
    if (polls % POLLS_PER_LOOK) continue;
    if (*(volatile u64*)&a.watch->stop) return;
    if (timer.passed(a.timeout_ns)) return timed_out(seen);
    if (a.yields && polls % (looks * POLLS_PER_LOOK) == 0) yield();
  }
}

// Waits until `flag` reaches `wanted`: before, the peer has yet to write the slab.
DEVICE void await_acquire_system(const Arguments& a, const u64* flag, u64 wanted, int peer,
                                 int looks = 1) {
  spin(
      a, [&](u64& seen) { return reached(seen = load_flag_system(flag), wanted); },
      [&](u64 seen) { give_up(a, peer, seen, wanted); }, looks);
  fence_acquire_system();
}

// Calls each(rank) for the ranks at distances `first` to `end` - 1 to the right, in a circle; this
// rank is at 0. No two ranks begin with the same peer, whose link and memory would serve both.
// Not unrolled on AMD: gfx9 has too few registers for some bodies.
template <class Each>
DEVICE void for_each_peer(const Arguments& a, Each each, int first = 1, int end = WT_WORLD) {
  for (int d = first; d < rematerialized(end); ++d) each((a.rank + d) % WT_WORLD);
}
// Calls each(rank) for each of `peers`, one bit each, by the block's thread of this number.
template <class Each>
DEVICE void by_thread_of_peer(unsigned peers, Each each) {
  NO_UNROLL
  for (int p = thread_in_block(); p < WT_WORLD; p += threads_in_block())
    if (peers >> p & 1) each(p);
}

// With the next signal, orders this block's accesses before later accesses through other addresses
// of the same memory: PTX wants one fence on the path.
DEVICE void fence_aliases() {
  block_barrier();
  if (thread_in_block() == 0) fence_alias();
}

// The slab where `writer` leaves what all others read, and, on a ring, what its neighbour reads in
// the slab of `writer` + 1: at its next use this is where the rank itself has read.
DEVICE long slab_of_use(long writer, unsigned use) {
  return SWAPS ? (int)((unsigned)writer + WT_WORLD - use % WT_WORLD) % WT_WORLD : writer;
}

// This rank's launch: its epoch is the last launch's plus one, or that epoch with `ahead` = 0.
// Peers are given by one bit each.
struct Launch {
  const Arguments& a;
  const unsigned epoch, peers;
  DEVICE explicit Launch(const Arguments& a, unsigned ahead = 1)
      : a(a),
        epoch((unsigned)a.own->epoch.value + ahead),
        peers(((1u << WT_WORLD) - 1) & ~(1u << a.rank)) {}

  DEVICE u64 stamp(long step) const { return (u64)epoch << 32 | (u64)step; }

  // Tells the peers that this block has made all its stores before `step`. The barrier waits for
  // all threads; then one wave's release makes the stores of the whole block visible. The host data
  // path (HDP) of a peer's AMD GPU may hold back stores that arrived over PCIe: it is flushed after
  // the data and before the flag. RCCL writes this register before each flag, too.
  DEVICE void signal(long step, unsigned to) const {
    drain_stores();
    block_barrier();
    NO_UNROLL  // not by_thread_of_peer: AMD's compiler would keep all peers' pointers in registers
    for (int p = thread_in_block(); p < WT_WORLD; p += threads_in_block())
      if (to >> p & 1) {
        if (const u64 flush = WT_HDP_FLUSH ? a.own->hdp_flush[p].value : 0) {
          WT_UNCACHED_SLAB ? drain_stores() : fence_system();
          *(volatile unsigned*)flush = 1;
        }
        store_release_system(&a.control.selected(p)->flags[block()][a.rank].value, stamp(step));
      }
  }
  DEVICE void signal(long step) const { signal(step, peers); }
  // Waits until the peers have signalled at least `step`. The barrier holds all threads back.
  DEVICE void wait(long step, unsigned from) const {
    by_thread_of_peer(from, [&](int p) {
      await_acquire_system(a, &a.control[a.rank]->flags[block()][p].value, stamp(step), p);
    });
    block_barrier();
  }
  DEVICE void wait(long step) const { wait(step, peers); }
  DEVICE void meet(long step) const { signal(step), wait(step); }

  // The lower rank sends its partner a flag, and gets one back: `count` times, from `step` on. The
  // upper rank yields its core only after so many `looks`.
  DEVICE void ping_pong(int partner, long step, long count, int looks = 1) const {
    if (thread() != 0) return;
    u64* ping = &a.control.selected(partner)->flags[0][a.rank].value;
    const u64* pong = &a.control[a.rank]->flags[0][partner].value;
    for (long i = step; i < step + count; ++i) {
      if (a.rank < partner) store_release_system(ping, stamp(i));
      await_acquire_system(a, pong, stamp(i), partner, a.rank < partner ? 1 : looks);
      if (a.rank > partner) store_release_system(ping, stamp(i));
    }
  }

  // A slab's half for this launch: a fast rank's next must not overwrite what peers still read.
  DEVICE char* half_of(long rank) const { return a.slab.at_use(rank) + (epoch & 1) * a.half_bytes; }
  // With SWAPS a rank writes where it last read from the same peer: its core still holds these
  // lines; those that the peer read last it would have to fetch back first. Counts the uses of a
  // place: in every second of a launch's `steps`, in every second launch.
  DEVICE unsigned use_of(long step, long steps) const {
    const long uses = (steps + 1 - (step & 1)) >> 1;  // below: wraps in no launch
    return (epoch >> 1) % (2 * WT_WORLD) * (unsigned)uses + (unsigned)(step >> 1);
  }
  // The place of `bytes` where `writer` leaves, in a step of `steps`, what `reader` alone reads, or
  // all if it is `shared`. Without SWAPS: a push leaves it in its reader's slab, in the writer's
  // slot, and a pull the other way round.
  DEVICE char* place(long writer, long reader, bool pushes, bool shared, long step, long steps,
                     long bytes) const {
    const unsigned use = use_of(step, steps);
    const bool at_reader = SWAPS ? pushes != (use & 1) : pushes;
    const long slab = shared ? slab_of_use(writer, use) : at_reader ? reader : writer;
    const long slot = shared ? step & 1 : (step & 1) * WT_WORLD + (at_reader ? writer : reader);
    return half_of(slab) + slot * bytes;
  }

  // The last block to leave advances the epoch: before, another block could enter the next launch.
  DEVICE void leave() const {
    // The end of a GPU's kernel is a fence. On a CPU another thread could still read memory from
    // before the launch's streaming stores.
    if (ON_CPU && WT_STREAM_RECEIVE != 0) fence_system();
    block_barrier();
    if (thread_in_block() != 0) return;
    const unsigned earlier = add_relaxed_device((unsigned*)&a.own->ticket.value, 1);
    if (earlier + 1 < (unsigned)blocks()) return;
    a.own->ticket.value = 0;
    a.own->epoch.value = epoch;
  }
};
