// Send and receive between the ranks of a pair (0 and 1, 2 and 3, ...). One way: the even rank's
// message of S bytes goes to the odd rank. Ping-pong: the odd rank's then goes back. Chunks pass
// through slots in turn: the receiver signals each chunk that it has read, which frees the slot.
#include "include/exchange.h"

// Stores into each line that this core has just read, as long as they lie in its first-level cache.
// An EPYC hands a line that one core has changed to the next that stores into it up to 6 times as
// fast between far cores, and twice as fast between near ones, as one of which both have copies.
constexpr long DIRTIED_BYTES = 16384;
DEVICE void dirty_lines(char* at, long bytes) {
  for (long i = 0; i < bytes; i += 64) *(volatile char*)(at + i) = 0;
}

// Chunks pass in turn through slots of a half of a slab.
//   build            slots                 in the slab of              a launch begins
//   without SWAPS  8                     reader (push), writer       at the first
//   swap, one way    of 256 KiB, 6 at least    (pull)                  where the last but one ended
//   swap, ping-pong  of 512 KiB, 6 at least  one rank, for both ways   at the first
// So with SWAPS an answer goes back through the slots of its message, where both ranks have read.
// One way, places cannot change hands: the receiver dirties the lines that the same sender will
// store into again. Two windows of 512 KiB fill a second-level cache of 1 MiB: some blocks took 2.5
// times as long.
template <Path PATH, int MESSAGES>
DEVICE void send_receive(const Arguments& a) {
  constexpr bool ANSWERED = SWAPS && MESSAGES > 1;
  constexpr long WINDOW_BYTES = ANSWERED ? 512 << 10 : 256 << 10, LEAST = 6;
  static_assert(WINDOW_BYTES <= HALF_BYTES, "the slots lie in a half");
  const Launch launch(a);
  const long partner = a.rank ^ 1;
  const long most = a.chunk_bytes / ELEMENT_BYTES, chunks = (a.count + most - 1) / most;
  const long slots = SWAPS ? WINDOW_BYTES / smaller(a.chunk_bytes, WINDOW_BYTES / LEAST) : 8;
  // The first stamp says that this rank has entered. All ranks wait for it: a rank ahead of another
  // pair would overwrite data that this pair still reads in a launch of another collective.
  launch.signal(1);
  for (long message = 0; message < MESSAGES && partner < WT_WORLD; ++message) {
    const bool sends = (a.rank & 1) == message;
    const long reader = sends ? partner : a.rank;
    const long first_reader = ANSWERED ? a.rank | 1 : reader;  // of a message; its answer stays
    const long owner = PATH == PUSH ? first_reader : first_reader ^ 1;
    long slot = SWAPS && !ANSWERED ? (launch.epoch >> 1) * chunks % slots : 0;
    for (long chunk = 0; chunk < chunks; ++chunk) {
      const long start = chunk * most, n = smaller(most, a.count - start);
      const long done = 2 + message * chunks + chunk;  // the step that ends this chunk
      char* place = launch.half_of(owner) + (SWAPS ? slot : chunk % slots) * a.chunk_bytes;
      // Counted up: a division costs a CPU 1.1 times as long. gfx942 has no register for a counter.
      slot = slot + 1 < slots ? slot + 1 : 0;
      if (sends) {
        if (chunk >= slots) launch.wait(done - slots, 1u << partner);
        copy(Slab{place}, a.send + start * ELEMENT_BYTES, n);
      } else {
        launch.wait(done, 1u << partner);
        const bool stored_again = SWAPS && (!ANSWERED || chunk + slots < chunks);
        in_parts<ON_CPU ? DIRTIED_BYTES / ELEMENT_BYTES : MOST_ELEMENTS>(n, [&](long at, long m) {
          copy(Output{a.receive + start * ELEMENT_BYTES + at}, place + at, m);
          if (stored_again) dirty_lines(place + at, m * ELEMENT_BYTES);
        });
      }
      launch.signal(done, 1u << partner);
    }
  }
  launch.wait(1);
  launch.leave();
}

RANK_KERNEL(one_way_push) { send_receive<PUSH, 1>(a); }
RANK_KERNEL(one_way_pull) { send_receive<PULL, 1>(a); }
RANK_KERNEL(ping_pong_push) { send_receive<PUSH, 2>(a); }
RANK_KERNEL(ping_pong_pull) { send_receive<PULL, 2>(a); }

// Both ranks move a half at once: the receiver reads the first, the sender stores the second. On a
// CPU the receiver reads a short message alone, as stores go into lines that its user has read.
constexpr long READ_ALONE_BYTES = ON_CPU ? 524288 : 0;
template <int MESSAGES>
DEVICE void send_receive_registered(const Arguments& a) {
  const Launch launch(a);
  const long partner = a.rank ^ 1;
  const long half = (a.count / 2 + PACK_ELEMENTS - 1) / PACK_ELEMENTS * PACK_ELEMENTS;
  const bool alone = a.count * ELEMENT_BYTES <= READ_ALONE_BYTES;
  const long first = alone ? a.count : smaller(half, a.count);
  launch.meet(1);
  for (long message = 0; message < MESSAGES && partner < WT_WORLD; ++message) {
    const bool sends = (a.rank & 1) == message;
    const char* from = sends ? a.send : a.sends.selected(partner);
    char* to = sends ? a.receives.selected(partner) : a.receive;
    const long start = (sends ? first : 0) * ELEMENT_BYTES;
    copy_message(to + start, from + start, sends ? a.count - first : first);
    launch.signal(2 + message, 1u << partner);
    launch.wait(2 + message, 1u << partner);
  }
  launch.leave();
}

RANK_KERNEL(one_way_pull_registered) { send_receive_registered<1>(a); }
RANK_KERNEL(ping_pong_pull_registered) { send_receive_registered<2>(a); }
