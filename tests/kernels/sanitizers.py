"""Starts the kernels under AddressSanitizer with UBSan, and under ThreadSanitizer.

ThreadSanitizer does not support stand-alone fences, so its builds use release and acquire on flags,
and plain stores. CPU builds do the same unless their stores bypass the caches."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.launch import ROOT

FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
RUNTIMES = {
    "g++": {"address": "libasan.so", "thread": "libtsan.so"},
    "clang++-22": {"address": "libclang_rt.asan-x86_64.so", "thread": "libclang_rt.tsan-x86_64.so"},
}
COMPLAINTS = "ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer"
# Address randomisation above 28 bits leaves GCC 12's ThreadSanitizer no room for its shadow memory.
MOST_RANDOM_BITS = 28


def runtime(compiler: str, kind: str) -> Path | None:
    """The path of a sanitizer's shared library; None if the compiler or the library is not
    installed."""
    if shutil.which(compiler) is None:
        return None
    done = subprocess.run(
        [compiler, f"-print-file-name={RUNTIMES[compiler][kind]}"], capture_output=True, text=True
    )
    path = Path(done.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def start(
    kind: str, ranks: int, seed: int, *words: str, compiler: str = "g++", tree: Path = ROOT
) -> "subprocess.Popen[str]":
    """Start `sanitized_ranks.py RANKS SEED WORDS` under an installed sanitizer, over the kernels of
    this tree."""
    # The timed loop calls every kernel with a pointer, although kernels take a reference;
    # -fsanitize=function rejects this.
    shared = "" if compiler == "g++" else " -shared-libsan -fno-sanitize=function"
    environment = {
        "CXX": f"{compiler} -g {FLAGS[kind]}{shared} -DWT_LEAST_STRING_BYTES={1 << 40}",
        "LD_PRELOAD": str(runtime(compiler, kind)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(tree),
    }
    command = [sys.executable, "tests/ranks/sanitized_ranks.py", str(ranks), str(seed), *words]
    if kind == "thread" and int(Path("/proc/sys/vm/mmap_rnd_bits").read_text()) > MOST_RANDOM_BITS:
        command = ["setarch", "-R", *command]
    return subprocess.Popen(
        command,
        cwd=tree,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
