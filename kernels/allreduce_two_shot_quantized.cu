// Two-shot all-reduce over a quantised wire: two_shot.h's rounds, at 8.5, 6.5 or 4.5 bits an
// element. A pull reads the codes in their writers' slabs, a push stores them into their readers'.
// A quantises all segments, B adds in fp32 and quantises the sums, C decodes all sums, the own ones
// too: a result depends neither on an element's place, nor on the chunk size, nor on the build.
// Loses bits, so `auto` never takes it. On one H100, without a wire, it loses: 16 MiB of fp32 take
// 72.5 us as int8, and 52.3 by `auto` (docs/experiments/runs/h100.tar.xz). It should win where a
// wire's bandwidth is the bound, which nobody has measured.
#include "include/quantize.h"
#include "include/two_shot.h"

// Calls each(unit) for this thread's units.
template <class Each>
DEVICE void for_units(unsigned units, Each each) {
  const unsigned step = (unsigned)rematerialized((int)threads());
  for (unsigned u = (unsigned)thread(); u < units; u += step) each(u);
}

// Calls put(unit, sum of that unit in all sources). At most 4 sources are loaded at once: the sums
// already take a whole block's registers.
template <int SOURCES, class Put>
DEVICE void add_up(const CodedSlab (&from)[SOURCES], Put put) {
  constexpr int AT_ONCE = SOURCES < 4 ? SOURCES : 4;
  for_units(from[0].units, [&](unsigned u) INLINED {
    WideUnit total;
    UNROLLED
    for (int first = 0; first < SOURCES; first += AT_ONCE) {
      CodedUnit q[AT_ONCE];
      UNROLLED
      for (int s = 0; s < AT_ONCE; ++s)
        if (first + s < SOURCES) q[s] = from[first + s].load(u);
      loads_first<AT_ONCE*(CODE_PACKS + HAS_REST + BLOCKS)>();
      UNROLLED
      for (int s = 0; s < AT_ONCE; ++s) {
        if (first + s >= SOURCES) break;
        const WideUnit next = dequantized(q[s]);
        UNROLLED
        for (int k = 0; k < FLOATS; ++k)
          total.f[k] = first + s ? WT_REDOP::combine(total.f[k], next.f[k]) : next.f[k];
        UNROLLED
        for (int k = 0; k < FLOATS; ++k) evaluate_now(total.f[k]);
      }
    }
    put(u, total);
  });
}

template <Transfer TRANSFER>
DEVICE void two_shot_quantized(const Arguments& a) {
  const long most = a.chunk_bytes / ELEMENT_BYTES / UNIT_ELEMENTS * UNIT_ELEMENTS;
  const unsigned room = units_of(segment_of<UNIT_ELEMENTS>(most, 0).count);
  const long segment_bytes = (room * UNIT_BYTES + 127) / 128 * 128;
  const auto copy_in = [&](Segment s, char* codes) {
    const CodedSlab to{codes, units_of(s.count), room};
    const char* from = a.send + s.start * ELEMENT_BYTES;
    for_units(to.units, [&](unsigned u) { to.put(u, quantized(load_unit(from, u, s.count))); });
  };
  const auto add = [&](Segment s, auto input, auto sums) {
    const unsigned units = units_of(s.count);
    CodedSlab inputs[WT_WORLD];
    UNROLLED
    for (int r = 0; r < WT_WORLD; ++r) inputs[r] = {input(r), units, room};
    add_up(inputs, [&](unsigned u, WideUnit total) {
      UNROLLED
      for (int k = 0; k < FLOATS; ++k) total.f[k] = WT_REDOP::finish(total.f[k]);
      const CodedUnit sum = quantized(total);
      const auto put = [&](long reader) { CodedSlab{sums(reader), units, room}.put(u, sum); };
      for_each_peer(a, put, 0, TRANSFER == PULLS ? 1 : WT_WORLD);
    });
  };
  const auto copy_out = [&](Segment s, char* sums) {
    const CodedSlab from[1] = {{sums, units_of(s.count), room}};
    char* to = a.receive + s.start * ELEMENT_BYTES;
    add_up(from, [&](unsigned u, const WideUnit& x) { put_unit(to, u, s.count, x); });
  };
  in_rounds<TRANSFER, EVERY, UNIT_ELEMENTS>(a, most, segment_bytes, copy_in, add, copy_out);
}

RANK_KERNEL(two_shot_quantized_push) { two_shot_quantized<PUSHES>(a); }
RANK_KERNEL(two_shot_quantized) { two_shot_quantized<PULLS>(a); }
