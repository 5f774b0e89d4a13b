"""The tables of published figures: what is in them, what is refused, and the page about them."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
from msgspec import structs

from reports.advice.archive_rows import read_sent, rows_of
from reports.references.published import (
    FOLDER,
    Machine,
    PublishedCall,
    PublishedServing,
    calls,
    cards,
    cards_named,
    contributed,
    draft_tokens,
    of_same_chip,
    read_table,
    same_chips,
    select,
    serving,
    votes,
)
from tests import references_page
from tests.launch import ROOT
from tests.reports.synthetic_archive import SYNTHETIC, write_archive
from wiretax.record.case import bus_factor
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

FOUND = read_table(FOLDER / "calls.csv", list[PublishedCall])  # by hand, without archives


def disagreement(call, printed):
    """By how much busbw and size / time x factor differ, beyond the rounding of the printed busbw,
    as a share."""
    meant = call.size_bytes * bus_factor(call.collective, call.gpus) / call.time_us / 1e3
    step = 10.0 ** -len(printed.partition(".")[2]) / 2
    return max(abs(meant - call.busbw_gb_s) - step, 0) / call.busbw_gb_s


def test_times_and_bandwidths_agree_within_their_rounding():
    both = [call for call in calls() if call.time_us and call.busbw_gb_s]
    assert len(both) > 300
    for call in both:
        printed = f"{call.busbw_gb_s}"
        assert disagreement(call, printed) < 0.03, call
    spoilt = structs.replace(both[0], busbw_gb_s=1.05 * (both[0].busbw_gb_s or 0))
    assert disagreement(spoilt, "1.000") > 0.03


def assert_sound(call):
    """What each row of a collective has, whoever wrote it."""
    assert call.time_us or call.busbw_gb_s, call
    assert bus_factor(call.collective, call.gpus), call
    if call.kind == "library":
        assert call.library in ("nccl", "rccl", "oneccl", "mpi"), call


def assert_contributed(row):
    """What a row of an archive has, and no other row."""
    assert re.fullmatch("[0-9a-f]{64}", row.archive), row
    assert row.source == f"archive {row.archive[:12]}", row
    assert re.fullmatch("[A-Za-z0-9-]{0,39}", row.contributor), row
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row.date), row
    assert row.time_low_us <= row.time_us <= row.time_high_us, row
    assert disagreement(row, f"{row.busbw_gb_s}") < 0.03, row
    assert not row.valid_until, row


def test_rows_of_archives_are_as_sound_as_those_of_pages(tmp_path):
    sent = read_sent(write_archive(tmp_path / "survey.tar.gz"))
    made, _ = rows_of(sent)
    assert len(made) == 6
    for row in [*made, *contributed()]:
        assert_sound(row)
        assert_contributed(row)
    assert not [row for row in contributed() if SYNTHETIC in row.machine]
    assert not [row for row in FOUND if row.archive or row.contributor or row.withdrawn]


def test_every_row_has_a_figure_and_a_source_and_stands_once():
    for call in FOUND:
        assert_sound(call)
    for served in serving():
        tokens_s = served.decode_tok_s or served.prefill_tok_s or served.total_tok_s
        assert tokens_s or served.tpot_ms, served
    rows = [structs.replace(row, note="") for row in [*FOUND, *serving()]]
    assert len(rows) == 1001 + 114
    assert [row for row, count in Counter(rows).items() if count > 1] == []
    for row in rows:
        assert re.match(r"[\w.-]+/[\w.-]+(@[\w.-]+ \S|#\d)", row.source), row


def pairs_of(source):
    """The rows of a source, each with the one after it that says it is its pair."""
    own = [row for row in serving() if row.source == source]
    return [
        (before, after)
        for before, after in itertools.pairwise(own)
        if "pair of the row above" in after.note
    ]


def test_a_pair_of_rows_ran_one_drafter():
    """99 tokens/s with seven drafted tokens a step beside 117 without any would be no gain of a
    kernel: a call has 80 KiB in both."""
    found = [pair for source in {row.source for row in serving()} for pair in pairs_of(source)]
    assert len(found) > 10
    for before, after in found:
        assert before.drafter == after.drafter, (before, after)
    kernels = [
        row for row in serving() if row.all_reduce in ("rccl", "r9k") and "PLX" in row.machine
    ]
    assert {row.drafter for row in kernels if row.gpus == 2} == {"DFlash2 k=7"}


def test_tokens_with_prompts_are_no_decode():
    """A benchmark's tokens/s that may count prompts would beat every decode of the table."""
    counted = [row for row in serving() if row.statistic == "throughput"]
    assert len(counted) == 8
    for row in counted:
        assert row.total_tok_s, row
        assert not row.decode_tok_s, row
        assert "prompt tokens" in row.note, row
    others = [row for row in serving() if row not in counted]
    assert not [row for row in others if row.total_tok_s]


def test_what_the_author_calls_slower_is_a_setting():
    """81 us is no upper end of the default's 39 us: its author says that it costs decode."""
    small = [
        call
        for call in calls()
        if call.source == "sgl-project/sglang#39605" and call.size_bytes == 10240
    ]
    assert {call.variant: call.time_us for call in small} == {
        "": 39,
        "NCCL_SHM_USE_CUDA_MEMCPY=1": 81,
    }
    assert "costs decode" in small[1].note


SERVED = {
    "machine": "box",
    "gpu": "R9700",
    "gpus": "2",
    "fabric": "PCIe 3 x8 + PCIe 1 x4",
    "peer_access": "off",
    "model": "m",
    "weights": "q4",
    "engine": "e",
    "replay": "graph",
    "split": "tp2",
    "tpot_ms": "20",
    "grade": "figure",
    "source": "a/b#1",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("", ""),
        ("replay", "sometimes"),
        ("fabric", "PCIe 3 x8 + "),
        ("fabric", "PCIe 3 + PCIe 1 x4"),
        ("tpot_ms", "0"),
        ("split", "tp5"),
    ],
)
def test_a_serving_row_says_how_it_ran_in_known_words(tmp_path, field, value):
    path = tmp_path / "serving.csv"
    row = SERVED | ({field: value} if field else {})
    path.write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
    if not field:
        (read,) = read_table(path, list[PublishedServing])
        assert (read.replay, read.tpot_ms, read.decode_tok_s) == ("graph", 20, None)
        return
    with pytest.raises(ResultError, match=field):
        read_table(path, list[PublishedServing])


def test_a_source_whose_path_has_a_space_is_a_link():
    """Markdown ends a link at its first space: the reader would see brackets."""
    spaced = [row.source for row in serving() if "RTX PRO 6000.md" in row.source]
    assert references_page.address(spaced[0]).endswith("/blob/b56234c8/RTX%20PRO%206000.md")
    page = references_page.page()
    assert not [link for link in re.findall(r"\]\((http[^)]*)\)", page) if " " in link]


HEAD = "machine,gpu,gpus,mode,kind,library,collective,size_bytes,time_us,grade,source\n"
GOOD = "box,R9700,2,eager,library,rccl,all_reduce,16384,20,table,a/b#1\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (HEAD + GOOD + GOOD.replace("a/b#1", ""), ", line 3: .* missing required field `source`"),
        (HEAD + GOOD.replace("a/b#1", "  "), ", line 2: .* missing required field `source`"),
        (HEAD + GOOD + GOOD.replace(",20,", ",-1,"), ", line 3: Expected `float` > 0.0"),
        (HEAD + GOOD + GOOD.replace("\n", ",more\n"), ", line 3: it has more cells than"),
        (HEAD.replace("mode", "m\x1b[2Jode") + GOOD, r", line 2: .*unknown field `m\?\[2Jode`"),
        (HEAD + '"' + GOOD, " is no table: unexpected end of data"),
        (HEAD + "x" * 140_000, " is no table: field larger than"),
        (HEAD, " has no rows"),
        ("", " has no rows"),
        ("\udcff", " is no table: it is not UTF-8"),
    ],
)
def test_a_damaged_table_is_refused_in_one_sentence(tmp_path, content, complaint):
    path = tmp_path / "calls.csv"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ResultError, match=rf"calls\.csv{complaint}") as refusal:
        read_table(path, list[PublishedCall])
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


def test_a_table_that_is_missing_or_endless_is_refused_in_one_sentence(tmp_path):
    for path in (tmp_path / "none.csv", Path("/dev/zero")):
        with pytest.raises(ResultError, match=f"{path} cannot be read"):
            read_table(path, list[PublishedCall])


def test_a_cell_cannot_control_a_terminal(tmp_path):
    path = tmp_path / "calls.csv"
    path.write_text(HEAD + GOOD.replace("box", "b\x1b[2Jox"))
    assert read_table(path, list[PublishedCall])[0].machine == "b?[2Jox"


@pytest.mark.parametrize(
    ("drafter", "tokens"),
    [
        ("none", 0),
        ("off", 0),
        ("DFlash2 k=7", 7),
        ("DFlash N=5", 5),
        ("DFlash2 7", 7),
        ("MTP 3", 3),
        ("MTP-2", 2),
        ("MTP n-max 2", 2),
        ("DSpark 5 (800-token mixed)", 5),
        ("DFlash2 (7 by default, not printed)", 7),
        ("DFlash2", None),
        ("", None),
    ],
)
def test_the_tokens_that_a_drafter_proposes(drafter, tokens):
    """A call of k + 1 tokens is k + 1 times as large as one of a plain step."""
    assert draft_tokens(drafter) == tokens


def test_a_machine_votes_once_whatever_it_prints():
    rows = select(FOUND, gpu={"R9700"}, gpus={2}, hosts={1}, size_bytes={32 << 20})
    found = votes(rows, lambda row: row.gb_s)
    assert len(rows) == 11
    assert len(found) == 2
    assert 10.5 < found["2x Radeon AI PRO R9700, PCIe 4.0 x8 each"] < 10.7


def test_a_change_of_the_library_makes_history_only_of_what_it_touched():
    """Its limit of LL was 913,532 bytes a rank: larger messages took Simple before and after."""
    for call in select(calls(), valid_until={"ROCm/rocm-systems#8666"}):
        assert (call.size_bytes or 0) / call.gpus <= 913_532
    assert {call.is_history for call in select(calls(), gpu={"R9700"}, size_bytes={1 << 20})} == {
        True,
        False,
    }


def test_what_is_said_of_machines_is_of_machines_that_have_rows():
    sources = {(call.machine, call.source) for call in calls()}
    for row in read_table(FOLDER / "machines.csv", list[Machine]):
        assert (row.machine, row.source) in sources
    for pair in same_chips():
        assert pair.published in cards()
        assert pair.card not in cards(), "a card with rows of its own needs no other's"


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("rx9070xt", ["R9700"]),
        ("AMD Radeon RX 9070 XT", ["R9700"]),
        ("AMD Radeon PRO W7900", ["RX 7900 XTX", "RX 7900 XT"]),
        ("RX 9070 GRE", []),  # it has another memory: nothing is known of it
        ("RX 9060 XT", []),
    ],
)
def test_only_a_card_of_the_same_chip_stands_in(name, published):
    assert [row.published for row in of_same_chip(name)] == published


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("r9700", {"R9700"}),
        ("AMD Radeon AI PRO R9700", {"R9700"}),
        ("NVIDIA H100 80GB HBM3", {"H100"}),
        ("NVIDIA H100 NVL", {"H100-NVL"}),
        ("rtxpro6000", {"RTX PRO 6000"}),
        ("AMD Radeon RX 7900 XTX", {"RX 7900 XTX"}),
        ("7900", {"RX 7900 XT", "RX 7900 XTX"}),
        ("h20", set()),
        ("", set()),
    ],
)
def test_a_name_means_the_cards_that_have_it(name, cards):
    assert cards_named(name) == cards


def test_the_page_is_written_from_todays_tables():
    page = (ROOT / "docs" / "references.md").read_text()
    assert page == references_page.page(), "python -m tests.references_page > docs/references.md"
