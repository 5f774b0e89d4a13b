"""The charts of a run's steps: what they claim, from how many steps, and of which files."""

import json
from base64 import b64encode

import numpy as np
import pytest

from reports.site.run_page import sweep_sections
from tests.reports.archived import unpack
from tests.reports.site.test_dashboard import Read
from tests.reports.synthetic_run import rewrite, rewrite_head, write_run
from tests.reports.synthetic_site import make_site
from wiretax.record.histogram import steps_of
from wiretax.record.result import read

pytestmark = pytest.mark.unit

SMALL = {"sizes": [16384, 1 << 20], "algorithms": ["library", "auto"], "modes": ["isolated"]}


def run_with_steps(folder, steps_us, **fields):
    """Writes a run each of whose blocks has the steps that `steps_us` says."""

    def change(block):
        own_us = steps_us(block)
        block.steps, block.n = steps_of(own_us), len(own_us)
        return block

    return write_run(folder, change=change, **{**SMALL, "n_blocks": 12, **fields})


def alike(n):
    """Steps of a block, of which 2 % take five times as long."""
    return lambda block: np.where(np.arange(n) % 50 == 49, 50.0, 10.0)


def percentiles(result):
    """The section of percentiles, its charts by the size that the reader chooses, and the chart
    over sizes, if there is one."""
    (section,) = [each for each in sweep_sections(result) if "Percentiles" in each.heading]
    by_choice = {chart.choice: chart for chart in section.charts}
    return section, by_choice, by_choice.pop("", None)


def line_of(chart, name):
    (line,) = [line for line in chart.lines if line.name == name]
    return line.points[0]


def test_percentiles_are_those_of_all_blocks(tmp_path):
    """Blocks in another state of the link are left out of all other figures. Here they have all
    slow steps, so a picture without them would hide the tail."""
    result = run_with_steps(
        tmp_path,
        lambda block: np.full(100, 30.0 if block.round == 3 else 10.0) + np.linspace(0, 1, 100),
        fast_rounds=[3],
    )
    assert len(result.counted.by_case[1]) == 11
    assert result.cases[1].n_steps == 12 * 100
    _, charts, _ = percentiles(result)
    chart = charts["16 KiB"]
    of_all_us = np.concatenate([np.full(1100, 10.0), np.full(100, 30.0)])
    of_all_us += np.tile(np.linspace(0, 1, 100), 12)
    for one_in in (2, 10, 100):
        us = line_of(chart, "auto")[chart.x.index(one_in)]
        true_us = np.quantile(of_all_us, 1 - 1 / one_in, method="inverted_cdf")
        assert us == pytest.approx(true_us, rel=0.01)


def test_a_line_ends_where_fewer_than_ten_steps_take_longer(tmp_path):
    """At a larger size, or of the slower library, a run has fewer steps, of which the longest are
    chance."""
    result = run_with_steps(tmp_path, lambda block: alike(32 if block.case == 0 else 250)(block))
    _, charts, _ = percentiles(result)
    chart = charts["16 KiB"]
    ends = {line.name: max(np.array(chart.x)[np.isfinite(line.points[0])]) for line in chart.lines}
    assert ends == {"auto": 250, "MPICH 5.0.2": 31.5}  # a tenth of 3,000 and of 384 steps


def test_too_few_steps_are_a_gap_and_say_how_many_it_takes(tmp_path):
    result = run_with_steps(
        tmp_path, lambda block: alike(5 if block.case > 1 else 100)(block), n_blocks=16
    )
    section, charts, over_sizes = percentiles(result)
    assert over_sizes.title == "P50 and P99 of a call"
    assert np.isfinite(line_of(over_sizes, "P99 auto")).tolist() == [True, False]
    assert np.isfinite(line_of(over_sizes, "P50 auto")).tolist() == [True, True]
    assert line_of(over_sizes, "P50 auto")[0] == pytest.approx(10, rel=0.01)
    assert line_of(over_sizes, "P99 auto")[0] == pytest.approx(50, rel=0.01)
    assert "P99 1,000" in section.sentences[0]
    assert "80 to 1,600" in section.sentences[0]
    assert [*charts] == ["16 KiB", "1 MiB"]

    few = run_with_steps(tmp_path / "few", lambda block: alike(1)(block))
    section, charts, over_sizes = percentiles(few)
    assert (charts, over_sizes) == ({}, None)
    assert "Calls needed: P50 20" in section.sentences[0]


def test_a_chain_is_a_step_as_a_whole(tmp_path):
    """Its time is that of 160 calls, and must not be read as that of one."""
    result = run_with_steps(tmp_path, alike(100), modes=["chained"], sizes=[16384])
    section, charts, over_sizes = percentiles(result)
    assert section.heading == "Percentiles of a chain of 160 calls"
    assert charts["16 KiB"].title == "16 KiB: time of a chain of 160 calls by percentile"
    assert section.sentences[0].startswith("Chains needed: P50 20, ")
    assert over_sizes is None, "one size has no line"


def test_runs_without_steps_have_the_page_that_they_had(tmp_path):
    folder = unpack(tmp_path, "xeon")
    for path in sorted(folder.glob("*allreduce*.jsonl"))[:2]:
        headings = [section.heading for section in sweep_sections(read(path))]
        assert headings == ["Speed and time at each size", "Each size"]


def test_an_import_is_not_told_an_option_of_ours(tmp_path):
    """Timing lines of any program can have steps; its own command says how many."""
    ours = run_with_steps(tmp_path, alike(100))
    said = percentiles(ours)[0].sentences[0]
    rewrite_head(ours.path, imported_from="box.log")
    foreign = percentiles(read(ours.path))[0].sentences[0]
    assert said == f"{foreign.removesuffix('.')}; --iters sets how many."


def test_a_run_that_was_cut_off_has_its_percentiles(tmp_path):
    result = run_with_steps(tmp_path, alike(100), finish=False)
    _, charts, _ = percentiles(result)
    assert line_of(charts["1 MiB"], "auto")[-1] == pytest.approx(50, rel=0.01)


def test_steps_of_one_time_are_a_flat_line(tmp_path):
    result = run_with_steps(tmp_path, lambda block: np.full(100, 4.25))
    _, charts, _ = percentiles(result)
    assert {*line_of(charts["16 KiB"], "auto")} == {4.25}
    data = json.loads(charts["16 KiB"].json)
    assert data["isLog"] is False


def test_a_file_with_damaged_steps_is_one_sentence_in_a_store(tmp_path):
    """The pages of all other runs must still be made."""
    store, run_id = tmp_path / "results", "2026-11-{}T06-15-00Z-allreduce-made"
    run_with_steps(store, alike(100), run_id=run_id.format(20))
    path = run_with_steps(store, alike(100), run_id=run_id.format(21)).path

    def damage(line):
        if line["kind"] == "block":
            line["steps"] = [1.0, 2.0, b64encode(bytes([0xFF] * 9 + [1])).decode()]

    rewrite(path, damage)
    site = make_site(store, tmp_path / "site")
    index = Read(site / "index.html")
    assert index.text.count("steps are damaged") == 1
    (page,) = site.glob("run-*.html")
    assert "Percentiles of a call" in Read(page).text


def test_a_line_has_few_points_however_many_steps_there_are(tmp_path):
    """A page of many sizes must open at once."""
    steps_us = np.random.default_rng(1).lognormal(3, 0.3, 20_000)
    result = run_with_steps(tmp_path, lambda block: steps_us, sizes=[16384])
    _, charts, _ = percentiles(result)
    chart = charts["16 KiB"]
    assert chart.x[-1] == 20_000
    assert {2, 10, 100, 1000} < {*chart.x}
    assert len(chart.x) < 60
    assert len(chart.json) < 3_000
