"""The order of a campaign's launches and its stages, over launches that are only noted."""

import msgspec
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.campaigns import stages
from bench.campaigns.launches import OpenCampaign
from bench.campaigns.options import parse
from reports.store.manifest import Launch, Stage
from reports.verdicts import comparison
from tests.bench.campaigns.test_campaign_command import QUICK, named

pytestmark = pytest.mark.unit


@settings(deadline=None)
@given(names=st.integers(2, 6), rounds=st.integers(1, 60), seed=st.integers(0, 1000))
def test_a_machine_that_drifts_favours_no_variant(names, rounds, seed):
    """A variant that always ran first would pay for the cold machine and look slower."""
    names = [f"v{number}" for number in range(names)]
    drawn = stages.orders(names, rounds, str(seed))
    assert drawn == stages.orders(names, rounds, str(seed))
    assert [sorted(order) for order in drawn] == [names] * rounds
    whole = drawn[: rounds // 2 * 2]
    for name in names:
        assert sum(order.index(name) for order in whole) * 2 == len(whole) * (
            len(names) - 1
        )  # the mean place
        before = sum(order.index(names[0]) < order.index(name) for order in whole)
        assert before * 2 == (len(whole) if name != names[0] else 0)


def test_the_order_is_drawn_from_the_seed():
    """Without the seed, every campaign would have the same order and the same bias from that
    order."""
    assert len({str(stages.orders(["a", "b", "c"], 10, str(seed))) for seed in range(20)}) > 10


def finished(variant, pair):
    first = {"stage": "first", "place": 0, "attempt": 1, "status": "finished", "elapsed_s": 1.0}
    return msgspec.convert(first | {"variant": variant, "pair": pair}, Launch)


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """A function that opens a campaign whose rounds are only noted, and the rounds: (stage,
    pairs)."""
    rounds: list[tuple[str, range]] = []
    monkeypatch.setattr(
        stages, "run_rounds", lambda campaign, stage, pairs, *_: rounds.append((stage, pairs))
    )

    def open_campaign(*options):
        return OpenCampaign(parse([*options, "--out", str(tmp_path / "c")]))

    return open_campaign, rounds


def test_stages_end_when_no_size_is_undecided_over_faked_launches(monkeypatch, faked):
    """Without the checks, decided sizes would cost four times the time. The campaign must skip no
    check."""
    (open_campaign, rounds), ambiguous = faked, {10: 3, 20: 0, 40: 0}

    def cells_of(folder):
        undecided = ambiguous[rounds[-1][1].stop - 1]
        return pd.DataFrame({"verdict": ["SAME"] + ["AMBIGUOUS"] * undecided})

    monkeypatch.setattr(comparison, "cells_of", cells_of)
    campaign = open_campaign(*named(a=QUICK, b=QUICK), "--grow")
    stages.run_stages(campaign)
    assert [pairs.stop - 1 for _, pairs in rounds] == [10, 20]
    # A launch of pair 21 means that the second check found an undecided size, so the campaign runs
    # the third round.
    campaign.record(finished("a", 21))
    rounds.clear()
    stages.run_stages(campaign)
    assert [pairs.stop - 1 for _, pairs in rounds] == [10, 20, 40]


def test_confirmation_uses_fresh_launches_over_faked_launches(monkeypatch, faked):
    """The pairs that raised a suspicion must not confirm it, and only the suspected sizes are
    measured again."""
    open_campaign, rounds = faked
    cells = pd.DataFrame({"size_bytes": [65536, 16384, 32768], "is_suspect": [True, True, False]})
    pairs = iter([6, 3, 9])
    monkeypatch.setattr(comparison, "cells_of", lambda folder: cells.assign(pairs=next(pairs)))
    campaign = open_campaign(*named(a=QUICK, b=QUICK, c=QUICK))
    campaign.record(Stage(stage="first"))
    for name in campaign.options.variants:
        campaign.record(finished(name, 1))
    stages.run_stages(campaign)
    # Extra pairs replace pairs that share no state of the link; the extra pairs at most double the
    # number.
    first = [("first", range(*pairs)) for pairs in ((1, 11), (11, 15), (15, 21))]
    assert rounds == [*first, ("fresh", range(21, 46))]
    assert campaign.manifest.stages[-1].sizes == [16384, 65536]
    monkeypatch.setattr(comparison, "cells_of", None)  # the manifest now holds the suspected sizes
    stages.run_stages(campaign)
    assert rounds[4:] == [rounds[0], rounds[3]]
