// What stands around the timed call in an iteration: its number, writing the send buffer, checking the result; and the
// gate that keeps a GPU's stream from running ahead of the host that fills it.
#include "include/pack.h"

// What a check finds: how many elements are wrong, and of the one that was counted first where it was, in bytes from
// the buffer's start, and its bits.
struct Wrong { u64 elements, iteration, offset, expected, got; };

// A buffer whose segments hold a pattern each: element i of iteration t is element (i + t) mod `period` of a segment's
// table, kept here often enough to be copied in pieces of `table_bytes`. No two iterations within a period agree.
struct Pattern {
  char* buffer;
  const char* tables;
  long segments, segment_bytes, table_bytes, period, element_bytes;
  Wrong* wrong;
  const Watch* watch;
};

// Calls `each(piece of the buffer, the table as it now has to stand there, bytes)`; a block takes whole pieces.
template <class Each> DEVICE void pieces(const Pattern& p, Each each) {
  const char* table = p.tables + (long)(*(volatile const u64*)&p.watch->iteration % (u64)p.period) * p.element_bytes;
  for (long s = 0; s < p.segments; ++s, table += p.table_bytes + p.period * p.element_bytes)
    for (long at = block() * p.table_bytes; at < p.segment_bytes; at += blocks() * p.table_bytes)
      each(p.buffer + s * p.segment_bytes + at, table, smaller(p.segment_bytes - at, p.table_bytes));
}

extern "C" __global__ UP_TO_512_THREADS void write_pattern(LAUNCHED_WITH(Pattern) p) {
  pieces(p, [](char* to, const char* table, long bytes) {
    const long packs = bytes / (long)sizeof(pack);
    for (long i = thread_in_block(); i < packs; i += threads_in_block()) store_pack(to, i, load_pack(table, i));
    for (long b = packs * (long)sizeof(pack) + thread_in_block(); b < bytes; b += threads_in_block()) to[b] = table[b];
  });
}

DEVICE bool differ(pack x, pack y) {
  u64 a[sizeof(pack) / 8], b[sizeof(pack) / 8], bits = 0;
  copy_bits(a, &x, sizeof x), copy_bits(b, &y, sizeof y);
  for (unsigned k = 0; k < sizeof(pack) / 8; ++k) bits |= a[k] ^ b[k];
  return bits != 0;
}

DEVICE u64 bits_of(const char* element, long bytes) {
  u64 bits = 0;
  for (long b = 0; b < bytes; ++b) bits |= (u64)(unsigned char)element[b] << 8 * b;
  return bits;
}

// Counts wrong elements, of a power of two of bytes, where a pack is wrong. Who finds the count at 0 says where.
extern "C" __global__ UP_TO_512_THREADS void count_wrong(LAUNCHED_WITH(Pattern) p) {
  pieces(p, [&](const char* got, const char* table, long bytes) {
    const long packs = bytes / (long)sizeof(pack);
    for (long i = thread_in_block(); i * (long)sizeof(pack) < bytes; i += threads_in_block()) {
      if (i < packs && !differ(load_pack(got, i), load_pack(table, i))) continue;
      unsigned wrong = 0, differs = 0;
      long first = 0;
      for (long b = i * (long)sizeof(pack), end = smaller(bytes, b + (long)sizeof(pack)); b < end; ++b) {
        differs |= got[b] != table[b];
        if ((b + 1) & (p.element_bytes - 1)) continue;
        if (differs && wrong++ == 0) first = b + 1 - p.element_bytes;
        differs = 0;
      }
      if (!wrong || add_relaxed_device((unsigned*)&p.wrong->elements, wrong)) continue;
      p.wrong->iteration = *(volatile const u64*)&p.watch->iteration, p.wrong->offset = (u64)(got + first - p.buffer);
      p.wrong->expected = bits_of(table + first, p.element_bytes), p.wrong->got = bits_of(got + first, p.element_bytes);
    }
  });
}

struct Gate {
  u64* opened;  // host memory: what has been opened, and behind it the gate that did not wait for that
  u64 wanted, timeout_ns;
  Watch* watch;
};

// Begins an iteration of a GPU's loop: the host, which is ahead, cannot count for it.
extern "C" __global__ UP_TO_512_THREADS void begin_iteration(LAUNCHED_WITH(Gate) g) {
  if (thread() == 0) *(volatile u64*)&g.watch->iteration += 1;
}

// Holds the stream until the host has put everything into it: else a launch that the host is late with is measured as
// if the GPU had been slow.
extern "C" __global__ UP_TO_512_THREADS void hold(LAUNCHED_WITH(Gate) g) {
  const u64 start = clock_ns();
  while (!reached(load_acquire_system(g.opened), g.wanted) && *(volatile u64*)&g.watch->stop == 0) {
    breathe();
    if (clock_ns() - start < g.timeout_ns) continue;
    *(volatile u64*)(g.opened + 1) = g.wanted;
    return;
  }
}

// Makes this rank come late, by `timeout_ns`. It looks at no stop, which on a GPU is a microsecond away.
extern "C" __global__ UP_TO_512_THREADS void come_late(LAUNCHED_WITH(Arguments) a) {
  const u64 start = clock_ns();
  while (clock_ns() - start < a.timeout_ns) {
    breathe();
    if (a.yields) yield();
  }
}

extern "C" __global__ UP_TO_512_THREADS void nothing(LAUNCHED_WITH(Gate) g) { (void)g; }
