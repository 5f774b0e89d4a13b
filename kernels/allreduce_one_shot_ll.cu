// One-shot all-reduce in packets of 4 bytes of data and the launch's epoch, without flags (NCCL's
// LL protocol). One step, half a round trip; each rank sends 2 (n-1) S bytes:
//   1. store the input, packet by packet, into every peer's slab
//   2. poll each peer's packets until they carry this launch's epoch, sum in rank order, round once
//
// No machine tears a packet, one 8-byte store: a rank that sees the epoch has the data, without a
// fence. Between launches, a peer that has this rank's packets may overwrite slab data that this
// rank read one launch ago, by another algorithm. The end of a launch keeps that order on a GPU; on
// a CPU, packets release and acquire, as x86 does anyway. Packets are compared for equality, so
// nothing else writes their region. An epoch returns after 2^31 launches: then an old packet would
// pass for new if only shorter messages followed.
#include "include/pack.h"

constexpr int PACK_WORDS = sizeof(pack) / 4, ELEMENT_WORDS = ELEMENT_BYTES == 8 ? 2 : 1;
constexpr long PACKETS = PACKET_BYTES / 8;

// The packets from `writer` to `reader`, in two halves as half_of has them.
DEVICE u64* packets_of(const Arguments& a, long reader, long writer, unsigned epoch) {
  const long place = (epoch & 1) * MOST_RANKS + writer;
  return (u64*)(a.slab[afresh((int)reader)] + 2 * a.half_bytes) + place * PACKETS;
}
// The mark of an epoch in a packet: never 0, the contents of zeroed memory.
DEVICE unsigned mark_of(unsigned epoch) { return epoch << 1 | 1; }

template <int WORDS> DEVICE void send(u64* to, pack p, unsigned mark) {
  unsigned data[WORDS];
  copy_bits(data, &p, sizeof data);
  for (int k = 0; k < WORDS; ++k) store_packet_system(to + k, (u64)mark << 32 | data[k]);
}
// Polls all packets of a pack at once: one after another, each would take a round trip.
template <int WORDS>
DEVICE pack receive(const Arguments& a, const u64* from, unsigned mark, int peer) {
  unsigned data[WORDS];
  const u64 wanted = (u64)mark << 32;
  const auto poll = [&](u64& seen) {
    seen = wanted;
    for (int k = 0; k < WORDS; ++k) {
      const u64 packet = load_packet_system(from + k);
      data[k] = (unsigned)packet;
      if (packet >> 32 != mark) seen = packet;
    }
    return seen == wanted;
  };
  // As stamps: the epochs of the marks.
  spin(a, poll, [&](u64 seen) { give_up(a, peer, seen >> 33 << 32, wanted >> 33 << 32); });
  pack p = {};
  copy_bits(&p, data, sizeof data);
  return p;
}

// Exchanges `units`, whole packs or single elements: load(i) reads an input, store(i, p) a sum.
template <int WORDS, class Load, class Store>
DEVICE void exchange_packets(const Arguments& a, unsigned epoch, long first_packet, long units,
                             Load load, Store store) {
  const unsigned mark = mark_of(epoch);
  for (long i = thread(); i < units; i += threads()) {
    const pack own = load(i);
    for (int d = 1; d < WORLD; ++d) {
      const long reader = (a.rank + d) % WORLD;
      send<WORDS>(packets_of(a, reader, a.rank, epoch) + first_packet + i * WORDS, own, mark);
    }
  }
  for (long i = thread(); i < units; i += threads())
    store(i, combined<COMPLETE, WORLD>([&](int r) {
      const u64* packets = packets_of(a, a.rank, r, epoch) + first_packet + i * WORDS;
      return r == a.rank ? load(i) : receive<WORDS>(a, packets, mark, r);
    }));
}

RANK_KERNEL(one_shot_ll) {
  const unsigned epoch = enter_launch(a);
  const long packs = a.count / PACK_ELEMENTS, tail = packs * PACK_ELEMENTS;
  // An empty message exchanges one element, since every launch waits for every peer.
  const long elements = a.count == 0 ? 1 : a.count - tail;
  exchange_packets<PACK_WORDS>(
      a, epoch, 0, packs, [&](long i) { return load_pack(a.send, i); },
      [&](long i, pack p) { store_pack(a.receive, i, p); });
  const auto place = [&](long i) { return SingleElement{(unsigned)(tail + i), 0}; };
  exchange_packets<ELEMENT_WORDS>(
      a, epoch, packs * PACK_WORDS, elements,
      [&](long i) { return a.count ? place(i).load(a.send, 0) : pack{}; },
      [&](long i, pack p) { if (a.count) place(i).store(a.receive, 0, p); });
  leave_launch(a, epoch);
}
