"""The steps of a run, from its file to tables, JSON, CSV and a DataFrame."""

import csv
import io
import json
import re

import pytest

import wiretax
from reports.tables import sentences
from reports.tables.step_table import step_text
from reports.tables.table import render
from tests.reports.archived import unpack
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_steps import CALL_US, N_BLOCKS, N_STEPS, write_steps
from wiretax.record.effective_steps import LEAST_BLOCKS
from wiretax.record.schema import Estimate
from wiretax.record.tails import STEP_FIELDS

pytestmark = pytest.mark.unit

STEPS = [name for field in STEP_FIELDS for name in (field, f"{field}_ci_low", f"{field}_ci_high")]


def step_rows(text):
    """The title of the last table of `show --long`, and by algorithm its cells from the steps on,
    without intervals."""
    title, *lines = text.split("\n\n")[-1].splitlines()
    cells = [re.split("plain|copied", line)[1] for line in lines if "KiB" in line]
    found = [re.findall(r"- \(\d+\)|[\d.]+", re.sub(r" \[[^]]*\]", "", each)) for each in cells]
    return title, dict(zip(CALL_US, found, strict=True))


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which the table is in one part."""
    monkeypatch.setattr(sentences, "TABLE_WIDTH", 200)


@pytest.mark.usefixtures("wide")
def test_the_long_table_has_the_steps_and_how_many_a_percentile_takes(tmp_path):
    text = render(write_steps(tmp_path, 50), long=True)
    title, rows = step_rows(text)
    assert title == "isolated steps: us of a call with reading its result; slow: over twice P50"
    for algorithm, (steps, p50, _, p99, p999, worst, slow) in rows.items():
        own_us, is_slow = CALL_US[algorithm], algorithm == "auto"
        assert (int(steps), p999) == (N_BLOCKS * N_STEPS, "- (10000)")
        assert float(p50) == pytest.approx(own_us, rel=0.02)
        for tail_us in (p99, worst):
            assert float(tail_us) == pytest.approx(own_us * (5 if is_slow else 1), rel=0.05)
        assert float(slow) == (2.0 if is_slow else 0.0)
    assert "- (n): this percentile takes n steps\n" in text


def test_an_unknown_end_of_an_interval_is_a_dash(tmp_path):
    result = write_steps(tmp_path, 50)
    case = result.cases[1]
    case.step_p99_us = Estimate(value=25.0, ci_low=5.1)
    case.slow_share = Estimate(value=0.02, ci_low=0.015, ci_high=0.026)
    assert step_text(case, "step_p99_us") == "25.0 [5.10 -]"
    assert step_text(case, "slow_share") == "2.00 [1.50 2.60]"
    assert "[a -]: an upper end takes more steps\n" in render(result, long=True)


def test_steps_without_intervals_say_how_many_blocks_they_take(tmp_path):
    assert "without [ ]" not in render(write_steps(tmp_path, n_blocks=LEAST_BLOCKS), long=True)
    few = render(write_steps(tmp_path / "few", n_blocks=LEAST_BLOCKS - 1), long=True)
    note = f"without [ ]: fewer than {LEAST_BLOCKS} blocks, or steps too alike\n"
    assert few.endswith(note)
    # Blocks are enough, but the steps are worth too few independent ones for this percentile.
    alike = write_steps(tmp_path / "alike", n_blocks=LEAST_BLOCKS)
    alike.cases[1].step_p99_us = Estimate(value=5.1)
    assert render(alike, long=True).endswith(note)


def test_footnotes_stand_below_the_last_part_of_a_table_that_is_cut(tmp_path):
    """The dashes that they explain are in the later parts."""
    text = render(write_steps(tmp_path, 50), long=True)
    assert re.search(r"- \(10000\).*- \(n\): this percentile takes n steps\n$", text, re.DOTALL)


@pytest.mark.usefixtures("wide")
def test_a_chain_is_shown_as_a_token_sees_it(tmp_path):
    """The time of the same case is per call: a reader would take one for the other."""
    title, rows = step_rows(render(write_steps(tmp_path, mode="chained"), long=True))
    assert (
        title == "chained steps: us of a whole chain of 160 calls and links; slow: over twice P50"
    )
    assert float(rows["auto"][1]) == pytest.approx(160 * 5, rel=0.01)


def test_steps_are_null_where_none_were_stored(tmp_path, reports):
    """Runs of older versions and logs of other programs: null, and never 0."""
    older = sorted(unpack(tmp_path / "old", "h200").glob("*.jsonl"))[0]
    for path in (older, write_log(tmp_path, {"us": 5})):
        assert wiretax.load(path).reindex(columns=STEPS).isna().all(axis=None)
        cases = json.loads(reports("show", path, "--json")[1])["cases"]
        assert {case[field] for case in cases for field in STEP_FIELDS} == {None}
        assert not {*STEPS} & {*next(csv.reader(io.StringIO(reports("export", path, "--csv")[1])))}
        assert "steps" not in reports("show", path, "--long")[1]


def test_steps_go_through_json_csv_and_a_frame(tmp_path, reports):
    path = write_steps(tmp_path, 50).path
    cases = json.loads(reports("show", path, "--json")[1])["cases"]
    rows = [*csv.DictReader(io.StringIO(reports("export", path, "--csv")[1]))]
    loaded = wiretax.load(path).to_dict("records")
    for case, row, frame in zip(cases, rows, loaded, strict=True):
        for field in ("step_p50_us", "step_p99_us", "slow_share"):
            assert case[field]["value"] == float(row[field]) == frame[field], field
        assert case["n_steps"] == int(row["n_steps"]) == frame["n_steps"] == N_BLOCKS * N_STEPS
        assert case["step_p999_us"] is None
        assert "step_p999_us" not in row
    assert cases[1]["slow_share"]["value"] == pytest.approx(1 / 50)
