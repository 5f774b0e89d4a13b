// One-shot all-reduce: every rank gets every rank's whole input and computes the whole sum.
//
// One step; each rank sends (n-1) S bytes and reads (n-1) S bytes: the lowest latency and the most
// bytes of all forms. Every rank adds in rank order, so all get the same bits.
#include "include/exchange.h"

RANK_KERNEL(one_shot_push) { exchange_and_reduce<PUSH, ALL>(a); }
RANK_KERNEL(one_shot_pull) { exchange_and_reduce<PULL, ALL>(a); }
RANK_KERNEL(one_shot_pull_registered) { exchange_and_reduce<REGISTERED, ALL>(a); }
