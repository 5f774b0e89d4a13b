// Two-shot all-reduce over a quantised wire: two_shot.h's rounds, at 8.5 or 4.5 bits an element.
// A quantises all segments, B adds in fp32 and quantises the sums, C decodes all sums, the own ones
// too: a result depends neither on an element's place, nor on the chunk size, nor on the build.
// Loses bits, so `auto` never takes it. Wins where a wire's bandwidth is the bound; on one GPU,
// without a wire, it does not (docs/experiments/gpu.md).
#include "include/quantize.h"
#include "include/two_shot.h"

template <bool ALIGNED>
DEVICE void quantize(CodedSlab to, const char* from, long count) {
  const unsigned step = (unsigned)rematerialized((int)threads());
  const unsigned packs = (unsigned)(count / PACK_ELEMENTS);
  for (unsigned u = (unsigned)thread(); u < to.units; u += step)
    to.put(u, quantized(load_unit<ALIGNED>(from, u, packs)));
}

// Calls put(unit, sum of that unit in all sources) for batches of BATCH units, each loaded as a
// whole. At most 4 sources are loaded at once: the sums already take a whole block's registers.
template <int BATCH, int SOURCES, class Put>
DEVICE void add_up(const CodedSlab (&from)[SOURCES], Put put) {
  constexpr int AT_ONCE = SOURCES < 4 ? SOURCES : 4;
  const unsigned step = (unsigned)rematerialized((int)threads()), units = from[0].units;
  const auto load = [&](CodedUnit(&q)[AT_ONCE], unsigned u, int first) {
    UNROLLED
    for (int s = 0; s < AT_ONCE; ++s)
      if (first + s < SOURCES) q[s] = from[first + s].load(u);
  };
  const auto add = [&](WideUnit& total, const CodedUnit(&q)[AT_ONCE], int first) {
    UNROLLED
    for (int s = first == 0; s < AT_ONCE; ++s)
      if (first + s < SOURCES) {
        const WideUnit next = dequantized(q[s]);
        UNROLLED
        for (int k = 0; k < FLOATS; ++k) total.f[k] = WT_REDOP::combine(total.f[k], next.f[k]);
        UNROLLED
        for (int k = 0; k < FLOATS; ++k) evaluate_now(total.f[k]);
      }
  };
  const auto finish = [&](unsigned u, const CodedUnit(&q)[AT_ONCE]) {
    WideUnit total = dequantized(q[0]);
    add(total, q, 0);
    UNROLLED
    for (int first = AT_ONCE; first < SOURCES; first += AT_ONCE) {
      CodedUnit more[AT_ONCE];
      load(more, u, first);
      loads_first<AT_ONCE*(CODE_PACKS + BLOCKS)>();
      add(total, more, first);
    }
    put(u, total);
  };
  unsigned u = (unsigned)thread();
  for (; u + (BATCH - 1) * step < units; u += BATCH * step) {
    CodedUnit batch[BATCH][AT_ONCE];
    UNROLLED
    for (int k = 0; k < BATCH; ++k) load(batch[k], u + k * step, 0);
    loads_first<BATCH * AT_ONCE*(CODE_PACKS + BLOCKS)>();
    UNROLLED
    for (int k = 0; k < BATCH; ++k) finish(u + k * step, batch[k]);
  }
  for (; BATCH > 1 && u < units; u += step) {
    CodedUnit rest[AT_ONCE];
    load(rest, u, 0);
    finish(u, rest);
  }
}
// Units in a batch that needs `packs` packs a unit: at least four packs are then being loaded.
DEVICE constexpr int batch_of(int packs) { return (3 + packs) / packs; }

RANK_KERNEL(two_shot_quantized) {
  const long most = a.chunk_bytes / ELEMENT_BYTES / UNIT_ELEMENTS * UNIT_ELEMENTS;
  const unsigned room = units_of(segment_of<UNIT_ELEMENTS>(most, 0).count);
  const long segment_bytes = (room * UNIT_BYTES + 127) / 128 * 128;
  const auto copy_in = [&](Segment s, char* codes) {
    const CodedSlab to{codes, units_of(s.count), room};
    const char* from = a.send + s.start * ELEMENT_BYTES;
    if (is_aligned(from))
      quantize<true>(to, from, s.count);
    else
      quantize<false>(to, from, s.count);
  };
  const auto add = [&](Segment s, auto input, auto sums) {
    const CodedSlab to{sums(a.rank), units_of(s.count), room};
    CodedSlab inputs[WT_WORLD];
    UNROLLED
    for (int r = 0; r < WT_WORLD; ++r) inputs[r] = {input(r), to.units, room};
    add_up<batch_of(WT_WORLD * CODE_PACKS)>(inputs, [&](unsigned u, WideUnit total) {
      UNROLLED
      for (int k = 0; k < FLOATS; ++k) total.f[k] = WT_REDOP::finish(total.f[k]);
      to.put(u, quantized(total));
    });
  };
  const auto copy_out = [&](Segment s, char* sums) {
    const CodedSlab from[1] = {{sums, units_of(s.count), room}};
    const Output to = {a.receive + s.start * ELEMENT_BYTES};
    const unsigned packs = (unsigned)(s.count / PACK_ELEMENTS);
    if (to.aligned())
      add_up<batch_of(CODE_PACKS)>(
          from, [&](unsigned u, const WideUnit& x) { put_unit<true>(to.at, u, packs, x); });
    else
      add_up<1>(from, [&](unsigned u, const WideUnit& x) { put_unit<false>(to.at, u, packs, x); });
  };
  in_rounds<PULLS, EVERY, UNIT_ELEMENTS>(a, most, segment_bytes, copy_in, add, copy_out);
}
