"""What `reports procure` says of prices, power and the cost of tokens."""

import json

import pytest
from msgspec.structs import astuple

from reports.advice.procurement import evaluate
from reports.tables.sentences import number
from tests.reports.synthetic_candidates import (
    MODELS,
    ONE_BOX,
    ask,
    figure,
    spec,
    unmeasured,
    write_launches,
)
from tests.reports.synthetic_run import rewrite

pytestmark = pytest.mark.unit


COSTS = """lifetime_years = 4
hours_per_day = 8
electricity = {amount = 0.30, currency = "EUR", per = "kWh"}
"""


def with_power(folder, *powers_w, shared=False):
    """Gives the runs in the folder these ranges of power on both GPUs, or on the one that both
    ranks share."""
    for path, power_w in zip(sorted(folder.glob("2026*.jsonl")), powers_w, strict=False):
        gpus = [
            {"rank": rank, "bus_id": f"0000:0{3 if shared else 3 + rank}:00.0"}
            | {"start": {}, "end": {}, "power_w": power_w, "looks": 17}
            for rank in range(2)
        ]

        def add(line, gpus=gpus):
            if line["kind"] == "end":
                line["gpus"] = gpus

        rewrite(path, add)


def test_measured_power_replaces_the_specs(tmp_path, capsys):
    """A buyer pays for what the machine draws, not for its data sheet."""
    write_launches(tmp_path / "box", 6)
    text = ONE_BOX + "power_w = 640\n"
    sheet = figure(evaluate(spec(tmp_path)), "power of the GPUs")
    assert (sheet.value, sheet.note) == (600, "data sheet")
    told = figure(evaluate(spec(tmp_path, text=text)), "power of the GPUs")
    assert (told.value, told.note) == (640, "spec")
    with_power(tmp_path / "box", (100, 150, 200), (90, 170, 180))
    drawn = figure(evaluate(spec(tmp_path, text=text)), "power of the GPUs")
    assert (drawn.value, drawn.low, drawn.high) == (320, 180, 400)
    note = "measured after rounds of all-reduces in 2 runs, range"
    assert drawn.note == f"{note}; spec: 640 W"
    _, out, _ = ask(capsys, spec(tmp_path), "--html", tmp_path / "page.html")
    assert f"320 W [180 400] {note}" in out
    assert note in (tmp_path / "page.html").read_text()
    with_power(tmp_path / "box", (100, 150, 200), (90, 170, 180), shared=True)
    assert figure(evaluate(spec(tmp_path)), "power of the GPUs").value == 160


def test_the_cost_of_a_million_tokens_by_hand(launches, capsys):
    """5,200 EUR over 4 x 365.25 x 8 hours are 0.44490 EUR an hour, and 600 W at 0.30 EUR/kWh are
    0.18 EUR; both by the tokens of an hour."""
    path = spec(launches, text=COSTS + ONE_BOX)
    procurement = evaluate(path)
    speed, cost = figure(procurement, "70b-q4"), figure(procurement, "70b-q4, million tokens")
    hourly = 5200 / (4 * 365.25 * 8) + 0.6 * 0.30
    assert hourly == pytest.approx(0.62490, abs=1e-5)
    for got, tokens_per_s in ((cost.value, speed.value), (cost.low, speed.high)):
        assert got == pytest.approx(hourly / (3600 * tokens_per_s) * 1e6)
    assert cost.low < cost.value < cost.high
    for got, tokens_per_s in zip(astuple(cost.likely), astuple(1 / speed.likely), strict=True):
        assert got == pytest.approx(hourly / 3600 * 1e6 * tokens_per_s)
    assert cost.unit == "EUR per million tokens"
    assert cost.note == "price and electricity, power: data sheet"
    page = launches / "cost.html"
    _, out, _ = ask(capsys, path, "--html", page)
    words = f"at least {cost.value:.2f} EUR per million tokens"
    said = "over 4 years of 8 hours a day, and the electricity of the GPUs at 0.3 EUR per kWh"
    assert words in out
    assert said in out
    assert said in page.read_text()
    assert f">{cost.value:.2f}" in page.read_text().replace(">\n", ">")
    _, out, _ = ask(capsys, path, "--json")
    [found] = [
        each for each in json.loads(out)["candidates"][0]["figures"] if "million" in each["name"]
    ]
    assert found["value"] == pytest.approx(cost.value)
    assert "EUR per million tokens" not in ask(capsys, spec(launches))[1]


@pytest.mark.parametrize(
    ("good", "bad", "sentence"),
    [
        (
            "hours_per_day = 8",
            "hours_per_day = 25",
            "Expected `float` <= 24.0 - at `$.hours_per_day`",
        ),
        ("hours_per_day = 8", "hours_per_day = 0", "Expected `float` > 0.0 - at `$.hours_per_day`"),
        ("lifetime_years = 4", "lifetime_years = -1", "> 0.0 - at `$.lifetime_years`"),
        ("lifetime_years = 4", "lifetime_years = nan", "at `$.lifetime_years`"),
        ("lifetime_years = 4\n", "", "the cost of tokens takes lifetime_years too"),
        ("0.30", "-0.30", "Expected `float` >= 0.0 - at `$.electricity.amount`"),
        ('"kWh"', '"MWh"', "Invalid enum value 'MWh' - at `$.electricity.per`"),
        ('0.30, currency = "EUR"', '0.30, currency = "USD"', "in EUR and electricity in USD"),
    ],
)
def test_a_bad_cost_is_refused_in_one_sentence(launches, capsys, good, bad, sentence):
    path = spec(launches, text=COSTS + ONE_BOX)
    text = path.read_text()
    assert good in text
    path.write_text(text.replace(good, bad, 1))
    status, out, error = ask(capsys, path)
    assert (status, out, error.count("\n")) == (2, "", 1), error
    assert sentence in error


def test_prices_of_a_token_are_compared_of_each_currency(tmp_path, capsys):
    """Whether one larger card costs less than two is what a buyer asks first."""
    boxes = unmeasured("two") + unmeasured("large", gpu='"rtxpro6000"', gpus=1)
    yen = '{amount = 9, currency = "JPY", date = 2026-11-01}'
    path = spec(tmp_path, text=MODELS + boxes + unmeasured("yen", price=yen))
    two, large = (figure(evaluate(path), "70b-q4", machine) for machine in range(2))
    texts = [
        f"{name} likely {number(5200 / speed.likely.high)} to {number(5200 / speed.likely.low)}"
        for name, speed in (("large", large), ("two", two))
    ]
    words = f"EUR per token/s of 70b-q4: {'; '.join(texts)}."
    _, text, _ = ask(capsys, path, "--html", tmp_path / "page.html")
    assert words in text
    assert words in (tmp_path / "page.html").read_text()
    assert text.startswith(
        "No requirement applies: two for 5200 EUR, the cheapest of 2 in EUR; yen for 9 JPY. "
        "EUR per "
    )
    price = figure(evaluate(path), "70b-q4, price", machine=1).text
    assert price == f"at least {5200 / large.value:.0f} EUR per token/s\n{texts[0][6:]}"
    assert "yen 0." not in text
