// Two-shot all-reduce over a quantised wire: what crosses it are codes of 8 or 4 bits, in blocks of 32 with a scale.
//
// Two steps, as in allreduce_two_shot.cu; each rank sends and reads 2 (n-1)/n of S at 8.5 or 4.5 bits an element. The
// beats are the same too. In beat b a rank does
//   A. of chunk b:   quantises all segments, its own too, into its own slab
//   B. of chunk b-1: sums its own segment of all ranks, in fp32 and rank order, and quantises the sums into its slab
//   C. of chunk b-2: puts what the sums' codes stand for, its own too, from their owners' slabs into its output
// One rank quantises a sum, so every rank gets the same bits. An owner's own input is quantised like the others': so an
// element's result is the same wherever it lies and however a message is cut, and a build is no other rounding.
#include "include/quantize.h"

// Quantises `count` elements.
template <bool ALIGNED> DEVICE void quantize(Codes to, const char* from, long count) {
  const unsigned step = (unsigned)afresh((int)threads()), packs = (unsigned)(count / PACK_ELEMENTS);
  for (unsigned u = (unsigned)thread(); u < to.units; u += step)
    to.put(u, quantized(load_unit<ALIGNED>(from, u, packs)));
}

// Calls put(unit, sum of what all sources have there), after the loads of BATCH units at once. Of more than 4 sources
// four are loaded at once: a thread already has a whole block of sums in its registers.
template <int BATCH, int SOURCES, class Put> DEVICE void add_up(const Codes (&from)[SOURCES], Put put) {
  constexpr int AT_ONCE = SOURCES < 4 ? SOURCES : 4;
  const unsigned step = (unsigned)afresh((int)threads()), units = from[0].units;
  const auto load = [&](Quantized (&q)[AT_ONCE], unsigned u, int first) {
    UNROLLED for (int s = 0; s < AT_ONCE; ++s) if (first + s < SOURCES) q[s] = from[first + s].load(u);
  };
  const auto add = [&](Wide& total, const Quantized (&q)[AT_ONCE], int first) {
    UNROLLED for (int s = first == 0; s < AT_ONCE; ++s)
      if (first + s < SOURCES) {
        const Wide next = dequantized(q[s]);
        UNROLLED for (int k = 0; k < FLOATS; ++k) total.f[k] = REDOP::combine(total.f[k], next.f[k]);
        UNROLLED for (int k = 0; k < FLOATS; ++k) summed_so_far(total.f[k]);
      }
  };
  const auto finish = [&](unsigned u, const Quantized (&q)[AT_ONCE]) {
    Wide total = dequantized(q[0]);
    add(total, q, 0);
    UNROLLED for (int first = AT_ONCE; first < SOURCES; first += AT_ONCE) {
      Quantized more[AT_ONCE];
      load(more, u, first);
      loads_first<AT_ONCE * (CODE_PACKS + BLOCKS)>();
      add(total, more, first);
    }
    put(u, total);
  };
  unsigned u = (unsigned)thread();
  for (; u + (BATCH - 1) * step < units; u += BATCH * step) {
    Quantized batch[BATCH][AT_ONCE];
    UNROLLED for (int k = 0; k < BATCH; ++k) load(batch[k], u + k * step, 0);
    loads_first<BATCH * AT_ONCE * (CODE_PACKS + BLOCKS)>();
    UNROLLED for (int k = 0; k < BATCH; ++k) finish(u + k * step, batch[k]);
  }
  for (; BATCH > 1 && u < units; u += step) {
    Quantized one[AT_ONCE];
    load(one, u, 0);
    finish(u, one);
  }
}
DEVICE constexpr int batch_of(int packs) { return (3 + packs) / packs; }  // four packs or more are then under way

// Cuts `count` elements into WORLD segments of whole units; the last ones may be short or empty.
DEVICE Segment segment_of_units(long count, long index) {
  const long each = (count + WORLD * UNIT_ELEMENTS - 1) / (WORLD * UNIT_ELEMENTS) * UNIT_ELEMENTS;
  const long start = smaller(index * each, count);
  return {start, smaller(each, count - start)};
}

extern "C" __global__ UP_TO_512_THREADS void two_shot_quantized(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long most = a.chunk_bytes / ELEMENT_BYTES / UNIT_ELEMENTS * UNIT_ELEMENTS, chunks = (a.count + most - 1) / most;
  const long segment_bytes = (units_of(segment_of_units(most, 0).count) * UNIT_BYTES + 127) / 128 * 128;
  const auto part = [&](long chunk, long segment) {
    const Segment s = segment_of_units(smaller(most, a.count - chunk * most), segment);
    return Segment{chunk * most + s.start, s.count};
  };
  // A slab's half: two chunks of input, then two segments of sums.
  const auto codes = [&](long rank, long place, long count) {
    return Codes{half_of(a, rank, epoch) + place * segment_bytes, units_of(count)};
  };
  const auto input = [&](long rank, long chunk, long segment) {
    return codes(rank, (chunk & 1) * WORLD + segment, part(chunk, segment).count);
  };
  const auto sums = [&](long owner, long chunk) {
    return codes(owner, 2 * WORLD + (chunk & 1), part(chunk, owner).count);
  };

  for (long beat = 0; beat < chunks + 2; ++beat) {
    if (beat > 0) wait(a, peers, stamp(epoch, beat));

    if (beat < chunks)  // A
      for (int segment = 0; segment < afresh(WORLD); ++segment) {
        const Segment s = part(beat, segment);
        const char* from = a.send + s.start * ELEMENT_BYTES;
        if (is_aligned(from)) quantize<true>(input(a.rank, beat, segment), from, s.count);
        else quantize<false>(input(a.rank, beat, segment), from, s.count);
      }
    if (beat >= 1 && beat <= chunks) {  // B
      Codes inputs[WORLD];
      UNROLLED for (int r = 0; r < WORLD; ++r) inputs[r] = input(r, beat - 1, a.rank);
      const Codes to = sums(a.rank, beat - 1);
      add_up<batch_of(WORLD * CODE_PACKS)>(inputs, [&](unsigned u, Wide total) {
        UNROLLED for (int k = 0; k < FLOATS; ++k) total.f[k] = REDOP::finish(total.f[k]);
        to.put(u, quantized(total));
      });
    }
    if (beat >= 2)  // C
      for (int owner = 0; owner < afresh(WORLD); ++owner) {
        const Segment s = part(beat - 2, owner);
        const Codes from[1] = {sums(owner, beat - 2)};
        const Output to = {a.receive + s.start * ELEMENT_BYTES};
        const unsigned packs = (unsigned)(s.count / PACK_ELEMENTS);
        const auto put_aligned = [&](unsigned u, const Wide& x) { put_unit<true>(to, u, packs, x); };
        const auto put = [&](unsigned u, const Wide& x) { put_unit<false>(to, u, packs, x); };
        if (to.aligned()) add_up<batch_of(CODE_PACKS)>(from, put_aligned);
        else add_up<1>(from, put);
      }

    if (beat < chunks + 1) signal(a, peers, stamp(epoch, beat + 1));
  }
  leave_launch(a, epoch);
}
