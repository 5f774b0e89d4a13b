"""Verdicts have colour where somebody reads them in a terminal, also through a launcher."""

import os
import subprocess
import sys

import pytest

from tests.launch import MPIRUN, ROOT
from tests.reports.synthetic_run import mark_wrong, write_run

RED = "\x1b[31mWRONG RESULTS"


@pytest.mark.parametrize("launcher", [[], [MPIRUN, "-n", "1"]])
def test_verdicts_have_colour_in_a_terminal_alone(tmp_path, monkeypatch, launcher):
    monkeypatch.delenv("NO_COLOR", raising=False)
    path = write_run(tmp_path, sizes=[16384], n_blocks=2, n=2).path
    mark_wrong(path, 1)
    command = [*launcher, sys.executable, "-m", "reports", "show", str(path)]

    def shown(**variables):
        ours, theirs = os.openpty()
        done = subprocess.Popen(command, stdout=theirs, cwd=ROOT, env=os.environ | variables)
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 65536):
                text += part
        except OSError:  # the other end is closed
            pass
        assert done.wait() == 0
        os.close(ours)
        return text.decode()

    assert RED in shown()
    assert "\x1b" not in shown(NO_COLOR="1")
    piped = subprocess.check_output(command, text=True, cwd=ROOT)
    assert piped.startswith("allreduce: WRONG RESULTS")
    assert "\x1b" not in piped
