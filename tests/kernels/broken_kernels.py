"""Patches that take a part of the protocol out of the kernels, put a fault into them, or let all
ranks run in one launch.

Tests run rank programs in a `tree` with such kernels and show that the product's checks notice
them. A patch names the text that it replaces; if the sources no longer contain this text, applying
the patch raises ValueError.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.launch import ROOT

HEADERS = [ROOT / "tests/kernels" / name for name in ("faults.h", "delayed_stores.h")]
UNCHANGED = "bench", "collectives", "reports", "wiretax", "tests"  # folders that trees share
# They measure and judge, and stay whole: each tree would compile them anew.
WHOLE = "devices/loop_cpu.cpp", "iteration.cu", "link_probe.cu", "memory_probe.cu"

SYNC, EXCHANGE, PACK, TWO_SHOT = (
    f"kernels/include/{name}.h" for name in ("sync", "exchange", "pack", "two_shot")
)
CPU, HIP, CUDA = (f"kernels/include/platform_{name}.h" for name in ("cpu", "hip", "cuda"))
PROBE, RING = "kernels/memory_probe.cu", "kernels/allreduce_ring.cu"
REGISTER, PACKETS = "kernels/include/register.h", "kernels/include/packets.h"
LL, SENTINEL = "kernels/allreduce_one_shot_ll.cu", "kernels/allreduce_one_shot_sentinel.cu"


def matches(text: str) -> str:
    """The regular expression of a text, with any white space where the text has some: a formatter
    may move it."""
    return r"\s+".join(map(re.escape, text.split()))


@dataclass(frozen=True)
class Patch:
    """Replaces `old` by `new` in a file of the project."""

    path: str
    old: str
    new: str
    times: int | None = 1  # how often the file contains `old`; None: at least once

    def applied(self, text: str) -> str:
        """Returns the patched text. Raises ValueError unless `old` occurs `times` times."""
        found = len(re.findall(matches(self.old), text))
        if found != (self.times or max(found, 1)):
            wanted = self.times or "at least 1"
            raise ValueError(f"{self.path} has {self.old!r} {found} times, not {wanted}")
        return re.sub(matches(self.old), lambda _: self.new, text)


def apply(folder: Path, patches: Iterable[Patch]) -> None:
    """Patches the project below `folder`. Raises ValueError."""
    for patch in patches:
        path = folder / patch.path
        path.write_text(patch.applied(path.read_text()))


def copy_kernels(folder: Path, patches: Iterable[Patch]) -> Path:
    """Copies the kernels to `folder`/kernels, patches them and returns this path.

    Raises ValueError.
    """
    kernels = folder / "kernels"
    # With the bytecode, but for what another process is writing: each rank would compile it anew.
    shutil.copytree(ROOT / "kernels", kernels, ignore=shutil.ignore_patterns("*.pyc.*"))
    for header in HEADERS:
        shutil.copy(header, kernels / "include")
    apply(folder, patches)
    return kernels


def tree(folder: Path, *names: str, breaks_probe: bool = False) -> Path:
    """Makes a project with the named `PATCHES` in its kernels below `folder` and returns `folder`.

    A program that runs with this folder as its working directory imports and compiles the patched
    kernels. What measures them stays whole, also the probe of memory unless `breaks_probe`: it
    would refuse to run most of them. Raises ValueError.
    """
    kernels = copy_kernels(folder, [patch for name in names for patch in PATCHES[name]])
    (kernels / "whole").symlink_to(ROOT / "kernels")
    for name in WHOLE[:-1] if breaks_probe else WHOLE:
        whole = (kernels / name).read_text()  # where Python reads the fields of structures
        path = f"{'../' * name.count('/')}whole/{name}"
        (kernels / name).write_text(f'#include "{path}"\n/*\n{whole}*/\n')
    for name in UNCHANGED:
        (folder / name).symlink_to(ROOT / name)
    return folder


# signal in sync.h sets the flag of peer p, and wait waits for it.
FLAG = "->flags[block()][a.rank].value, stamp(step));"
SET_FLAG = "store_release_system(&a.control.selected(p)" + FLAG
AWAIT_FLAG = "await_acquire_system(a, &a.control[a.rank]->flags[block()][p].value, stamp(step), p);"
# A rank stores its data for its peers: in a direct exchange, in the first round of a ring, in a
# two-shot, and in packets.
GIVE = "give(reader, start, n, slot(reader, a.rank));"
MARKED = "Packet::packet(data[0], epoch)"
HOP, SENT = "hop(s, chunk * most,", "Slab{inbox(right, s, chunk)});"
INPUT = "copy_in(part(round, owner), input(a.rank, round, owner));"
ENTER_STORES = "DEVICE void show(const Arguments& a) {\n  const Launch launch(a);\n"
ENCODE, SEND = "const pack p = own(i);", "store_packets_system(packets_of(a, reader)"
COUNT = "a.control[a.rank]->flags[block()][a.rank].value"
LAST_THREAD = "if (thread_in_block() != 0) return;"
WITH_FAULTS = Patch(SYNC, '#include "platform.h"\n', '#include "platform.h"\n#include "faults.h"\n')


def struck(step: str, steps: int = 1) -> str:
    """The condition that a fault strikes this step of the launch."""
    return f"strikes(a.rank, launch.stamp({step}), {steps})"


def flip(step: str, slot: str, size_bytes: str) -> str:
    return f" flip_bit(a.rank, launch.stamp({step}), {slot}, {size_bytes});"


# A GPU's launch runs all ranks, in ranks x blocks; `more` has the arguments of every rank.
BLOCKS = "DEVICE int block() {", "DEVICE int blocks() {"
ONE_LAUNCH = [
    *(
        Patch(header, name, name.replace("() {", "_in_grid() {"))
        for header in (HIP, CUDA)
        for name in BLOCKS
    ),
    Patch(
        "kernels/include/platform_gpu.h",
        "DEVICE void yield() {}\n",
        """DEVICE void yield() {}
DEVICE int blocks() { return blocks_in_grid() / WT_WORLD; }
DEVICE int block() { return block_in_grid() % blocks(); }
""",
    ),
    Patch(
        SYNC,
        "#define RANK_KERNEL(name) KERNEL name(LAUNCHED_WITH(Arguments) a)\n",
        """
#define RANK_KERNEL(name) \\
  DEVICE void name##_of_rank(const Arguments& a); \\
  KERNEL name(LAUNCHED_WITH(Arguments) launched) { \\
    name##_of_rank(((const Arguments*)launched.more)[block_in_grid() / blocks()]); \\
  } \\
  DEVICE void name##_of_rank(const Arguments& a)
""",
    ),
]
PATCHES = {
    "without the fence before the flag": [Patch(SYNC, "  drain_stores();\n", "")],
    "without the epoch flip": [
        Patch(SYNC, "(epoch & 1) * a.half_bytes", "0 * a.half_bytes"),
        Patch(PACKETS, "(epoch & 1) * WT_WORLD", "0 * WT_WORLD"),
    ],
    # The bug of another project's kernels: blocks that short messages do not use count fewer
    # launches, and then use another half. A rank's own flags, which nobody writes, hold the counts.
    # With the blocks in reverse, a place's block depends on the size, as it did there.
    "the half by a counter per block": [
        Patch(SYNC, "(epoch & 1) * a.half_bytes", f"({COUNT} & 1) * a.half_bytes"),
        Patch(SYNC, LAST_THREAD, f"{LAST_THREAD} ++{COUNT};"),
        Patch(SYNC, "return (long)block()", "return (long)(blocks() - 1 - block())"),
    ],
    # Right for a place with one reader, which writes there next. Other readers of a slab may still
    # read.
    "swap in place of the epoch flip": [
        Patch(SYNC, "(epoch & 1) * a.half_bytes", "0 * a.half_bytes"),
        Patch(SYNC, "(epoch >> 1) % (2 * WT_WORLD)", "epoch % (2 * WT_WORLD)"),
    ],
    # The barrier before each iteration still waits. Without it the ranks would not run at the same
    # time, and nothing would break.
    "without the wait": [
        Patch(SYNC, AWAIT_FLAG, "return;"),
        Patch(PACKETS, "return !missing;", "return true;"),
    ],
    # Rank 1 enters the probe only when rank 0 has signalled its last round. Without the wait, rank
    # 0 has then compared all earlier rounds before rank 1 stores anything.
    "a rank that starts late": [
        Patch(
            PROBE,
            ENTER_STORES,
            ENTER_STORES
            + """\
  if (a.rank == 1)
    await_acquire_system(a, &a.control[1]->flags[block()][0].value, launch.stamp(a.count), 0);
""",
        )
    ],
    "without the reset": [Patch(SENTINEL, "RESETS = true", "RESETS = false")],
    "without the release": [Patch(CPU, "(p, v, __ATOMIC_RELEASE)", "(p, v, __ATOMIC_RELAXED)")],
    "without the acquire": [Patch(CPU, "(p, __ATOMIC_ACQUIRE)", "(p, __ATOMIC_RELAXED)")],
    # No error by itself: see delayed_stores.h.
    "delayed streaming stores": [
        Patch(REGISTER, "// Of two lanes.", '#include "delayed_stores.h"\n// Of two lanes.'),
        Patch(CPU, "void fence_system() {", "void fence_system() { end_delays();", times=2),
        Patch(CPU, "VECTOR_BYTES == 0) stream_pack(", "VECTOR_BYTES == 0) delay_store("),
        Patch(
            SYNC,
            "DEVICE void leave() const {",
            "DEVICE void leave() const { delay_last_fence(a.rank);",
        ),
    ],
    "without the fence after the launch": [
        Patch(SYNC, "if (ON_CPU && WT_STREAM_RECEIVE != 0) fence_system();", "")
    ],
    # Each rank adds in an order of its own: where sums round, ranks get different bits.
    "from its own input on": [
        Patch(PACK, "inputs.at[r] = r ==", "inputs.at[(r - rank + WT_WORLD) % WT_WORLD] = r =="),
        Patch(PACKETS, "now = rematerialized(rank);", "now = 0;"),
    ],
    # A bit changes in the data that a rank has stored for a peer, before it sets the flag.
    "flip_bit": [
        WITH_FAULTS,
        Patch(
            EXCHANGE,
            GIVE,
            "{ " + GIVE + flip("step + 1", "slot(reader, a.rank)", "n * ELEMENT_BYTES") + " }",
        ),
        Patch(
            RING,
            SENT,
            SENT + " if (s == 0)" + flip("round + 1", "inbox(right, s, chunk)", "ELEMENT_BYTES"),
        ),
        Patch(
            TWO_SHOT,
            INPUT,
            INPUT
            + flip(
                "round + 1",
                "input(a.rank, round, owner)",
                "part(round, owner).count * ELEMENT_BYTES",
            ),
        ),
        Patch(
            PACKETS,
            ENCODE,
            ENCODE.replace(
                "own(i)", "i ? own(i) : with_flipped_bit(a.rank, launch.stamp(1), own(i))"
            ),
        ),
    ],
    # A rank does not store its data for its peers.
    "skip_push": [
        WITH_FAULTS,
        Patch(EXCHANGE, GIVE, f"if (!{struck('step + 1')}) {GIVE}"),
        Patch(RING, HOP, f"if (s > 0 || !{struck('round + 1')}) {HOP}"),
        Patch(TWO_SHOT, INPUT, f"if (!{struck('round + 1')}) {INPUT}"),
        Patch(PACKETS, SEND, f"if (!{struck('1')}) {SEND}"),
    ],
    # A flag to one peer is not set.
    "drop_flag": [
        WITH_FAULTS,
        Patch(SYNC, SET_FLAG, f"if (!strikes_flag(a.rank, stamp(step), p)) {SET_FLAG}"),
        Patch(PACKETS, SEND, f"if (i || !strikes_flag(a.rank, launch.stamp(1), reader)) {SEND}"),
    ],
    # A flag carries the epoch before.
    "stale_epoch": [
        WITH_FAULTS,
        Patch(
            SYNC,
            FLAG,
            FLAG.replace(
                "stamp(step));",
                "stamp(step) - (strikes_flag(a.rank, stamp(step), p) ? 1ull << 32 : 0));",
            ),
        ),
        Patch(
            PACKETS,
            MARKED,
            MARKED.replace("epoch", f"i == 0 && {struck('1', 2)} ? epoch - 1 : epoch"),
        ),
    ],
}
