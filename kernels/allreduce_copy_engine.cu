// The kernels of an all-reduce whose transfers copy engines make: flags around the copies, and the
// sums. collectives/algorithms/allreduce_copy_engine.py puts them into two streams. An `announce`
// starts after the copies before it in its stream have ended. A sum is a launch of its own after
// `await_copies`: ordinary memory shows a peer's stores only to a later launch, on HIP where the
// probe has found that it does. Not measured yet between two GPUs: it leaves all multiprocessors to
// other kernels, and loses at short messages, since a copy takes a few microseconds to start.
#include "include/pack.h"

// A flag. All kernels of a collective have one epoch; `step` counts a rank's signals.
struct Mark {
  Arguments ranks;
  long peers, step;  // peers: one bit each
};

KERNEL announce(LAUNCHED_WITH(Mark) m) { Launch(m.ranks).signal(m.step, (unsigned)m.peers); }
KERNEL await_copies(LAUNCHED_WITH(Mark) m) { Launch(m.ranks).wait(m.step, (unsigned)m.peers); }
RANK_KERNEL(leave) { Launch(a).leave(); }

// In rank order. `send` is this rank's input; with all inputs out of `sends` RDNA loads one by one.
RANK_KERNEL(add_all) {
  in_parts(a.count, [&](long at, long n) {
    const auto from_peer = [&](int r) { return a.sends.selected(r) + at; };
    reduce(Output{a.receive + at}, inputs_of_all(a, a.send + at, from_peer), n);
  });
}
