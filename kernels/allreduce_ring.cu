// Ring all-reduce, chunked and pipelined: each rank communicates only with its two neighbours.
//
// 2(n-1) steps; each rank sends 2 (n-1)/n S bytes, all to its right neighbour. A chunk of the
// message has one segment per rank and passes through 2n-1 stages: sent on in stage 0, added to in
// stages 1 to n-1, output from stage n-1 on. One rank sums each segment last, in rotated order and
// with one rounding to the wire type per hop, so every rank gets the same bits.
#include "include/exchange.h"

RANK_KERNEL(ring) { Ring<true, true>::launch(a); }
