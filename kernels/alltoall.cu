// All-to-all: every rank has one segment for each rank; each sends and gets (n-1), in one step.
#include "include/exchange.h"

RANK_KERNEL(all_to_all_push) { exchange_and_gather<PUSH, ONE>(a); }
RANK_KERNEL(all_to_all_pull) { exchange_and_gather<PULL, ONE>(a); }
RANK_KERNEL(all_to_all_pull_registered) { exchange_and_gather<REGISTERED, ONE>(a); }
