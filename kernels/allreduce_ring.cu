// Ring all-reduce, chunked and pipelined: in 2(n-1) steps each rank sends 2 (n-1)/n S bytes to its
// right neighbour. A chunk has one segment per rank and passes 2n-1 hops: sent in hop 0, added
// to in hops 1 to n-1, output from hop n-1 on. One rank sums each segment last, in rotated
// order and rounded once per hop, so every rank gets the same bits.
// Wins nowhere that was measured: it moves the bytes of two_shot in n-1 times as many steps. It is
// for machines on which only neighbours have a fast link.
#include "include/exchange.h"

RANK_KERNEL(ring) { Ring<true, true>::run(a); }
