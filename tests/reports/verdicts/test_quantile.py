"""`--quantile`: verdicts on a percentile of each launch's own steps, where medians show nothing."""

import json
import re

import msgspec
import numpy as np
import pytest

from reports.__main__ import main
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_run import rewrite, rewrite_head
from tests.reports.verdicts.test_regress import forms, judge, text_of
from wiretax.record.histogram import steps_of

pytestmark = pytest.mark.unit

N_STEPS = 100  # of a block; a launch has six
ALIKE = {"main": no_effect, "new": no_effect}
SLOW = "16 KiB two_shot"


def with_steps(share=0.0, times=5.0, n=N_STEPS, spread=0.03, seed=0, case=None):
    """A change that gives blocks their steps, of which this share takes so many times as long: of
    all cases, or of the one with this number."""
    rng = np.random.default_rng(seed)

    def change(block):
        steps_us = rng.lognormal(np.log(block.time_us), spread, n)
        if case in (None, block.case):
            steps_us[rng.random(n) < share] *= times
        return msgspec.structs.replace(block, n=n, steps=steps_of(steps_us))

    return {"change": change}


TWO_SHOT_16K = 2  # its number among the cases of `SMALL`
ONE_SIZE, TWO_SIZES = [16384], [16384, 65536]


def tailed(folder, variants=None, pairs=12, base=None, sizes=ONE_SIZE, **steps):
    """A campaign in which these steps are those of one case of `new`."""
    new = with_steps(**{"case": TWO_SHOT_16K, "share": 0.01} | steps, seed=1)
    options = {"main": base or with_steps(n=steps.get("n", N_STEPS)), "new": new}
    return write_campaign(folder, variants or ALIKE, pairs=pairs, options=options, sizes=sizes)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """One call in a hundred of one case takes five times as long."""
    return tailed(tmp_path_factory.mktemp("tailed") / "campaign", sizes=TWO_SIZES)


def cells_of(compared):
    """The verdict of each case."""
    (comparison,) = compared["comparisons"]
    return {cell["title"]: cell["verdict"] for cell in comparison["cells"]}


def test_a_tail_that_medians_do_not_show_is_slower(campaign, reports):
    status, out, err = reports("compare", campaign, "--json")
    medians = json.loads(out)
    assert (status, err, medians["comparisons"][0]["quantile"]) == (0, "", None)
    assert not {"SLOWER", "FASTER"} & {*cells_of(medians).values()}

    status, out, err = reports("compare", campaign, "--quantile", 99, "--json")
    tails = json.loads(out)
    assert (status, err, tails["comparisons"][0]["quantile"]) == (0, "", 0.99)
    verdicts = cells_of(tails)
    assert verdicts.pop(SLOW) == "SLOWER"
    assert not {"SLOWER", "FASTER"} & {*verdicts.values()}


def test_the_table_says_what_is_judged_and_what_the_launches_exclude(campaign, reports):
    _, out, _ = reports("compare", campaign, "--quantile", 99)
    said = " ".join(out.split())
    assert re.search(rf"^P99 SLOWER \d+\.\d%: {SLOW}; no P99 slowdown of \d", said)
    assert "judged: the P99 of each launch's own steps, not its median" in said
    assert re.search(r"12 pairs can exclude a slowdown of \d+\.\d%", said)
    assert re.search(r"base P99 us +variant P99 us", out)
    _, out, _ = reports("compare", campaign)
    assert not re.search("P99 us|P99 slowdown|each launch", out)


def test_the_gate_fails_on_the_tail_in_every_format(campaign, tmp_path, capsys):
    assert judge(capsys, campaign)[0] != 1
    options, files = forms(tmp_path)
    status, said = judge(capsys, campaign, "--quantile", 99, *options)
    assert status == 1
    assert "REGRESSION: P99 SLOWER" in said
    assert f"{SLOW}: P99 " in said
    assert "--quantile=99" in said  # all cells: the command that shows what was judged
    for file in files:
        assert "P99 SLOWER" in text_of(file)
    markdown, page = map(text_of, files[1:])
    assert re.search(r'name="16 KiB two_shot".*message="P99 ', files[0].read_text())
    assert "| base P99 us | variant P99 us |" in markdown
    assert "base P99 µs" in page


def test_the_campaign_says_what_is_judged(campaign, tmp_path, reports, capsys):
    """A gate's folder is judged later as the gate was; 50 asks for medians nevertheless."""
    folder = tailed(tmp_path / "kept")
    rewrite_head(folder / "campaign.jsonl", quantile=0.99)
    status, said = judge(capsys, folder)
    assert (status, "P99 SLOWER" in said) == (1, True)
    assert "P99 SLOWER" in reports("compare", folder)[1]
    status, said = judge(capsys, folder, "--quantile", 50)
    assert (status == 1, "P50" in said) == (False, True)


def test_both_sides_with_the_same_tail_pass(tmp_path, capsys):
    base = with_steps(share=0.01, case=TWO_SHOT_16K)
    folder = tailed(tmp_path / "same", base=base, sizes=TWO_SIZES)
    assert judge(capsys, folder, "--quantile", 99)[0] == 0


def test_a_tail_in_bursts_is_more_than_these_launches_can_exclude(tmp_path, reports):
    """Some launches have a slow block, others none, and their P99s are five times apart."""
    rng = np.random.default_rng(7)

    def change(block):
        slow = np.where(rng.random() < 0.03, 5.0, 1.0)
        steps_us = slow * rng.lognormal(np.log(block.time_us), 0.03, N_STEPS)
        return msgspec.structs.replace(block, n=N_STEPS, steps=steps_of(steps_us))

    own = {"change": change}
    options = {"main": own, "new": own}
    folder = write_campaign(tmp_path / "bursts", ALIKE, options=options, sizes=ONE_SIZE)
    _, out, _ = reports("compare", folder, "--quantile", 99)
    assert "12 pairs cannot exclude a slowdown of 100.0%" in " ".join(out.split())


@pytest.mark.parametrize(("n", "is_told"), [(1.5, True), (1.2, False)])
def test_a_side_with_many_more_steps_is_told(tmp_path, reports, n, is_told):
    """Of equal tails, that of more steps scatters less, which pairs show as a difference."""
    base = with_steps(share=0.01, n=round(n * N_STEPS))
    folder = tailed(tmp_path / "uneven", base=base, case=None)
    for options, expected in (["--quantile", 99], is_told), ([], False):
        said = " ".join(reports("compare", folder, *options)[1].split())
        assert ("one side has over 1.3 times as many steps" in said) == expected


def test_a_faster_median_does_not_hide_a_worse_tail(tmp_path, reports):
    folder = tailed(tmp_path / "faster", {"main": no_effect, "new": slower(-10)})
    medians, tails = (
        cells_of(json.loads(reports("compare", folder, "--json", *options)[1]))
        for options in ([], ["--quantile", 99])
    )
    assert (medians[SLOW], tails[SLOW]) == ("FASTER", "SLOWER")


def test_cases_with_too_few_steps_are_not_judged_and_nothing_passes(tmp_path, reports, capsys):
    """Six blocks of eight steps: the P99 of a launch would be its longest step."""
    folder = tailed(tmp_path / "few", share=0.0, n=8)
    status, said = judge(capsys, folder, "--quantile", 99)
    assert status == 5
    assert re.search(
        r"UNUSABLE: no case has the \d+ steps that a launch's P99 takes, but 48 at most: "
        r"use fewer sizes, a longer --max-time or --quantile (\d+) \(exit",
        said,
    )
    _, out, _ = reports("compare", folder, "--quantile", 99)
    assert len(re.findall(r"48 of \d+ steps", out)) == 3
    # What it recommends is possible.
    lower = said.partition("or --quantile ")[2].split()[0]
    assert judge(capsys, folder, "--quantile", lower)[0] == 0


def test_one_case_with_too_few_steps_leaves_the_gate_undecided(tmp_path, capsys):
    few = with_steps(n=8)["change"]
    enough = with_steps()["change"]
    own = {"change": lambda block: (few if block.case == TWO_SHOT_16K else enough)(block)}
    both = {"main": own, "new": own}
    folder = write_campaign(tmp_path / "one", ALIKE, options=both, sizes=ONE_SIZE)
    options, (*_, page) = forms(tmp_path)
    status, said = judge(capsys, folder, "--quantile", 99, *options)
    assert (status, "a P99 slowdown of" in said, SLOW in said) == (3, True, True)
    assert "--quantile 99" in text_of(page)  # the gate to type next


def test_runs_without_steps_are_named(tmp_path, reports, capsys):
    options = {"new": with_steps()}
    folder = write_campaign(tmp_path / "old", ALIKE, pairs=6, options=options, sizes=ONE_SIZE)
    status, said = judge(capsys, folder, "--quantile", 99)
    assert status == 5
    assert "main stored no steps, as runs of older versions and of other programs: no P99" in said
    # The table showed half of the other side's 600 steps, which are enough: "300 of 200 steps".
    _, out, _ = reports("compare", folder, "--quantile", 99)
    assert out.count(" 0 of 200 steps") == 3


def test_launches_in_different_states_of_the_link_do_not_seem_to_lack_steps(tmp_path, reports):
    folder = tailed(tmp_path / "states", pairs=6)
    for path in (folder / "main").glob("*.jsonl"):
        path.write_text(
            re.sub(r'"link_rtt_ns":\[[\d.,]+\]', '"link_rtt_ns":[90,90]', path.read_text())
        )
    sides = [min((folder / side).glob("*.jsonl")) for side in ("main", "new")]
    status, out, _ = reports("compare", *sides, "--quantile", 99)
    assert (status, "the link changed its state" in " ".join(out.split())) == (0, True)
    assert (" steps" in out.partition("verdict")[2], "stored no steps" in out) == (False, False)


def test_a_percentile_is_the_share_that_a_reader_of_json_looks_for(campaign, reports):
    """99.9 / 100 is 0.9990000000000001."""
    compared = json.loads(reports("compare", campaign, "--quantile", 99.9, "--json")[1])
    assert compared["comparisons"][0]["quantile"] == 0.999


def test_steps_that_took_no_time_decide_nothing(tmp_path, capsys):
    """As of a clock that stood still: their ratios are no numbers, of which numpy warns."""
    folder = tailed(tmp_path / "still", times=0.0, share=1.1)
    with np.errstate(divide="raise", invalid="raise"):
        status, said = judge(capsys, folder, "--quantile", 99)
    assert status == 3, said
    assert "nan" not in said
    assert "0 of 200 steps" in said, said


@pytest.mark.parametrize("text", ["0.99", "100", "49", "nan", "p99", "-1"])
def test_other_percentiles_are_refused(text, campaign, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(campaign), f"--quantile={text}"])
    assert re.fullmatch(
        f".*--quantile: '{text}' is not a percentile from 50 to below 100\n",
        capsys.readouterr().err,
    )


def test_calls_are_not_worth_a_percentile_each(campaign, reports):
    options = ["--quantile", 99, "--calls", 161, "--tpot-ms", 30]
    status, out, err = reports("compare", campaign, *options)
    assert (status, out) == (2, "")
    assert "the P99 of many calls is not the sum of theirs" in err


def test_damaged_counts_are_an_error(tmp_path, reports):
    folder = tailed(tmp_path / "damaged", pairs=6)
    run = min((folder / "new").glob("*.jsonl"))

    def damage(line):
        if line["kind"] == "block":
            line["steps"][2] = "/////////////w=="

    rewrite(run, damage)
    status, out, err = reports("compare", folder, "--quantile", 99)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf".*{run.name}: .*\n", err)
