"""A commit without what keeps a run from hanging, for `bench.campaign` to hold against this one: it prints its hash.

`python -m tests.unguarded`: waits that no clock and no stop word ends; a timed loop that leaves no record of its phases
and calls; no flight records, no watchdogs, no witness. Nothing in the project is changed: the commit is made in a
worktree of its own, and no branch names it.
"""

import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# By file: from here, up to here, and what stands there instead.
GUARDS = {
    "kernels/include/sync.h": [
        ("  FlagWait waited;\n",
         "    if (a.yields) yield();\n  }\n", "  while (!reached(load_acquire_system(flag), wanted)) breathe();\n"),
    ],
    "kernels/allreduce_one_shot_ll.cu": [
        ("    if (polls % POLLS_PER_LOOK) continue;\n", "    if (a.yields) yield();\n", ""),
        ("  PacketWait waited;", "\n", ""),
        ("  for (int polls = 1;; ++polls) {\n", "", "  for (;;) {\n"),
    ],
    "kernels/devices/loop_cpu.cpp": [
        ("  *(volatile u64*)&l.watch->phase = phase;\n", "", "  (void)l, (void)phase;\n"),
        ("      *(volatile u64*)&l.watch->phase = OPERATION;\n      t[0] = clock_ns();\n      l.op", "",
         "      t[0] = clock_ns();\n      l.op"),
        ("      *(volatile u64*)&l.watch->phase = OPERATION;\n      t[0] = clock_ns();\n      for", "",
         "      t[0] = clock_ns();\n      for"),
        ("        *(volatile u64*)&l.watch->calls += 1;\n", "", ""),
    ],
    "bench/harness/session.py": [
        ("start_witness(folder, pids)\n", "", "folder.rmdir()\n"),
        ("Flight(folder.stem, folder,", "", "Flight(folder.stem, None,"),
        ("    flight.start_watchdog(pids)\n", "", ""),
    ],
}  # fmt: skip


def without_guards(path: str) -> str:
    """The file's text without its guards. Raises ValueError where one is not found exactly once."""
    text = (ROOT / path).read_text()
    for begin, end, instead in GUARDS[path]:
        if text.count(begin) != 1:
            raise ValueError(f"{path} has {begin!r} {text.count(begin)} times, not once")
        start = text.index(begin)
        text = text[:start] + instead + text[text.index(end, start + len(begin)) + len(end) :]
    return text


def commit() -> str:
    """The commit's hash."""

    def git(*words: str, at: Path = ROOT) -> str:
        identity = "-c", "user.name=nobody", "-c", "user.email=nobody@localhost"
        return subprocess.run(["git", *identity, *words], cwd=at, check=True, capture_output=True, text=True).stdout

    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder) / "worktree"
        git("worktree", "add", "--quiet", "--detach", str(at), "HEAD")
        try:
            for path in GUARDS:
                (at / path).write_text(without_guards(path))
            git("commit", "--quiet", "--no-verify", "--no-gpg-sign", "--all", "--message", "Without guards", at=at)
            return git("rev-parse", "HEAD", at=at).strip()
        finally:
            git("worktree", "remove", "--force", str(at))


if __name__ == "__main__":
    print(commit())

