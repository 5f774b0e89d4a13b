// What a launch of the link's kernels gets.
#pragma once
#include "exchange.h"

struct Transfer {
  Arguments ranks;
  long to, from;       // the rank that this rank sends to, and receives from; -1: no rank
  const char* beside;  // the waiting rank copies this again and again meanwhile, into `kept`
  char* kept;
  long beside_bytes;
};
