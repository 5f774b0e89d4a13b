// One-shot all-reduce: all ranks get all inputs and add them in rank order, so to the same bits. In
// one step each sends and reads (n-1) S bytes: the lowest latency and most bytes of all forms.
// Wins for short messages (copied, collectives/tables/): between two cores of a CPU up to 4 to 256
// KiB, the longer their round trip the longer the message; among four ranks on two cores up to 16
// KiB; between two ranks on one GPU up to 4 MiB, in chains 32 MiB, and through host memory 1 MiB.
// Nobody has measured two GPUs.
#include "include/exchange.h"

EXCHANGE_KERNELS(one_shot, exchange_and_reduce, ALL)
