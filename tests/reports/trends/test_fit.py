"""Tests the fits: they recover known lines from synthetic runs, mark uncertain figures, and store records."""

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest

from reports.__main__ import main
from reports.store.result import read
from reports.trends.fit import find_crossovers, fits_of, text
from reports.trends.lines import Crossover, Fit, predict_us
from reports.verdicts.comparison import Incomparable
from tests.reports.synthetic_run import FAST_NS, SLOW_NS, plan, write_run

pytestmark = pytest.mark.unit

SIZES = [16384 << step for step in range(8)]
STEP_BYTES = 512 << 10


def line_us(algorithm, size, rtt_ns):
    """2 us and 10 GB/s for two_shot, twice the start-up where the link is slow; the ring overtakes it at 400,000 bytes;
    the library jumps by half at 512 KiB."""
    if algorithm == "two_shot":
        return (4 if rtt_ns > 200 else 2) + size / 10e3
    if algorithm == "ring":
        return 22 + size / 20e3
    return (30 + size / 5e3) * (1.5 if size >= STEP_BYTES else 1)


def launches(
    folder, count, algorithms=("two_shot", "ring", "library"), us=line_us, spread=0.01, **options
):
    """Launches that scatter around `us(algorithm, size, rtt_ns)`; blocks scatter by another 0.5 %."""
    settings = {
        "sizes": SIZES,
        "algorithms": algorithms,
        "modes": ["isolated"],
        "n_blocks": 5,
        "n": 2,
    } | options
    planned = plan(settings["sizes"], algorithms, settings["modes"], [False], (), "float32", 2)

    def launch(number):
        rng, own = np.random.default_rng(100 + number), dict[Any, float]()

        def change(block):
            case, rtt_ns = planned[block.case], FAST_NS if block.link_rtt_ns[0] < 300 else SLOW_NS
            factor = own.setdefault((block.case, rtt_ns), np.exp(spread * rng.standard_normal()))
            took_us = (
                us(case.algorithm, case.size_bytes, rtt_ns)
                * factor
                * np.exp(0.005 * rng.standard_normal())
            )
            return msgspec.structs.replace(block, time_us=took_us * 0.8, total_us=took_us)

        return write_run(folder, change=change, run_id=f"run-{number}", seed=number, **settings)

    return [launch(number) for number in range(count)]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return launches(tmp_path_factory.mktemp("six"), 6, fast_rounds=[0, 1, 2, 3, 4], n_blocks=10)


def named(fits, name, rtt_ns=FAST_NS):
    return next(fit for fit in fits if fit.name == name and abs(fit.link_rtt_ns - rtt_ns) < 50)


def has(estimate, truth):
    assert estimate.value == pytest.approx(truth, rel=0.05)
    return estimate.low <= truth <= estimate.high


def test_a_fit_recovers_a_known_line_in_each_state_of_the_link(six):
    """States of the link must not mix, and intervals must cover the truth."""
    fits = fits_of(six)
    assert len(fits) == 6
    for rtt_ns, alpha_us in ((FAST_NS, 2), (SLOW_NS, 4)):
        fit = named(fits, "two_shot", rtt_ns)
        (regime,) = fit.regimes
        assert (len(set(fit.run_ids)), fit.interval, fit.cost) == (6, "launches", "total_us")
        assert has(regime.alpha_us, alpha_us)
        assert has(regime.beta_gb_s, 10)
        assert has(regime.half_size_bytes, alpha_us * 10e3)
        assert regime.beta_gb_s.value == pytest.approx(10, rel=0.01)
        assert regime.worst_residual < 0.02
        value, low, high = predict_us(fit, 100_000)
        assert low
        assert high
        assert low <= alpha_us + 10 <= high
        assert value == pytest.approx(alpha_us + 10, rel=0.02)


def test_only_a_jump_splits_a_fit_into_two_regimes(six):
    """One line over a protocol switch predicts wrong times near it."""
    fits = fits_of(six)
    first, second = named(fits, "MPICH 5.0.2").regimes
    assert (first.to_bytes, second.from_bytes) == (STEP_BYTES // 2, STEP_BYTES)
    assert has(first.beta_gb_s, 5)
    assert has(second.beta_gb_s, 5 / 1.5)
    assert [len(fit.regimes) for fit in fits if fit.name != "MPICH 5.0.2"] == [1] * 4
    times_us = [
        predict_us(named(fits, "MPICH 5.0.2"), size)[0] for size in np.geomspace(8192, 4 << 20, 60)
    ]
    assert np.all(np.diff(times_us) > 0)  # the times rise between the regimes, too


def test_times_that_bend_have_no_figures(tmp_path):
    """A line through the end of a cache has a bandwidth that the machine has nowhere."""

    def cache_ends(name, size, rtt):
        return 5 + size / 10e3 + max(0, size - (1 << 20)) / (5e3 if name == "ring" else 1e9)

    fits = fits_of(launches(tmp_path, 6, ["ring", "two_shot"], cache_ends))
    first, second = named(fits, "ring", SLOW_NS).regimes
    assert has(first.alpha_us, 5)
    assert has(first.beta_gb_s, 10)
    assert (second.alpha_us.value, second.beta_gb_s.value, second.half_size_bytes.value) == (
        None,
        None,
        None,
    )
    (whole,) = named(fits, "two_shot", SLOW_NS).regimes
    assert has(whole.beta_gb_s, 10)
    printed = text(fits, find_crossovers(fits))
    assert re.search(r"\nring +6 +512K-2M +- +- +- ", printed)
    assert "No line, the times bend; measure more sizes: ring at 512K-2M." in printed
    assert predict_us(named(fits, "ring", SLOW_NS), 1 << 20)[0] == pytest.approx(110, rel=0.05)


def test_more_sizes_than_can_be_tried_as_breaks_have_no_line(tmp_path):
    (fit,) = fits_of(
        launches(
            tmp_path, 1, algorithms=["ring"], sizes=[16384 + 1024 * step for step in range(250)]
        )
    )
    assert (fit.reason, fit.regimes) == ("250 sizes are more than 200", [])


def test_an_algorithm_that_overtakes_is_named_with_the_size(six):
    """The best algorithm depends on the size, and the fit must not report a win that the library does not have."""
    pairs = [
        pair for pair in find_crossovers(fits_of(six)) if round(pair.link_rtt_ns or 0, -2) == 100
    ]
    (over,) = [pair for pair in pairs if pair.size_bytes]
    assert (over.faster_below, over.faster_above) == ("two_shot", "ring")
    assert has(over.size_bytes, 400_000)
    assert {
        (pair.faster_below, pair.faster_above) for pair in pairs if pair.first == "MPICH 5.0.2"
    } == {("two_shot", "two_shot"), ("ring", "ring")}


def test_two_equal_algorithms_have_no_winner(tmp_path):
    """Noise is no reason to switch."""
    runs = launches(tmp_path, 6, ["ring", "two_shot"], lambda name, size, rtt: 5 + size / 10e3)
    (pair,) = find_crossovers(fits_of(runs))
    assert (pair.faster_below, pair.faster_above, pair.size_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("count", "over", "says"),
    [
        (1, "this launch", "Intervals are of this launch alone"),
        (3, None, "Fewer than five launches have no intervals"),
    ],
)
def test_few_launches_give_no_interval_over_launches(count, over, says, tmp_path):
    """An interval over one launch's blocks must not pass for an interval over launches."""
    fits = fits_of(launches(tmp_path, count))
    printed = text(fits, find_crossovers(fits))
    assert {fit.interval for fit in fits} == {over}
    assert says in printed
    assert (fits[0].regimes[0].alpha_us.low is None) == (over is None)
    assert over or not any(pair.faster_below or pair.faster_above for pair in find_crossovers(fits))


def test_impossible_figures_are_shown_as_words(tmp_path):
    """A start-up cost below zero, an infinite bandwidth and a line through two points have no figures."""
    curves = {
        "two_shot": lambda size: size / 10e3 - 0.8,
        "ring": lambda size: 50,
        "one_shot_pull": lambda size: size,
    }
    fits = fits_of(launches(tmp_path, 5, list(curves), lambda name, size, rtt: curves[name](size)))
    printed = text(fits, find_crossovers(fits))
    (rising,) = (row for row in printed.splitlines() if row.startswith("two_shot "))
    assert re.search(r" up to -0\.\d\d ", rising)
    assert [row.split()[-3] for row in printed.splitlines() if row.startswith("ring  ")] == ["flat"]
    assert named(fits, "two_shot", SLOW_NS).regimes[0].half_size_bytes.value is None
    assert named(fits, "ring", SLOW_NS).regimes[0].beta_gb_s.value is None
    assert max(map(len, printed.splitlines())) <= 80
    assert "nan" not in printed
    assert "inf" not in printed
    short = fits_of(launches(tmp_path / "short", 5, ["ring"], sizes=SIZES[:2]))
    assert [fit.reason for fit in short] == ["a line takes three sizes with five blocks, not 2"]
    with pytest.raises(ValueError, match="three sizes"):
        predict_us(short[0], 16384)


def test_records_are_read_back_and_newer_records_are_refused(six, tmp_path, capsys):
    """The next version must read stored fits, and refuse newer ones."""
    fits, path = fits_of(six), tmp_path / "fits.jsonl"
    assert main(["fit", str(six[0].path.parent), "--out", str(path)]) == 0
    head, *lines = path.read_bytes().splitlines()
    assert json.loads(head) == {
        "kind": "fits",
        "schema": 1,
        "run_ids": [f"run-{number}" for number in range(6)],
    }
    assert [msgspec.json.decode(line, type=Fit | Crossover) for line in lines] == [
        *fits,
        *find_crossovers(fits),
    ]
    for line in lines:
        with pytest.raises(msgspec.ValidationError, match="schema"):
            msgspec.json.decode(line.replace(b'"schema":1', b'"schema":2'), type=Fit | Crossover)
    capsys.readouterr()
    assert main(["fit", str(six[0].path), "--out", str(tmp_path / "no" / "fits.jsonl")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_launches_of_different_machines_or_software_are_refused(six, tmp_path, capsys):
    """A fit over two machines describes neither."""
    for field in ("machine_id", "software_id"):
        other = tmp_path / f"{field}.jsonl"
        other.write_bytes(
            six[0]
            .path.read_bytes()
            .replace(b'"run-0"', b'"other"')
            .replace(getattr(six[0].run, field).encode(), b"another", 1)
        )
        with pytest.raises(Incomparable, match=field.removesuffix("_id")):
            fits_of([six[1], read(other)])
        assert main(["fit", str(six[1].path), str(other)]) == 4
    assert main(["fit", str(six[1].path), str(six[1].path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "reports: run-1 is given twice"


def test_the_command_prints_stores_and_draws(six, tmp_path, capsys):
    """The command must print the fits that it stores."""
    folder, out, picture = six[0].path.parent, tmp_path / "fits.jsonl", tmp_path / "fit.svg"
    assert main(["fit", str(folder), "--out", str(out), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    fits = fits_of(six)
    assert printed == text(fits, find_crossovers(fits))
    assert out.read_text().count("\n") == 1 + len(fits) + len(find_crossovers(fits))
    assert max(map(len, printed.splitlines())) <= 80
    assert re.match(r"\S+: alpha \S+ us, beta \S+ GB/s", printed), printed[:200]
    assert re.search(r"\nring overtakes two-shot at 3[89]\d(\.\d)?K \[3", printed)
    assert "two_shot" in picture.read_text()
    assert main(["fit", str(folder), "--plot", "fit.gif"]) == 2
    assert main(["fit", str(tmp_path / "none.jsonl")]) == 2


def test_a_hostile_name_controls_no_output(tmp_path, capsys):
    """A run from a stranger must not move the cursor or break the picture."""
    (made,) = launches(tmp_path, 1, ["ring"])
    made.path.write_bytes(made.path.read_bytes().replace(b'"ring"', rb'"\u001b[2J$\\frac{<b>"'))
    assert main(["fit", str(made.path), "--plot", str(tmp_path / "fit.svg")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert "<b>" not in (tmp_path / "fit.svg").read_text()


def test_a_short_run_that_was_cut_off_is_refused_in_one_sentence(tmp_path, capsys):
    made = write_run(
        tmp_path,
        sizes=SIZES[:1],
        algorithms=["library"],
        modes=["isolated"],
        n_blocks=2,
        finish=False,
    )
    assert main(["fit", str(made.path)]) == 2
    assert (
        capsys.readouterr().err
        == "reports: nothing to fit: no case has five blocks in one state of the link\n"
    )
