// The parts of an all-reduce, one at a time, for the state of the link and the lower bound:
// barrier, flag, stores, reads, local copies. chain_link makes the next input of a chain of calls.
#include "include/digest.h"

DEVICE void note_epoch(const Arguments& a, unsigned epoch) {
  if (thread() == 0) *(volatile u64*)&a.watch->epoch = epoch;
}

// A barrier before each timed iteration. Its store of the epoch, for the host, is not measured.
RANK_KERNEL(meet) {
  block_barrier();
  const u64 barrier = a.own->barriers.value + 1;
  note_epoch(a, (unsigned)a.own->epoch.value);
  by_thread_of_peer(Launch(a).peers, [&](int p) {
    store_release_system(&a.control.selected(p)->meet[a.rank].value, barrier);
  });
  by_thread_of_peer(Launch(a).peers, [&](int p) {
    await_acquire_system(a, &a.control[a.rank]->meet[p].value, barrier, p);
  });
  block_barrier();
  if (thread() == 0) a.own->barriers.value = barrier;
}

// Pairs of ranks whose numbers differ in the bits of `chunk_bytes` bounce a flag `count` times:
// (0,1), (2,3), ... for 1. receive[0] gets the round trip in ns, 64 bits: the least mean of 25 in a
// row, since a rank may lose its core; 0 without a partner. All ranks wait for all first: the pairs
// use an epoch's flags.
RANK_KERNEL(flag_ping_pong) {
  constexpr long IN_A_ROW = 25;
  constexpr int PATIENCE = 20;  // two ranks that both yield at each look might never run together
  const Launch launch(a);
  note_epoch(a, launch.epoch - 1);
  launch.meet(1);
  const long partner = a.rank ^ a.chunk_bytes;
  u64 least_ns = partner < WT_WORLD ? ~0ull : 0;
  for (long done = 0; done < a.count && partner < WT_WORLD; done += IN_A_ROW) {
    const long trips = smaller(IN_A_ROW, a.count - done);
    const u64 start_ns = clock_ns();
    launch.ping_pong((int)partner, 2 + done, trips, PATIENCE);
    const u64 trip_ns = (clock_ns() - start_ns) / (u64)trips;
    if (trip_ns < least_ns) least_ns = trip_ns;
  }
  if (thread() == 0) *(volatile u64*)a.receive = least_ns;
  note_epoch(a, launch.epoch);
  launch.leave();
}

// Calls each(slot, start, elements) for the chunks that `rank` leaves in a launch, in two slots.
template <class Each>
DEVICE void for_chunks(const Launch& launch, long rank, Each each) {
  const Arguments& a = launch.a;
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  char* half = launch.half_of(slab_of_use(rank, launch.use_of(0, 1)));
  long slot = 0;
  for (long start = 0; start < a.count; start += most, slot ^= 1)
    each(half + slot * a.chunk_bytes, start, smaller(most, a.count - start));
}
// Stores into lines that the peer, or with SWAPS this rank, read two launches ago. Run it between
// barriers.
DEVICE void store_into(const Arguments& a, long rank) {
  const Launch launch(a);
  for_chunks(launch, rank, [&](char* slot, long start, long n) {
    copy(Slab{slot}, a.send + start * ELEMENT_BYTES, n);
  });
  fence_system();
  launch.leave();
}
RANK_KERNEL(copy_in) { store_into(a, a.rank); }
RANK_KERNEL(push_out) { store_into(a, (a.rank + 1) % WT_WORLD); }

// Reads `count` elements that the next rank stored with its last copy_in.
RANK_KERNEL(read_peer) {
  words digest = {};
  for_chunks(Launch(a, 0), (a.rank + 1) % WT_WORLD,
             [&](const char* slot, long, long n) { copy(Digest{&digest}, slot, n); });
  use(a, digest);
}

// What all ranks do to all peers at once: an equal part of `count` elements for each peer, at a
// place that no other rank uses, in the half of this launch. Calls each(to, from, n), both in the
// peer's slab: `to` is where this rank stores, `from` where it reads. A lone rank is its own peer.
template <class Each>
DEVICE void with_all(const Launch& launch, Each each) {
  constexpr int FIRST = WT_WORLD > 1, PEERS = WT_WORLD - FIRST;
  const Arguments& a = launch.a;
  const long bytes = a.count * ELEMENT_BYTES / PEERS / PACK_BYTES * PACK_BYTES;
  for_each_peer(
      a,
      [&](long peer) {
        char* from = launch.half_of(peer) + a.rank * bytes;
        each(from + WT_WORLD * bytes, from, bytes / ELEMENT_BYTES);
      },
      FIRST);
}
RANK_KERNEL(store_to_all) {
  const Launch launch(a);
  with_all(launch, [&](char* to, const char*, long n) { copy(Slab{to}, a.send, n); });
  fence_system();
  launch.leave();
}
RANK_KERNEL(read_from_all) {
  words digest = {};
  with_all(Launch(a, 0), [&](char*, const char* from, long n) { copy(Digest{&digest}, from, n); });
  use(a, digest);
}
RANK_KERNEL(store_and_read_all) {
  const Launch launch(a);
  with_all(launch, [&](char* to, const char* from, long n) { copy(Slab{to}, from, n); });
  fence_system();
  launch.leave();
}

// Reads `count` elements of this rank's result, as the next layer would.
RANK_KERNEL(read_own) {
  words digest = {};
  in_parts(a.count, [&](long at, long count) { copy(Digest{&digest}, a.receive + at, count); });
  use(a, digest);
}

// Copies from the send to the receive buffer, as every all-reduce that is not in place must.
RANK_KERNEL(copy_local) { copy_message(a.receive, a.send, a.count); }

// A chain's next input, from a result. A sum is divided by WT_WORLD, so that it does not grow; rank
// 0 adds one and the last rank subtracts one: ranks' data differ, and the sum stays the same.
struct NextSend {
  Output send;
  bool adds, subtracts;
  template <class Op, class Lane>
  DEVICE Lane next_of(Op, Lane a) const {
    return a;
  }
  // Not a product, which only some compilers fuse with the sum: results would differ.
  template <class Lane>
  DEVICE Lane next_of(Sum, Lane a) const {
    return a / WT_WORLD + adds - subtracts;
  }
  DEVICE bool aligned() const { return send.aligned(); }
  template <class Place>
  DEVICE void put(Place place, int k, pack p) const {
    auto v = Element::widen(p);
    UNROLLED
    for (auto& lane : v.v) lane = next_of(WT_REDOP{}, lane);
    send.put(place, k, Element::narrow(v));
  }
};
// A segment of `count` elements, or one for each rank: `chunk_bytes` apart in the send buffer and
// `half_bytes` apart in the receive buffer, 0 where there is one.
RANK_KERNEL(chain_link) {
  const bool adds = a.rank == 0, subtracts = a.rank == WT_WORLD - 1;
  const long segments = a.chunk_bytes ? WT_WORLD : 1;
  for (long d = 1; d <= segments; ++d) {  // its own last: in place, the others are made from it
    const long segment = a.chunk_bytes ? (a.rank + d) % WT_WORLD : 0;
    const long from = (segment + a.rank + 1) % WT_WORLD;
    in_parts(a.count, [&](long at, long count) {
      char* send = const_cast<char*>(a.send) + segment * a.chunk_bytes + at;
      copy(NextSend{{send}, adds, subtracts}, a.receive + from * a.half_bytes + at, count);
    });
  }
}
