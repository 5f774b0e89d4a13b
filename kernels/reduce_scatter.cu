// Reduce-scatter: rank r gets the sum of every rank's segment r. Each rank sends (n-1) segments.
// Direct: one step, in which each rank sums its segment in rank order and rounds once. Ring: n-1
// steps, in which the sum of a segment grows on its way, rounded to the wire type once per hop.
#include "include/exchange.h"

RANK_KERNEL(reduce_scatter_push) { exchange_and_reduce<PUSH, ONE>(a); }
RANK_KERNEL(reduce_scatter_pull) { exchange_and_reduce<PULL, ONE>(a); }
RANK_KERNEL(reduce_scatter_pull_registered) { exchange_and_reduce<REGISTERED, ONE>(a); }
RANK_KERNEL(reduce_scatter_ring) { Ring<true, false>::run(a); }
