"""The formulas over node, handshake and bandwidth against another owner's kernels, through
`python -m reports advise --wire`."""

import json
from pathlib import Path

import pandas as pd
import pytest

from reports.advice.wire import GIVEN_SPREAD, Wire
from tests.reports.advice.test_advise import advise, answer, refusal
from tests.reports.advice.test_serving import CONFIG

pytestmark = pytest.mark.unit

# Four R9700s, two behind each of two PCIe 3.0 switches; calls of a graph. Their owner measured 2.9
# to 3.1 us a node apart from these, and says 2.9 us a handshake and 12 GB/s between the switches.
THEIRS = Path(__file__).parents[3] / "docs/experiments/data/another_owner.csv"
WIRE = "3,2.9,12,2"
BEST = {1: 6.8, 4: 11.4, 16: 24.4, 64: 73.0}  # of these, by tokens of 2,560 elements
MOST_SPREAD = 0.25


def test_seven_times_of_another_owners_kernels_are_in_the_range():
    theirs = pd.read_csv(THEIRS, comment="#")
    assert len(theirs) == 7
    wire = Wire(3.0, 2.9, 12.0, cards=2)
    for us, name, size in zip(theirs.time_us, theirs.kernel, theirs.size_bytes, strict=True):
        assert abs(us / wire.time_us(name, size, gpus=4) - 1) < GIVEN_SPREAD, (name, size)


@pytest.mark.parametrize(("name", "crowd"), [("ring", 1), ("two_shot_push", 4 / 3)])
def test_cards_behind_one_link_crowd_it_unless_each_sends_to_its_neighbour_alone(name, crowd):
    """Of four cards, two behind the link: docs/advise.md has the formula."""
    alone, shared = (Wire(1e-9, 1e-9, 12.0, cards).time_us(name, 1 << 27, 4) for cards in (1, 2))
    assert shared / alone == pytest.approx(crowd)


def words_for(folder, wire):
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG | {"hidden_size": 2560}))
    return f"--config {config} --gpu r9700 --gpus 4 --weights 40GB --wire {wire}"


def predicted(words):
    """The `all_reduce` of the JSON for each number of tokens of BEST."""
    for tokens in BEST:
        status, text, _ = advise(f"{words} --batch {tokens} --json")
        assert status == 0
        yield json.loads(text)["all_reduce"]


def test_advise_predicts_the_best_of_these_times(tmp_path):
    words = words_for(tmp_path, WIRE)
    for measured_us, all_reduce in zip(BEST.values(), predicted(words), strict=True):
        assert all_reduce["is_assumed"]
        assert all_reduce["engine_calls"] == all_reduce["calls"] + 1
        value, low, high = all_reduce["us"]
        assert low <= measured_us <= high
        assert max(value - low, high - value) <= MOST_SPREAD * value

    _, said = answer(words)
    assert "PREDICTED, not measured: 3.00 us a kernel of a graph, 2.90 us a handshake" in said
    assert "12.0 GB/s of a link that 2 of 4 cards share" in said
    # Their own cap between the two kernels is 16 KB.
    assert "two_shot_push from 32 KiB" in said
    assert "measured sizes" not in said


@pytest.mark.parametrize(
    "wrong",
    [
        "3,2.9,12",  # as if each card had an uplink of its own
        "0,2.9,12,2",
        "3,0,12,2",
        "3,5.8,12,2",
        "3,2.9,15.75,2",  # the data sheet's
    ],
)
def test_the_printed_range_is_too_narrow_for_a_wrong_wire(wrong, tmp_path):
    """A range that holds any wire proves no formula."""
    spans = [all_reduce["us"][1:] for all_reduce in predicted(words_for(tmp_path, wrong))]
    is_inside = [low <= us <= high for us, (low, high) in zip(BEST.values(), spans, strict=True)]
    assert not all(is_inside), spans


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("--wire 3,2.9", "'3,2.9' is not a kernel's us, a handshake's us and GB/s"),
        ("--wire nan,2.9,12", "'nan,2.9,12' is not a kernel's us"),
        ("--wire 3,2.9,0.0", "GB/s such as 3,2.9,12 (Expected `float` > 0.0"),
        ("--wire 3,2.9,12,5", "--wire joins at least 5 GPUs, not 4"),
        ("--wire 3,2.9,12 --link pcie3x16", "one of --run, --link and --wire"),
    ],
)
def test_no_wire_is_guessed(words, refused):
    assert refused in refusal(f"--model llama-3.1-8b --gpu r9700 --gpus 4 {words}")
