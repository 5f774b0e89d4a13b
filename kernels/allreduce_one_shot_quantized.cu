// One-shot all-reduce over a quantised wire: one flag, and one rounding of each input to codes of
// 8, 6 or 4 bits. Each rank stores its codes into every slab, its own too, adds the decoded blocks
// of all ranks in fp32, in rank order, and rounds the sums to the type: all ranks get the same
// bits, at any size, place and chunk. Two ranks send as many bytes as the two-shot form, with half
// its flags and without the loss of its sums; n ranks send n/2 times as many. Loses bits, so `auto`
// never takes it. Nobody has measured it on a GPU. It should win where halved bytes pay for the
// codes, and messages are so short that a second flag counts.
#include "include/exchange.h"
#include "include/quantize.h"

RANK_KERNEL(one_shot_quantized_push) {
  const long most = a.chunk_bytes / ELEMENT_BYTES / UNIT_ELEMENTS * UNIT_ELEMENTS;
  // Computed twice: kept through the first loop, it would be a scalar register more than gfx9 has.
  const auto room_of_chunk = [&] { return (unsigned)rematerialized((int)units_of(most)); };
  const Launch launch(a);
  // No code is wider than its element: a slot of `chunk_bytes` holds the units of a chunk.
  exchange_from<PUSH, ALL_AT_ONCE>(
      launch, 0, a.count, most,
      [&](long start, long n, auto outbox) {
        const char* from = a.send + start * ELEMENT_BYTES;
        const unsigned units = units_of(n), room = room_of_chunk();
        for_units(units, [&](unsigned u) {
          const CodedUnit q = quantized(load_unit(from, u, n));
          for_each_peer(
              a, [&](long reader) { CodedSlab{outbox(reader), units, room}.put(u, q); }, 0);
        });
      },
      [&](long start, long n, auto inbox) {
        const unsigned units = units_of(n), room = room_of_chunk();
        CodedSlab inputs[WT_WORLD];
        UNROLLED
        for (int r = 0; r < WT_WORLD; ++r) inputs[r] = {inbox(r), units, room};
        char* to = a.receive + start * ELEMENT_BYTES;
        add_up(inputs, [&](unsigned u, WideUnit total) {
          UNROLLED
          for (int k = 0; k < FLOATS; ++k) total.f[k] = WT_REDOP::finish(total.f[k]);
          put_unit(to, u, n, total);
        });
      });
  launch.leave();
}
