"""Which runs have a picture, and what it claims."""

import pytest

from reports.__main__ import main
from tests.launch import few
from tests.reports.synthetic_benchmarks import write_benchmark


@pytest.mark.parametrize("name", few(["link", "tune", "decode", "alltoall"], 2))
def test_only_a_sweep_over_sizes_has_a_picture(tmp_path, capsys, name):
    write_benchmark(tmp_path, name)
    assert main(["show", str(tmp_path / "run.jsonl"), "--plot", str(tmp_path / "a.svg")]) == 2
    assert "only a sweep over sizes has a picture" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


def test_without_matplotlib_a_picture_is_a_sentence_and_pages_have_none(
    tmp_path, monkeypatch, capsys
):
    """As after `pip install .`, which leaves out what only pictures need."""
    monkeypatch.setattr("reports.tables.figure.find_spec", lambda name: None)
    results, picture, site = tmp_path / "results", tmp_path / "run.svg", tmp_path / "site"
    results.mkdir()
    write_benchmark(results, "allreduce")
    assert main(["show", str(results), "--plot", str(picture)]) == 2
    sentence = "reports: pictures are drawn by matplotlib: pip install 'matplotlib>=3.10'\n"
    assert capsys.readouterr().err == sentence
    assert not picture.exists()
    assert main(["dashboard", str(results), "--out", str(site)]) == 0
    assert not [*site.glob("*.png")]
    assert "og:image" not in (site / "index.html").read_text()
