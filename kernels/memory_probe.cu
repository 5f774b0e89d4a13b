// Whether memory shows a peer's stores while both kernels run. Each rank stores patterns into every
// rank's slab, its own included, and signals; its peers wait for the flag and compare, in their own
// slab (`show_stores`) or in the writer's (`show_reads`: some hosts route no reads between
// devices). All ranks write and read at once, by the accesses that the collectives use. A round
// writes new contents where the round before the last one wrote, so a line that stays in a reader's
// cache shows. `show_later` compares in the next launch, as registered buffers are read, and
// `show_later_stores` there in its own slab alone: the host must not wait in between.
#include "include/pack.h"

constexpr int ACCESSES = 4;         // before the packets
enum Slabs { OURS, THEIRS, BOTH };  // that a rank compares: its own, the writer's

template <class Piece>
struct InPieces {
  static DEVICE void store(char* at, pack p) { store_pieces<Piece>(at, p); }
  static DEVICE pack load(const char* at) { return load_pieces<Piece>(at); }
};
template <Stores STORES>
struct WholePack {
  static DEVICE void store(char* at, pack p) { store_aligned_pack(at, 0, p, STORES); }
  static DEVICE pack load(const char* at) { return load_aligned_pack(at, 0); }
};
// As MEMORY_ACCESSES in probe.py names them.
template <class Each>
DEVICE void for_accesses(Each each) {
  each(0, InPieces<unsigned short>{});
  each(1, InPieces<unsigned>{});
  each(2, WholePack<WT_UNCACHED_SLAB ? SYSTEM : CACHED>{});
  each(3, WholePack<SLAB_STORES>{});
}

// The ranks that store, one bit each: `send`, or all.
DEVICE unsigned writers(const Arguments& a) { return a.send ? (unsigned)(u64)a.send : ~0u; }

// A round; up to 255 in a launch.
struct Round {
  const Launch& launch;
  const unsigned step;
  const unsigned number = launch.epoch << 8 | step;  // of any launch, never 0
  const Arguments& a = launch.a;

  // A word that differs in both halves from those of other rounds.
  DEVICE unsigned pattern_word(long writer, long owner, unsigned place) const {
    const unsigned x =
        number * 0x9e37u + (unsigned)(writer * MOST_RANKS + owner) * 0x6a0bu + place * 0x85ebu;
    return (x & 0xffffu) * 0x10001u;
  }
  DEVICE pack pattern(long writer, long owner, unsigned i) const {
    Pieces<unsigned> words;
    unsigned place = i * (sizeof(pack) / 4);
    for (unsigned& word : words.of) word = pattern_word(writer, owner, place++);
    return reinterpret<pack>(words);
  }
  // Where `writer` stores this round's patterns in `owner`'s slab.
  DEVICE char* region(long owner, long writer, int access) const {
    const long place = (access * 2 + (number & 1)) * MOST_RANKS + writer;
    return launch.half_of(owner) + place * a.chunk_bytes;
  }
  // Calls each(i) for this thread's items of a region. Other threads of its block read than wrote.
  template <class Each>
  DEVICE void for_items(unsigned item_bytes, bool reads, Each each) const {
    const unsigned items = (unsigned)a.chunk_bytes / item_bytes / blocks(), first = block() * items;
    const unsigned t = reads ? threads_in_block() - 1 - thread_in_block() : thread_in_block();
    for (unsigned i = t; i < items; i += threads_in_block()) each(first + i);
  }
  // Counts an item with old or foreign contents: receive[access][writer], 32 bits each.
  DEVICE void count_wrong(int access, long writer) const {
    add_relaxed_device((unsigned*)a.receive + access * MOST_RANKS + writer, 1);
  }

  DEVICE void store_in_all() const {
    const auto store_for = [&](long owner) {
      for_accesses([&](int access, auto by) {
        char* to = region(owner, a.rank, access);
        for_items(sizeof(pack), false,
                  [&](unsigned i) { by.store(to + i * sizeof(pack), pattern(a.rank, owner, i)); });
      });
    };
    for_each_peer(a, store_for, 0);
  }
  template <Slabs SLABS>
  DEVICE void compare_all() const {
    for_each_peer(a, [&](long writer) {
      const auto compare = [&](long owner, int access, auto by) {
        const char* from = region(owner, writer, access);
        for_items(sizeof(pack), true, [&](unsigned i) {
          if (differ(by.load(from + i * sizeof(pack)), pattern(writer, owner, i)))
            count_wrong(access, writer);
        });
      };
      if (writers(a) >> writer & 1)
        for_accesses([&](int access, auto by) {
          if (SLABS != THEIRS) compare(a.rank, access, by);
          if (SLABS != OURS) compare(writer, access, by);
        });
    });
  }

  // Sends packets to each peer, two at once, and polls theirs. A packet has a round above its data.
  DEVICE void exchange_packets() const {
    const auto packet = [&](long writer, long owner, unsigned i) {
      return (u64)number << 32 | pattern_word(writer, owner, i);
    };
    for_each_peer(a, [&](long owner) {
      u64* to = (u64*)region(owner, a.rank, ACCESSES);
      for_items(2 * sizeof(u64), false, [&](unsigned i) {
        const u64 x[2] = {packet(a.rank, owner, 2 * i), packet(a.rank, owner, 2 * i + 1)};
        store_packets_system(to + 2 * i, x);
      });
    });
    for_each_peer(a, [&](long writer) {
      const u64* from = (const u64*)region(a.rank, writer, ACCESSES);
      for_items(2 * sizeof(u64), false, [&](unsigned i) {
        u64 x[2];
        const auto poll = [&](u64& seen) {
          load_packets_system(x, from + 2 * i);
          seen = x[0] >> 32 == number ? x[1] : x[0];
          return seen >> 32 == number;
        };
        spin(a, poll, [&](u64 seen) { give_up(a, (int)writer, seen, number); });
        for (unsigned k = 0; k < 2; ++k)
          if (x[k] != packet(writer, a.rank, 2 * i + k)) count_wrong(ACCESSES, writer);
      });
    });
  }
};

// Runs `count` rounds over regions of `chunk_bytes`, one round unless all ranks store. A build with
// WT_STREAM_SLAB has the fence that streamed stores need before a flag.
template <Slabs SLABS>
DEVICE void show(const Arguments& a) {
  const Launch launch(a);
  for (unsigned step = 1; step <= (unsigned)a.count; ++step) {
    const Round round{launch, step};
    if (writers(a) >> a.rank & 1) {
      round.store_in_all();
      launch.signal(step);
    }
    launch.wait(step, launch.peers & writers(a));
    round.compare_all<SLABS>();
  }
  launch.leave();
}
// CPUs read what they can write, and compile nothing for the others.
RANK_KERNEL(show_stores) { show<ON_CPU ? BOTH : OURS>(a); }
RANK_KERNEL(show_reads) {
  if constexpr (!ON_CPU) show<THEIRS>(a);
}
// Compares, unless `count` is 0, what the launch before stored.
template <Slabs SLABS>
DEVICE void compare_later(const Arguments& a) {
  if constexpr (!ON_CPU) {
    const Launch launch(a), last(a, 0);
    launch.meet(1);
    if (a.count) Round{last, 1}.compare_all<SLABS>();
    launch.meet(2);
    Round{launch, 1}.store_in_all();
    launch.leave();
  }
}
RANK_KERNEL(show_later) { compare_later<BOTH>(a); }
RANK_KERNEL(show_later_stores) { compare_later<OURS>(a); }
// The same with packets that are polled without flags, as in packets.h.
RANK_KERNEL(show_packets) {
  const Launch launch(a);
  for (unsigned step = 1; step <= (unsigned)a.count; ++step) Round{launch, step}.exchange_packets();
  launch.leave();
}
