"""Users open run files from strangers. Their strings must stay text in every output, their arrays
must be numbers, and the reports must read no file outside the run's folder."""

import csv
import html
import io
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from reports.__main__ import main
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_run import ONE, write_run
from tests.reports.synthetic_site import write_hostile
from wiretax.common.untrusted import markdown_text
from wiretax.record.flight_records import read_flight
from wiretax.record.manifest import MANIFEST, read_manifest
from wiretax.record.result import ResultError, read

pytestmark = pytest.mark.unit

HOSTILE = (
    "=cmd|' /C calc'!A0 <script>alert(1)</script> \x1b]0;owned\x07\x1b[31m ![x](http://e/x.pn"
    "g) $\\frac{ "
    "\u202e & \x9b2J"
)


@pytest.fixture
def reports(capsys):
    """Runs a command, and returns its status, standard output and standard error, which control no
    terminal."""

    def run(*words):
        status = main(list(map(str, words)))
        out, err = capsys.readouterr()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)
        return status, out, err

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_hostile(tmp_path_factory.mktemp("hostile"), HOSTILE)


@pytest.mark.parametrize("options", ["show --long", "export --csv"])
def test_strings_of_a_run_reach_the_terminal_only_as_text(run, options, reports):
    status, out, err = reports(*options.split(), run)
    assert (status, err) == (0, "")
    assert "alert(1)" in out
    if "csv" in options:
        rows = list(csv.reader(io.StringIO(out)))
        assert any(cell.startswith("'=cmd") for row in rows for cell in row)
        for row in rows:  # no cell is a formula
            for cell in row:
                assert not cell.startswith(("=", "+", "-", "@")) or float(cell) <= 0


def test_a_picture_draws_a_name_without_markup_or_formulas(run, tmp_path, reports):
    picture = tmp_path / "run.svg"
    assert reports("show", run, "--plot", picture)[0] == 0
    tree = ElementTree.parse(picture)
    assert not [element for element in tree.iter() if element.tag.endswith("script")]
    assert any("<script>" in "".join(element.itertext()) for element in tree.iter())


def test_no_string_of_a_run_is_active_in_the_output_of_the_gate(tmp_path, reports):
    """GitHub, a CI's test report and a browser show the output."""
    for seed in range(12):
        name = f"2026-11-20T06-15-{seed:02}Z-allreduce-1a2b3c"
        write_hostile(tmp_path / ("base", "new")[seed % 2], HOSTILE, name, seed)
    page, markdown, junit = (tmp_path / name for name in ("p.html", "s.md", "j.xml"))
    sides = ["--baseline", tmp_path / "base", "--current", tmp_path / "new"]
    outputs = ["--html", page, "--markdown", markdown, "--junit", junit]
    assert reports("regress", *sides, *outputs)[0] in (0, 1, 3)
    for text in (page.read_text(), markdown.read_text()):
        assert "alert(1)" in text
        assert "<script>alert" not in text
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)!\[", markdown.read_text())
    words = "".join(
        text for element in ElementTree.parse(junit).iter() for text in element.attrib.values()
    )
    assert "alert(1)" in words


LIVE = [
    "[a](http://e.x) ![i](u) <https://e.x> https://e.x www.e.x a@e.xx mailto:a@e.xx",
    "@octocat o/r#12 #1 GH-12 !12 %3 &4 ~label :smile: $x$ $$y$$ \\",
    "__b__ _i_ **b** a_b_c ~~s~~ `c` <b>x</b> &amp; | a |",
    *(
        "# h",
        "- l",
        "+ l",
        "* l",
        "12. n",
        "1) n",
        "> q",
        "---",
        "===",
        "    c",
        "```",
        "[x]: http://y",
    ),
]


@pytest.mark.parametrize("text", LIVE)
@pytest.mark.parametrize("place", ["## {}", "- {}", "{}", "| a |\n|---|\n| {} |"])
def test_text_of_others_stays_text_in_markdown(text, place):
    """A foreign record could mention a team, close an issue or draw a picture in a pull request."""
    empty, page = (
        MarkdownIt().enable("table").render(place.format(each))
        for each in ("text", markdown_text(text))
    )
    tags = re.sub("</?span>", "", page)
    assert re.findall("<[^>]*>", tags) == re.findall("<[^>]*>", empty)
    shown = html.unescape(re.sub("<[^>]*>", "", tags)).strip()
    assert text.strip() in shown.replace("\u200b", "")
    assert not re.search(r"[@#!%~&]\w|:(//|[a-z])|www\.|GH-\d", shown)
    assert not re.search(r"(?<!<span>)[$]", page), "a formula"


def test_a_flight_record_that_is_a_link_or_a_pipe_is_not_read(tmp_path):
    """A link would show another file, a pipe would block the reader."""
    path = write_run(tmp_path, **ONE, finish=False).path
    folder = path.with_suffix(".flight")
    folder.mkdir()
    (tmp_path / "secret").write_text('{"case": 0, "step": "secret"}')
    (folder / "rank-0").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "rank-1")
    assert read_flight(folder).ranks == {}


def half_a_gigabyte(path):
    with path.open("wb") as file:
        file.truncate(500_000_000)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "holds no run"),
        (os.mkfifo, "ordinary file"),
        (half_a_gigabyte, "500 MB are more"),
    ],
)
def test_only_a_regular_file_is_read(tmp_path, make, why, reports):
    path = tmp_path / "x\x1b[2Jy.jsonl"
    make(path)
    status, _, err = reports("show", path)
    assert (status, why in err, err.count("\n")) == (2, True, 1)


def test_a_line_with_millions_of_values_is_refused(tmp_path):
    """The values of a file of 60 MB took more than 4 GB of memory and a minute of processor
    time."""
    path = write_run(tmp_path, **ONE).path
    head, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(head[:-1] + b',"x":[' + b"[]," * 6_000_000 + b"0]}\n" + rest)
    words = "line 1: its 18 MB are more than the 16 MB that are read"
    with pytest.raises(ResultError, match=words):
        read(path)


def test_a_manifest_names_no_run_outside_its_campaign(tmp_path):
    variants = {"base": no_effect, "new": no_effect}
    manifest = write_campaign(tmp_path / "campaign", variants, pairs=2) / MANIFEST
    text = manifest.read_text()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "run.jsonl").touch()
    manifest.write_text(re.sub('"run":"[^"]*"', '"run":"../outside/run.jsonl"', text, count=1))
    with pytest.raises(ResultError, match="outside the campaign"):
        read_manifest(manifest.parent)
