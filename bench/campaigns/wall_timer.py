"""Times a whole process by the wall clock, as hyperfine does without a shell (`-N`): a run to
warm up, then several, each from its start to its end. Prints them as one timing line.

    python -I -S wall_timer.py PREPARE COMMAND ...

PREPARE is a line for sh before each run, which is not timed; it may be empty. What the command
prints goes to standard error. Exits with the status of a run that failed, or with 128 more than the
number of the signal that ended it, and then prints no line. No shell starts the command, so there
is no start of a shell to subtract, as hyperfine has it."""

import json
import os
import sys
import time

# A launch is one of several of a side, so it has fewer runs than hyperfine's 10: these, and more
# while they take less than hyperfine's 3 s.
LEAST_RUNS, MOST_RUNS, ENOUGH_S = 3, 10, 3.0


def time_once(words: list[str]) -> float:
    """The time of a run in seconds. Ends this program if the run fails."""
    to_errors = [(os.POSIX_SPAWN_DUP2, 2, 1)]
    started_s = time.perf_counter()
    try:
        pid = os.posix_spawnp(words[0], words, os.environ, file_actions=to_errors)
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")
    _, status = os.waitpid(pid, 0)
    elapsed_s = time.perf_counter() - started_s
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(128 - code if code < 0 else code)
    return elapsed_s


def main() -> None:
    prepare, command = sys.argv[1], sys.argv[2:]
    times_s = list[float]()
    is_warm = False
    while len(times_s) < LEAST_RUNS or (len(times_s) < MOST_RUNS and sum(times_s) < ENOUGH_S):
        if prepare:
            time_once(["sh", "-c", prepare])
        elapsed_s = time_once(command)
        if is_warm:
            times_s.append(elapsed_s)
        is_warm = True
    times_us = [1e6 * each_s for each_s in times_s]
    print(json.dumps({"name": "wall_time", "size_bytes": 0, "ranks": 1, "time_us": times_us}))


if __name__ == "__main__":
    main()
