// Reduce-scatter: rank r gets the sum of every rank's segment r. Each rank sends (n-1) segments.
// One step, in which each rank sums its segment in rank order and rounds once.
#include "include/exchange.h"

EXCHANGE_KERNELS(reduce_scatter, exchange_and_reduce, ONE)
