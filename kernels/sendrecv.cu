// Send and receive between the ranks of a pair (0 and 1, 2 and 3, ...). One way: the even rank's
// message of S bytes goes to the odd rank. Ping-pong: the odd rank's then goes back. Chunks pass
// through slots in turn: the receiver signals each chunk that it has read, which frees the slot.
#include "include/exchange.h"

constexpr int SLOTS = 8;
// With WT_SWAP: as many slots as fit into this part of a half, but at least LEAST_SLOTS.
constexpr long WINDOW_BYTES = 262144, WINDOW_WITH_ANSWER_BYTES = 524288, LEAST_SLOTS = 6;

template <Path PATH, int LEGS>
DEVICE void send_receive(const Arguments& a) {
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long partner = a.rank ^ 1;
  // With WT_SWAP the answer goes back through the slots of the message, in the same slab.
  constexpr bool BACK = WT_SWAP && LEGS > 1;
  const long owner_of_both = PATH == PUSH ? a.rank | 1 : a.rank & ~1L;
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  // One way, places cannot change hands as with an answer. So with WT_SWAP a launch goes on where
  // the last but one ended, and the receiver takes over the lines that the same sender will store
  // into again. Two windows of 512 KiB fill a second-level cache of 1 MiB: some blocks took 2.5
  // times.
  const long window = BACK ? WINDOW_WITH_ANSWER_BYTES : WINDOW_BYTES;
  const long slots = WT_SWAP ? window / smaller(a.chunk_bytes, window / LEAST_SLOTS) : SLOTS;
  const long first_slot = WT_SWAP && !BACK ? (epoch >> 1) * chunks : 0;
  // The first stamp says that this rank has entered. All ranks wait for it: a rank ahead of another
  // pair would overwrite data that this pair still reads in a launch of another collective.
  signal(a, peers, stamp(epoch, 1));
  for (long leg = 0; leg < LEGS && partner < WT_WORLD; ++leg) {
    const bool sends = (a.rank & 1) == leg;
    // Counted up: a division costs a CPU 1.1 times as long. gfx942 has no register for a counter.
    long turn = first_slot % slots;
    for (long chunk = 0; chunk < chunks; ++chunk, turn = turn + 1 < slots ? turn + 1 : 0) {
      const long start = chunk * most, n = smaller(most, a.count - start);
      const long done = 2 + leg * chunks + chunk;  // the step that ends this chunk
      const auto slot = [&](long owner) {
        return half_of(a, owner, epoch) + (WT_SWAP ? turn : chunk % SLOTS) * a.chunk_bytes;
      };
      if (sends) {
        if (chunk >= slots) wait(a, 1u << partner, stamp(epoch, done - slots));
        const Slab slab{slot(BACK ? owner_of_both : PATH == PUSH ? partner : a.rank)};
        copy(slab, a.send + start * ELEMENT_BYTES, n);
      } else {
        wait(a, 1u << partner, stamp(epoch, done));
        const char* slab = slot(BACK ? owner_of_both : PATH == PUSH ? a.rank : partner);
        char* to = a.receive + start * ELEMENT_BYTES;
        const bool sent_again = WT_SWAP && (!BACK || chunk + slots < chunks);
        if constexpr (TAKEN_BYTES == 0)
          copy(Output{to}, slab, n);
        else
          in_parts<TAKEN_BYTES / ELEMENT_BYTES>(n, [&](long at, long m) {
            copy(Output{to + at}, slab + at, m);
            if (sent_again) take_over(slab + at, m * ELEMENT_BYTES);
          });
      }
      signal(a, 1u << partner, stamp(epoch, done));
    }
  }
  wait(a, peers, stamp(epoch, 1));
  leave_launch(a, epoch);
}

RANK_KERNEL(one_way_push) { send_receive<PUSH, 1>(a); }
RANK_KERNEL(one_way_pull) { send_receive<PULL, 1>(a); }
RANK_KERNEL(ping_pong_push) { send_receive<PUSH, 2>(a); }
RANK_KERNEL(ping_pong_pull) { send_receive<PULL, 2>(a); }

// Both ranks move a half at once: the receiver reads the first, the sender stores the second. On a
// CPU the receiver reads a short message alone, as stores go into lines that its user has read.
template <int LEGS>
DEVICE void send_receive_registered(const Arguments& a) {
  const unsigned epoch = enter_launch(a), peers = everyone_but(a.rank);
  const long partner = a.rank ^ 1;
  const long half = (a.count / 2 + PACK_ELEMENTS - 1) / PACK_ELEMENTS * PACK_ELEMENTS;
  const bool alone = a.count * ELEMENT_BYTES <= WT_READ_ALONE_BYTES;
  const long first = alone ? a.count : smaller(half, a.count);
  signal(a, peers, stamp(epoch, 1));
  wait(a, peers, stamp(epoch, 1));
  for (long leg = 0; leg < LEGS && partner < WT_WORLD; ++leg) {
    const bool sends = (a.rank & 1) == leg;
    const char* from = sends ? a.send : of_thread(a.sends, (int)partner);
    char* to = sends ? of_thread(a.receives, (int)partner) : a.receive;
    const long start = (sends ? first : 0) * ELEMENT_BYTES;
    in_parts(sends ? a.count - first : first,
             [&](long at, long n) { copy(Output{to + start + at}, from + start + at, n); });
    signal(a, 1u << partner, stamp(epoch, 2 + leg));
    wait(a, 1u << partner, stamp(epoch, 2 + leg));
  }
  leave_launch(a, epoch);
}

RANK_KERNEL(one_way_pull_registered) { send_receive_registered<1>(a); }
RANK_KERNEL(ping_pong_pull_registered) { send_receive_registered<2>(a); }
