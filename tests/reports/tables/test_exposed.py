"""Synthetic runs of compute and communication with known figures: the exposed time, its table, and
the break-even time of a whole step."""

import re

import numpy as np
import pytest

from reports.tables.form_costs import compare, groups
from reports.tables.show import text
from tests.calibration.synthetic import ar1
from tests.reports.synthetic_together import FUSED, MPI, STEP, THEN, Made, always, layer, steps
from wiretax.record.case import COMPUTE
from wiretax.record.stats import autocorrelation, median_interval

pytestmark = pytest.mark.unit


def exposed(result, name=FUSED):
    """The exposed time of a form, or None."""
    return next(case for case in result.cases if case.algorithm == name).exposed_us


def words(result):
    """The printed text without line ends; every line fits a terminal of 80 columns."""
    printed = text(result)
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    return " ".join(printed.split())


def test_exposed_time_is_the_difference_within_a_round(tmp_path):
    """The machine slows down from round to round. Medians over different rounds would differ by the
    slowdown."""
    result = Made(tmp_path).run(
        {
            COMPUTE: lambda turn: 10.0 + 3 * turn,
            FUSED: lambda turn: 9.0 + 3 * turn if turn > 5 else None,
            THEN: lambda turn: 14.0 + 3 * turn,
        }
    )
    fused, then = exposed(result), exposed(result, THEN)
    assert (fused.median, fused.n_blocks, exposed(result, COMPUTE)) == (-1.0, 6, None)
    assert (then.median, then.ci_low, then.ci_high, then.n_blocks) == (4.0, 4.0, 4.0, 12)


def test_the_best_is_chosen_on_odd_rounds_and_reported_on_even_ones(tmp_path):
    """In the rounds that choose it, the chosen form looks better than it is. A row names what was
    chosen for it."""
    result = Made(tmp_path, chosen={"fused copied": "two_shot"}).run(
        {
            COMPUTE: always(10.0),
            "then_one_shot_pull copied": always(13.0),
            "then_one_shot_push copied": lambda turn: 30.0 if turn % 2 else 5.0,
            "fused copied": lambda turn: 11.0 if turn % 2 else 40.0,
            "fused registered": always(12.0),
        }
    )
    forms = groups(result)[0][1]
    names = ["compute", "then_one_shot_pull", "fused copied, two_shot"]
    assert [form.name for form in forms.values()] == names
    assert list(forms[FUSED].report_us) == [0, 2, 4, 6, 8, 10]
    assert compare(forms, FUSED, COMPUTE) == (30.0, 30.0, 30.0)


def test_the_verdict_names_the_form_to_use(tmp_path):
    """A row has the share of the library's exposed 10 us that its form does not expose."""
    printed = words(layer(tmp_path / "a", **{FUSED: 11.0, MPI: 20.0}))
    assert "scale 1/64: fused exposes 4.00 [4.00 4.00] us less than unfused one_shot" in printed
    assert "fused 11.0 1.00 [1.00 1.00] 90% 0" in printed

    noisy = {
        COMPUTE: always(10.0),
        FUSED: lambda turn: 14.0 + turn % 4,
        THEN: always(15.5),
    }
    printed = words(Made(tmp_path / "c").run(noisy))
    assert re.search(r"do not clearly differ \(-?0\.00 \[-1\.\d\d 1\.\d\d\] us\)", printed)


def test_a_form_with_wrong_results_is_named_and_never_wins(tmp_path):
    made = Made(tmp_path, wrong={FUSED: 3})
    result = made.run(
        {
            COMPUTE: always(10.0),
            FUSED: always(1.0),
            THEN: always(15.0),
        }
    )
    printed = words(result)
    assert "WRONG RESULTS in 1 of 3 cases, the worst: fused 32 KiB" in printed
    assert "not all forms were measured" in printed
    assert exposed(result) is None


def test_the_break_even_time_follows_from_three_times(tmp_path):
    """64 all-reduces: (12 - 10) ms are 31.2 us each, and (20 - 10) ms would be 156 us each."""
    printed = words(steps(tmp_path, 10.0, 12.0, 20.0))
    assert re.match(r"decode: \d+ slots \d+ us \(\d\.\d+x pipeline parallel", printed)
    assert "2 slots: TP is faster, PP/TP 1.67 [1.67 1.67]." in printed
    assert "flips where each of 64 all-reduces exposes 156 us; here it exposes 31.2 us." in printed

    assert printed.endswith(
        "This holds for these cores, which share one memory; cards have one each."
    )


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ((10.0, 40.0, 16.0), "PP is faster, PP/TP 0.40 [0.40 0.40]"),
        (
            (10.0, 12.0, 9.0),
            "TP's compute alone is no faster than PP: no all-reduce is fast enough",
        ),
        ((10.0, 16.0, 16.1), "no clear difference, PP/TP 1.01 [1.01 1.01]"),
    ],
)
def test_other_sentences_about_a_step(tmp_path, times, sentence):
    gpus = [
        {
            "rank": 0,
            "device": "cuda",
            "gpu": "NVIDIA",
        }
    ]
    printed = words(steps(tmp_path, *times, devices=gpus))
    assert sentence in printed
    assert "share one memory" not in printed


def drifting(costs_us, seed, rho=0.7):
    """Costs by name that scatter by 2 %, with the correlation `rho` of neighbouring rounds."""
    noise = ar1(np.random.default_rng(seed).standard_normal((len(costs_us), 12)), rho)
    factors = np.exp(0.02 * noise)

    def cost(us, of_form):
        return lambda turn: float(us * of_form[turn])

    return {
        name: cost(us, of_form)
        for (name, us), of_form in zip(costs_us.items(), factors, strict=True)
    }


def excludes(value, interval):
    _, low, high = interval
    return not low <= value <= high


def difference_us(costs_us, name, other):
    return [costs_us[name](turn) - costs_us[other](turn) for turn in range(12)]


@pytest.mark.parametrize("seed", [8, 14])
def test_equal_forms_do_not_differ_because_rounds_are_correlated(tmp_path, seed):
    """As if rounds were independent, the interval of their difference excluded 0."""
    costs_us = drifting(
        {
            COMPUTE: 10.0,
            FUSED: 15.0,
            THEN: 15.0,
        },
        seed,
    )
    assert excludes(0, median_interval(difference_us(costs_us, THEN, FUSED)))
    result = Made(tmp_path).run(costs_us)
    assert "do not clearly differ" in words(result)

    ratios = [
        [costs_us[name](turn) / costs_us[COMPUTE](turn) for turn in range(12)]
        for name in (FUSED, THEN)
    ]
    gap_us = difference_us(costs_us, FUSED, COMPUTE)
    told = exposed(result).median, exposed(result).ci_low, exposed(result).ci_high
    assert told == median_interval(gap_us, autocorrelation(ratios), are_differences=True)
    assert told != median_interval(gap_us)


@pytest.mark.parametrize("seed", [8, 14])
def test_equal_splits_do_not_differ_because_rounds_are_correlated(tmp_path, seed):
    costs_us = drifting(
        {
            COMPUTE: 9e3,
            "tensor_parallel": 1e4,
            "pipeline_parallel": 1e4,
        },
        seed,
    )
    result = Made(tmp_path, benchmark="decode", shape=STEP).run(costs_us)
    ratios = [
        costs_us["pipeline_parallel"](turn) / costs_us["tensor_parallel"](turn)
        for turn in range(12)
    ]
    assert abs(np.log(median_interval(ratios)[0])) > np.log(1.01)
    assert excludes(1, median_interval(ratios))
    assert "2 slots: no clear difference" in words(result)


def test_an_exposed_time_below_0_is_no_verdict(tmp_path):
    """The compute alone was slower than compute with its collective: something disturbed it."""
    why = "no verdict: the compute alone took longer than with its collective."
    printed = words(layer(tmp_path / "layer", **{FUSED: 9.0, MPI: 20.0}))
    assert why in printed
    assert "fused 9.00 -1.00 [-1.00 -1.00] - 0" in printed
    assert "exposes" not in printed.partition("the run")[0]
    printed = words(steps(tmp_path / "step", 13.0, 12.0, 20.0))
    assert f"2 slots: {why}" in printed
    assert "TP is faster" not in printed
    assert "here it exposes" not in printed


def test_an_exposed_time_below_0_by_chance_is_too_small_to_measure(tmp_path):
    """The compute alone scatters around the time with the collective."""
    ways = {
        COMPUTE: lambda turn: 12_001.0 + 10 * (-1) ** turn,
        "tensor_parallel": always(12_000.0),
        "pipeline_parallel": always(20_000.0),
    }
    printed = words(Made(tmp_path, benchmark="decode", shape=STEP).run(ways))
    assert "TP is faster, PP/TP 1.67 [1.67 1.67]." in printed
    assert "here it exposes less than this run can measure." in printed


def test_few_rounds_are_no_verdict(tmp_path):
    forms = {
        COMPUTE: 10.0,
        FUSED: 11.0,
        THEN: 15.0,
    }
    made = Made(tmp_path / "layer", rounds=5)
    printed = words(made.run({name: always(us) for name, us in forms.items()}))
    assert "too few blocks to compare fused with unfused one_shot_pull (4.00 us)." in printed
    printed = words(steps(tmp_path / "step", 10.0, 12.0, 20.0, rounds=5))
    assert "2 slots: too few blocks to say, PP/TP 1.67." in printed


def test_forms_over_two_kinds_of_memory_have_no_ratio(tmp_path):
    """On one card the library stays within its memory while ours goes through the host."""
    result = layer(tmp_path, **{MPI: 20.0})
    assert "90%" in words(result)
    assert "(1.82x MPICH)" in words(result)
    for case in result.cases:
        case.memory = "private" if case.library else "host_staged"
    for rank in result.run.world["ranks"]:
        rank["pci_bus_id"] = "0000:00:06.0"
    printed = words(result)
    assert "90%" not in printed
    assert "x MPICH" not in printed
    assert "fused exposes 4.00 [4.00 4.00] us less" in printed


@pytest.mark.parametrize(
    ("sequence_ms", "sentence"),
    [
        (11.0, "Sequence parallelism is faster, SP/TP 0.92 [0.92 0.92]."),
        (13.0, "Sequence parallelism is slower, SP/TP 1.08 [1.08 1.08]."),
        (12.0, "Sequence parallelism is as fast, SP/TP 1.00 [1.00 1.00]."),
    ],
)
def test_the_split_with_sequence_parallelism_is_compared_with_all_reduces(
    tmp_path, sequence_ms, sentence
):
    """Its exposed time is 1, 3 or 2 ms of the library's 14."""
    printed = words(steps(tmp_path, 10.0, 12.0, 20.0, sequence_ms))
    assert printed.endswith(sentence)
    hidden = (14 - (sequence_ms - 10)) / 14
    assert re.search(rf"sequence_parallel \d+ \d+ \[\d+ \d+\] {hidden:.0%} 0", printed), printed
    assert "Sequence" not in words(steps(tmp_path / "decode", 10.0, 12.0, 20.0))


def test_a_form_of_one_block_has_a_row_and_makes_the_headline(tmp_path):
    """`decode: nothing was measured` stood above a table without rows. What was asked counts."""
    printed = words(
        Made(tmp_path).run(
            {
                COMPUTE: lambda turn: 10.0 if turn == 0 else None,
                FUSED: lambda turn: None,
            }
        )
    )
    assert re.search(r"^gemv_allreduce: 1 token: compute 10 us ", printed)
    assert "compute 10.0 - - " in printed
    assert "2 of 2 cases have fewer than 10 blocks" in printed


def test_a_shape_without_a_time_has_no_table(tmp_path):
    printed = words(Made(tmp_path).run({COMPUTE: lambda turn: None}))
    assert "exposed us [95 %]" not in printed
    assert "nothing was measured of " in printed
