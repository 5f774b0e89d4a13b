// The parts that an all-reduce is made of, one at a time: a meeting, a flag's round trip, storing what a peer will
// read, reading what a peer has stored, and copying through the machine's own memory. They give the state of the link
// and the bound.
//
// None of them signals through the epoch's flags but the ping-pong, which lets every rank wait for every other first.
#include "include/pack.h"

DEVICE void note_epoch(const Arguments& a, unsigned epoch) {
  if (thread() == 0) *(volatile u64*)&a.watch->epoch = epoch;
}

// All ranks meet; stands before each timed iteration. It also notes the epoch: here nothing is stamped, and while the
// others are waited for the store costs nothing.
extern "C" __global__ UP_TO_512_THREADS void meet(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  block_barrier();
  const u64 meeting = a.own->meetings.value + 1;
  note_epoch(a, (unsigned)a.own->epoch.value);
  for (int p = thread_in_block(); p < WORLD; p += threads_in_block())
    if (p != a.rank) store_release_system(&of_thread(a.control, p)->meet[a.rank].value, meeting);
  for (int p = thread_in_block(); p < WORLD; p += threads_in_block())
    if (p != a.rank) await_acquire_system(a, &a.control[a.rank]->meet[p].value, meeting, p);
  block_barrier();
  if (thread() == 0) a.own->meetings.value = meeting;
}

// Pairs (0,1), (2,3), ... bounce a flag `count` times; the mean round trip in ns goes into receive[0] as a 64-bit
// integer, 0 for a rank without a partner.
extern "C" __global__ UP_TO_512_THREADS void flag_ping_pong(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  const unsigned epoch = enter_launch(a);
  note_epoch(a, epoch - 1);
  signal(a, everyone_but(a.rank), stamp(epoch, 1));
  wait(a, everyone_but(a.rank), stamp(epoch, 1));
  const long partner = a.rank ^ 1;
  const u64 start = clock_ns();
  if (partner < WORLD) bounce(a, (int)partner, epoch, 2, a.count);
  if (thread() == 0) *(volatile u64*)a.receive = partner < WORLD ? (clock_ns() - start) / (u64)a.count : 0;
  note_epoch(a, epoch);
  leave_launch(a, epoch);
}

// Stores `count` elements into a slab as an all-reduce does: chunk by chunk into two slots, in the half of its epoch,
// so into lines that the peer has read two launches ago. Only between meetings: it waits for nobody.
DEVICE void store_into(const Arguments& a, long rank) {
  const unsigned epoch = enter_launch(a);
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  long slot = 0;
  for (long start = 0; start < a.count; start += most, slot ^= 1)
    copy(Slab{half_of(a, rank, epoch) + slot * a.chunk_bytes}, a.send + start * ELEMENT_BYTES,
         smaller(most, a.count - start));
  fence_system();
  leave_launch(a, epoch);
}

extern "C" __global__ UP_TO_512_THREADS void copy_in(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  store_into(a, a.rank);
}
extern "C" __global__ UP_TO_512_THREADS void push_out(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  store_into(a, (a.rank + 1) % WORLD);
}

struct Nowhere {
  words* kept;
  DEVICE bool aligned() const { return true; }
  DEVICE void put(unsigned, pack p) const { for (int k = 0; k < REGISTERS; ++k) *kept ^= p.r[k]; }
  DEVICE void put_element(unsigned i, pack p) const { put(i, p); }
};
// Something must hang on what was read, or the compiler drops the reads; no pattern sums to this in practice.
DEVICE void use(const Arguments& a, words kept) {
  const pack p = {{kept}};
  unsigned first;
  copy_bits(&first, &p, sizeof first);
  if (first == 0x5ca1ab1eu) ((volatile unsigned*)&a.watch->phase)[1] = first;
}

// Reads `count` elements that the next rank has stored with its last copy_in.
extern "C" __global__ UP_TO_512_THREADS void read_peer(LAUNCHED_WITH(Arguments) launched) {
  const Arguments& a = of_this_rank(launched);
  const long most = a.chunk_bytes / ELEMENT_BYTES;
  const char* half = half_of(a, (a.rank + 1) % WORLD, (unsigned)a.own->epoch.value);
  words kept = {};
  long slot = 0;
  for (long start = 0; start < a.count; start += most, slot ^= 1)
    copy(Nowhere{&kept}, half + slot * a.chunk_bytes, smaller(most, a.count - start));
  use(a, kept);
}

// Reads `count` elements of one's own result, as the next layer would.
extern "C" __global__ UP_TO_512_THREADS void read_own(LAUNCHED_WITH(Arguments) launched) {
  Slowed<> slowed;
  const Arguments& a = of_this_rank(launched);
  words kept = {};
  in_parts(a.count, [&](long at, long count) { copy(Nowhere{&kept}, a.receive + at, count); });
  use(a, kept);
}

// Copies `count` elements from the send to the receive buffer: what no all-reduce that is not in place can do without.
extern "C" __global__ UP_TO_512_THREADS void copy_local(LAUNCHED_WITH(Arguments) a) { copy_message(of_this_rank(a)); }

// Makes the next send buffer of a chain from the last result, and keeps it from growing: a sum is divided by the ranks.
// Rank 0 then adds one and the last takes one off: the sum stays, and one rank's data cannot stand for another's.
template <class Op> struct Chain { template <class Lane> static DEVICE Lane next(Lane a, int) { return a; } };
template <> struct Chain<Sum> {
  // Divided: a product some compilers fuse with the sum, and others do not, which shows where values are no integers.
  static DEVICE floats next(floats a, int offset) { return a / (float)WORLD + (float)offset; }
  static DEVICE doubles next(doubles a, int offset) { return Avg::finish(a) + (double)offset; }
  static DEVICE ints next(ints a, int offset) { return a / WORLD + offset; }
  static DEVICE longs next(longs a, int offset) { return a / WORLD + offset; }
};
struct NextSend {
  Output send;
  int offset;
  DEVICE pack next(pack p) const {
    typename Element::values v = Element::widen(p);
    for (unsigned k = 0; k < sizeof v.v / sizeof *v.v; ++k) v.v[k] = Chain<REDOP>::next(v.v[k], offset);
    return Element::narrow(v);
  }
  DEVICE bool aligned() const { return send.aligned(); }
  DEVICE void put(unsigned i, pack p) const { send.put(i, next(p)); }
  DEVICE void put_element(unsigned i, pack p) const { send.put_element(i, next(p)); }
};
// Over buffers of SENT and of RECEIVED segments; what is sent in one has come in another.
template <int SENT, int RECEIVED> DEVICE void link_a_chain(const Arguments& a) {
  Slowed<> slowed;
  const long segment_bytes = a.count * ELEMENT_BYTES, own = a.rank % SENT;
  for (long d = 1; d <= SENT; ++d) {  // one's own last: in place it is what the others are made from
    const long segment = (own + d) % SENT, from = (segment + a.rank + 1) % RECEIVED;
    in_parts(a.count, [&](long at, long count) {
      copy(NextSend{{const_cast<char*>(a.send) + segment * segment_bytes + at}, (a.rank == 0) - (a.rank == WORLD - 1)},
           a.receive + from * segment_bytes + at, count);
    });
  }
}
extern "C" __global__ UP_TO_512_THREADS void chain_link(LAUNCHED_WITH(Arguments) a) {
  link_a_chain<1, 1>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void chain_link_gathered(LAUNCHED_WITH(Arguments) a) {
  link_a_chain<1, WORLD>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void chain_link_scattered(LAUNCHED_WITH(Arguments) a) {
  link_a_chain<WORLD, 1>(of_this_rank(a));
}
extern "C" __global__ UP_TO_512_THREADS void chain_link_exchanged(LAUNCHED_WITH(Arguments) a) {
  link_a_chain<WORLD, WORLD>(of_this_rank(a));
}
