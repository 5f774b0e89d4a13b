"""The order of a campaign's launches and its stages, over launches that are only noted."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import campaign
from bench.campaigns import launches
from bench.campaigns.campaign_options import LEAST_LAUNCH_S, Stop, parse
from bench.campaigns.open_campaign import OpenCampaign
from tests.bench.campaigns.test_campaign_command import QUICK, named
from tests.reports.synthetic_run import write_run
from wiretax.record.manifest import Launch

pytestmark = pytest.mark.unit


def finished(variant, pair):
    first = {"stage": "first", "place": 0, "attempt": 1, "status": "finished", "elapsed_s": 1.0}
    return msgspec.convert(first | {"variant": variant, "pair": pair}, Launch)


@settings(deadline=None)
@given(names=st.integers(2, 6), rounds=st.integers(1, 60), seed=st.integers(0, 1000))
def test_a_machine_that_drifts_favours_no_variant(names, rounds, seed):
    """A variant that always ran first would pay for the cold machine and look slower."""
    names = [f"v{number}" for number in range(names)]
    drawn = [campaign.order_of(names, pair, seed) for pair in range(1, rounds + 1)]
    assert drawn[-1] == campaign.order_of(names, rounds, seed)
    assert [sorted(order) for order in drawn] == [names] * rounds
    whole = drawn[: rounds // 2 * 2]
    for name in names:
        assert sum(order.index(name) for order in whole) * 2 == len(whole) * (
            len(names) - 1
        )  # the mean place
        before = sum(order.index(names[0]) < order.index(name) for order in whole)
        assert before * 2 == (len(whole) if name != names[0] else 0)


@pytest.mark.parametrize(
    ("shared", "made"), [([27], [27]), ([20, 24, 27], [27, 34, 37]), ([0, 0], [27, 54])]
)
def test_pairs_without_a_common_state_of_the_link_are_replaced_over_faked_launches(
    monkeypatch, tmp_path, shared, made
):
    """A link whose state changes would leave too few pairs. `shared` pairs have a state in common
    after each turn; at most as many pairs again are made."""
    ends, shared = [], iter(shared)
    monkeypatch.setattr(
        campaign, "run_round", lambda launches, pair, _: ends.append((launches.pairs, pair))
    )
    monkeypatch.setattr(campaign, "shared_pairs", lambda _: next(shared))
    options = [*named(a=QUICK, b=QUICK), "--out", str(tmp_path / "c")]
    opened = OpenCampaign(parse(options))
    for name in opened.options.variants:
        opened.record(finished(name, 1))
    campaign.run_pairs(opened)
    assert list(dict.fromkeys(end for end, _ in ends)) == made
    assert [pair for _, pair in ends] == list(range(1, made[-1] + 1))


@pytest.mark.parametrize(
    ("n_blocks", "options", "said"),
    [
        (4, ["--budget", "90s"], "--pairs 9 --budget 4m"),  # 10 s for each of 22 launches
        (0, ["--budget", "90s"], "--pairs 9 --budget 30m"),
        (4, [], "--max-time 10 in each command"),
    ],
)
def test_pilots_that_are_too_short_name_the_budget_that_would_do(tmp_path, n_blocks, options, said):
    """Longer budgets went into more pairs of launches that were as short."""
    run = write_run(tmp_path / "results", n_blocks=n_blocks)
    assert run.end
    run.end.elapsed_s = 4.0
    command = QUICK.replace(" --max-time 20", "")
    argv = [*named(a=command, b=command), "--out", str(tmp_path / "c"), *options]
    assert campaign.more_time(OpenCampaign(parse(argv)), [run]) == f"about {said}"


@pytest.mark.parametrize(("compile_s", "pairs"), [(0.5, 27), (60.0, 27), (450.0, 14)])
def test_the_time_of_the_pilots_compilers_is_taken_from_the_pairs(tmp_path, compile_s, pairs):
    """Three pilots and 27 pairs of two share ten minutes: 10.5 s each; below 4 s pairs are left
    out."""
    argv = [*named(a=QUICK, b=QUICK), "--out", str(tmp_path / "c"), "--budget", "10m"]
    opened = OpenCampaign(parse(argv))
    launch_s = opened.launch_s
    assert launch_s
    for name in ("a", "b", "a"):
        opened.record(msgspec.structs.replace(finished(name, 0), stage="pilot"))
    campaign.share_budget(opened, compile_s)
    assert opened.pairs == pairs
    assert opened.launch_s
    whole_s = 3 * launch_s + 2 * pairs * opened.launch_s
    if compile_s < 1:
        assert opened.launch_s == launch_s
    else:
        assert opened.launch_s >= LEAST_LAUNCH_S
        assert whole_s + compile_s == pytest.approx(600)
    with pytest.raises(Stop, match=r"--budget: compilers took 550 s of it, and 6 pairs do not"):
        campaign.share_budget(opened, 550.0)


def test_a_foreign_pilot_may_take_as_long_as_the_fewest_pairs_of_it_fit_the_budget(tmp_path):
    """A head that hung took ten minutes, beside a base of 0.3 s."""
    argv = ["--out", str(tmp_path / "c"), *named(a="true", b="true"), "--budget", "7m"]
    opened = OpenCampaign(parse(argv))
    first, other = (finished(name, 0) for name in ("a", "b"))
    first.stage = other.stage = "pilot"
    assert [launches.limit_of(opened, each) for each in (first, other)] == [420, 60]
    other.elapsed_s = 60.0
    with pytest.raises(Stop, match="variant b has not ended in 60 s of 7 min: it hangs, or"):
        launches.check_pilot_time(opened, other)
