// One-shot all-reduces in packets that show by themselves that they have arrived: no flag, no
// fence, half a round trip. A packet is an aligned 8-byte word in a peer's slab; a unit is the
// packets that a thread stores at once. A launch
//   1. stores the input, unit by unit, into every peer's slab
//   2. polls each peer's packets until none is missing, sums in rank order, rounds once
//
// A reader that sees a packet must have all its data, so no machine may tear one. PTX defines a
// vector store as one store per element, here of 8 bytes. For AMD, LLVM guarantees accesses of 8
// bytes, and nothing about the halves of a 16-byte store: an aligned one lies in one cache line,
// and RCCL's LL128 relies on more. A torn packet would give wrong sums, which each run checks. A
// CPU stores and loads each packet alone, with 8-byte atomics, and takes several times as long as
// with flags: there the kernels serve tests.
//
// A peer may write a place again as soon as it has this rank's packets of the next launch: resets
// end before this launch does, and with them the order of PTX's and LLVM's models.
//
// Between launches, a peer that has this rank's packets may overwrite slab data that this rank read
// one launch ago, by another algorithm. The end of a launch keeps that order on a GPU; on a CPU,
// packets release and acquire, as x86 does anyway.
#pragma once
#include "pack.h"

// A conditional of array elements would select an address, which keeps the array in memory.
DEVICE words selected(bool first, words x, words y) { return first ? x : y; }

// A Packet defines:
//   word: the data of one packet
//   packet(data, epoch), data(packet): a packet, and back
//   missing(packet, epoch): whether the packet of this launch has yet to arrive
//   sent(p): a pack of data as all ranks use it
//   START: where its packets begin behind a slab's halves; ROOM: a writer's, in each of two halves
//     as half_of has them; both in packets
//   RESETS: whether the reader writes zeros back, for the next launch but one
DEVICE u64* packets_of(const Arguments& a, long reader) {
  return (u64*)(a.slab.at_use(reader) + 2 * a.half_bytes);
}

// A thread stores two packets at once, contiguous over the wave, and loads all packets of a poll
// before it waits.
template <class Packet>
DEVICE void all_reduce_in_packets(const Arguments& a) {
  typedef typename Packet::word word;
  static_assert(WT_MOST_BYTES / sizeof(word) + 2 <= Packet::ROOM,
                "a writer's room holds the longest message, in whole units");
  static_assert((Packet::START + 2 * WT_WORLD * Packet::ROOM) * 8 <= PACKETS_BYTES,
                "the packets of all writers lie behind the halves");
  constexpr int BYTES = 2 * sizeof(word);
  constexpr int UNITS = WT_WORLD > 4 ? 1 : 2;  // of a thread at once; LL has two
  const Launch launch(a);
  const unsigned epoch = launch.epoch;
  const int rank = (int)a.rank, step = (int)threads(), count = (int)a.count;
  const int packed = (count * (int)ELEMENT_BYTES + BYTES - 1) / BYTES;
  const int units = packed ? packed : 1;  // an empty message too: a launch waits for every peer
  const auto offset = [&](int writer) {
    return Packet::START + ((epoch & 1) * WT_WORLD + writer) * Packet::ROOM;
  };
  const auto own = [&](int i) {
    return Packet::sent(load_pack<Element::bits, BYTES>(a.send, i, count));
  };
  for (int i = (int)thread(); i < units; i += step) {
    const pack p = own(i);
    word data[2];
    copy_bits(data, &p, sizeof data);
    const u64 two[2] = {Packet::packet(data[0], epoch), Packet::packet(data[1], epoch)};
    for_each_peer(a, [&](long reader) {
      store_packets_system(packets_of(a, reader) + offset(rank) + i * 2, two);
    });
  }
  u64* const mine = packets_of(a, rank);
  for (int first = (int)thread(); first < units; first += UNITS * step) {
    pack inputs[UNITS], peers[UNITS][WT_WORLD] = {};
    // Behind the end a thread takes its first unit again; another thread may reset its own.
    const auto unit = [&](int u) {
      const int own = first + u * step;
      return own < units ? own : first;
    };
    UNROLLED
    for (int u = 0; u < UNITS; ++u) inputs[u] = own(unit(u));
    const auto place = [&](int here, int u, int k) {
      return mine + offset(k + (k >= here)) + unit(u) * 2;
    };
    // Of each unit from each peer, in registers. Peer k is rank k, or k + 1 from this rank on.
    // for_each calls each(unit, peer, its two packets).
    u64 packets[UNITS][WT_WORLD][2];
    const auto for_each = [&](auto each) INLINED {
      UNROLLED
      for (int u = 0; u < UNITS; ++u) {
        UNROLLED
        for (int k = 0; k < WT_WORLD - 1; ++k) each(u, k, packets[u][k]);
      }
    };
    const auto any_missing = [&](const u64(&two)[2]) {
      return Packet::missing(two[0], epoch) | Packet::missing(two[1], epoch);
    };
    const auto poll = [&](u64&) {
      for_each([&](int u, int k, u64(&two)[2]) { load_packets_system(two, place(rank, u, k)); });
      bool missing = false;
      for_each([&](int, int, u64(&two)[2]) { missing |= any_missing(two); });
      return !missing;
    };
    spin(a, poll, [&](u64) {
      int late = 0;
      for_each([&](int, int k, u64(&two)[2]) { late = any_missing(two) ? k : late; });
      give_up(a, late + (late >= rank), launch.stamp(0), launch.stamp(1));
    });
    const int here = rematerialized(rank);
    for_each([&](int u, int k, u64(&two)[2]) {
      const word data[2] = {Packet::data(two[0]), Packet::data(two[1])};
      copy_bits(&peers[u][k], data, sizeof data);
      const u64 zeros[2] = {};
      if (Packet::RESETS) store_packets_system(place(here, u, k), zeros);
    });
    UNROLLED
    for (int u = 0; u < UNITS; ++u) {
      const int i = first + u * step, now = rematerialized(rank);
      if (i >= units) break;
      const auto input_of = [&](int r) {
        const int above = r > 0 ? r - 1 : 0;  // place in `peers` of a rank behind this one
        pack p;
        UNROLLED
        for (int j = 0; j < REGISTERS; ++j) {
          const words of_peer = selected(r < now, peers[u][r].r[j], peers[u][above].r[j]);
          p.r[j] = selected(r == now, inputs[u].r[j], of_peer);
        }
        return p;
      };
      store_pack<Element::bits, BYTES>(a.receive, i, count, combined<WT_WORLD>(input_of));
    }
  }
  if (Packet::RESETS) finish_resets();
  launch.leave();
}
