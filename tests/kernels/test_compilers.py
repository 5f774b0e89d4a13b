"""Threads that compile files side by side: what they have begun, and what they leave."""

import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.devices.compilers import side_by_side

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("is_refused", [False, True], ids=["left", "refused"])
def test_no_compiler_runs_beside_what_is_measured_next(is_refused):
    """A run that is cut short needs no file that is still compiled; one that ends does not wait."""
    device: Any = SimpleNamespace()
    begun, may_end, ended = Event(), Event(), Event()

    def compile(wait: bool) -> Path:
        begun.set()
        if may_end.wait(None if is_refused else 0.5):
            return Path()
        ended.set()
        return Path()

    try:
        with side_by_side(device):
            device.compilers.start("a file", compile)
            assert begun.wait(20)
            if is_refused:
                raise KeyError
    except KeyError:
        pass
    assert ended.is_set() != is_refused
    assert device.compilers is None
    may_end.set()


def test_a_file_that_no_thread_has_begun_is_never_compiled():
    device: Any = SimpleNamespace()
    compiled = list[str]()

    def compile(wait: bool) -> Path:
        time.sleep(0.2)
        compiled.append("")
        return Path()

    with side_by_side(device):
        for number in range(1000):
            device.compilers.start(number, compile)
    assert len(compiled) < 1000
