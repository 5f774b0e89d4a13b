"""The headline that starts every table, page and comment of a gate, and the table of a
screen."""

import re

import pytest

from reports.site.run_page import banner_of, sweep_sections
from reports.tables.plot import drawn_of, footer
from reports.tables.rows import cost_us, default_rows
from reports.tables.sentences import MOST_LINES, without_version
from reports.tables.show import headline_of, text
from tests.reports.synthetic_run import SIZES, mark_wrong, write_run
from wiretax.record.result import read


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), fast_rounds=[3], n_blocks=14)


def test_the_headline_has_the_tables_figures(result):
    """Of decode's size and of the largest one."""
    small, *_, large = default_rows(result, ("isolated", None))
    assert small.ratio
    assert large.ratio
    assert large.ours
    expected = (
        f"allreduce: 16 KiB {cost_us(small.ours):.1f} us ({small.ratio[0]:.2f}x MPICH), "
        f"32 MiB {large.ours.bus_bw_gb_s:.1f} GB/s ({large.ratio[0]:.2f}x)"
    )
    assert headline_of(result) == expected
    for shown in (text(result), text(result, brief=True), text(result, long=True)):
        assert shown.startswith(expected + "\n")


def test_wrong_results_replace_the_figures(tmp_path):
    result = write_run(tmp_path, sizes=SIZES[:2])
    mark_wrong(result.path, 1)
    found = headline_of(*[read(result.path)] * 2)
    wanted = "allreduce: WRONG RESULTS in 1 of 24 cases, the worst: auto 16 KiB isolated"
    assert found == wanted, "in two launches"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"algorithms": ["library"]},
            r"allreduce: 16 KiB \d\.\d us by MPICH, 32 MiB \d\.\d GB/s by MPICH",
        ),
        (
            {"n_blocks": 3},
            r"allreduce: 16 KiB \d\.\d us \(1\.\d\dx MPICH, too few blocks\), 32 MiB .*",
        ),
        ({"change": lambda block: None}, "allreduce: nothing was measured"),
    ],
)
def test_what_a_run_lacks_the_headline_leaves_out(tmp_path, options, expected):
    assert re.fullmatch(
        expected, headline_of(write_run(tmp_path, **{"sizes": SIZES[::11]} | options))
    )


ONE_MODE = {"sizes": SIZES[::11], "algorithms": ["library", "auto"], "modes": ["isolated"]}


def test_no_ratio_to_a_library_that_sums_in_software_becomes_the_headline(tmp_path):
    """MPICH adds halves by a function call an element: 100x is no merit of an all-reduce."""
    result = write_run(tmp_path, datatype="float16", **ONE_MODE)
    pattern = (
        r"allreduce: 16 KiB \d\.\d us \(MPICH sums in software: no ratio\), 32 MiB \d\.\d GB/s"
    )
    assert re.fullmatch(pattern, headline_of(result))
    assert re.fullmatch(pattern, banner_of(result).sentence)
    note = "MPICH 5.0.2 sums float16 in software"
    for shown in (text(result), text(result, brief=True), text(result, long=True)):
        assert note in shown
    sections = sweep_sections(result)
    assert {row["remark"] for row in sections[1].rows} == {"library sums in software"}
    assert note in footer(result, drawn_of(result)[0])


def test_an_interval_that_leaves_the_order_of_magnitude_open_is_too_noisy(tmp_path):
    """From 2 to 120 times as fast was `51x` in the headline."""

    def us(case, block):
        return 2 * 60 ** (block.round % 2) if case.library else 1.0

    result = write_run(tmp_path, us=us, **ONE_MODE)
    (row, *_), low_high = default_rows(result, ("isolated", None)), (2, 120)
    assert row.ratio
    assert row.ratio[1:] == pytest.approx(low_high)
    assert "16 KiB 1.00 us (against MPICH: too noisy)" in headline_of(result)
    assert "too noisy" in text(result).partition("\n\n")[2]
    assert sweep_sections(result)[1].rows[0]["remark"] == "too noisy"
    assert banner_of(result).role == "unsure"


def test_the_table_of_a_command_fits_a_screen(tmp_path):
    """With the line of the path of the run."""
    result = write_run(tmp_path, fast_rounds=[3], unsupported=["ring"])
    result.run.notes[:0] = ["Every launch was slowed by 5 %, on purpose."]
    result.run.notes += [
        f"Fact {number} of this machine, which takes more than one line because it is long and has "
        "many words."
        for number in range(9)
    ]
    brief = text(result, brief=True)
    assert len(brief.splitlines()) <= MOST_LINES - 1
    assert "note: Every launch was slowed by 5 %, on purpose." in brief
    assert "unsupported: ring: MPICH" in brief


def test_a_contenders_file_keeps_its_name_when_it_is_edited():
    """Otherwise wrong results would stand, as no later run would have the same case."""
    assert {without_version(f"mine {digest}") for digest in ("1a2b3c4", "a1b2c3d")} == {"mine"}
    assert without_version("Intel MPI 2021.18") == "Intel MPI"
