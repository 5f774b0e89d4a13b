// One-shot all-reduce: all ranks get all inputs and add them in rank order, so to the same bits. In
// one step each sends and reads (n-1) S bytes: the lowest latency and most bytes of all forms.
// Wins: two CPU cores, pull, up to 256 B for each ns of a flag's round trip (25 to 100 KiB); GPUs,
// push, while a rank sends at most 512 KiB and the packets of one_shot_ll have no room.
#include "include/exchange.h"

EXCHANGE_KERNELS(one_shot, exchange_and_reduce, ALL)
