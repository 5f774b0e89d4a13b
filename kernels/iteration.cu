// The launches around a timed call: count the iteration, hold a GPU's stream until the host has
// filled it, make a rank late, write the send buffer (once), check the result (reads it once).
#include "include/pack.h"

// The number of wrong elements; for the first counted: iteration, offset in bytes, bits, and place.
struct Wrong {
  u64 elements, iteration, offset, expected, got, place;
};

// A buffer of segments: in iteration t, element i of one is element (i + t) mod `period` of its
// table, which repeats the period, so that `table_bytes` can be copied from any start.
struct Pattern {
  char* buffer;
  const char* tables;
  long segments, segment_bytes, table_bytes, period, element_bytes;
  Wrong* wrong;
  const Watch* watch;
  u64 place;

  // Calls each(piece of the buffer, its expected content, bytes) for the pieces of this block.
  template <class Each>
  DEVICE void for_pieces(Each each) const {
    const u64 iteration = *(volatile const u64*)&watch->iteration;
    const char* table = tables + (long)(iteration % (u64)period) * element_bytes;
    for (long s = 0; s < segments; ++s, table += table_bytes + period * element_bytes)
      for (long at = block() * table_bytes; at < segment_bytes; at += blocks() * table_bytes)
        each(buffer + s * segment_bytes + at, table, smaller(segment_bytes - at, table_bytes));
  }
};

KERNEL write_pattern(LAUNCHED_WITH(Pattern) p) {
  p.for_pieces([](char* to, const char* table, long bytes) {
    for (long i = thread_in_block(); i * OWN_PACK_BYTES < bytes; i += threads_in_block())
      store_pack<unsigned char>(to, i, bytes, load_pack<unsigned char>(table, i, bytes));
  });
}

DEVICE u64 bits_of(const char* element, long bytes) {
  u64 bits = 0;
  for (long b = 0; b < bytes; ++b) bits |= (u64)(unsigned char)element[b] << 8 * b;
  return bits;
}

// Counts wrong elements. The thread that raises the count from 0 reports the place.
KERNEL count_wrong(LAUNCHED_WITH(Pattern) p) {
  p.for_pieces([&](const char* got, const char* table, long bytes) {
    for (long i = thread_in_block(); i * OWN_PACK_BYTES < bytes; i += threads_in_block()) {
      const auto pack_of = [&](const char* at) { return load_pack<unsigned char>(at, i, bytes); };
      if (!differ(pack_of(got), pack_of(table))) continue;
      const long start = i * OWN_PACK_BYTES, end = smaller(bytes, start + OWN_PACK_BYTES);
      unsigned wrong = 0;
      long first = 0;
      for (long e = start; e < end; e += p.element_bytes)
        if (bits_of(got + e, p.element_bytes) != bits_of(table + e, p.element_bytes))
          if (wrong++ == 0) first = e;
      // A count past 2^32 would wrap, to 0 if all of 4 GiB are wrong.
      if (!wrong || *(volatile unsigned*)&p.wrong->elements >> 31) continue;
      if (add_relaxed_device((unsigned*)&p.wrong->elements, wrong)) continue;
      p.wrong->iteration = *(volatile const u64*)&p.watch->iteration;
      p.wrong->offset = (u64)(got + first - p.buffer);
      p.wrong->expected = bits_of(table + first, p.element_bytes);
      p.wrong->got = bits_of(got + first, p.element_bytes);
      p.wrong->place = p.place;
    }
  });
}

struct Gate {
  u64* opened;  // host memory: [0] the last gate that the host opened, [1] the last that timed out
  u64 wanted, timeout_ns;
  Watch* watch;
};

// Counts an iteration, and notes the call `wanted`: a host that runs ahead of the GPU cannot.
KERNEL begin_iteration(LAUNCHED_WITH(Gate) g) {
  volatile Watch* watch = g.watch;
  if (thread() != 0 || watch->stop) return;
  watch->calls = g.wanted;
  watch->iteration = watch->iteration + 1;
}

// Holds the stream until the host has filled it: a late launch would look like a slow GPU.
KERNEL hold(LAUNCHED_WITH(Gate) g) {
  const u64 start = clock_ns();
  while (!reached(load_flag_system(g.opened), g.wanted) && *(volatile u64*)&g.watch->stop == 0) {
    cpu_relax();
    if (clock_ns() - start < g.timeout_ns) continue;
    *(volatile u64*)(g.opened + 1) = g.wanted;
    return;
  }
}

// It does not look at `stop`: on a GPU that takes 1 us.
DEVICE void wait_for(u64 ns, bool yields) {
  const u64 start = clock_ns();
  while (clock_ns() - start < ns) {
    cpu_relax();
    if (yields) yield();
  }
}

// Makes this rank late by `timeout_ns`.
KERNEL come_late(LAUNCHED_WITH(Arguments) a) { wait_for(a.timeout_ns, a.yields); }

// Delays by call, which repeat after `lines`; the first one is that of this call in iteration 0,
// and an iteration has so many calls.
struct Lateness {
  const u64* delays_ns;
  u64 lines, first, calls, yields;
  const Watch* watch;
};

// Makes this rank as late as a list says for this call of this iteration.
KERNEL come_late_as_listed(LAUNCHED_WITH(Lateness) l) {
  const u64 iteration = *(volatile const u64*)&l.watch->iteration;
  wait_for(l.delays_ns[(l.first + iteration * l.calls) % l.lines], l.yields);
}

// Stores the time between the launches before it and those after it.
KERNEL note_time(LAUNCHED_WITH(Arguments) a) {
  if (thread() == 0) *(volatile u64*)a.receive = clock_ns();
}

KERNEL nothing(LAUNCHED_WITH(Gate)) {}
