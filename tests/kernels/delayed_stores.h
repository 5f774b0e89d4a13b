// Streaming stores that become visible at the next fence only, as a CPU's write-combining buffers
// allow: a missing fence then gives wrong results in every run. tests/kernels/broken_kernels.py
// patches these functions into a copy of the kernels. A thread does not see its own delayed stores,
// so no kernel may read them before a fence.
#pragma once

extern "C" int usleep(unsigned);

struct DelayedStore {
  char* at;
  words value;
};
static DelayedStore delayed_stores[1 << 16];  // more than a rank streams between two fences
static unsigned delayed_count = 0;

static void end_delays() {
  for (unsigned i = 0; i < delayed_count; ++i)
    *(aligned_words*)delayed_stores[i].at = delayed_stores[i].value;
  delayed_count = 0;
}
static void delay_store(char* buffer, unsigned i, pack x) {
  if (delayed_count == sizeof delayed_stores / sizeof delayed_stores[0]) end_delays();
  delayed_stores[delayed_count++] = {buffer + i * sizeof(pack), x.r[0]};
}
// The fence at the end of rank 1's launch takes long. It would otherwise hide that a flag came
// before the data that rank 1 had stored for rank 0. Tests align rank 0's receive buffer alone:
// stores into rank 1's own do not stream.
static void delay_last_fence(long rank) {
  if (rank == 1 && delayed_count) usleep(200000);
}
