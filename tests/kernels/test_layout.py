"""Structures that C++ and Python share: each compiler refuses a difference, and Python a name that
is no field."""

import importlib
import re
import weakref
from collections.abc import Callable
from ctypes import c_double, c_long, c_uint64, c_void_p
from pathlib import Path

import numpy as np
import pytest

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import CompileError, checks_of, source_with_headers
from kernels.devices.cpu import load
from kernels.devices.device import MOST_BLOCKS, MOST_RANKS, Gate, Line
from kernels.devices.layout import SOURCES, Shared
from tests.kernels import compile_matrix
from tests.kernels.kernel_resources import PRELUDE, NoCompiler, clang, hip_assembly, nvrtc

PAIR = """#include "include/sync.h"
struct Pair {
  Line lines[MOST_BLOCKS][3];
  const char *from, *to;
  PeerPointers<const char> in;
  double share;
  long rest[20];
  u64 total;
  DEVICE long sum() const { return rest[0] + rest[1]; }
};
"""
UNKNOWN = r"no member named .?total\b|has no member .?.?total\b"
# What C++ has instead, and what the compiler then says.
DIFFERENCES = {
    "a name": ("u64 total;", "u64 totals;", UNKNOWN),
    "the order": (
        "*from, *to;",
        "*to, *from;",
        r"Pair\.from is at byte 49152 in Python and not in",
    ),
    "a type": ("double share;", "long share;", r"Pair\.share is double in Python and not in C\+\+"),
    "a sign": ("u64 total;", "long total;", r"Pair\.total is unsigned long long in Python and not"),
    "a pointer": ("*from, *to;", "*from; long to;", r"Pair\.to is void\* in Python and not in C"),
    "pointers": (
        "PeerPointers<const char> in;",
        "long in[8];",
        r"Pair\.in is void\*\[8\] in Python",
    ),
    "a size": (
        "long rest[20];",
        "long rest[19];",
        r"Pair\.rest is long\[20\] in Python and not in C",
    ),
    "a field of C++": (
        "u64 total;",
        "u64 total, more;",
        r"fields of Pair have 49408 bytes in Python",
    ),
    "a field of Python": ("u64 total;", "", UNKNOWN),
}


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A kernel file with the structure `Pair`, which Python has too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pair.cu"
    path.write_text(PAIR)

    class Pair(Shared, file=str(path)):
        _fields_ = (
            ("lines", Line * 3 * MOST_BLOCKS),
            ("from_", c_void_p),
            ("to", c_void_p),
            ("in_", c_void_p * MOST_RANKS),
            ("share", c_double),
            ("rest", c_long * 20),
            ("total", c_uint64),
        )

    yield path
    del Pair


def compile_for_cpu(source: Path) -> None:
    load(source, {})


def compile_for_cuda(source: Path) -> None:
    flags, refusal = gpu_driver.compiler_flags("sm_90"), f"NVRTC cannot compile {source.name}"
    gpu_driver.build(nvrtc(), source, flags, refusal, checks_of(source_with_headers(source)))


def compile_by_the_oldest_nvrtc(source: Path) -> None:
    try:
        compile_matrix.install(compile_matrix.OLDER_NVRTC[0])
    except CompileError as error:
        raise NoCompiler(str(error)) from error
    compile_matrix.code(compile_matrix.OLDER_NVRTC[0], source, "sm_80")


def compile_for_hip(source: Path) -> None:
    """With hipRTC's clang, and the same text and name as hipRTC gets."""
    whole = Path("whole.cu")
    whole.write_text(source.read_text() + checks_of(source_with_headers(source)))
    options = ["-include", str(PRELUDE), f"-I{SOURCES}"]
    hip_assembly(clang(), whole, "gfx942", options)


COMPILERS = [compile_for_cpu, compile_for_cuda, compile_by_the_oldest_nvrtc, compile_for_hip]


@pytest.mark.parametrize("compile_pair", COMPILERS)
def test_a_structure_that_differs_from_pythons_does_not_compile(
    source: Path, compile_pair: Callable[[Path], None]
) -> None:
    try:
        compile_pair(source)
    except NoCompiler as error:
        pytest.skip(str(error))
    for old, new, sentence in DIFFERENCES.values():
        assert PAIR.count(old) == 1
        source.write_text(PAIR.replace(old, new))
        with pytest.raises(CompileError, match=sentence) as refusal:
            compile_pair(source)
        assert "\n" not in str(refusal.value)


def test_a_structure_of_the_same_name_in_another_file_is_not_compared(source):
    """Somebody's kernel may have a Gate of its own."""
    source.write_text(PAIR + "struct Gate { int height; };\n")
    compile_for_cpu(source)


def test_every_structure_is_compared_when_its_file_is_compiled():
    """A file that was renamed would be compared with nothing."""
    for name in "copy_engine", "experts.alltoall_routed", "layers.fused":
        importlib.import_module(f"collectives.{name}")
    ours = [each for each in Shared.__subclasses__() if each.__module__.startswith(("k", "c"))]
    assert {"Arguments", "NativeAction", "Mark", "Routing", "Gemv"} <= {
        each.__name__ for each in ours
    }
    for structure in ours:
        name = structure.__name__
        assert re.search(rf"^struct .*\b{name} {{$", structure.file.read_text(), re.MULTILINE), name
        assert f"(sizeof({name}) == " in checks_of(source_with_headers(structure.file)), name


def test_a_name_that_is_no_field_is_refused():
    gate = Gate(wanted=3)
    assert (gate.wanted, gate.watch, gate.timeout_ns) == (3, None, 0)
    with pytest.raises(AttributeError, match=r"^Gate of iteration\.cu has no field wacth$"):
        Gate(wanted=3, wacth=5)
    with pytest.raises(AttributeError, match="has no field timeout"):
        gate.timeout = 5
    with pytest.raises(TypeError, match="too many initializers"):
        Gate(1, 2, 3, 4, 5)


def test_all_memory_behind_a_structures_pointers_lives_as_long_as_it():
    """Also if two users of one structure keep memory by it."""
    gate, other = Gate(), Gate()
    memories = [np.zeros(1) for _ in range(3)]
    alive = [weakref.ref(memory) for memory in memories]
    gate.keep(memories[0])
    gate.keep(*memories[1:])
    del memories
    assert None not in [memory() for memory in alive]
    assert other.kept == ()
    del gate
    assert [memory() for memory in alive] == [None] * 3
