"""The dashboard says where a tail changed although the median did not."""

import pytest

from reports.site.shared import find
from reports.site.tail_events import tail_text
from tests.reports.site.test_dashboard import Read
from tests.reports.synthetic_nights import write_night
from tests.reports.synthetic_site import make_site

pytestmark = pytest.mark.unit

RUNS, STEP = 36, 24
SMALL_TWO_SHOT = 1  # its number among the cases


def nights(folder, slow, **later):
    """Nights from one of which on some steps are slow, and these fields differ."""
    for night in range(RUNS):
        is_later = night >= STEP
        fields = later if is_later else {}
        write_night(folder, night, slow if is_later else 0.001, sizes=[16384], **fields)
    return folder


def said_of(folder):
    return [tail_text(event) for event in find(folder).history.tails]


def test_a_tail_that_grew_is_on_the_card_and_has_its_chart(tmp_path):
    """The page says "Steady" of its medians; nobody would look for the tail."""
    folder = nights(tmp_path / "results", {SMALL_TWO_SHOT: 0.03})
    site = make_site(folder, tmp_path / "site")
    page = Read(site / "index.html")
    assert page.text.count("P99 of 16 KiB two_shot: 4.") == 2  # beside the verdict, and on the card
    [history] = site.glob("history-*.html")
    for each in (page, Read(history)):
        assert "P99 of 16 KiB two_shot is 3" in each.text
        assert any(
            "P99 of 16 KiB two_shot;" in attrs.get("aria-label", "") for attrs in each.all("div")
        )
    links = [attrs["href"] for attrs in page.all("a") if attrs["href"].startswith("run-")]
    assert links
    assert all((site / link).is_file() for link in links)  # of the runs on both sides


def test_a_tail_that_grew_with_its_median_is_told_once(tmp_path):
    """Each slower kernel would be two findings."""
    assert not said_of(nights(tmp_path, 0.001, scale=1.3))


def test_a_faster_median_does_not_hide_a_worse_tail(tmp_path):
    [said] = said_of(nights(tmp_path, 0.03, scale=0.8))
    assert said.startswith("P99 of 2 cases: 3.")


def test_runs_without_steps_have_no_tails(tmp_path):
    assert not said_of(nights(tmp_path, 0.03, change=lambda block: block))
