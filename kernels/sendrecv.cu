// Send and receive: ranks 0 and 1, 2 and 3, ... as the stages of a pipeline hand on what they have computed.
//
// One way, the even rank's message goes to the odd one; ping-pong, the odd rank's then goes back. A message goes chunk
// by chunk through slots that take turns, so that it is stored and read at once: the sender signals each chunk, and
// stores into a slot again when the receiver has signalled that it has read it.
#include "include/exchange.h"

constexpr int SLOTS = 8;

template <Direction DIRECTION, int LEGS> DEVICE void handed_on(const Arguments& a) {
  Slowed<> slowed;
  const unsigned epoch = enter_launch(a), everyone = everyone_but(a.rank);
  const long partner = a.rank ^ 1, most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  // The first stamp says that one has come. All wait for that: a rank that ran ahead of another pair would store into
  // what these still read in a launch of another collective.
  signal(a, everyone, stamp(epoch, 1));
  for (long leg = 0; leg < LEGS && partner < WORLD; ++leg) {
    const bool sends = (a.rank & 1) == leg;
    for (long chunk = 0; chunk < chunks; ++chunk) {
      const long start = chunk * most, n = smaller(most, a.count - start), done = 2 + leg * chunks + chunk;
      const auto slot = [&](long owner) { return half_of(a, owner, epoch) + (chunk % SLOTS) * a.chunk_bytes; };
      if (sends) {
        if (chunk >= SLOTS) wait(a, 1u << partner, stamp(epoch, done - SLOTS));
        hand_over(a, epoch, start, slot(DIRECTION == PUSH ? partner : a.rank), a.send + start * ELEMENT_BYTES, n);
      } else {
        wait(a, 1u << partner, stamp(epoch, done));
        copy(Output{a.receive + start * ELEMENT_BYTES}, slot(DIRECTION == PUSH ? a.rank : partner), n);
      }
      signal(a, 1u << partner, stamp(epoch, done));
    }
  }
  wait(a, everyone, stamp(epoch, 1));
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void one_way_push(LAUNCHED_WITH(Arguments) a) {
  handed_on<PUSH, 1>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void one_way_pull(LAUNCHED_WITH(Arguments) a) {
  handed_on<PULL, 1>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void ping_pong_push(LAUNCHED_WITH(Arguments) a) {
  handed_on<PUSH, 2>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void ping_pong_pull(LAUNCHED_WITH(Arguments) a) {
  handed_on<PULL, 2>(of_this_rank(a));
}

// Over the users' own buffers both ranks of a pair work on a message at once: the receiver reads the first half of it
// out of the sender's buffer, and the sender stores the second into the receiver's.
template <int LEGS> DEVICE void handed_on_registered(const Arguments& a) {
  Slowed<> slowed;
  const unsigned epoch = enter_launch(a), everyone = everyone_but(a.rank);
  const long partner = a.rank ^ 1, half = (a.count / 2 + PACK_ELEMENTS - 1) / PACK_ELEMENTS * PACK_ELEMENTS;
  const long first = smaller(half, a.count);
  signal(a, everyone, stamp(epoch, 1));
  wait(a, everyone, stamp(epoch, 1));
  for (long leg = 0; leg < LEGS && partner < WORLD; ++leg) {
    const bool sends = (a.rank & 1) == leg;
    const char* from = sends ? a.send : of_thread(a.sends, (int)partner);
    char* to = sends ? of_thread(a.receives, (int)partner) : a.receive;
    const long start = (sends ? first : 0) * ELEMENT_BYTES;
    in_parts(sends ? a.count - first : first, [&](long at, long n) {
      copy(Output{to + start + at}, from + start + at, n);
    });
    signal(a, 1u << partner, stamp(epoch, 2 + leg));
    wait(a, 1u << partner, stamp(epoch, 2 + leg));
  }
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void one_way_pull_registered(LAUNCHED_WITH(Arguments) a) {
  handed_on_registered<1>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void ping_pong_pull_registered(LAUNCHED_WITH(Arguments) a) {
  handed_on_registered<2>(of_this_rank(a));
}
