"""Figures with ends: their arithmetic by hand, and their form in JSON and in text."""

from math import inf

import msgspec
import pytest

from reports.advice.spans import Cases, Span

pytestmark = pytest.mark.unit

US = Span(4.0, low=2.0, high=8.0)


def test_an_end_of_a_quotient_or_a_difference_comes_from_the_other_end():
    """A rate whose low end came from the low end of a time would be an interval upside down."""
    assert Span(4.0, low=2.0, high=8.0) == 16 / US
    assert US / Span(2.0, low=1.0, high=4.0) == Span(2.0, low=0.5, high=8.0)
    assert US - Span(2.0, low=1.0, high=2.0) == Span(2.0, low=0.0, high=7.0)
    assert Span(13.0, low=7.0, high=25.0) == 3 * US + 1
    assert US * Span(1.0, low=0.5, high=2.0) == Span(4.0, low=1.0, high=16.0)


def test_launches_that_differ_wildly_have_a_rate_without_an_upper_end():
    assert 1 / Span(1.0, low=0.0, high=2.0) == Span(1.0, low=0.5, high=inf)


def test_the_best_of_a_time_is_its_low_end_and_of_a_rate_its_high_end():
    """Confused, a prediction at best would be that at worst."""
    assert Cases(1.0, best=0.8, worst=1.2).low_is_best() == Span(1.0, low=0.8, high=1.2)
    assert Cases(1.0, best=1.1, worst=0.5).high_is_best() == Span(1.0, low=0.5, high=1.1)


def test_each_end_is_limited_by_itself():
    assert US.at_least(3) == Span(4.0, low=3.0, high=8.0)
    assert US.at_most(Span(5.0, low=1.0, high=6.0)) == Span(4.0, low=1.0, high=6.0)


def test_a_span_is_an_array_in_json_and_a_text_without_ends_that_look_alike():
    """Programs read `us[0]` of advise."""
    assert msgspec.json.encode({"us": US}) == b'{"us":[4.0,2.0,8.0]}'
    assert US.text(" us") == "4.00 us [2.00 8.00]"
    assert Span(4.0, low=3.9999, high=4.0001).text(" us") == "4.00 us"
