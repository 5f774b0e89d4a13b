// The timed loop of the CPU device. A call from Python costs as much as a small all-reduce, so the loop is native: it
// calls an operation through a C pointer and stores time stamps, for ours and for MPI's alike.
#include "../include/sync.h"

struct Step { void (*run)(void*); void* argument; };

struct Loop {
  Step prepare;    // write the send buffer, as the layer before would
  Step meet;       // all ranks
  Step late;       // what the rank that comes late does before it is stamped; of the others without a function
  Step operation;  // what is timed
  Step consume;    // read the result, as the layer after would; of a chain: make the next send buffer from the result
  Step check;
  long warmup, iterations;
  long checks;                      // so many of the warm-up's first iterations, and as many after the timed ones
  long calls;                       // of a chain; 0: isolated
  long long* stamps_ns;             // [iterations][4]: arrived, left, began to consume, done
  long done;                        // timed iterations that ran before a stop
  Watch* watch;
};

enum Phase { IDLE, PREPARE, MEET, OPERATION, CONSUME, CHECK };

static void run(const Loop& l, Phase phase, const Step& s) {
  *(volatile u64*)&l.watch->phase = phase;
  s.run(s.argument);
}

extern "C" void timed_loop(Loop* loop) {
  Loop& l = *loop;
  const long total = l.warmup + l.iterations + l.checks;
  l.done = 0;
  for (long i = 0; i < total && !*(volatile u64*)&l.watch->stop; ++i) {
    *(volatile u64*)&l.watch->calls = 0;
    *(volatile u64*)&l.watch->iteration += 1;
    run(l, PREPARE, l.prepare);
    run(l, MEET, l.meet);
    long long t[4];
    if (l.calls == 0) {
      if (l.late.run) l.late.run(l.late.argument);
      *(volatile u64*)&l.watch->phase = OPERATION;
      t[0] = clock_ns();
      l.operation.run(l.operation.argument);
      t[1] = t[2] = clock_ns();
      run(l, CONSUME, l.consume);
      t[3] = clock_ns();
    } else {
      // The chain without collectives comes first: in place it spends the send buffer, and the result is to be checked.
      t[2] = clock_ns();
      for (long c = 0; c < l.calls; ++c) l.consume.run(l.consume.argument);
      t[3] = clock_ns();
      run(l, PREPARE, l.prepare);
      run(l, MEET, l.meet);
      *(volatile u64*)&l.watch->phase = OPERATION;
      t[0] = clock_ns();
      for (long c = 0; c < l.calls; ++c) {
        *(volatile u64*)&l.watch->calls += 1;
        l.operation.run(l.operation.argument);
        l.consume.run(l.consume.argument);
      }
      t[1] = clock_ns();
    }
    if (i >= l.warmup && i < l.warmup + l.iterations && !*(volatile u64*)&l.watch->stop) {
      for (int k = 0; k < 4; ++k) l.stamps_ns[4 * l.done + k] = t[k];
      ++l.done;
    }
    if (i < l.checks || i >= l.warmup + l.iterations) run(l, CHECK, l.check);
  }
  *(volatile u64*)&l.watch->phase = IDLE;
}

// Launches back to back with nothing between them but each rank's own delays, which finds errors of a protocol that the
// meeting before each timed iteration hides.
struct Item {
  Step prepare, operation, check;
  long launches;
};

static u64 next_random(u64* state) {  // xorshift64 (Marsaglia 2003)
  *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
  return *state;
}

// draws[0] is alike on all ranks, so that all take the same items; draws[1], for delays, is each rank's own.
extern "C" void mixed_loop(Item* items, long n_items, long launches, u64* draws, Watch* watch) {
  for (long i = 0; i < launches && !*(volatile u64*)&watch->stop; ++i) {
    const u64 number = next_random(&draws[0]) % (u64)n_items;
    Item& item = items[number];
    *(volatile u64*)&watch->calls = number;
    *(volatile u64*)&watch->iteration += 1;
    item.prepare.run(item.prepare.argument);
    const u64 draw = next_random(&draws[1]), delay_ns = draw % 4 ? draw / 4 % 300 : draw / 4 % 5000;
    for (const u64 start = clock_ns(); clock_ns() - start < delay_ns;) breathe();
    item.operation.run(item.operation.argument);
    item.check.run(item.check.argument);
    ++item.launches;
  }
}

// What goes on beside the loop, on a thread of its own: the next item of a matmul, and the next, until it is stopped or
// has no room for the time of another's end.
struct Beside {
  Step item;
  long* turn;  // in its argument
  long turns;
  long long* ends_ns;
  long most, done;
  u64 stop;
};
extern "C" void work_beside(Beside* b) {
  for (; b->done < b->most && !*(volatile u64*)&b->stop; *(volatile long*)&b->done += 1) {
    *b->turn = b->done % b->turns;
    b->item.run(b->item.argument);
    b->ends_ns[b->done] = clock_ns();
  }
}

// A library's functions, one after another, each after a kernel if it has one. Handles are 4 bytes in MPICH and 8 in Open
// MPI, and no function takes more than nine arguments; whether in a register or on the stack, each has eight bytes, and
// what is not taken is not seen.
struct LibraryCall {
  int (*function)(long, long, long, long, long, long, long, long, long);
  long arguments[9];
  long failed;
  LibraryCall* after;
  void (*kernel)(void*);
  void* argument;
};

extern "C" void call_library(LibraryCall* c) {
  for (; c; c = c->after) {
    if (c->kernel) c->kernel(c->argument);
    if (!c->function) continue;
    const long* a = c->arguments;
    const int code = c->function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
    if (code != 0) c->failed = code;
  }
}

struct LibraryBarrier { int (*function)(long); long communicator; };
extern "C" void call_library_barrier(LibraryBarrier* b) { b->function(b->communicator); }

// The host checks its own picture of these structures against the compiler's.
extern "C" const long layout[] = {sizeof(Arguments), sizeof(Control), sizeof(Own), sizeof(Watch), sizeof(Loop),
                                  sizeof(LibraryCall), sizeof(Beside)};
