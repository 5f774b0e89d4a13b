// Reduce-scatter: rank r gets the sum of every rank's segment r. Each rank sends (n-1) segments.
// One step, in which each rank sums its segment in rank order and rounds once.
#include "include/exchange.h"

RANK_KERNEL(reduce_scatter_push) { exchange_and_reduce<PUSH, ONE>(a); }
RANK_KERNEL(reduce_scatter_pull) { exchange_and_reduce<PULL, ONE>(a); }
RANK_KERNEL(reduce_scatter_pull_registered) { exchange_and_reduce<REGISTERED, ONE>(a); }
