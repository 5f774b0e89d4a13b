"""Run by mpirun: `bench.allreduce` while the kernel refuses system calls to the ranks and to their
child processes.

`refused_ranks.py REFUSAL ...options of bench.allreduce`. REFUSAL: `pidfd` (as in a kernel before
5.3), `processes` (as at the limit of `ulimit -u`), or `nothing`.
"""

import ctypes
import errno
import struct
import sys

import bench.harness.session
from bench.features import FEATURES
from bench.harness.command import main

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x50000
# Numbers of system calls on x86-64, and the error of each.
REFUSED = {
    "nothing": ([], 0),
    "pidfd": ([434], errno.ENOSYS),
    "processes": ([56, 57, 58, 435], errno.EAGAIN),
}


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(calls: list[int], number: int) -> None:
    """Make these system calls fail with this error, in this process and in all its later
    children."""
    lines = [(LOAD, 0, 0, 0)]
    for call in calls:
        lines += [(JUMP_IF_EQUAL, 0, 1, call), (RETURN, 0, 0, REFUSE | number)]
    code = b"".join(struct.pack("HBBI", *line) for line in [*lines, (RETURN, 0, 0, ALLOW)])
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    program = Program(len(code) // 8, code)
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


if __name__ == "__main__":
    start_watchdog, kind = bench.harness.session.start_watchdog, sys.argv[1]

    def refused(*arguments):
        refuse(*REFUSED[kind])
        return start_watchdog(*arguments)

    bench.harness.session.start_watchdog = refused
    sys.argv[1:] = sys.argv[2:]
    main("allreduce", "all_reduce", "All-reduce while the kernel refuses system calls.", FEATURES)
