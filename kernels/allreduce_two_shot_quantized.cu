// Two-shot all-reduce over a quantised wire: two_shot.h's rounds, at 8.5, 6.5 or 4.5 bits an
// element. A pull reads the codes in their writers' slabs, a push stores them into their readers'.
// A quantises all segments, B adds in fp32 and quantises the sums, C decodes all sums, the own ones
// too: a result depends neither on an element's place, nor on the chunk size, nor on the build.
// Loses bits, so `auto` never takes it. On one H100, without a wire, it loses: 16 MiB of fp32 take
// 72.5 us as int8, and 52.3 by `auto` (docs/experiments/runs/h100.tar.xz). It should win where a
// wire's bandwidth is the bound, which nobody has measured.
#include "include/quantize.h"
#include "include/two_shot.h"

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
