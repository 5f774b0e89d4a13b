// One-shot all-reduce in packets of 4 bytes of data and the launch's epoch (NCCL's LL protocol).
// Each rank sends 2 (n-1) S bytes, and no flag. Wins in chains of 16 KiB between two ranks in one
// H200's memory: 2.7 us a call without the link, one-shot push 3.5. Over host memory, on an H100,
// it ties: 6.75 and 6.87 us (docs/experiments/gpu.md). Nobody has measured two GPUs, where `auto`
// takes it up to 16 KiB, and with n ranks up to 16 KiB / (n-1), for as many stores. Packets are
// compared for equality, so nothing else writes their region.
#include "include/packets.h"

struct Marked {
  typedef unsigned word;
  static constexpr bool RESETS = false;
  static constexpr unsigned START = 0, ROOM = (unsigned)(PACKET_BYTES / 8);

  // The epoch, but not 0, the contents of zeroed memory: epoch 1 has the other half.
  static DEVICE unsigned mark_of(unsigned epoch) { return epoch ? epoch : 1; }
  static DEVICE pack sent(pack p) { return p; }
  static DEVICE u64 packet(word data, unsigned epoch) { return (u64)mark_of(epoch) << 32 | data; }
  static DEVICE word data(u64 packet) { return (word)packet; }
  static DEVICE bool missing(u64 packet, unsigned epoch) { return packet >> 32 != mark_of(epoch); }
};

RANK_KERNEL(one_shot_ll) { all_reduce_in_packets<Marked>(a); }
