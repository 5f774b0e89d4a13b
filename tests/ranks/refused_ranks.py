"""Run by mpirun: `bench.allreduce` with the options of the command line, while the kernel refuses
`pidfd_open` to the ranks and to their child processes, as one before 5.3 does."""

import ctypes
import errno
import struct

import bench.harness.session
from bench.sweep import main

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x50000
PIDFD_OPEN = 434  # on x86-64


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse() -> None:
    """Make the system call fail in this process and in all its later children."""
    lines = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, PIDFD_OPEN),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),
        (RETURN, 0, 0, ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    program = Program(len(code) // 8, code)
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


if __name__ == "__main__":
    start_watchdog = bench.harness.session.start_watchdog

    def refused(*arguments):
        refuse()
        return start_watchdog(*arguments)

    bench.harness.session.start_watchdog = refused
    main("allreduce", "all_reduce", "All-reduce on an old kernel.")
