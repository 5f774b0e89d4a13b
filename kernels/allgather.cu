// All-gather: every rank gets every rank's segment, in one step.
#include "include/exchange.h"

EXCHANGE_KERNELS(all_gather, exchange_and_gather, ALL)
