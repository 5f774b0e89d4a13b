// All-to-all: every rank has one segment for each rank; each sends and gets (n-1), in one step.
#include "include/exchange.h"

EXCHANGE_KERNELS(all_to_all, exchange_and_gather, ONE)
