"""docs/claims.md: what others claim, beside figures of ours that commands print."""

import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache, partial
from importlib import import_module
from io import StringIO
from operator import attrgetter

import pytest
from msgspec.structs import replace

from reports.__main__ import main
from reports.references.comparisons import admitted
from reports.references.pairs import pairs
from reports.tables.sentences import number
from tests.launch import ROOT
from tests.test_readme import HELP, anchor, headings
from wiretax.common.grouped import grouped

IDS = [
    f"{letter}{number}"
    for letter, count in (("a", 10), ("b", 5), ("c", 5), ("d", 20))
    for number in range(1, count + 1)
]
# Names and units of what a sentence is about, not figures: models, cards, links, types, splits.
NAMES = re.compile(
    r"`[^`]*`|\]\([^)]*\)|\{\w+\}|[A-Za-z]\w*-\w*\d\w*|\b[A-Z]{1,4}\d+\b|\b\d+B\b|\bn-1\b|"
    r"\b(R|H|A|B|MI|GB|DDR|D)\d+s?\b|RTX (PRO )?\d+( Ti| Ada)?|\b\d+0s\b|Llama \d|PRO \d+|"
    r"(TP|PP|NVLink|PCIe) \d( x\d+)?|MI\d+X|fp\d+|INT\d|\bV\d\b|\bP99\b|2\(n-1\)/n|2\(n-1\) steps|"
    r"2 log2 n|R9700s?|A6000|5090|\d+ bits"
)
pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]


@pytest.fixture(scope="module")
def written(on_the_path):
    return import_module("claims_page")


@pytest.fixture(scope="module")
def ours(written):
    return import_module("claims_ours")


@pytest.fixture(scope="module")
def claims(ours):
    return import_module("claims_table").table().claims


@pytest.fixture(scope="module")
def found(written):
    return written.found()


def test_the_page_has_the_figures_of_today(written):
    assert written.PAGE.read_text() == written.page(), "run make figures"


def test_every_claim_is_there_with_an_anchor_and_in_the_first_table(written, ours, claims):
    """A reader looks for the claim that they met, and links it."""
    assert list(claims) == IDS
    assert list(ours.OURS) == IDS
    page = written.PAGE.read_text()
    anchors = [anchor(each) for each in headings(written.PAGE)]
    for name in IDS:
        assert anchors.count(name) == 1
        assert page.count(f"| [{name.upper()}](#{name}) |") == 1
    assert page.index("## All claims") < 2000, "the table is not on the first screen"


@pytest.mark.parametrize("name", IDS)
def test_a_verdict_is_what_arithmetic_says(name, claims, found):
    """Holds and wrong are always computed; whether a condition is met may be a judgement."""
    claim, (_, computed) = claims[name], found[name]
    assert claim.verdict == (computed or "holds if")
    assert bool(claim.condition) == (claim.verdict in ("holds if", "wrong"))
    assert bool(claim.reading) == (claim.verdict == "wrong"), "what is right of a wrong claim?"


@pytest.mark.parametrize(
    ("name", "values", "verdict"),
    [
        ("a3", {"us": 80}, "wrong"),
        ("a4", {"token_ms": 53}, "wrong"),
        ("a5", {"ratio": 1.2}, "holds"),
        ("a6", {"ms": 42}, "wrong"),
        ("b2", {"calls": 64}, "wrong"),
        ("c4", {"rtxpro6000": 96}, "holds"),
        ("d2", {"least_us": 25}, None),
        ("d3", {"a_layer": 2}, "holds"),
        ("d7", {"gpus": 2}, "wrong"),
        ("d9", {"us": 5.06}, "holds"),
        ("d15", {"ms": 20}, "holds"),
        ("d19", {"p50_ms": 10}, "wrong"),
    ],
)
def test_another_figure_of_theirs_turns_the_verdict(name, values, verdict, ours, claims):
    """Otherwise a verdict would hold whatever they print."""
    other = replace(claims[name], values=claims[name].values | values)
    if verdict is None:
        with pytest.raises(AssertionError):  # its sentence names another number of tokens
            ours.OURS[name](other)
    else:
        assert ours.OURS[name](other)[1] == verdict


@cache
def output_of(command: str) -> str:
    """What a command of the page prints, its spaces as one."""
    words = shlex.split(command)
    if words[:3] == ["python", "-m", "reports"]:
        with redirect_stdout(StringIO()) as printed:
            assert main(words[3:]) == 0
        return " ".join(printed.getvalue().split())

    script = re.sub(r"\bpython ", f"{shlex.quote(sys.executable)} ", command)
    done = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def prints(text: str, figure: str) -> bool:
    """Whether a figure stands there, and is no part of a longer number; also without its bracket
    or its unit, which tables have in their heads. Of several numbers, each does."""
    value = figure.partition(" [")[0]
    ways = [[figure], [value], [re.sub(r" (ms|us|GB)$", "", value)]]
    if re.fullmatch(r"[\d.]+((, | to )[\d.]+)+", figure):
        ways = [re.split(", | to ", figure)]
    return any(all(map(partial(stands, text), parts)) for parts in ways)


def stands(text: str, part: str) -> bool:
    words = " ".join(part.split())
    return bool(re.search(rf"(?<![\d.]){re.escape(words)}(\.0)?(?!\.?\d)", text))


@pytest.mark.parametrize("name", IDS)
def test_each_command_runs_and_prints_the_figures(name, written, claims, found, monkeypatch):
    """A reader who types it finds figures that the page says."""
    monkeypatch.chdir(ROOT)
    figures, _ = found[name]
    said = written.section(name, claims[name], figures).partition("```")[0]
    told = " ".join(said.split())
    for each in claims[name].repeat:
        text = output_of(each.command)
        assert each.prints, each.command
        for figure in each.prints:
            assert prints(text, figures[figure]), f"{figures[figure]} of {each.command}"
            assert prints(told, figures[figure]), f"the page has no {figures[figure]}"


def test_a_figure_that_is_not_printed_would_be_noticed():
    assert prints("takes 203 us; here", "203 us")
    assert prints("takes 203 us; here", "203 us [7.2 250]")
    assert prints("TP 2 20.9 203 24.5", "203 us")
    assert prints("23.1 a 38.3", "23.1 to 38.3")
    for text in ("takes 1203 us", "takes 20.3 us", "takes 203.4 us"):
        assert not prints(text, "203 us")
    assert not prints("takes 203.4", "203")
    assert not prints("23.1 alone", "23.1 to 38.3")


@pytest.mark.parametrize("name", IDS)
def test_no_figure_of_ours_is_typed(name, claims):
    """A typed one would go stale; those of theirs are data."""
    claim = claims[name]
    own = " ".join(str(value).removesuffix(".0") for value in claim.values.values())
    for text in (claim.ours, claim.reading, claim.condition, claim.remark, claim.measured):
        rest = NAMES.sub(" ", text)
        typed = {each.replace(",", "") for each in re.findall(r"\d[\d,]*(?:\.\d+)?", rest)}
        assert typed - set(own.split()) - quoted(claim) == set(), text


def quoted(claim) -> set[str]:
    """The numbers that they print, which a sentence of ours may repeat, and those that a command
    was given."""
    texts = [claim.claim, claim.theirs, *(each.command for each in claim.repeat)]
    return {each.replace(",", "") for each in re.findall(r"\d[\d,]*(?:\.\d+)?", " ".join(texts))}


@pytest.mark.parametrize("name", IDS)
def test_their_values_are_those_of_the_text(name, claims):
    claim = claims[name]
    said = {float(each) for each in quoted(claim)} | {1.0, 100.0}
    assert set(claim.values.values()) - said == set()


def test_what_a_reader_measures_takes_these_options(claims):
    """These commands take a machine of the reader's, and are not run here."""
    commands = dict(HELP.findall((ROOT / "docs" / "commands.md").read_text()))
    measures = [claim.measure for claim in claims.values() if claim.measure]
    assert len(measures) > 3
    for command in (part for measure in measures for part in measure.split(" && ")):
        words = shlex.split(command)
        place = words.index("-m") + 1
        name = " ".join(words[place : place + 2]) if words[place] == "reports" else words[place]
        for option in (word for word in words if word.startswith("--")):
            assert option in commands[name], command


def test_a_claim_that_does_not_exist_is_one_sentence():
    command = [sys.executable, "docs/experiments/claims_page.py", "z9\x1b"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_no_published_series_that_contradicts_a_claim_is_left_out(found):
    """Two series of a 70B in 16 bits gain from each doubling of the cards, the third turns."""
    series = grouped(
        [row for row in pairs() if row.model == "Llama-2-70B" and row.weights in ("FP16", "BF16")],
        attrgetter("pair_id"),
    )
    assert len(series) > 2
    figures, _ = found["d6"]
    for rows in series.values():
        rates = [row.decode_tok_s for row in sorted(rows, key=attrgetter("gpus"))]
        assert ", ".join(map(number, rates)) in figures.values()


def test_replicas_are_held_against_every_split_of_the_same_cards(found):
    """The least gain is where the cards' own links are fast."""
    copies = [
        each.decode_ratio
        for each in admitted(pairs())
        if {each.one.split.replicas, each.other.split.replicas} > {1}
        and each.one.gpus == each.other.gpus == 4
        and each.one.pair_id.startswith("H96")
    ]
    least = min(max(ratio, 1 / ratio) for ratio in copies if ratio)
    assert found["b4"][0]["replicas"].startswith(f"{least:.2f} to ")
