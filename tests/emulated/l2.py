"""The L2 of an emulated GPU, for ordinary memory of its peers: loads find what the memory had when
the cache last forgot. It forgets after the host has waited (a barrier packet acquires at the
system's scope), at a dispatch on gfx1201, and at an instruction that acquires at the system's
scope, which gfx1100 does not have for L2. Stores reach the memory at once.

A GPU takes a line when a kernel reads it; this cache takes all at a wave's next acquire, behind
which the kernels read. So it suits two ranks: with more, a wave may acquire before all peers have
stored.

Sources: CLR's dispatchPacketHeader_ (ROCm/rocm-systems, projects/clr, rocvirtual.cpp); LLVM's User
Guide for AMDGPU Backend, memory models of gfx940, gfx11 and gfx12."""

import ctypes
from typing import Any

import numpy as np

ACQUIRES_AT_DISPATCH = "gfx1201"
INSTRUCTIONS_REACH_IT = "gfx942", "gfx1201"


class L2:
    """`cached`: the offset and the size of each part of a view that is cached, in bytes; kernels
    must use no other part of a view."""

    def __init__(self, arch: str, cached: list[tuple[int, int]]) -> None:
        self.arch, self.cached = arch, cached
        self.must_forget = True
        self.lines: list[tuple[Any, Any, Any]] = []  # the copy, the memory, and their last contents

    def add(self, view: int, memory: int) -> None:
        """From here on the GPU reaches the memory of this address at the address `view`."""
        for offset, size_bytes in self.cached:
            words = ctypes.c_uint64 * (size_bytes // 8)
            copy, there = (
                np.ctypeslib.as_array(words.from_address(at + offset)) for at in (view, memory)
            )
            copy[:] = there
            self.lines.append((copy, there, copy.copy()))

    def write_through(self) -> None:
        for copy, memory, seen in self.lines:
            changed = copy != seen
            memory[changed] = seen[changed] = copy[changed]

    def begin_launch(self) -> None:
        self.must_forget |= self.arch == ACQUIRES_AT_DISPATCH

    def acquire(self, of_system: bool) -> None:
        """A wave's acquire at the system's or at a smaller scope."""
        if self.must_forget or (of_system and self.arch in INSTRUCTIONS_REACH_IT):
            self.write_through()
            for copy, memory, seen in self.lines:
                copy[:] = seen[:] = memory
            self.must_forget = False

    def host_waited(self) -> None:
        self.must_forget = True
