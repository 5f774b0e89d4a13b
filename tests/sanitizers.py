"""All kernels under AddressSanitizer with UBSan, and under ThreadSanitizer, of every compiler here that has them.

    python -m tests.sanitizers [SEEDS]

Each seed takes other types, operations, counts, alignments and orders of launches; with six every kernel file has had
every type. One line a run; exit status 1 where a sanitizer or a result complains.

ThreadSanitizer knows no stand-alone fences, so its builds have release and acquire on flags and plain stores, which is
what a CPU's builds have unless they are asked to store around the caches.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.launch import ROOT

FLAGS = {"address": "-fsanitize=address,undefined -fno-sanitize-recover=all", "thread": "-fsanitize=thread"}
RUNTIMES = {"g++": {"address": "libasan.so", "thread": "libtsan.so"},
            "clang++-22": {"address": "libclang_rt.asan-x86_64.so", "thread": "libclang_rt.tsan-x86_64.so"}}
COMPLAINTS = "ERROR: AddressSanitizer", "runtime error:", "WARNING: ThreadSanitizer"
MOST_RANDOM_BITS = 28  # of addresses, above which GCC 12's ThreadSanitizer finds no room for what it notes


def runtime(compiler: str, kind: str) -> Path | None:
    """Where a sanitizer's shared library lies; None where the compiler or the library is not installed."""
    if shutil.which(compiler) is None:
        return None
    said = subprocess.run([compiler, f"-print-file-name={RUNTIMES[compiler][kind]}"], capture_output=True, text=True)
    path = Path(said.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def start(kind: str, ranks: int, seed: int, *words: str, compiler: str = "g++",
          tree: Path = ROOT) -> "subprocess.Popen[str]":
    """Starts `sanitized_ranks.py RANKS SEED WORDS` under a sanitizer, which has to be installed, over the kernels of
    this tree."""
    # A kernel takes a reference and is called with a pointer, so that all are alike to the timed loop.
    shared = "" if compiler == "g++" else " -shared-libsan -fno-sanitize=function"
    environment = {"CXX": f"{compiler} -g {FLAGS[kind]}{shared}", "LD_PRELOAD": str(runtime(compiler, kind)),
                   "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1",
                   "PYTHONPATH": str(tree)}
    command = [sys.executable, "tests/sanitized_ranks.py", str(ranks), str(seed), *words]
    if kind == "thread" and int(Path("/proc/sys/vm/mmap_rnd_bits").read_text()) > MOST_RANDOM_BITS:
        command = ["setarch", "-R", *command]
    return subprocess.Popen(command, cwd=tree, env={**os.environ, **environment}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def main(seeds: int) -> int:
    bad = 0
    for compiler, kind in [(compiler, kind) for compiler in RUNTIMES for kind in FLAGS]:
        if runtime(compiler, kind) is None:
            print(f"{compiler} {kind}: not installed")
            continue
        for seed in range(seeds):
            ranks = 2 + seed % 2
            done = start(kind, ranks, seed, compiler=compiler)
            said, complaint = done.communicate()
            clean = done.returncode == 0 and '"wrong": {}, "timed_out": false' in said
            print(f"{compiler} {kind}, {ranks} ranks, seed {seed}: {said.strip()} {'clean' if clean else complaint}")
            bad += not clean
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 6))
