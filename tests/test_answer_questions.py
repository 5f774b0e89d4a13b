"""docs/answer.md below its thresholds: questions that a thread can link, boards, and what is not
known; each figure by a row or a formula."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from reports.references.published import calls, select, serving
from tests.references_page import address
from tests.reports.contributed_rows import contributed

PAGES = Path(__file__).parents[1] / "docs" / "experiments"
PAGE = PAGES.parent / "answer.md"
# What threads link: a heading that is renamed breaks them.
PROMISED = [
    "fits-on-one-card",
    "does-not-fit-one-chat",
    "many-streams",
    "long-prompts",
    "a-mixture-of-experts",
    "a-drafter",
    "peers-or-a-faster-kernel",
    "beyond-memory",
    "which-board",
    "one-bigger-card",
    "watts",
    "the-missing-fabric",
    "what-nobody-has-measured",
    "what-changed-our-mind",
]
UNIT = r"(us|ms|s|x|times|GB/s|tokens/s|tok/s|W|J|KiB|MiB|GB)\b|%"
pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]


@pytest.fixture(scope="module")
def questions():
    return import_module("answer_calls")


@pytest.fixture(scope="module")
def boards():
    return import_module("answer_boards")


def slug(heading):
    """The anchor that GitHub and MkDocs give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def section(heading):
    """The text under a heading, without the sections below it."""
    return re.split(r"\n#{2,3} ", PAGE.read_text().split(f"# {heading}\n", 1)[1])[0]


def cells(heading, first=""):
    """The rows of a section's tables whose heading begins so, also of those behind a click."""
    tables = re.findall(r"(?:^\|.*\n)+", section(heading) + "\n", re.MULTILINE)
    lines = [
        line
        for table in tables
        if table.startswith(f"| {first}")
        for line in table.splitlines()[2:]
    ]
    return [[text.strip() for text in line.strip("|").split(" | ")] for line in lines]


def test_each_promised_anchor_exists():
    text = PAGE.read_text()
    anchors = [slug(heading) for heading in re.findall(r"^#{1,3} (.*)$", text, re.MULTILINE)]
    assert len(anchors) == len({*anchors})
    assert not {*PROMISED} - {*anchors}
    assert not {*re.findall(r"\]\(#([^)]+)\)|`#([^`]+)`", text)} - {
        *((anchor, "") for anchor in anchors),
        *(("", anchor) for anchor in anchors),
    }


def typed_figures(template):
    """The figures with a unit that stand in a template, outside what it fills in."""
    text = re.sub(r"\{\w+\}|https?:[^)]*", "", template)
    return [found[0] for found in re.finditer(rf"(?<![\w.])[0-9][0-9.,]* ?({UNIT})", text)]


def test_no_figure_is_typed(boards):
    """A typed figure goes stale with the row that it came from."""
    assert typed_figures(boards.TEMPLATE) == []
    assert typed_figures("a call of 41.9 us alone passes") == ["41.9 us"]


def test_drafted_pairs_say_their_message():
    """A reader took 99 to 117 tokens/s for the gain of messages of one token."""
    rows = map(" | ".join, cells("Peers, or a faster kernel"))
    drafted = [row for row in rows if "DFlash2 k=7" in row]
    assert len(drafted) >= 5
    assert all("80 KiB a call" in row for row in drafted)


def test_slow_paths_contradict_that_the_split_shortens_a_prompt(questions):
    """Half of the model's work on each card, and 160 calls: by hand from the printed times."""
    alone_s = questions.prompt_s(questions.by_layer(questions.of_two(1.0, 1.0)))
    assert alone_s == pytest.approx(1.54, abs=0.005)
    paths = cells("Long prompts", "who")
    slow = {row[0]: row for row in paths if row[4] == "**layer**"}
    times_ms = {"2x RTX 2080 Ti": 8.3997, "2x RTX 5070 Ti": 10.9 * 32 / 20}
    for card, ms in times_ms.items():
        (row,) = [row for name, row in slow.items() if name.startswith(card)]
        assert float(row[3]) == pytest.approx(alone_s / 2 + 160 * ms / 1e3, abs=0.01)
        assert float(row[3]) > alone_s
    fast = [row for row in paths if row[4] == "tensor"]
    assert max(float(row[3].split()[-1]) for row in fast) < alone_s
    assert len(fast) + len(slow) == len(paths)


def test_every_kind_of_board_has_a_verdict(boards, tmp_path):
    rows = cells("Which board")
    kinds = {row[0].partition(",")[0].split()[0] for row in rows}
    assert {"x16/x16", "x8/x8", "x16/x4", "riser"} <= kinds
    assert {"on", "off", "not printed"} <= {row[0].partition(" peers ")[2] for row in rows}
    for row in rows:
        assert re.search(r"\*\*|either|engines", row[1] + row[2]), row
    with contributed(tmp_path):
        chipset = boards.chipset_row(202.0)
    assert [row[0] for row in rows if row[0].startswith("x16/x4 by")] == chipset[:1]
    assert chipset[1].startswith("**tensor**, computed")
    assert chipset[2].startswith("**layer**, computed")


def test_a_verdict_is_of_engines_before_calls(boards):
    """A call that passes alone proves nothing: engines say more, and eager ones are named."""
    assert boards.verdict([], "decode", [20.0, 30.0], 200.0) == "**tensor**, computed"
    assert boards.verdict([], "decode", [20.0, 300.0], 200.0) == "either, computed"
    assert boards.verdict([], "decode", [300.0], 200.0) == "**layer**, computed"
    eager = [named for named in boards.engine_pairs() if named[1].replay == "eager"]
    replayed = [named for named in boards.engine_pairs() if named[1].replay != "eager"]
    slower = [
        (name, boards.Pair(pair.other, pair.one))
        for name, pair in replayed
        if (pair.decode_gain or 0) > 1
    ]
    said = boards.verdict(eager[:1], "decode", [20.0], 200.0)
    assert said.startswith("**tensor** if from a graph, computed; engines ")
    assert said.endswith(", eager (1 pair)")
    assert boards.verdict(slower, "decode", [20.0], 200.0).startswith("**layer**: engines")


def test_one_bigger_card_is_of_rows():
    rows = {row[0]: row for row in cells("One bigger card")}
    for card in ("W7900", "RTX PRO 6000"):
        (published,) = [
            row
            for row in select(serving(), gpu={card}, split={"single"})
            if row.model.endswith("70B")
        ]
        assert float(rows[card][2]) == pytest.approx(published.decode_tok_s, rel=1e-3)
        assert address(published.source) in rows[card][4]
    computed = [name for name, row in rows.items() if "formulas" in row[4]]
    assert computed == [f"2x R9700 by {way}, computed, at most" for way in ("layer", "tensor")]
    rates = [float(row[2].split()[-1]) for row in cells("One bigger card")]
    assert rates == pytest.approx(sorted(rates), rel=0.01)  # computed ones have three digits


def test_watts_are_those_of_the_rows():
    text = " ".join(section("Watts").split())
    layer, tensor = (
        row
        for row in serving()
        if row.source.startswith("cadamcat/dual-radeon-vllm@c12d4002") and row.context_tokens == 0
    )
    assert "drew 143 + 105 W" in layer.note
    assert "143 + 105 W by layer and 205 + 211 W by tensor" in text
    joules = [248 / (layer.decode_tok_s or 1), 416 / (tensor.decode_tok_s or 1)]
    assert f"{joules[0]:.2f} and {joules[1]:.1f} J" in text


def test_the_missing_fabric_costs_less_than_the_split_gains(boards, tmp_path):
    def steps_us():
        both = [load.figures["step_us"].value for load in boards.fabrics().values()]
        return *both, 1e3 * boards.step_ms(boards.by_layer(boards.advised()))

    with contributed(tmp_path):
        pcie, xgmi, layer = steps_us()
    assert 0 < pcie - xgmi < layer - pcie
    pcie, xgmi, layer = steps_us()
    rows = cells("The missing fabric")
    assert [row[2].split()[0] for row in rows] == [f"{us / 1e3:.1f}" for us in (pcie, xgmi, layer)]


def test_what_nobody_has_measured_stands_in_no_table():
    """A row that arrives must strike its sentence, and no other may be struck."""
    still = section("What nobody has measured").partition("Asked here, and answered")[0]
    reduces = select(calls(), gpus={2}, hosts={1}, collective={"all_reduce"})
    r9700 = [call for call in select(reduces, gpu={"R9700"}) if call.fabric.startswith("PCIe")]
    near = [call for call in r9700 if 8 << 10 <= (call.size_bytes or 0) <= 32 << 10]
    pairs = select(serving(), gpu={"R9700"}, gpus={2})
    splits = dict[tuple[str, ...], set[str]]()
    for row in pairs:
        if row.decode_tok_s:
            way = (row.machine, row.model, row.weights, row.engine, row.version)
            splits.setdefault(way, set()).add(row.split[0])
    measured = {
        "An all-reduce of 16 KiB between": [call for call in near if call.grade != "hearsay"],
        "over PCIe 5 x16 with P2P": select(r9700, fabric={"PCIe 5 x16"}, transport={"p2p"}),
        "A dense 70B on two R9700s": [row for row in pairs if "70B" in row.model],
        "by tensor and by layer, in one engine": [
            way for way, kinds in splits.items() if "t" in kinds and kinds & {"l", "p"}
        ],
        "behind the chipset": [call for call in reduces if call.fabric.endswith(" x4")],
    }
    said = " ".join(still.split())
    for sentence, rows in measured.items():
        assert (sentence in said) == (not rows), sentence
    dense = [row for row in pairs if row.note.startswith("dense and larger than one card")]
    assert {row.split for row in dense} == {"layer"}


def test_every_change_of_mind_has_its_day():
    changes = section("What changed our mind").strip().split("\n- ")
    assert len(changes) >= 6
    for change in changes:
        assert re.match(r"(- )?20[0-9]{2}-[0-9]{2}-[0-9]{2}: ", change), change
