"""The heat maps on the pages of a link's run and of a search: every pair and every candidate, by
how slow it is."""

import re

import pytest

from reports.kit.page import to_html
from reports.site.heat_maps import link_sections, tune_sections
from reports.site.run_page import run_page
from tests.bench.synthetic_link import made_up
from tests.reports.synthetic_run import write_run
from wiretax.record.result import read
from wiretax.record.schema import Winner

pytestmark = pytest.mark.unit


def gb_s(src, dst):
    """Of four ranks, of which one pair is slow one way."""
    return 25.0 if (src, dst) == (2, 1) else 300.0


def depth_of(cell):
    found = re.search(r"--heat:(\d+)%", cell)
    assert found, cell
    return int(found[1])


def section(sections, start):
    (found,) = (each for each in sections if each.heading.startswith(start))
    return found


def test_the_page_of_a_link_has_a_heat_map_for_each_kind_of_transfer(tmp_path):
    """It was the text of a terminal."""
    path = made_up(tmp_path, 4, gb_s).path
    sections = [
        each for each in run_page(path).sections if each.rows or each.sentences or each.text
    ]
    headings = [each.heading for each in sections]
    assert headings[:3] == [
        "What stands out",
        "Push, 64 MiB: row stores into column; diagonal: local copy, GB/s",
        "Pull, 64 MiB: column reads from row, GB/s",
    ]
    assert "ns one way" in section(sections, "Flag").heading
    assert any("rank 2 to rank 1 is 12" in each for each in sections[0].sentences)
    text = section(sections, "As the run printed it")
    assert text.folded
    assert "pull, 64 MiB" in text.text

    rows = section(sections, "Push").rows
    assert [row["from"] for row in rows] == ["0", "1", "2", "3"]
    assert [*rows[0]] == ["from", "0", "1", "2", "3"]
    assert rows[0]["0"] == "-"
    assert depth_of(rows[2]["1"]) == 45
    assert depth_of(rows[1]["2"]) < 2
    assert "deepest at 12" in section(sections, "Push").sentences[0]
    assert "deepest at 2x" in section(sections, "Flag").sentences[0], "it has no slow pair"
    assert 'class="box matrix"' in to_html(run_page(path))


def test_pairs_of_two_hosts_have_a_cell_only_where_something_was_measured(tmp_path):
    sections = [*link_sections(made_up(tmp_path, 4, gb_s, hosts=2))]
    assert section(sections, "Push").rows[0]["2"] == "-"
    by_library = section(sections, "Message by NCCL")
    assert by_library.rows[0]["1"] == "-"
    assert re.search(">(299|30[0-2])<", by_library.rows[0]["2"])


@pytest.fixture
def search(tmp_path):
    """A run whose ring takes 3 times as long as the best at 16 KiB, and ends early at 1 MiB."""
    times = {"auto": 1.0, "two_shot": 1.1, "ring": 3.0}
    path = write_run(
        tmp_path,
        sizes=[16384, 1 << 20],
        algorithms=[*times],
        modes=["isolated"],
        n_blocks=8,
        n=2,
        us=lambda case, block: times[case.algorithm] * case.size_bytes / 1000,
    ).path
    result = read(path)
    result.run.benchmark = "tune"
    result.winners = [
        Winner(
            variant=result.cases[0].variant,
            size_bytes=16384,
            mode="isolated",
            name="two_shot",
            candidate="ring",
            cost_us=16.4,
            gain=(1.2, 1.1, 1.3),
        )
    ]
    return result


def test_the_page_of_a_search_has_its_winners_and_every_candidate_at_every_size(search):
    winners, candidates = tune_sections(search)
    (row,) = winners.rows
    assert (row["size"], row["us"], row["best"]) == ("16 KiB", "16.4", "two_shot; ring?")
    assert row["gain [95 %]"] == "1.20 [1.10 1.30]"
    assert candidates.is_matrix
    names = [row["candidate"] for row in candidates.rows]
    assert names == ["auto, untuned", "two_shot", "ring"]
    first, second, last = (row["16 KiB"] for row in candidates.rows)
    assert "1.00×" in first
    assert "1.10×" in second
    assert "3.00×" in last
    assert depth_of(first) == 0
    assert 0 < depth_of(second) < 10
    assert depth_of(last) == 45


def test_a_candidate_without_a_time_at_a_size_is_a_dash_and_comes_after_those_with_all(search):
    (case,) = (
        case for case in search.cases if (case.algorithm, case.size_bytes) == ("two_shot", 16384)
    )
    case.status = "unsupported"
    _, candidates = tune_sections(search)
    assert candidates.rows[-1]["candidate"] == "two_shot"
    assert candidates.rows[-1]["16 KiB"] == "-"


def test_a_search_that_ended_before_its_first_round_has_no_empty_table(search):
    search.winners = []
    search.counted.costs_us.clear()
    (only,) = tune_sections(search)
    assert not only.rows
    assert only.sentences == ["No winner: the run ended before its search did."]
