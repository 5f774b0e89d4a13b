"""Tests the fits: they recover known lines from synthetic runs, mark uncertain figures, and store
records."""

import json
import re
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest

from reports.store.result import read
from reports.trends.fit import Fit, fits_of, text
from reports.verdicts.judge import Incomparable
from tests.reports.synthetic_run import FAST_NS, SLOW_NS, rewrite_head, run_id, write_run

pytestmark = pytest.mark.unit

SIZES = [16384 << step for step in range(10)]
STEP_BYTES = 1 << 20


def line_us(algorithm, size, rtt_ns):
    """2 us and 10 GB/s for two_shot, twice the start-up where the link is slow; the library jumps
    by half at 1 MiB."""
    if algorithm == "two_shot":
        return (4 if rtt_ns > 200 else 2) + size / 10e3
    if algorithm == "ring":
        return 22 + size / 20e3
    return (30 + size / 5e3) * (1.5 if size >= STEP_BYTES else 1)


def launches(folder, count, algorithms=("two_shot", "ring", "library"), us=line_us, **fields):
    """Launches that scatter by 1 % around `us(algorithm, size, rtt_ns)`; blocks scatter by another
    0.5 %."""
    shape = {"sizes": SIZES, "modes": ["isolated"], "n_blocks": 5, "n": 2}
    fields = {**shape, **fields, "algorithms": algorithms}

    def launch(number):
        rng, own = np.random.default_rng(100 + number), dict[Any, float]()

        def drawn_us(case, block):
            rtt_ns = FAST_NS if block.link_rtt_ns[0] < 300 else SLOW_NS
            own.setdefault((block.case, rtt_ns), np.exp(0.01 * rng.standard_normal()))
            factor = own[block.case, rtt_ns] * np.exp(0.005 * rng.standard_normal())
            return us(case.algorithm, case.size_bytes, rtt_ns) * factor

        return write_run(
            folder, us=drawn_us, run_id=run_id(0, f"made{number}"), seed=number, **fields
        )

    return [launch(number) for number in range(count)]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return launches(tmp_path_factory.mktemp("six"), 6, fast_rounds=range(6), n_blocks=10)


@pytest.fixture
def fit(reports):
    return partial(reports, "fit")


def named(fits, name):
    return next(fit for fit in fits if fit.name == name)


def has(estimate, truth):
    assert estimate.value == pytest.approx(truth, rel=0.05)
    return estimate.low <= truth <= estimate.high


def test_a_fit_recovers_a_known_line_in_the_runs_state_of_the_link(six):
    """States of the link must not mix, and intervals must cover the truth."""
    fits = fits_of(six)
    assert len(fits) == 3
    found = named(fits, "two_shot")
    assert len(set(found.run_ids)) == 6
    assert has(found.regimes[0].alpha_us, 2)
    for regime in found.regimes:
        assert has(regime.beta_gb_s, 10)
        assert regime.worst_residual < 0.02


def test_latency_bound_and_bandwidth_bound_sizes_have_a_line_each(six):
    """One line over a protocol switch predicts wrong times near it."""
    library = named(fits_of(six), "MPICH 5.0.2")
    first, second = library.regimes
    assert (first.to_bytes, second.from_bytes) == (STEP_BYTES // 2, STEP_BYTES)
    assert has(first.beta_gb_s, 5)
    assert has(second.beta_gb_s, 5 / 1.5)


def test_a_start_up_that_is_not_resolved_has_no_figure(tmp_path, fit):
    """`up to -606 us` and `0.00 us` are no start-up times."""

    def without_start(name, size, rtt):
        return size / 10e3 - (1 if name == "ring" else 0)

    launches(tmp_path, 6, ["ring", "library"], without_start)
    status, out, _ = fit(tmp_path)
    assert (status, len(re.findall("16K-512K +- ", out))) == (0, 2), out
    assert out.startswith("ring: beta ")


def test_few_launches_give_no_interval(tmp_path):
    """An interval over one launch's blocks must not pass for an interval over launches."""
    fits = fits_of(launches(tmp_path, 5))
    assert "Fewer than 6 launches have no intervals." in text(fits)
    assert fits[0].regimes[0].alpha_us.low is None
    assert fits[0].regimes[0].beta_gb_s.value


def test_the_command_prints_and_stores_and_warns_across_days(six, fit, tmp_path):
    """Launches of two days lie in two groups, which no interval allows for."""
    folder, fits = six[0].path.parent, fits_of(six)
    assert fit(folder) == (0, text(fits), "")
    other = tmp_path / "other.jsonl"
    other.write_bytes(six[0].path.read_bytes())
    rewrite_head(other, run_id=f"2027-01-01{run_id(8)[10:]}")
    assert "the launches are of 2 days" in fit(folder, other)[2]
    answer = json.loads(fit(folder, "--json")[1])
    assert msgspec.convert(answer["fits"], list[Fit]) == fits


def test_bad_input_is_refused_in_one_sentence(six, tmp_path, fit):
    """A fit over two machines describes neither."""
    for field in ("machine_id", "software_id"):
        other = tmp_path / f"{field}.jsonl"
        other.write_bytes(six[0].path.read_bytes())
        rewrite_head(other, run_id=run_id(8), **{field: "another"})
        with pytest.raises(Incomparable, match=f"allreduce of .* {field.removesuffix('_id')}"):
            fits_of([six[1], read(other)])
        assert fit(six[1].path, other)[0] == 4
    fields = {"sizes": SIZES[:1], "algorithms": ["library"], "n_blocks": 2}
    cut = write_run(tmp_path, **fields, finish=False).path
    for words, sentence in (
        ((tmp_path / "none.jsonl",), "none.jsonl"),
        ((cut,), "jsonl is left out: incomplete"),
    ):
        status, _, err = fit(*words)
        assert (status, sentence in err, err.count("\n")) == (2, True, 1)
