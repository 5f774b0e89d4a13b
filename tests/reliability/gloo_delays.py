"""`python -m tests.reliability.gloo_delays`: real traces with a known truth. Two ranks of a small
MLP on gloo run under torch.profiler, one of them late on purpose; `breakdown` reads their files.

The truth is what the ranks themselves noted by a clock that they share: when each arrived at a
call. Ends with status 1 if `breakdown` finds another waiting or names another rank, and with 0 and
a word on standard error where torch is not installed (`make .venv-torch/.installed`)."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.calibration.calibrated_breakdowns import fields_of
from tests.launch import ROOT

PYTHON = ROOT / ".venv-torch/bin/python"
LATE_MS = 0, 2, 5, 10
STEPS, PATIENCE_S = 50, 120
# Of the truth: a thread of gloo takes a call some 50 us after its rank has come; with seven other
# programs on two cores the means differed by up to 590 us of 4,000.
NEAR, NEAR_US = 0.1, 500.0


def profile(late_ms: float, steps: int, folder: Path) -> list[Path]:
    """The traces of both ranks."""
    program = ROOT / "tests/ranks/gloo_ranks.py"
    words = [str(late_ms), str(steps), str(folder)]
    ranks = [
        subprocess.Popen([PYTHON, program, str(rank), *words], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=PATIENCE_S)
        if rank.returncode:
            raise SystemExit(f"a rank ends with status {rank.returncode}:\n{errors}")
    return [folder / f"rank{rank}.json" for rank in (0, 1)]


def truth_us(folder: Path) -> list[float]:
    """What each rank waits in a call, on average."""
    arrivals_s = np.array(
        [json.loads((folder / f"times{rank}.json").read_text())["arrivals_s"] for rank in (0, 1)]
    )
    waits_us: list[float] = ((arrivals_s.max(axis=0) - arrivals_s) * 1e6).mean(axis=1).tolist()
    return waits_us


def main() -> int:
    if not PYTHON.exists():
        print("gloo_delays: no torch is here: make .venv-torch/.installed", file=sys.stderr)
        return 0
    failed = False
    print("late ms  noted: rank 0, 1 wait us  found: rank 0, 1 wait us  transport us  verdict")
    for late_ms in LATE_MS:
        with tempfile.TemporaryDirectory() as name:
            [call] = fields_of(profile(late_ms, STEPS, Path(name)))["calls"]
            noted_us = truth_us(Path(name))
        waiting_us = call["waiting_us"]
        is_near = np.allclose(waiting_us, noted_us, rtol=NEAR, atol=NEAR_US)
        is_named = not late_ms or call["last_share"][1] > 0.9
        failed |= not (is_near and is_named)
        print(
            f"{late_ms:7}  {noted_us[0]:17.0f} {noted_us[1]:8.0f}  {waiting_us[0]:17.0f} "
            f"{waiting_us[1]:8.0f}  {call['transport_us']:12.0f}  {call['verdict']}"
            f"{'' if is_near and is_named else '  FAIL'}",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
