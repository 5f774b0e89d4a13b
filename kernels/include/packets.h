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
// CPU stores and loads each packet alone, with 8-byte atomics.
//
// Between launches, a peer that has this rank's packets may overwrite slab data that this rank read
// one launch ago, by another algorithm. The end of a launch keeps that order on a GPU; on a CPU,
// packets release and acquire, as x86 does anyway.
#pragma once
#include "pack.h"

// A conditional of array elements would select an address, which keeps the array in memory.
DEVICE words selected(bool first, words x, words y) { return first ? x : y; }

// Loads unit i of a user's buffer; elements from `count` on are zeros.
template <int BYTES>
DEVICE pack load_unit(const char* from, int i, int count) {
  struct {
    Element::bits of[PACK_ELEMENTS];
  } part = {};
  constexpr int N = BYTES / ELEMENT_BYTES;
  const char* at = from + i * BYTES;
  const int n = count - i * N;
  if (n >= N && BYTES == sizeof(pack)) return load_pack(from, i);
  if (n >= N && (u64)at % 8 == 0) {
    const u64 whole = load_as<u64>(at);
    copy_bits(&part, &whole, sizeof whole);
    return reinterpret<pack>(part);
  }
  UNROLLED
  for (int k = 0; k < N; ++k)
    if (k < n) part.of[k] = ((const volatile Element::bits*)at)[k];
  return reinterpret<pack>(part);
}
template <int BYTES>
DEVICE void store_unit(char* to, int i, int count, pack p) {
  struct Part {
    Element::bits of[PACK_ELEMENTS];
  };
  const Part part = reinterpret<Part>(p);
  constexpr int N = BYTES / ELEMENT_BYTES;
  char* at = to + i * BYTES;
  const int n = count - i * N;
  if (n >= N && BYTES == sizeof(pack)) return store_pack(to, i, p);
  if (n >= N && (u64)at % 8 == 0) {
    u64 whole;
    copy_bits(&whole, &p, sizeof whole);
    return store_as(at, whole);
  }
  UNROLLED
  for (int k = 0; k < N; ++k)
    if (k < n) ((volatile Element::bits*)at)[k] = part.of[k];
}

// A Packet defines:
//   word: the data of one packet
//   packet(data, epoch), data(packet): a packet, and back
//   missing(packet, epoch): whether the packet of this launch has yet to arrive
//   sent(p): a pack of data as all ranks use it
//   ROOM, offset(writer, epoch): of a writer's packets behind a slab's halves, in packets
//   RESETS: whether the reader writes zeros back, for the next launch but one
//   seen(packet, epoch): a stamp for the sentence about a time-out
DEVICE u64* packets_of(const Arguments& a, long reader) {
  return (u64*)(a.slab.at_use(reader) + 2 * a.half_bytes);
}
template <class Packet>
DEVICE u64 wanted(unsigned epoch) {
  return Packet::seen(Packet::packet(0, epoch), epoch);
}

// The packets of UNITS units from each peer, in a GPU thread's registers. Peer k is rank k, or k +
// 1 from this rank on.
template <int UNITS>
struct Received {
  static constexpr int PEERS = WT_WORLD > 1 ? WT_WORLD - 1 : 1;
  u64 packets[UNITS][PEERS][2];

  // Calls each(unit, peer, its two packets).
  template <class Each>
  DEVICE void for_each(Each each) {
    UNROLLED
    for (int u = 0; u < UNITS; ++u) {
      UNROLLED
      for (int k = 0; k < WT_WORLD - 1; ++k) each(u, k, packets[u][k]);
    }
  }
};

// On a GPU: a thread stores two packets at once, contiguous over the wave, and loads all packets of
// a poll before it waits.
template <class Packet>
DEVICE void exchange_in_units(const Launch& launch) {
  typedef typename Packet::word word;
  constexpr int BYTES = 2 * sizeof(word);
  constexpr int UNITS = WT_WORLD > 4 ? 1 : 2;  // of a thread at once; LL has two
  const Arguments& a = launch.a;
  const unsigned epoch = launch.epoch;
  const int rank = (int)a.rank, step = (int)threads(), count = (int)a.count;
  const int packed = (count * (int)ELEMENT_BYTES + BYTES - 1) / BYTES;
  const int units = packed ? packed : 1;  // an empty message too: a launch waits for every peer
  const auto own = [&](int i) { return Packet::sent(load_unit<BYTES>(a.send, i, count)); };
  for (int i = (int)thread(); i < units; i += step) {
    const pack p = own(i);
    word data[2];
    copy_bits(data, &p, sizeof data);
    const u64 two[2] = {Packet::packet(data[0], epoch), Packet::packet(data[1], epoch)};
    for_each_peer(a, [&](long reader) {
      store_packets_system(packets_of(a, reader) + Packet::offset(rank, epoch) + i * 2, two);
    });
  }
  u64* const mine = packets_of(a, rank);
  for (int first = (int)thread(); first < units; first += UNITS * step) {
    pack inputs[UNITS], peers[UNITS][Received<UNITS>::PEERS] = {};
    // Behind the end a thread takes its first unit again; another thread may reset its own.
    const auto unit = [&](int u) { return first + u * step < units ? first + u * step : first; };
    UNROLLED
    for (int u = 0; u < UNITS; ++u) inputs[u] = own(unit(u));
    const auto place = [&](int here, int u, int k) {
      return mine + Packet::offset(k + (k >= here), epoch) + unit(u) * 2;
    };
    Received<UNITS> received;
    const auto poll = [&](u64&) {
      received.for_each(
          [&](int u, int k, u64(&two)[2]) { load_packets_system(two, place(rank, u, k)); });
      bool missing = false;
      received.for_each([&](int, int, u64(&two)[2]) {
        missing |= Packet::missing(two[0], epoch);
        missing |= Packet::missing(two[1], epoch);
      });
      return !missing;
    };
    spin(a, poll, [&](u64) {
      u64 late = 0;
      int from = 0;
      received.for_each([&](int, int k, u64(&two)[2]) {
        UNROLLED
        for (u64 packet : two) {
          const bool is_late = Packet::missing(packet, epoch);
          late = is_late ? packet : late, from = is_late ? k : from;
        }
      });
      give_up(a, from + (from >= rank), Packet::seen(late, epoch), wanted<Packet>(epoch));
    });
    const int here = rematerialized(rank);
    received.for_each([&](int u, int k, u64(&two)[2]) {
      const word data[2] = {Packet::data(two[0]), Packet::data(two[1])};
      copy_bits(&peers[u][k], data, sizeof data);
      const u64 zeros[2] = {};
      if (Packet::RESETS) store_packets_system(place(here, u, k), zeros);
    });
    UNROLLED
    for (int u = 0; u < UNITS; ++u) {
      const int i = first + u * step, now = rematerialized(rank);
      if (i >= units) break;
      store_unit<BYTES>(a.receive, i, count, combined<WT_WORLD>([&](int r) {
                          pack p;
                          UNROLLED
                          for (int j = 0; j < REGISTERS; ++j)
                            p.r[j] =
                                selected(r == now, inputs[u].r[j],
                                         selected(r < now, peers[u][r < WT_WORLD - 1 ? r : 0].r[j],
                                                  peers[u][r > 0 ? r - 1 : 0].r[j]));
                          return p;
                        }));
    }
  }
}

// On a CPU: packet by packet, `units` whole packs or single elements of N packets each. load(i)
// reads an input, store(i, p) a sum.
template <class Packet, int N, class Load, class Store>
DEVICE void exchange_each(const Launch& launch, long first_packet, long units, Load load,
                          Store store) {
  typedef typename Packet::word word;
  const Arguments& a = launch.a;
  const unsigned epoch = launch.epoch;
  const auto packets = [&](long writer, long reader) {
    // A reader that resets its packets owns their lines: to swap takes 1.01 to 1.05 times as long.
    const unsigned use = Packet::RESETS ? 0 : launch.use_of(0, 1);
    const Place place = place_between(writer, reader, true, use);
    return packets_of(a, place.slab) + Packet::offset((int)place.slot, epoch) + first_packet;
  };
  for (long i = thread(); i < units; i += threads()) {
    const pack own = Packet::sent(load(i));
    word data[N];
    copy_bits(data, &own, sizeof data);
    for_each_peer(a, [&](long reader) {
      u64* to = packets(a.rank, reader) + i * N;
      for (int k = 0; k < N; ++k) store_release_system(to + k, Packet::packet(data[k], epoch));
    });
  }
  for (long i = thread(); i < units; i += threads())
    store(i, combined<WT_WORLD>([&](int r) {
            if (r == a.rank) return Packet::sent(load(i));
            u64* from = packets(r, a.rank) + i * N;
            word data[N];
            const u64 all_here = Packet::packet(0, epoch);  // no packet that is missing
            const auto poll = [&](u64& seen) {
              seen = all_here;
              for (int k = 0; k < N; ++k) {
                const u64 packet = load_flag_system(from + k);
                data[k] = Packet::data(packet);
                if (Packet::missing(packet, epoch)) seen = packet;
              }
              return seen == all_here;
            };
            spin(a, poll, [&](u64 seen) {
              give_up(a, r, Packet::seen(seen, epoch), wanted<Packet>(epoch));
            });
            if (Packet::RESETS)
              for (int k = 0; k < N; ++k) store_release_system(from + k, 0);
            pack p = {};
            copy_bits(&p, data, sizeof data);
            return p;
          }));
}

template <class Packet>
DEVICE void all_reduce_in_packets(const Arguments& a) {
  static_assert(
      WT_MOST_BYTES / sizeof(typename Packet::word) + PACK_BYTES <= Packet::ROOM,
      "a writer's room holds the longest message, and a packet for each element of a rest");
  static_assert((Packet::offset(WT_WORLD - 1, 1) + Packet::ROOM) * 8 <= PACKETS_BYTES,
                "the packets of all writers lie behind the halves");
  const Launch launch(a);
  if constexpr (PACKS_OF_PACKETS) {
    constexpr int N = sizeof(pack) / sizeof(typename Packet::word);
    constexpr int OF_ELEMENT = ELEMENT_BYTES > (long)sizeof(typename Packet::word) ? 2 : 1;
    const long packs = a.count / PACK_ELEMENTS, tail = packs * PACK_ELEMENTS;
    // An empty message exchanges one element, since every launch waits for every peer.
    const long elements = a.count == 0 ? 1 : a.count - tail;
    exchange_each<Packet, N>(
        launch, 0, packs, [&](long i) { return load_pack(a.send, i); },
        [&](long i, pack p) { store_pack(a.receive, i, p); });
    const auto at = [&](long i) { return SingleElement{(unsigned)(tail + i), 0}; };
    exchange_each<Packet, OF_ELEMENT>(
        launch, packs * N, elements,
        [&](long i) { return a.count ? at(i).load(a.send, 0) : pack{}; },
        [&](long i, pack p) {
          if (a.count) at(i).store(a.receive, 0, p);
        });
  } else {
    exchange_in_units<Packet>(launch);
  }
  launch.leave();
}
