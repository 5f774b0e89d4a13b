"""docs/answer.md, read as a reader does: its figures are compared with the published tables and
with arithmetic, not with the program that wrote the page."""

import csv
import re
import shlex
from importlib import import_module
from itertools import takewhile

import pytest

from bench.sweep import sweep_parser
from tests.launch import ROOT

PAGE = (ROOT / "docs" / "answer.md").read_text()
pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]

# Words of the text that have digits and are no figures: models, cards, sizes of a test, options.
NAMES = re.compile(
    r"70B|27B|R9700s?|7900 XTX|RTX 3090s?|B70s?|MI50s?|P104-100s?|RCCL|H100|Q[48]|kyuz0|`[^`]*`|"
    r"\([^)]*\)|rank 0|1 to k \+ 1|k \+ 1|2 x layers|step of one card / 2|1000 ms|20 to 200 us|"
    r"make 2\b|below 0"
)


def section(heading: str, page: str = PAGE) -> str:
    """What stands under a heading, up to the next one of its kind."""
    level = heading.partition(" ")[0]
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, f"the page has no {heading}"
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a text, each a list of rows by heading."""
    found = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("| "):
            rows = [line, *takewhile(lambda row: row.startswith("|"), lines)]
            head, _, *cells = ([c.strip() for c in row.strip("|").split(" | ")] for row in rows)
            found.append([dict(zip(head, row, strict=True)) for row in cells])
    return found


def published() -> set[float]:
    """All tokens/s and ms a token of the published tables."""
    figures = set()
    for name in ("serving", "pairs"):
        with (ROOT / "reports" / "references" / f"{name}.csv").open() as file:
            for row in csv.DictReader(file):
                figures |= {
                    float(row[column])
                    for column in ("decode_tok_s", "prefill_tok_s", "tpot_ms")
                    if row.get(column)
                }
    return figures


CASES = (
    "Fits on one card",
    "Does not fit, one chat",
    "Many streams",
    "Long prompts",
    "A mixture of experts",
    "A drafter",
)
RATE = r"([\d.]+)(?= to| \()"  # of `16.6 to 19.3 (8 KiB, graph)`
CHANGE = r"([\d.]+) to ([\d.]+)(?: ms a token)?, ([\d.]+) x"


@pytest.mark.parametrize("case", CASES)
def test_each_pair_is_published_and_its_ratio_is_its_figures(case):
    """A reader follows the source of a pair and must find its figures there."""
    known = published()
    rows = case_rows(case)
    changes = [change for row in rows for change in re.findall(CHANGE, " ".join(row.values()))]
    assert len(changes) >= len(rows) >= 4
    for before, after, ratio in changes:
        for figure in (before, after):
            assert min(abs(float(figure) / each - 1) for each in known) < 2e-3, figure
        times = float(after) / float(before)
        assert min(abs(float(ratio) - each) for each in (times, 1 / times)) < 0.01


def case_rows(case):
    """The rows of a case's pairs, also of those behind a click."""
    found = [rows for rows in tables(section(f"## {case}")) if "model, engine" in rows[0]]
    return [row for rows in found for row in rows]


def decode_ratios(rows):
    found = [re.findall(CHANGE, row["decode, tokens/s"]) for row in rows]
    return [float(ratio) for (*_, ratio), *_ in found]


def test_the_first_screen_has_the_ends_of_the_tables_below_it():
    """The range by which a reader decides is that of the rows, eager ones apart."""
    (screen, *_) = tables(PAGE)
    by_case = {row["your case"].partition("]")[0].strip("["): row for row in screen}
    for case, heading in (
        ("Fits on one card, one chat faster", "Fits on one card"),
        ("Needs both cards, one chat", "Does not fit, one chat"),
    ):
        rows = case_rows(heading)
        eager = [row for row in rows if "eager" in row["model, engine"]]
        others = decode_ratios(row for row in rows if row not in eager)
        said = by_case[case]["tokens/s"]
        assert said.startswith(f"{min(others):.2f} to {max(others):.2f} x")
        assert f"eager {min(decode_ratios(eager)):.2f}" in said
        assert f"({len(rows) - len(eager)} pairs; half of " in said
        assert max(decode_ratios(eager)) < 1 < max(others)


def test_every_link_within_the_page_leads_to_a_heading():
    """A thread that links `#fits-on-one-card` must arrive there, today and after an update."""
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
    assert len(anchors) == len({*anchors})
    assert {*re.findall(r"\]\(#([\w-]+)\)", PAGE)} <= {*anchors}
    assert {
        "fits-on-one-card",
        "does-not-fit-one-chat",
        "many-streams",
        "long-prompts",
        "a-mixture-of-experts",
        "a-drafter",
        "beyond-memory",
        "test-your-own-cards-in-three-minutes",
        "counter-examples",
    } <= {*anchors}


def test_what_a_call_cost_inside_is_what_the_rates_of_its_pair_imply():
    """Recomputed from tokens/s by hand: the eager pairs are far above the call alone."""
    mattering, rows, *_ = tables(section("## Counter-examples"))
    found = {
        (*row["by tensor"].split(": ", 1), row["tokens/s"].partition(" x ")[2]): row for row in rows
    }
    assert len(found) > len(rows) * 0.8
    pcie = "2x Arc Pro B70, PCIe"
    for key, implied_us, alone in (
        (
            (f"{pcie} 5 x8", "Qwen3.8-27B, vLLM XPU, eager", "one card"),
            (1e6 / 17.5 - 1e6 / 28.5 / 2) / 129,
            "41.9 (10 KiB, eager)",
        ),
        (
            (f"{pcie} 3 x16, no peer access", "Qwen3.6-27B, vLLM XPU, eager", "one card"),
            (1e6 / 4.18 - 1e6 / 7.84 / 2) / 128,
            "88.0 to 250 (10 KiB, eager)",
        ),
        (
            ("2x RX 7900 XT, PCIe 3 x16, no peer access", "Qwen3-8B, vLLM, graph", "one card"),
            (1e6 / 79.6 - 1e6 / 46.7 / 2) / 73,
            "16.6 to 19.3 (8 KiB, graph)",
        ),
        (
            ("2x RTX 5060 Ti, PCIe 3 x8, no peer access", "Qwen3.8-27B, llama.cpp", "by layer"),
            (1e6 / 37.1 - 1e6 / 22.1 / 2) / 128,
            "",
        ),
        (
            ("R9700 + RX 9070 XT, PCIe 4 x8", "27B (Qwen3.6 or 3.8), vLLM", "one card"),
            (1e6 / 47.7 - 1e6 / 34.19 / 2) / 129,
            "",
        ),
    ):
        row = found[key]
        assert float(row["inside, us"]) == pytest.approx(implied_us, rel=5e-3), key
        assert row["alone, us"] == alone
    for own in (mattering, rows):
        costs = [float(row["inside, us"]) for row in own]
        assert costs == sorted(costs, reverse=True), "the dearest first"


def test_what_stands_before_a_click_is_every_loss_and_every_call_alone():
    """A reader who opens nothing must not miss a pair that contradicts the page."""
    mattering, rows, *_ = tables(section("## Counter-examples"))
    two = [row for row in rows if "PCIe" in row["by tensor"] or "RX 9070" in row["by tensor"]]
    two = [row for row in two if not re.match("[348]x", row["by tensor"])]
    lost = [row for row in two if float(row["tokens/s"].partition(" ")[0]) < 1]
    assert len(lost) >= 6
    assert all(row in mattering for row in lost)
    assert all(row in mattering for row in two if row["alone, us"])
    assert all(row in rows for row in mattering)


def test_by_tensor_loses_exactly_where_the_cost_is_above_the_break_even():
    """Otherwise the picture's ticks would tell a reader the wrong side."""
    _, rows, *_ = tables(section("## Counter-examples"))
    for row in rows:
        cost, even = float(row["inside, us"]), float(row["break-even, us"])
        assert (cost > even) == (float(row["tokens/s"].partition(" ")[0]) < 1), row


def test_a_pair_is_of_one_kind_of_cards():
    """Of two cards of a table of many, one beside another would be a gain of the card."""
    pairs = import_module("answer_pairs")
    for pair in pairs.all_pairs():
        names = sorted((pair.one.gpu, pair.other.gpu), key=len)
        assert names[1].startswith(names[0]), pair
        assert pair.one.model == pair.other.model
    unlike = [pair for pair in pairs.all_pairs() if pair.one.gpu != pair.other.gpu]
    assert all("+" in pair.one.gpu + pair.other.gpu for pair in unlike)


def test_the_thresholds_are_those_of_the_data_sheet_and_grow_as_engines_reach_less():
    """70.55e9 weights of 40 GB and a cache of 4,096 tokens at 640 GB/s: 64.6 ms, half of it in 160
    calls; 2,048 tokens at 191 TFLOP/s: 1.54 s, half of it in 160 calls of 33.6 MB."""
    (rows, *_) = tables(section("## Test your own cards in three minutes"))
    decode, prefill = rows
    assert "**202 us**" in decode["at the data sheet"]
    assert pytest.approx((40e9 + 4096 * 2 * 80 * 8 * 128 * 2) / 640e3 / 2, rel=5e-3) == 160 * 202
    assert "**4.82 ms** (7.0 GB/s)" in prefill["at the data sheet"]
    flop = 2 * 70.552e9 * 2048 + 2 * 2048**2 * 8192 * 80
    assert pytest.approx(flop / 191e12 / 2, rel=5e-3) == 160 * 4.82e-3
    text = section("## Test your own cards in three minutes")
    for row, exact, unit in ((decode, 202.2, "us"), (prefill, 4.818, "ms")):
        limits = re.findall(rf"([\d.]+) to ([\d.]+) {unit}", row["at what engines reach"])
        low, high = map(float, limits[0])
        assert exact < low < high
        assert any(
            100 * exact / high == pytest.approx(int(least), abs=1)
            and 100 * exact / low == pytest.approx(int(most), abs=1)
            for least, most in re.findall(r"(\d+) % to (\d+) %", text)
        ), row


def test_what_passes_alone_and_fails_inside_stands_beside_the_thresholds():
    """A reader who only measures the wire would split where one card is faster."""
    text = " ".join(section("## Test your own cards in three minutes").split())
    assert "41.9 us alone passes, and inside an engine the same call cost 307 us" in text
    rows = tables(section("## Counter-examples"))[0]
    beside = [row for row in rows if row["alone, us"]]
    dearer = [
        row
        for row in beside
        if float(row["inside, us"]) > max(map(float, re.findall(RATE, row["alone, us"])))
    ]
    assert f"In {len(dearer)} of {len(beside)} pairs" in text
    assert text.index("necessary, not sufficient") < text.index("llama-bench")


def test_the_commands_of_the_page_are_the_programs_own():
    """A typo in the only line that most readers type would cost their two minutes."""
    parser = sweep_parser("allreduce", "all_reduce", "")
    lines = re.findall(r"^mpirun -n 2 python -m bench\.allreduce (.*)$", PAGE, re.MULTILINE)
    sizes = [parser.parse_args(shlex.split(line)).sizes for line in lines]
    assert sizes == [[16 << 10], [32 << 20]]


def test_the_texts_of_the_page_have_no_typed_figure():
    """A typed figure goes stale when a row is added."""
    for name, texts in {
        "answer_cases": ("TEXT",),
        "answer_counter": ("TEXT", "BELOW_TABLE"),
        "answer_page": ("FIRST_SCREEN", "TEMPLATE"),
        "answer_thresholds": ("TEXT",),
    }.items():
        text = "\n".join(getattr(import_module(name), each) for each in texts)
        plain = re.sub(r"```.*?```", "", re.sub(r"\{\w+\}", "", text), flags=re.DOTALL)
        assert re.findall(r"\S*\d\S*", NAMES.sub("", plain)) == [], name


def test_counter_examples_stand_before_confirmations():
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert headings.index("Counter-examples") < min(map(headings.index, (*CASES, "The model")))
    _, _, *found = tables(section("## Counter-examples"))
    faster = [row for rows in found for row in rows]
    assert faster
    gains = decode_ratios(faster)
    assert gains == sorted(gains)
    assert gains[0] < 1
    kernel = decode_ratios(row for row in faster if "libr4d two-rank" in row["what was added"])
    said = " ".join(section("## Counter-examples").split())
    assert f"23 times as fast gave {min(kernel):.2f} to {max(kernel):.2f} x the tokens" in said


def test_the_picture_has_the_costs_inside_beside_the_calls_alone():
    """An eager pair that is not marked would look like a slow wire."""
    points = import_module("drawing").read("answer")
    assert {*points.kind} >= {"alone", "implied", "even"}
    eager = points[(points.kind == "implied") & (points.replay == "eager")]
    assert sorted(eager.us.round()) == [307, 1230, 1371]
    assert all("eager" in name for name in eager.name)
    figure = import_module("figures_answer").answer(points)
    width_in, _ = figure.get_size_inches()
    smallest_pt = min(text.get_fontsize() for text in figure.axes[0].texts)
    assert smallest_pt / 72 / width_in * 360 >= 9, "letters at 360 px"


def test_an_owner_of_many_pairs_has_one_vote():
    """Three rows of one owner's machine would else be half of a range, or two machines."""
    pairs, rows = import_module("answer_pairs"), import_module("answer_rows")
    fits = pairs.between("one card", "tensor")
    many = [pair for pair in fits if pair.other.machine == "kyuz0"]
    (one,) = [pair for pair in fits if pair.other.machine == "NikoCloud"]
    figures = [(pair.other, 1.0) for pair in many] + [(one.other, 3.0)]
    assert len(many) >= 3
    assert pairs.machine_votes(figures) == [1.0, 3.0]
    assert rows.rests_on([*many, one]) == f"{len(many) + 1} pairs on 2 machines"


def test_the_pairs_said_beside_a_range_are_those_of_the_range():
    """It once said 13 pairs beside a range of 7: the others were of another comparison."""
    (screen, *_) = tables(PAGE)
    compared = []
    for row in screen:
        for heading in ("Long prompts", "A mixture of experts"):
            if f"(#{heading.lower().replace(' ', '-')})" in row["your case"]:
                pairs = [each["cards"].partition(":")[0] for each in case_rows(heading)]
                count = pairs.count("2 by layer to 2 by tensor")
                assert f"({count} pairs" in row["tokens/s"], row
                compared.append(heading)
    assert len(compared) == 2


def test_a_phone_shows_the_case_and_no_long_table_stands_before_it():
    """Three narrow columns fit 360 px; a table of 51 rows is four screens of a desk."""
    first, *_ = tables(PAGE)
    assert all(len(row) == 3 for row in first)
    words = [word for row in first for cell in row.values() for word in cell.split()]
    assert max(len(word) for word in words if "](" not in word) <= 13
    shown = re.sub(r"<details.*?</details>", "", PAGE, flags=re.DOTALL)
    assert max(map(len, tables(shown))) <= 15
    assert all(len(rows[0]) <= 7 for rows in tables(PAGE))
    blocks = re.findall(r"<details markdown=\"1\">\n<summary>\S.*</summary>\n\n\|", PAGE)
    assert len(blocks) == PAGE.count("<details") == PAGE.count("\n\n</details>\n") >= 8


def test_copies_of_several_cards_say_how_many_each_has():
    """`one card to 2 copies` read as two cards, whose 2.17 x would be more than they have."""
    copies = {row["cards"] for table in tables(section("## Many streams")) for row in table}
    for cards in (each for each in copies if " copies" in each):
        made, name = cards.split(": ")
        (copied,) = map(int, re.findall(r"(\d+) copies", made))
        per_copy = int(dict(re.findall(r"(each on) (\d+) cards", made)).get("each on", 1))
        assert copied * per_copy == int(name.partition("x ")[0])
    assert any("each on 2 cards" in each for each in copies)
