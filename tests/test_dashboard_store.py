"""What the dashboard says of stores that are not as they should be: wrong results, too few blocks, closed folders,
names of other encodings, copies, and campaigns or imports alone."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.synthetic_run import write_run
from tests.synthetic_site import make_site
from tests.test_dashboard import SMALL, Read, page_of

SMALLEST: dict[str, Any] = SMALL | {"sizes": [16384], "algorithms": ["library", "two_shot"]}


def run_id(night: int, name: str = "made") -> str:
    return f"2026-11-{night:02d}T06-15-00Z-allreduce-{name}"


def write_wrong(folder: Path, night: int) -> Path:
    """A run one of whose two cases has wrong results."""
    path = write_run(folder, run_id=run_id(night), **SMALLEST).path
    whole, case, last = path.read_text().rpartition('"status":"ok","time_us"')
    path.write_text(whole.replace('"n_wrong":0,"reason":null', '"n_wrong":3,"reason":"3 wrong"')
                    + case.replace('"ok"', '"wrong"') + last)
    return path


def cards_of(site: Path) -> list[str]:
    """What is worse, what is better, what is unknown, and the last run."""
    cards = (site / "index.html").read_text().partition("</ul>")[0].split("<li>")[1:]
    return [" ".join(re.sub("<[^>]*>", " ", card).split()) for card in cards]


def test_wrong_results_are_worse_until_a_right_run_follows(tmp_path):
    """A board would be green on the morning after a kernel began to sum wrongly."""
    results = tmp_path / "results"
    write_run(results, run_id=run_id(1), **SMALLEST)
    for night in (2, 3):
        write_wrong(results, night)
    worse, _, unknown, _ = cards_of(make_site(results, tmp_path / "site"))
    assert worse.startswith("1 worse")
    assert "WRONG" in worse
    assert unknown.startswith("2 unknown")  # of one run there is no history
    links = [attrs["href"] for attrs in Read(tmp_path / "site" / "index.html").all("a")]
    assert page_of(tmp_path / "site", "run-2026-11-02").name in links
    write_run(results, run_id=run_id(4), **SMALLEST)
    assert cards_of(make_site(results, tmp_path / "site"))[0].startswith("0 worse")


@pytest.mark.parametrize(("options", "why"), [({"n_blocks": 4}, "too few blocks"), ({}, "too few runs"),
                                              ({"status": "incomplete"}, "in no run that a history can use")])
def test_what_nothing_can_be_told_of_is_unknown_and_why(tmp_path, options, why):
    """A store of one short run would look like a clean board."""
    write_run(tmp_path / "results", **SMALLEST | options)
    worse, better, unknown, _ = cards_of(make_site(tmp_path / "results", tmp_path / "site"))
    assert worse.startswith("0 worse 0 of 2")
    assert better.startswith("0 better 0 of 2")
    assert unknown.startswith("2 unknown 2 of 2")
    assert why in unknown
