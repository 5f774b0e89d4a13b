// A launch of the software GPU, between its streams and its multiprocessors.
#pragma once
#include <atomic>
#include <cstddef>

constexpr size_t MOST_PARAMETERS = 4096;
struct Parameters {
  char bytes[MOST_PARAMETERS];
};
struct Launch {
  void* function;
  unsigned blocks, threads, resident;
  size_t size;
  Parameters parameters;
  std::atomic<unsigned> next{0};
};

// Runs blocks of the launch on one multiprocessor, this host thread, until none is left.
void run_blocks(Launch& launch);
