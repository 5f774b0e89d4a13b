"""The unguarded build, the baseline for measuring the cost of the guards, contains no guard."""

import pytest

from tests.kernels.broken_kernels import Patch, copy_kernels
from tests.launch import ROOT
from tests.reliability.unguarded import GUARDS, KERNEL_GUARDS


def test_every_guard_is_in_the_sources():
    for path in {patch.path for patch in GUARDS}:
        text = before = (ROOT / path).read_text()
        for patch in GUARDS:
            text = patch.applied(text) if patch.path == path else text
        assert len(text) < len(before), path


def test_waits_without_guards_read_no_clock_and_no_stop_word(tmp_path):
    kernels = copy_kernels(tmp_path, KERNEL_GUARDS)
    body = (kernels / "include/sync.h").read_text().partition("void spin")[2].partition("\n}")[0]
    assert body
    assert not any(guard in body for guard in ("timeout_ns", "watch->stop", "clock_ns", "timer"))


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (Patch("a.h", "wait();", ""), r"a\.h has 'wait\(\);' 2 times, not 1"),
        (
            Patch("a.h", "signal();", "", times=None),
            r"a\.h has 'signal\(\);' 0 times, not at least 1",
        ),
        (Patch("a.h", "{", "", until="}"), r"a\.h no longer has '}' after '{'"),
    ],
)
def test_a_patch_without_its_text_is_a_clear_error(patch, message):
    with pytest.raises(ValueError, match=message):
        patch.applied("{ wait(); wait();")
