"""Fixtures of the tests of benchmarks."""

import os
import signal
import sys

import pytest


@pytest.fixture
def refused(monkeypatch, capsys):
    """A function that calls a command's function in this process with the words of a command line.
    The command must refuse in one sentence. The function returns its exit status and the sentence
    without the command's name."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "_exit", sys.exit)

    def outcome(function, *words):
        try:
            status = function([str(word) for word in words])
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        [line] = [line for line in printed.err.splitlines() if line.startswith("bench.")]
        return status, line.partition(": ")[2]

    return outcome
