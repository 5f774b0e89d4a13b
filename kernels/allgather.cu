// All-gather: every rank gets every rank's segment, in one step.
#include "include/exchange.h"

RANK_KERNEL(all_gather_push) { exchange_and_gather<PUSH, ALL>(a); }
RANK_KERNEL(all_gather_pull) { exchange_and_gather<PULL, ALL>(a); }
RANK_KERNEL(all_gather_pull_registered) { exchange_and_gather<REGISTERED, ALL>(a); }
