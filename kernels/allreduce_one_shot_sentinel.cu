// One-shot all-reduce whose data are its flags (TensorRT-LLM and FlashInfer call it Lamport): a
// word of 8 bytes that differs from the sentinel has arrived. Each rank sends (n-1) S bytes, half
// of LL. Wins nowhere that was measured since its resets have a fence: in chains of 64 to 256 KiB
// in one H200's memory a call takes 4.6 to 5.0 us without the link, one-shot push 3.8 to 4.0
// (docs/experiments/gpu.md). The row that names it in collectives/tables/gpu.toml is older. Nobody
// has measured two GPUs.
//
// The sentinel is the word of ones, in every float type a row of NaNs. Data equal to it are
// replaced by other NaNs, in a rank's own input too, so that all ranks get the same bits. Words are
// sent inverted: the sentinel is then 0, the contents of zeroed memory.
//
// A reader writes the sentinel back as soon as it has read a unit, so two halves suffice: a peer
// writes this half again in launch e+2, after it has got this rank's data of launch e+1. To reset
// the buffer of the launch before instead would take a third buffer and that launch's length.
#include "include/packets.h"

struct Sentinel {
  typedef u64 word;
  static constexpr bool RESETS = true;
  static constexpr unsigned START = 2 * MOST_RANKS * PACKET_BYTES / 8;  // behind the packets of LL
  static constexpr unsigned ROOM = MOST_RANKS * PACKET_BYTES / WT_WORLD / 64 * 8;

  static DEVICE pack sent(pack p) {
    auto x = reinterpret<Pieces<u64>>(p);
    for (u64& word : x.of) word = ~word ? word : word >> 1;
    return reinterpret<pack>(x);
  }
  static DEVICE u64 packet(word data, unsigned) { return ~data; }
  static DEVICE word data(u64 packet) { return ~packet; }
  static DEVICE bool missing(u64 packet, unsigned) { return packet == 0; }
};

RANK_KERNEL(one_shot_sentinel) { all_reduce_in_packets<Sentinel>(a); }
