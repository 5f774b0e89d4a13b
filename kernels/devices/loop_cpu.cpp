// The native loop of the CPU device, for our operations and MPI's. A call from Python costs as much
// as a small all-reduce, so Python only lists the actions of an iteration.
#include "../include/sync.h"

// Runs a function; or stores the time in column `stamp`; or, below 0, begins the next iteration.
typedef void Function(void*);
struct NativeAction {
  Function* run;
  void* argument;
  long phase;
  long stamp;
  long call;
};

constexpr int STAMPS = 4;

// The watch keeps the number of the last call until the next iteration begins: a rank that has
// finished its chain must not look further behind than one that is still in it.
static void perform(const NativeAction& action, volatile Watch* watch, long long* stamps_ns) {
  watch->phase = (u64)action.phase;
  const bool begins = !action.run && action.stamp < 0;
  if (begins || action.call) watch->calls = (u64)action.call;
  if (action.run)
    action.run(action.argument);
  else if (begins)
    watch->iteration = watch->iteration + 1;
  else
    stamps_ns[action.stamp] = (long long)clock_ns();
}

// Runs a block of iterations. The check follows their `n_actions` actions. `stamps_ns` has a row
// for each timed iteration and one for all others. Returns the timed iterations before a stop.
extern "C" int run_block(const NativeAction* actions, long n_actions, long warmup, long timed,
                         long checks, long long* stamps_ns, volatile Watch* watch) {
  int done = 0;
  for (long i = 0; i < warmup + timed + checks && !watch->stop; ++i) {
    long long* row = stamps_ns + STAMPS * done;
    for (long k = 0; k < n_actions && !watch->stop; ++k) perform(actions[k], watch, row);
    const bool is_timed = i >= warmup && i < warmup + timed;
    if (is_timed && !watch->stop) ++done;
    const bool is_checked = i < checks || i >= warmup + timed;
    if (is_checked && !watch->stop) perform(actions[n_actions], watch, row);
  }
  watch->phase = 0;
  return done;
}

// Several functions one after another, as one step; an action without a function ends them.
extern "C" void run_sequence(const NativeAction* action) {
  for (; action->run; ++action) action->run(action->argument);
}

// A call of a library's function, with up to nine arguments; it ignores those that it does not
// declare. Handles are 4 bytes in MPICH and 8 in Open MPI, but as arguments all take 8 bytes.
typedef int LibraryFunction(long, long, long, long, long, long, long, long, long);
struct LibraryCall {
  LibraryFunction* function;
  long arguments[9];
  long failed;
};

extern "C" void call_library(LibraryCall* call) {
  const long* a = call->arguments;
  const int code = call->function(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8]);
  if (code != 0) call->failed = code;
}
