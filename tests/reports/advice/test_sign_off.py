"""The page of `reports procure` as a department signs it: what was judged, the cards, the
throughput for several users, and whom to ask for what is missing."""

import hashlib
import json
import re

import pytest

from reports.advice.best_split import Speed, nodes_needed
from reports.advice.procurement import evaluate
from reports.advice.spans import Span
from tests.reports.forged_archive import edited
from tests.reports.synthetic_archive import OTHER, packed, write_archive
from tests.reports.synthetic_candidates import (
    MODELS,
    ONE_BOX,
    ask,
    figure,
    spec,
    unmeasured,
    verdict_of,
)
from wiretax import __version__

pytestmark = pytest.mark.unit

CHAT = '[models]\nchat = {model = "llama-3.1-8b", weights = "q4", users = 32}\n'
COSTS = """lifetime_years = 4
hours_per_day = 8
electricity = {amount = 0.30, currency = "EUR", per = "kWh"}
"""
CARD = {
    "date": "2026-11-20T08:00:00Z",
    "status": 0,
    "archive": "ab" * 32,
    "serial": "6e0c5d1f",
    "gpu": "AMD Radeon AI PRO R9700",
    "machine": None,
}


def page_of(folder, capsys, *arguments):
    """The page, without the signs that it has for `>=` and such."""
    ask(capsys, *arguments, "--html", folder / "page.html")
    return (folder / "page.html").read_text()


def test_the_page_names_all_that_was_judged(launches, tmp_path, capsys):
    """Nobody could sign it: it named neither its date nor what it had read."""
    path = spec(launches, ["16K <= 8 us"], COSTS + ONE_BOX)
    page = page_of(tmp_path, capsys, path)
    for judged in (path, *launches.glob("box/*.jsonl")):
        assert hashlib.sha256(judged.read_bytes()).hexdigest() in page
    assert f"by Wiretax {__version__} from the spec with" in page
    assert re.search(r"Made on \d{4}-\d\d-\d\d \d\d:\d\d UTC", page)
    assert "requirements = [&#39;16K &lt;= 8 us&#39;]" in page
    assert '<span class="sign">Signature</span>' in page
    for stated in ("4 years of 8 hours a day", "0.3 EUR per kWh", "5200 EUR", "600 W"):
        assert stated in page.replace("\xa0", " ")
    _, out, _ = ask(capsys, path, "--json")
    answer = json.loads(out)
    assert answer["spec_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (answer["version"], len(answer["candidates"][0]["files"])) == (__version__, 6)


def test_the_axis_says_which_side_meets_the_requirement(launches, tmp_path, capsys):
    """It said "below | above": right was good for GB/s and bad for us."""
    page = page_of(tmp_path, capsys, spec(launches, ["16K <= 8 us", "32M >= 5 GB/s"]))
    assert "misses | meets, lines at" in page
    values = re.findall(r'class="better end" d="M(-?[\d.]+) ', page)
    assert [float(value) > 0 for value in values] == [True, True]
    page = page_of(tmp_path, capsys, spec(launches, ["16K <= 1 us", "32M >= 500 GB/s"]))
    values = re.findall(r'class="worse end" d="M(-?[\d.]+) ', page)
    assert [float(value) < 0 for value in values] == [True, True]


def test_the_seller_of_a_machine_is_asked_for_an_archive(launches, tmp_path, capsys):
    """The page said to type mpirun on a machine that nobody owns."""
    page = page_of(tmp_path, capsys, spec(tmp_path, ["16K <= 5 us"], MODELS + unmeasured("box")))
    assert "Ask the seller of box for a survey archive." in page
    assert "<code>python -m bench.survey -n 2</code>" in page
    assert "mpirun" not in page
    page = page_of(tmp_path, capsys, spec(launches, ["64K <= 8 us"]))
    assert "<code>mpirun -n 2 python -m bench.allreduce --out box</code>" in page
    assert "Ask the seller" not in page


def test_an_archive_is_one_file_and_its_seller_is_asked(launches, tmp_path, capsys):
    runs = {
        f"results/allreduce/{path.name}": path.read_bytes() for path in launches.glob("box/*.jsonl")
    }
    archive = packed(tmp_path / "seller.tar.gz", runs)
    path = spec(tmp_path, ["64K <= 8 us"], ONE_BOX.replace("box/*.jsonl", archive.name))
    page = page_of(tmp_path, capsys, path)
    assert page.count(hashlib.sha256(archive.read_bytes()).hexdigest()) == 1
    assert "Ask the seller of box for a survey archive." in page


def test_the_cards_are_those_that_qualify_judged(launches, tmp_path, capsys):
    [box] = evaluate(spec(launches)).appraisals
    own = {"machine": {"id": box.launches.runs[0].run.machine_id}}
    lines = [CARD | own, CARD | {"serial": None, "status": 1}]
    (launches / "box.lines").write_text("\n".join(map(json.dumps, lines)))
    path = spec(launches, text=ONE_BOX + 'qualified = ["box.lines"]\n')
    [box] = evaluate(path).appraisals
    assert [tuple(card.values())[:1] + tuple(card.values())[3:6] for card in box.cards] == [
        ("6e0c5d1f", "PASS", "2026-11-20T08:00:00Z", "of the runs"),
        ("unknown", "FAIL", "2026-11-20T08:00:00Z", "other than that of the runs"),
    ]
    page = page_of(tmp_path, capsys, path)
    assert "6e0c5d1f" in page
    assert hashlib.sha256((launches / "box.lines").read_bytes()).hexdigest() in page


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([0, 0], ("PASS", "")),
        ([0, 1], ("FAIL", "bench.qualify rejected 1 of 2 cards: card1")),
        ([3, 0], ("UNDECIDED", "bench.qualify could not judge 1 of 2 cards: card0")),
    ],
)
def test_a_card_that_qualify_rejected_fails(launches, statuses, expected):
    """A page said "meets every requirement" above the card that goes back to the seller."""
    lines = [CARD | {"serial": f"card{at}", "status": each} for at, each in enumerate(statuses)]
    (launches / "box.lines").write_text("\n".join(map(json.dumps, lines)))
    path = spec(launches, ["16K <= 8 us"], ONE_BOX + 'qualified = ["box.lines"]\n')
    word, reason = verdict_of(evaluate(path))
    assert (word, reason[: len(expected[1])]) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty: bench.qualify prints a line for each card"),
        ("{", "line 1, is not of bench.qualify: "),
        ('{"date": 1}', "line 1, is not of bench.qualify: Expected `str`"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_lines_that_are_not_of_qualify_are_refused(tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / "lines").write_text(content)
    box = unmeasured("box", qualified='["lines"]')
    status, out, err = ask(capsys, spec(tmp_path, text=MODELS + box))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("users", ["0", "100_001", "1.5", '"many"'])
def test_a_wrong_number_of_users_is_refused(tmp_path, capsys, users):
    text = CHAT.replace("32", users) + unmeasured("box")
    status, out, err = ask(capsys, spec(tmp_path, text=text))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "users" in err


def test_the_throughput_of_several_users_is_judged_and_its_nodes_are_counted(tmp_path, capsys):
    """A spec could ask for one chat alone."""
    box = unmeasured("box", gpus=1)
    one = evaluate(spec(tmp_path, text=CHAT.replace(", users = 32", "") + box))
    text = CHAT + box
    all_users = evaluate(spec(tmp_path, text=text))
    of_one, of_all = (figure(each, "chat").value for each in (one, all_users))
    assert 4 * of_one < of_all < 32 * of_one
    assert (
        f"{of_all:.0f} tok/s" in verdict_of(evaluate(spec(tmp_path, ["chat >= 1 tok/s"], text)))[1]
    )
    limit = f"chat >= {1.5 * of_all:.0f} tok/s"
    procurement = evaluate(spec(tmp_path, [limit], text))
    nodes = figure(procurement, f"nodes for {limit}")
    word, reason = verdict_of(procurement)
    assert word == "FAIL"
    assert reason.endswith(f"; it takes {nodes.limit_text}")
    assert nodes.value > 1
    assert nodes.text.startswith(f"at least {nodes.value:.0f} nodes")
    assert nodes.note.split(", likely")[0] == f"{nodes.value * 5200:.0f} EUR"
    assert nodes.text.split("\n")[0] in ask(capsys, spec(tmp_path, [limit], text))[1]
    # Not even a node for each user has so many.
    none = f"chat >= {33 * of_one:.0f} tok/s"
    assert figure(evaluate(spec(tmp_path, [none], text)), f"nodes for {none}").text == "-"


def test_many_users_have_a_price_on_as_many_nodes_as_they_take(tmp_path):
    """A candidate too small for 200 users had no price of a million tokens, though it named the
    nodes: 16 pairs of cards could not be held against four large ones."""
    limit = "chat >= 2000 tok/s"
    models = CHAT.replace("llama-3.1-8b", "llama-3.1-70b").replace("32", "200")
    procurement = evaluate(spec(tmp_path, [limit], COSTS + models + unmeasured("box")))
    nodes = figure(procurement, f"nodes for {limit}")
    cost = figure(procurement, f"nodes for {limit}, million tokens")
    euros_an_hour = 5200 / (4 * 365.25 * 8) + 0.6 * 0.30
    assert cost.value == pytest.approx(nodes.low * euros_an_hour / 7.2)  # million tokens an hour
    assert cost.likely.high == pytest.approx(nodes.likely.high * euros_an_hour / 7.2)
    assert nodes.note.endswith(
        f", likely {nodes.likely.low * 5200:.0f} to {nodes.likely.high * 5200:.0f}"
    )


def test_prices_are_exact_to_the_cent(tmp_path, capsys):
    """A signed page said `1.23457e+06 EUR`."""
    price = "{amount = 1234567.5, currency = 'EUR', date = 2026-11-01}"
    path = spec(tmp_path, text=COSTS + CHAT + unmeasured("box", price=price))
    page = page_of(tmp_path, capsys, path).replace("\xa0", " ")
    assert evaluate(path).headline == "No requirement applies: box for 1234567.50 EUR"
    assert page.count("1234567.50 EUR over 4 years") == 1
    assert "e+06" not in page


def shorter(line):
    """What a seller might do to a run: each time a third of what it was."""
    for name in ("total_us", "mean_us") if line["kind"] == "block" else ():
        line[name] /= 3


@pytest.mark.parametrize(
    ("change", "verdict", "said"),
    [
        (lambda _: None, "PASS", ""),
        (shorter, "UNDECIDED", "seller.tar.gz is doubtful: results/allreduce/"),
    ],
)
def test_a_doubtful_archive_passes_nothing(tmp_path, change, verdict, said):
    """A seller who divided all times by three, and wrote the hashes anew, had the best machine."""
    packed(tmp_path / "seller.tar.gz", edited(change))
    path = spec(tmp_path, ["16K <= 60 us"], ONE_BOX.replace("box/*.jsonl", "seller.tar.gz"))
    word, reason = verdict_of(evaluate(path))
    assert word == verdict
    assert reason.startswith(said)


def test_the_page_tells_when_and_by_which_version_each_candidate_was_measured(tmp_path, capsys):
    """Archives of two years ago stood beside those of today."""
    write_archive(tmp_path / "seller.tar.gz", machine_id=OTHER)
    path = spec(tmp_path, text=ONE_BOX.replace("box/*.jsonl", "seller.tar.gz"))
    assert f"runs 5 2026-11-20, Wiretax {__version__}" in ask(capsys, path)[1]


def test_nodes_share_the_users_evenly():
    """10 users with 100 tok/s each on a node of up to three users: four nodes, not ten."""

    def speed_of(users):
        if users > 3:
            return None
        reached = Span(100.0 * users, low=50.0 * users, high=100.0 * users)
        return Speed(1, 300.0, None, 300.0, reached)

    assert nodes_needed(speed_of, 10, 1000)[0] is None  # not at the low end
    assert nodes_needed(speed_of, 10, 500)[0] == Span(4.0, low=4.0, high=4.0)


def test_the_energy_of_a_million_tokens_is_power_by_speed(launches):
    procurement = evaluate(spec(launches))
    speed, energy = (figure(procurement, name) for name in ("70b-q4", "70b-q4, energy"))
    assert energy.value == pytest.approx(600 / 3.6e6 * 1e6 / speed.value)
    assert energy.text.startswith("at least ")
