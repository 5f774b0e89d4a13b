// The link alone: moves one rank's registered buffer into another's, or bounces a flag between two.
// The rank that moves the elements (push: the sender, pull: the receiver) then signals the other.
// All ranks meet before each launch, so its buffers are free; all launch, to advance their epochs,
// but for a local copy, which a rank makes alone.
#include "include/transfer.h"

// No rank leaves before everything has moved.
template <Path PATH>
DEVICE void move(const Transfer& t) {
  const Arguments& a = t.ranks;
  const Launch launch(a);
  const long other = PATH == PUSH ? t.to : t.from, awaited = PATH == PUSH ? t.from : t.to;
  if (other >= 0) {
    const char* from = PATH == PUSH ? a.send : a.sends.selected(other);
    char* to = PATH == PUSH ? a.receives.selected(other) : a.receive;
    copy_message(to, from, a.count);
    launch.signal(1, 1u << other);
  }
  if (awaited >= 0) launch.wait(1, 1u << awaited);
  launch.leave();
}

KERNEL link_push(LAUNCHED_WITH(Transfer) t) { move<PUSH>(t); }
KERNEL link_pull(LAUNCHED_WITH(Transfer) t) { move<PULL>(t); }
KERNEL link_local_copy(LAUNCHED_WITH(Transfer) t) {
  copy_message(t.ranks.receive, t.ranks.send, t.ranks.count);
}

// `to` and `from` are the partner. `count` round trips; the lower rank begins each.
KERNEL link_ping_pong(LAUNCHED_WITH(Transfer) t) {
  const Arguments& a = t.ranks;
  const Launch launch(a);
  if (t.to >= 0) launch.ping_pong((int)t.to, 1, a.count);
  launch.leave();
}
