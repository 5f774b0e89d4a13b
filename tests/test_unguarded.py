"""What guards cost is measured against a build without them: it would silently measure nothing if it still had some."""

import pytest

from tests.unguarded import GUARDS, ROOT, without_guards


@pytest.mark.parametrize("path", GUARDS)
def test_each_guard_is_found_and_taken_out(path):
    left = without_guards(path)
    assert len(left) < len((ROOT / path).read_text())
    assert not any(word in left.split("await_acquire_system", 1)[-1].split("\n}", 1)[0]
                   for word in ("timeout_ns", "watch->stop", "clock_ns"))
