// The wire alone: one rank's buffer moved into another's, and a flag back and forth.
//
// Buffers are registered, so nothing is copied on the way. Every rank launches, those without a part too: a launch
// turns everyone's epoch. All ranks have met before each launch, so a buffer is free when it begins.
#include "include/exchange.h"

struct Transfer {
  Arguments ranks;
  long to, from;         // whom this rank's data are for, and whose it gets; -1: nobody
  const char* beside;    // what the rank that waits reads meanwhile, over and over, and where it puts that
  char* kept;
  long beside_bytes;
};
constexpr long PIECE_BYTES = 64 << 10;  // of what is copied beside: between looks at the flag

// Push: the rank with the data stores them; pull: the rank that gets them reads them. It then tells the other, which
// does `meanwhile` until then: neither leaves, nor touches its buffer, before all is moved.
template <Direction DIRECTION, class Meanwhile> DEVICE void move(const Transfer& t, Meanwhile meanwhile) {
  const Arguments& a = t.ranks;
  Slowed<> slowed;
  const unsigned epoch = enter_launch(a);
  const int other = (int)(DIRECTION == PUSH ? t.to : t.from), awaited = (int)(DIRECTION == PUSH ? t.from : t.to);
  if (other >= 0) {
    const char* from = DIRECTION == PUSH ? a.send : of_thread(a.sends, other);
    char* to = const_cast<char*>(DIRECTION == PUSH ? of_thread(a.receives, other) : a.receive);
    in_parts(a.count, [&](long at, long n) { copy(Output{to + at}, from + at, n); });
    signal(a, 1u << other, stamp(epoch, 1));
  }
  if (awaited >= 0) {
    meanwhile(&a.control[a.rank]->flags[block()][awaited].value, stamp(epoch, 1));
    wait(a, 1u << awaited, stamp(epoch, 1));
  }
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void link_push(LAUNCHED_WITH(Transfer) t) {
  move<PUSH>(t, [](const u64*, u64) {});
}
extern "C" __global__ UP_TO_512_THREADS void link_pull(LAUNCHED_WITH(Transfer) t) {
  move<PULL>(t, [](const u64*, u64) {});
}

// On a GPU `beside` lies in the host's memory, and this is the traffic of a host copy that comes in beside the peer's.
extern "C" __global__ UP_TO_512_THREADS void link_push_beside_host_copy(LAUNCHED_WITH(Transfer) t) {
  move<PUSH>(t, [&](const u64* flag, u64 wanted) {
    const u64 start = clock_ns();
    long at = 0;
    while (!reached(load_acquire_system(flag), wanted) && clock_ns() - start < t.ranks.timeout_ns) {
      copy(Output{t.kept + at}, t.beside + at, PIECE_BYTES / ELEMENT_BYTES);
      at = (at + PIECE_BYTES) % t.beside_bytes;
    }
  });
}

// `to` and `from` are the partner; `count` round trips, of which the lower rank begins each.
extern "C" __global__ UP_TO_512_THREADS void link_ping_pong(LAUNCHED_WITH(Transfer) t) {
  const Arguments& a = t.ranks;
  const unsigned epoch = enter_launch(a);
  if (t.to >= 0) bounce(a, (int)t.to, epoch, 1, a.count);
  leave_launch(a, epoch);
}
