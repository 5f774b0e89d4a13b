// One-shot all-reduce in packets: each 8 bytes carry 4 of data and the launch's epoch, and no flag follows.
//
// One step, half a round trip; each rank sends 2 (n-1) S bytes.
//   1. store one's input, packet by packet, into every peer's slab
//   2. look at each peer's packets until they carry this launch's epoch, sum in rank order, and round once
// A packet is one store of 8 bytes, which none of the machines tears: whoever sees the epoch has the data, so there is
// nothing to fence within a launch. A peer that has a rank's packets may, in the launch after, overwrite what that rank
// read of a slab in the launch before, by another algorithm. On a GPU the end of a launch keeps that order; on a CPU,
// where a launch is but a call, packets release and acquire, which is what x86 does anyway. Packets are compared for
// equality, so they have a place of their own, where nothing else is ever stored: two halves that take turns, with room
// for every writer. An epoch comes back after 2^31 launches; a packet that none of these has overwritten, all of them
// being shorter, would then be taken for a new one.
#include "include/pack.h"

constexpr int PACK_WORDS = sizeof(pack) / 4, ELEMENT_WORDS = ELEMENT_BYTES == 8 ? 2 : 1;
constexpr long PACKETS = PACKET_BYTES / 8;

DEVICE u64* packets_of(const Arguments& a, long reader, long writer, unsigned epoch) {
  const long place = (WITHOUT_EPOCH_FLIP ? 0 : epoch & 1) * MOST_RANKS + writer;
  return (u64*)(a.slab[afresh((int)reader)] + 2 * a.half_bytes) + place * PACKETS;
}
// Never that of memory that has only been zeroed.
DEVICE unsigned mark_of(unsigned epoch) { return epoch << 1 | 1; }

// `spoilt` are the bits that a fault changes in the first packet.
template <int WORDS> DEVICE void send(u64* to, pack p, unsigned mark, u64 spoilt) {
  unsigned data[WORDS];
  copy_bits(data, &p, sizeof data);
  for (int k = 0; k < WORDS; ++k) store_packet_system(to + k, ((u64)mark << 32 | data[k]) ^ (k ? 0 : spoilt));
}
// All of a pack's packets are asked for at once, again and again: one after another they would take a round trip each.
template <int WORDS> DEVICE pack receive(const Arguments& a, const u64* from, unsigned mark, int peer) {
  unsigned data[WORDS];
  const u64 wanted = (u64)mark << 32;
  PacketWait waited;
  for (int polls = 1;; ++polls) {
    u64 seen = wanted;
    for (int k = 0; k < WORDS; ++k) {
      const u64 packet = load_packet_system(from + k);
      data[k] = (unsigned)packet;
      if (packet >> 32 != mark) seen = packet;
    }
    if (WITHOUT_WAIT || seen == wanted) break;
    breathe();
    if (polls % POLLS_PER_LOOK) continue;
    if (*(volatile u64*)&a.watch->stop) break;
    if (waited.longer_than(a.timeout_ns)) {
      give_up(a, peer, seen >> 33 << 32, wanted >> 33 << 32);  // as stamps: of marks, the epochs
      break;
    }
    if (a.yields) yield();
  }
  pack p = {};
  copy_bits(&p, data, sizeof data);
  return p;
}

// The units of a message that this thread sends and receives: whole packs, and the elements that are left.
template <int WORDS, class Load, class Store>
DEVICE void exchange_packets(const Arguments& a, unsigned epoch, long first_packet, long units, Load load,
                             Store store) {
  const unsigned mark = mark_of(epoch);
  for (long i = thread(); i < units; i += threads())
    for (int d = 1; d < WORLD; ++d) {
      const long reader = (a.rank + d) % WORLD;
      const u64 step = stamp(epoch, 1);
      if (strikes(SKIP_PUSH, a.rank, step) || (i == 0 && strikes(DROP_FLAG, a.rank, step, (int)reader))) continue;
      const u64 spoilt = i ? 0 : strikes(FLIP_BIT, a.rank, step) ? 1ull << drawn(step) % 32
                       : strikes(STALE_EPOCH, a.rank, step) ? (u64)(mark ^ mark_of(epoch - 1)) << 32 : 0;
      send<WORDS>(packets_of(a, reader, a.rank, epoch) + first_packet + i * WORDS, load(i), mark, spoilt);
    }
  for (long i = thread(); i < units; i += threads())
    store(i, combined<COMPLETE, WORLD>([&](int r) {
      const u64* came = packets_of(a, a.rank, r, epoch) + first_packet + i * WORDS;
      return r == a.rank ? load(i) : receive<WORDS>(a, came, mark, r);
    }));
}

DEVICE void exchange_message(const Arguments& a, unsigned epoch) {
  const long packs = a.count / PACK_ELEMENTS, tail = packs * PACK_ELEMENTS;
  // Of no elements one is exchanged all the same: every launch waits for every peer.
  const long elements = a.count == 0 ? 1 : a.count - tail;
  exchange_packets<PACK_WORDS>(a, epoch, 0, packs, [&](long i) { return load_pack(a.send, i); },
                               [&](long i, pack p) { store_pack(a.receive, i, p); });
  exchange_packets<ELEMENT_WORDS>(
      a, epoch, packs * PACK_WORDS, elements,
      [&](long i) { return a.count ? load_element(a.send, (unsigned)(tail + i)) : pack{}; },
      [&](long i, pack p) { if (a.count) store_element(a.receive, (unsigned)(tail + i), p); });
}

extern "C" __global__ UP_TO_512_THREADS void one_shot_ll(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  const unsigned epoch = enter_launch(a);
  if (WORLD == 1) copy_message(a);
  else exchange_message(a, epoch);
  leave_launch(a, epoch);
}
