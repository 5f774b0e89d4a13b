// Faults that tests build in, to show that they are found: FAULT is one of these. Without one, nothing of this is left in
// a kernel.
#pragma once
#include "platform.h"

enum Fault {
  NO_FAULT,
  FLIP_BIT,     // a bit of what a rank has stored for its peers, before it says so
  DROP_FLAG,    // a flag to one peer is not stored
  STALE_EPOCH,  // it carries the epoch before
  SKIP_PUSH     // what a rank has for its peers is not stored
};
constexpr unsigned LAUNCHES_PER_FAULT = 1000;

DEVICE u64 drawn(u64 x) {  // splitmix64 (Steele, Lea, Flood 2014)
  x += 0x9e3779b97f4a7c15, x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9, x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Whether this fault strikes: in one of each 1,000 launches, on one rank; what is stored in the first step, a flag in
// the first or the second. Stamps only grow, so the last flag of a launch makes good for one that was lost before it;
// and where the second step is drawn, a launch that has none goes by unharmed.
DEVICE bool strikes(Fault fault, long rank, u64 stamp) {
  if (FAULT != fault) return false;
  const unsigned epoch = (unsigned)(stamp >> 32);
  const u64 draw = drawn(epoch / LAUNCHES_PER_FAULT);
  return epoch % LAUNCHES_PER_FAULT == draw % LAUNCHES_PER_FAULT && (unsigned)rank == (draw >> 16) % WORLD &&
         (unsigned)stamp == 1 + (fault == FLIP_BIT || fault == SKIP_PUSH ? 0 : (draw >> 32) % 2);
}
DEVICE bool strikes(Fault fault, long rank, u64 stamp, int peer) {
  return strikes(fault, rank, stamp) && peer == (rank + 1) % WORLD;
}

// Where a fault strikes, flips a bit of what this rank has just stored. The thread does it that stored the pack.
DEVICE void flip_bit(long rank, u64 stamp, char* stored, long bytes) {
  if (!strikes(FLIP_BIT, rank, stamp) || block() != 0 || thread_in_block() != 0 || bytes <= 0) return;
  const u64 draw = drawn(stamp);
  const long apart = (long)blocks() * threads_in_block() * (long)sizeof(pack), packs = (bytes + apart - 1) / apart;
  const long at = (long)(draw % (u64)packs) * apart, most = (long)sizeof(pack);
  const long within = (long)((draw >> 32) % (u64)(bytes - at < most ? bytes - at : most));
  *(volatile unsigned char*)(stored + at + within) ^= (unsigned char)(1 << (draw >> 48) % 8);
}
