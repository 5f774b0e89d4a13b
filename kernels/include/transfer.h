// What a launch of the link's kernels gets.
#pragma once
#include "exchange.h"

struct Transfer {
  Arguments ranks;
  long to, from;  // the rank that this rank sends to, and receives from; -1: no rank
  long bytes;     // of a part of link_parts.cu
};
