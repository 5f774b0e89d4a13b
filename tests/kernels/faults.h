// Faults for tests. tests/kernels/broken_kernels.py patches calls of these functions into a copy of
// the kernels.
#pragma once
#include "platform.h"

constexpr unsigned LAUNCHES_PER_FAULT = 1000;

DEVICE u64 drawn(u64 x) {  // splitmix64 (Steele, Lea, Flood 2014)
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Whether a fault strikes this rank in the step of this stamp: in one of every 1,000 launches, on
// one rank. With steps = 1 the first step of the launch is struck, with steps = 2 the first or the
// second, as drawn. The second step matters for flags: a flag repairs an earlier one that was lost,
// because stamps only grow. A launch that has no second step runs unharmed if the second is drawn.
DEVICE bool strikes(long rank, u64 stamp, unsigned steps) {
  const unsigned epoch = (unsigned)(stamp >> 32);
  const u64 draw = drawn(epoch / LAUNCHES_PER_FAULT);
  return epoch % LAUNCHES_PER_FAULT == draw % LAUNCHES_PER_FAULT &&
         (unsigned)rank == (draw >> 16) % WT_WORLD && (unsigned)stamp == 1 + (draw >> 32) % steps;
}

// Whether a fault strikes the flag for `peer`.
DEVICE bool strikes_flag(long rank, u64 stamp, int peer) {
  return strikes(rank, stamp, 2) && peer == (rank + 1) % WT_WORLD;
}

// If the fault strikes, flips one bit of the `bytes` that this rank has just stored. The thread
// that stored the pack does it.
DEVICE void flip_bit(long rank, u64 stamp, char* stored, long bytes) {
  if (!strikes(rank, stamp, 1) || block() != 0 || thread_in_block() != 0 || bytes <= 0) return;
  const u64 draw = drawn(stamp);
  const long pack_bytes = (long)sizeof(pack);
  const long stride = (long)blocks() * threads_in_block() * pack_bytes;
  const long start = (long)(draw % (u64)((bytes + stride - 1) / stride)) * stride;
  const long rest = bytes - start < pack_bytes ? bytes - start : pack_bytes;
  const long at = start + (long)((draw >> 32) % (u64)rest);
  *(volatile unsigned char*)(stored + at) ^= (unsigned char)(1 << (draw >> 48) % 8);
}

// A pack to send in packets, with one bit of its first packet flipped if the fault strikes.
DEVICE pack with_flipped_bit(long rank, u64 stamp, pack p) {
  if (!strikes(rank, stamp, 1)) return p;
  unsigned word;
  copy_bits(&word, &p, sizeof word);
  word ^= 1u << drawn(stamp) % 32;
  copy_bits(&p, &word, sizeof word);
  return p;
}
