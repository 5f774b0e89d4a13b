"""What `history` still finds after disturbed nights, and what it says of runs that are too few or
too noisy to find anything: real files, the real command."""

import json

import numpy as np
import pytest

from tests.reports.synthetic_run import disturb, run_id
from tests.reports.trends.test_history import SLOW, write

pytestmark = pytest.mark.unit


@pytest.fixture
def answer(reports):
    """A function that asks, and returns the status and the JSON."""

    def ask(folder, *words):
        status, out, _ = reports("history", folder, "--json", *words)
        return status, json.loads(out)

    return ask


def words_of(found):
    return {each["verdict"] for each in found["series"]}


SIZES = [16384, 32768, 65536, 131072]
CASES = range(2 * len(SIZES))


def write_nights(folder, factor_of):
    """Ninety nights that scatter by 1 %; `factor_of` a night and a case is on top."""
    for night in range(90):
        own = np.exp(np.random.default_rng([4, night]).normal(0, 0.01, len(CASES)))
        slowed = {case: own[case] * factor_of(night, case) for case in CASES}
        write(folder, night, slowed, sizes=SIZES, scale=1.0)


def test_a_past_spell_of_all_cases_does_not_hide_the_change_of_one(tmp_path, answer):
    """Five nights on a warm machine blinded the report for months: a case that then got slower by
    5 % was never told."""

    def factor(night, case):
        spell = 1.2 if 40 <= night < 45 else 1.0
        return spell * (1.05 if case == 3 and night >= 80 else 1.0)

    write_nights(tmp_path, factor)
    status, found = answer(tmp_path, "--since", run_id(70))
    assert (status, [each["since"] for each in found["series"]]) == (1, [run_id(80)])


def test_a_short_spell_of_one_case_is_told(tmp_path, answer):
    """Beside the forty nights before and after it, a week of one case hardly counts."""
    write_nights(tmp_path, lambda night, case: 1.06 if case == 3 and 40 <= night < 48 else 1.0)
    _, found = answer(tmp_path)
    assert {event["run"] for event in found["events"]} == {run_id(40), run_id(48)}


def test_disturbed_nights_do_not_hide_that_the_next_ones_are_as_slow(tmp_path, answer):
    """A neighbour on the host fails no night; but what stays slow when it has left is told."""
    for night in range(27):
        path = write(tmp_path, night, SLOW if night >= 23 else {})
        if 23 <= night < 25:
            disturb(path)
        if night == 24:
            assert answer(tmp_path, "--since", run_id(20))[0] == 0
    status, found = answer(tmp_path, "--since", run_id(20))
    assert (status, {each["since"] for each in found["series"]}) == (1, {run_id(23)})


def test_a_few_nights_are_too_early_but_for_a_large_change(tmp_path, answer):
    """`steady` means that a step would have been found."""
    for night in range(12):
        write(tmp_path, night)
    assert words_of(answer(tmp_path)[1]) == {"too early"}
    for night in (12, 13):
        write(tmp_path, night, dict.fromkeys(range(4), 2.5))
    assert words_of(answer(tmp_path)[1]) == {"worse"}


def test_noisy_nights_are_not_steady(tmp_path, answer):
    draw = np.random.default_rng(8)
    for night in range(30):
        write(tmp_path, night, dict(enumerate(np.exp(draw.normal(0, 0.08, 4)))))
    assert words_of(answer(tmp_path)[1]) == {"noisy"}
