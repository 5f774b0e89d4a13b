"""The interval of a ratio in the table of one run contains the spread of the launches before it."""

import re

import msgspec
import numpy as np
import pytest

from reports.tables.table import render
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.unit

SPREAD = 0.05
EDITS = {
    "machine": (b'"a1b2c3"', b'"another"'),
    "cut off": (b'"kind":"end"', b'"kind":"en'),
    "hosts": (b'"hosts":1', b'"hosts":2'),
    "slowed": (b'"world":{', b'"world":{"slowed_percent":300,'),
    "imported": (b'"run_id"', b'"imported_from":{},"run_id"'),
}
THIS = "2026-11-20T06-15-00Z-allreduce-0000ff"


def slowed(block, log_factor):
    factor = float(np.exp(log_factor))
    return msgspec.structs.replace(
        block, time_us=block.time_us * factor, total_us=block.total_us * factor
    )


def launch(folder, number, spread=SPREAD, run_id=None, **options):
    """A run whose library is faster or slower by `spread` in every other launch."""

    def change(block):
        return slowed(block, spread * (-1) ** number * (block.case % 2 == 0))

    return write_run(
        folder,
        sizes=[16384],
        algorithms=["library", "auto"],
        modes=["isolated"],
        n_blocks=12,
        n=4,
        run_id=run_id or f"2026-11-{10 + number}T06-15-00Z-allreduce-0000{number:02x}",
        change=change,
        seed=number,
        **options,
    )


def ratio_of(text):
    (ratio,) = re.findall(r"one_shot_push +(\d\.\d\d) \[(\d\.\d\d) (\d\.\d\d)\]", text)
    return tuple(map(float, ratio))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return ratio_of(render(launch(tmp_path_factory.mktemp("alone"), 20, run_id=THIS)))


def test_three_earlier_launches_widen_the_interval(tmp_path, alone):
    """The next launch may lie outside of the interval of one launch."""
    for number in range(2):
        launch(tmp_path / "few", number)
    few = render(launch(tmp_path / "few", 20, run_id=THIS))
    assert ratio_of(few) == alone
    assert "Against the library, in this one launch, auto is faster at 16 KiB" in few
    for number in range(6):
        launch(tmp_path, number)
    text = render(launch(tmp_path, 20, run_id=THIS))
    ratio, low, high = ratio_of(text)
    assert ratio == alone[0]
    # Student's t of six launches is 2.57; half of them lie above their mean by 0.05, half below.
    assert np.log(high / low) / 2 == pytest.approx(2.57 * SPREAD * np.sqrt(6 / 5), rel=0.1)
    assert "Against the library, by the spread of 7 launches, auto is faster at 16 KiB" in " ".join(
        text.split()
    )


@pytest.mark.parametrize("other", ["alltoall", "later", "link", *EDITS])
def test_only_launches_of_the_same_thing_before_it_count(tmp_path, alone, other):
    """The spread of another machine, or of another state of the link, is not this one's."""
    for number in range(4):
        day = 25 if other == "later" else 10
        name = "alltoall" if other == "alltoall" else "allreduce"
        run_id = f"2026-11-{day + number}T06-15-00Z-{name}-0000{number:02x}"
        fast_rounds = range(12) if other == "link" else ()
        path = launch(tmp_path, number, run_id=run_id, fast_rounds=fast_rounds).path
        old, new = EDITS.get(other, (b"", b""))
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert ratio_of(render(launch(tmp_path, 20, run_id=THIS))) == alone


def test_an_interval_that_says_nothing_is_not_printed(tmp_path):
    """4.97 [0.04 569] looks like a speed-up."""

    def noisy(block):
        return slowed(block, np.random.default_rng(block.case + 10 * block.round).normal(0, 3))

    text = render(
        write_run(
            tmp_path,
            sizes=[16384],
            algorithms=["library", "auto"],
            modes=["isolated"],
            n_blocks=7,
            change=noisy,
        )
    )
    assert re.search(r"one_shot_push +too noisy ", text)
    assert "Against the library" not in text
