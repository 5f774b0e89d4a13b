"""The gate, `python -m reports regress`: its exit status, its text, and the files that it
writes."""

import html
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from xml.etree import ElementTree

import msgspec
import pytest

from reports.__main__ import main
from reports.verdicts.gate_rule import UNREADABLE, decide
from reports.verdicts.judge import compare
from reports.verdicts.regress import as_markdown
from reports.verdicts.sides import incomplete_runs, read_sides, side_of
from tests.launch import ROOT
from tests.reports.synthetic_campaign import (
    SMALL,
    no_effect,
    slower,
    write_campaign,
    write_launches,
)
from tests.reports.synthetic_run import mark_wrong, rewrite_head
from tests.reports.verdicts.test_compare import DIFFERENT
from wiretax.common.owners import opened

pytestmark = pytest.mark.unit

ALIKE = {"main": no_effect, "new": no_effect}


def gate(capsys, baseline, current, *options):
    """The exit status and the text, with its lines joined; standard error carries only notes."""
    status = main(
        ["regress", "--baseline", str(baseline), "--current", str(current), *map(str, options)]
    )
    out, err = capsys.readouterr()
    assert len(out.splitlines()) <= 24
    assert max((len(line) for line in out.splitlines()[:-1] if " " in line), default=0) <= 80
    return status, " ".join(out.split()) + err


def judge(capsys, folder, *options):
    """The gate's answer about `new` against `main` of a campaign."""
    return gate(capsys, folder / "main", folder / "new", *options)


def forms(folder):
    """The options that write files, and these files."""
    files = [folder / name for name in ("junit.xml", "summary.md", "page.html")]
    return [["--junit", files[0], "--markdown", files[1], "--html", files[2]], files]


def text_of(file):
    """What a reader of the file sees, without the tags."""
    text = html.unescape(re.sub("<[^>]+>", "", file.read_text()))
    return text.replace("\xa0%", "%").replace("\xa0", " ")


@pytest.fixture(scope="module")
def slowed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slowed") / "campaign"
    return write_campaign(folder, {"main": no_effect, "new": slower(5)})


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return write_campaign(tmp_path_factory.mktemp("alike") / "campaign", ALIKE)


@pytest.fixture
def copied(alike, tmp_path):
    return shutil.copytree(alike, tmp_path / "copied")


def test_a_regression_is_named_in_every_format(slowed, tmp_path, capsys):
    options, (junit, markdown, page_file) = forms(tmp_path)
    status, printed = judge(capsys, slowed, *options)
    assert status == 1
    expected = (
        r"REGRESSION: SLOWER \d\.\d%: 16 KiB two_shot; no slowdown of 0\.\d% or more in the "
        r"other cells; 1 of 4 cells beyond chance and estimated at 1\.0% or more"
    )
    figures = r"allreduce: 16 KiB \d+\.\d us \(\d\.\d+x MPICH\), .* GB/s \(\d\.\d+x\)"
    assert re.match(rf"{expected} \(exit status 1\) {figures} ", printed)
    assert "16 KiB two_shot: 1.0" in printed

    suite = ElementTree.parse(junit).getroot()
    (failed,) = suite.findall("testcase[failure]")
    assert (failed.get("classname"), failed.get("name")) == (
        "allreduce.isolated",
        "16 KiB two_shot",
    )
    assert failed.findall("failure[@type='regression']")
    assert [len(suite.findall(tag)) for tag in ("testcase", "testcase/error")] == [7, 0]
    assert suite.get("name") == "wiretax gate"  # CI servers keep a suite's history by its name
    assert re.match(rf"{expected}.*\nmachine a1b2c3\n", str(suite.findtext("system-out")))

    text = markdown.read_text()
    title, *_ = text.split("\n")
    assert re.fullmatch(r"## ✗ REGRESSION: SLOWER \d\.\d%: 16 KiB two_shot; .* \.\.\.", title)
    assert len(title) <= len("## ") + 60
    assert re.search(rf"\n\n✗ {expected}.*\n\n- {figures}\n", text)
    assert re.search(r"\| two_shot \| 16 KiB \|.*\| SLOWER \|", text)
    assert len(text.partition("<details>")[0].splitlines()) <= 20

    page = page_file.read_text()
    assert {"REGRESSION: SLOWER", "<svg"} <= {*re.findall("REGRESSION: SLOWER|<svg", page)}
    assert '<meta property="og:image" content="page.html.png">' in page
    picture = page_file.with_name("page.html.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (1200, 630)


def test_markdown_stays_below_githubs_limit_and_escapes_names(alike):
    (comparison,) = compare(read_sides([str(alike)]))
    comparison.variant.label = "a|b<script>`*"
    cells = comparison.cells.iloc[[-1] * 2000].reset_index(drop=True)
    text = as_markdown(decide(msgspec.structs.replace(comparison, cells=cells)))
    assert len(text.encode()) < 60_000
    assert re.search(r"- \d+ more rows do not fit here", text)
    assert "a\\|b&lt;script&gt;\\`\\*" in text
    rows = [row for row in text.splitlines() if row.startswith("| two_shot")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def test_two_equal_variants_pass_and_a_run_is_not_compared_with_itself(alike, capsys):
    status, printed = judge(capsys, alike)
    assert status == 0
    expected = r"PASS: no slowdown of 0\.\d% or more; smaller ones could hide \(exit status 0\)"
    assert re.match(expected, printed)
    status, printed = gate(capsys, alike / "main", alike / "main")
    assert (status, "compared with itself" in printed) == (2, True)


def test_min_effect_chooses_the_slowdown_that_fails(slowed, capsys):
    assert judge(capsys, slowed, "--min-effect", "6")[0] == 0
    assert judge(capsys, slowed, "--min-effect", "0.5")[0] == 2  # within the margin


@pytest.mark.parametrize("option", ["--min-effect=0", "--allow=everything"])
def test_a_bad_option_is_one_sentence(slowed, option, reports):
    status, _, err = reports("regress", "--baseline", slowed, "--current", slowed, option)
    assert (status, err.count("\n"), option.partition("=")[0] in err) == (2, 1, True)


def test_a_cell_of_the_library_never_fails_the_gate_and_tells_that_the_machine_moved(
    tmp_path, capsys
):
    """HEAD against HEAD~1 ended with status 3 for MPICH's own cell alone."""
    effect = slower(8, algorithm="library")
    folder = write_campaign(tmp_path / "moved", {"main": no_effect, "new": effect})
    status, printed = judge(capsys, folder)
    assert (status, "SLOWER" in printed) == (0, False)
    assert "the machine or a setting moved: 1 of 2 cells of the library" in printed
    junit = tmp_path / "junit.xml"
    assert judge(capsys, folder, "--junit", junit)[0] == 0
    assert not list(ElementTree.parse(junit).iter("failure"))
    alone = write_campaign(tmp_path / "alone", ALIKE, algorithms=["library"], pairs=6)
    status, printed = judge(capsys, alone)
    assert (status, "every cell is the library's" in printed) == (2, True)


def test_too_few_pairs_never_pass(tmp_path, capsys):
    """Four pairs cannot show a difference of any size, so a gate that passes on them checks
    nothing."""
    few = write_campaign(tmp_path / "few", {"main": no_effect, "new": slower(50)}, pairs=4)
    junit = tmp_path / "junit.xml"
    status, printed = judge(capsys, few, "--junit", junit)
    assert (status, "KiB two_shot: 1.000 undecided" in printed) == (3, True)
    assert "the margin, but so few pairs exclude nothing" in printed
    suite = ElementTree.parse(junit).getroot()
    skipped = [each.get("type") for each in suite.iter("skipped")]
    assert (skipped, [*suite.iter("failure")]) == (4 * ["inconclusive"], [])


@pytest.mark.parametrize(("percent", "word", "expected"), [(900, "SLOWER", 1), (-90, "FASTER", 0)])
def test_ten_times_the_time_is_decided_by_six_pairs(tmp_path, capsys, percent, word, expected):
    """Among so many cells Holm's procedure decides none by six pairs, by however much they
    differ."""
    variants = {"main": no_effect, "new": slower(percent)}
    folder = write_campaign(tmp_path / "far", variants, pairs=6, spread=0.05)
    status, printed = judge(capsys, folder)
    assert (status, f": {word} " in printed) == (expected, True), printed


def test_a_pass_of_faster_cells_alone_excludes_every_slowdown(tmp_path, capsys):
    """Such a pass ended "no slowdown of 0.0% or more; smaller ones could hide"; and a table that is
    in view stands in the summary once."""
    variants = ALIKE | {"new": lambda case: 0.8}
    folder = write_campaign(tmp_path / "fast", variants, spread=0.01, sizes=[16384])
    status, printed = judge(capsys, folder, "--markdown", tmp_path / "summary.md")
    assert status == 0
    assert re.match(r"PASS: FASTER up to 2\d\.\d%: [^;]*; no slowdown; the machine", printed)
    rows = re.findall(r"\| 16 KiB \|.* FASTER ", (tmp_path / "summary.md").read_text())
    assert len(rows) == len({*rows})


def test_an_inconclusive_result_says_what_decides(tmp_path, capsys):
    """In noise of 3 %, half a per cent more than the margin can hide."""
    noisy = write_campaign(tmp_path / "noisy", ALIKE, spread=0.03, sizes=[16384])
    status, printed = judge(capsys, noisy, "--min-effect", "1")
    assert status == 3
    assert re.search(r"about \d+ pairs would decide", printed)
    assert judge(capsys, noisy, "--min-effect", "90")[0] == 0  # no slowdown of 90 % can hide
    variants = ALIKE | {"new": slower(1.4)}  # estimated at 0.997 %: "about 23439 pairs" hid 1 %
    close = write_campaign(tmp_path / "close", variants, spread=0.03, sizes=[16384])
    assert "no affordable number of pairs decides" in judge(capsys, close, "--min-effect", "1")[1]


@pytest.mark.parametrize("min_effect", [None, 20])
def test_a_live_gate_has_one_exclusion_and_says_which_pairs_exclude_five_percent(
    tmp_path, capsys, reports, min_effect
):
    """A slowdown of 6.6 % or more was excluded, and "the slowdown to exclude: 13.3 %"."""
    noisy = write_campaign(tmp_path / "noisy", ALIKE, spread=0.06)
    options, files = forms(tmp_path)
    words = ["--min-effect", min_effect] if min_effect else []
    status, printed = judge(capsys, noisy, *options, *words)
    assert status == 0
    expected = (
        r"PASS: no slowdown of (\d\.\d)% or more; smaller ones could hide, "
        r"and about (\d+) pairs would exclude 5%"
    )
    ((excluded, pairs),) = re.findall(expected, printed)
    for text in (printed, *map(text_of, files)):
        assert f"about {pairs} pairs would exclude 5%" in text
        assert {*re.findall(r"slowdown[ a-z]*(?: of|:) (\d+\.\d)%", text)} == {excluded}
    sides = ["--baseline", str(noisy / "main"), "--current", str(noisy / "new")]
    status, out, _ = reports("regress", *sides, *map(str, words), "--json")
    told = json.loads(out)
    assert (status, f"{told['excluded']:.1%}") == (0, f"{excluded}%")
    assert (told["pairs_excluding_5_percent"], told["must_exclude"] > 0.1) == (int(pairs), True)
    needed = write_campaign(tmp_path / "more", ALIKE, spread=0.06, pairs=int(1.3 * int(pairs)))
    assert "would exclude 5%" not in judge(capsys, needed)[1]


def test_a_live_gate_that_decides_little_does_not_pass(tmp_path, capsys):
    noisy = write_campaign(tmp_path / "noisy", ALIKE, spread=0.3)
    status, printed = judge(capsys, noisy)
    assert status == 3
    assert "the slowdown to exclude: 25.0%, which these launches decide, at most 25%" in printed
    assert "pairs would exclude 5%" in printed.partition("(exit status 3)")[0]


def test_cells_with_too_few_pairs_are_not_called_undecidable(tmp_path, capsys):
    """No affordable number of pairs would exclude 5 %, the gate said, and that more pairs would."""
    status, printed = judge(capsys, write_campaign(tmp_path / "few", ALIKE, pairs=4))
    assert status == 3
    assert "more pairs than some cells have would exclude 5%" in printed
    assert "no affordable number" not in printed


@pytest.mark.parametrize("pairs", [6, 27])
def test_a_pass_with_a_small_slowdown_names_what_it_excludes(tmp_path, capsys, reports, pairs):
    """It said only that smaller ones could hide."""
    folder = write_campaign(tmp_path / "slow", {"main": no_effect, "new": slower(3)}, pairs=pairs)
    status, printed = judge(capsys, folder, "--min-effect", 5)
    pattern = (
        r"PASS: SLOWER (3\.\d)%: 16 KiB two_shot; no slowdown of (\d\.\d)% or more in any cell; "
        r"0 of \d cells beyond chance and estimated at 5\.0% or more; smaller ones could hide"
    )
    ((_, excluded),) = re.findall(pattern, printed)
    assert status == 0
    sides = ["--baseline", str(folder / "main"), "--current", str(folder / "new")]
    told = json.loads(reports("regress", *sides, "--min-effect", "5", "--json")[1])
    assert f"{told['excluded']:.1%}" == f"{excluded}%"


def test_five_percent_never_pass_beside_a_kept_baseline(tmp_path, capsys):
    """The gate passed, without "a slowdown of 11.9 % or more", while the cells were 1.051: its
    margin followed the spread between days."""
    many = {"sizes": [16384 << step for step in range(8)], "algorithms": SMALL["algorithms"][1:]}
    base = write_launches(tmp_path / "base", 12, **many)
    new = write_launches(tmp_path / "new", 12, seed=1, effect=lambda case: 1.05, **many)
    options, files = forms(tmp_path)
    status, printed = gate(capsys, base, new, *options)
    assert status == 3
    assert re.match(r"INCONCLUSIVE: in 16 of 16 cells a slowdown of 5\.0% could hide; ", printed)
    assert "the slowdown to exclude: 5.0%, the default beside a kept baseline" in printed
    assert all("a slowdown of 5.0% could hide" in text_of(file) for file in files)
    status, printed = gate(capsys, base, new, "--min-effect", 15)
    assert (status, printed.startswith("PASS: no slowdown of 1")) == (0, True)
    assert "to exclude" not in printed


def test_improvements_of_a_commit_pass_and_move_no_baseline(tmp_path, capsys):
    """Of two commits nothing is kept that `accept` could move."""
    folder = write_campaign(tmp_path / "faster", {"main": no_effect, "new": slower(-8)})
    status, printed = judge(capsys, folder)
    assert status == 0
    assert "PASS: FASTER 8.0%: 16 KiB two_shot" in printed
    assert "accept" not in printed


def test_wrong_results_are_always_unusable(copied, tmp_path, capsys):
    _, run, other, *_ = sorted((copied / "new").glob("*.jsonl"))
    mark_wrong(run, 1)
    mark_wrong(other, 1)
    other.write_text(other.read_text().replace("12 elements", "9 elements"))
    junit = tmp_path / "junit.xml"
    status, printed = judge(capsys, copied, "--junit", junit)
    assert status == 5
    expected = "UNUSABLE: 16 KiB one_shot_push is wrong in 2 of 12 launches of new: 12"
    assert printed.startswith(expected)
    assert f"(the first: {run})" in printed
    assert "pairs" not in printed.partition("to exclude")[0], "more pairs mend nothing"
    failed = {
        case.get("name"): case[0].tag
        for case in ElementTree.parse(junit).iter("testcase")
        if len(case)
    }
    assert failed == {"both sides can be judged": "error", "16 KiB one_shot_push": "failure"}
    # Times of a wrong baseline prove nothing either.
    assert gate(capsys, copied / "new", copied / "main")[0] == 5
    rewrite_head(run, machine_id="ffffff")
    assert judge(capsys, copied)[0] == 5


def died(line):
    line = re.sub('"run":"[^"]*"', '"run":null', line.replace("finished", "died"))
    return re.sub('"reason":null', '"reason":"no luck"', line)


# The lines of a manifest with the first launch of new at `at`, and what is said.
FAULTS = {
    "an interrupted campaign": (lambda lines, at: lines[:-1], "campaign of new is incomplete"),
    "a launch that succeeded on a retry": (
        lambda lines, at: [*lines[:at], died(lines[at]), *lines[at:]],
        "new died in 1 of 13 launches, the last time with: no luck",
    ),
    "no launch that finished": (
        lambda lines, at: [line for line in lines if '"variant":"new"' not in line],
        "new has no launch that finished",
    ),
    # Otherwise a variant that crashes in its slow launches would be judged by its fast launches.
    "a pair lost to a crash": (
        lambda lines, at: [*lines[:at], died(lines[at]), *lines[at + 1 :]],
        "no launch of new finished in 1 of its pairs",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_launches_that_are_missing_make_the_current_side_unusable(fault, copied, capsys):
    change, words = FAULTS[fault]
    manifest = copied / "campaign.jsonl"
    lines = manifest.read_text().splitlines()
    first = next(at for at, line in enumerate(lines) if '"variant":"new"' in line)
    manifest.write_text("".join(f"{line}\n" for line in change(lines, first)))
    status, printed = judge(capsys, copied)
    assert (status, words in printed) == (5, True), printed


def test_runs_that_are_cut_off_are_unusable_and_named_once_for_each_reason(copied, capsys):
    runs = sorted((copied / "new").glob("*.jsonl"), reverse=True)
    runs[0].write_bytes(runs[0].read_bytes()[:-20])
    status, printed = judge(capsys, copied)
    assert status == 5
    assert "UNUSABLE: new is incomplete in 1 of 12 launches: it was cut off" in printed
    for run in runs[1:]:
        run.write_bytes(run.read_bytes()[:-20])
    printed = judge(capsys, copied)[1]
    assert "new is incomplete in 12 of 12 launches: it was cut off" in printed
    assert printed.count("incomplete") == 1


def test_a_run_that_is_cut_off_is_named_by_a_path_that_outlives_the_command(copied):
    """The notes of a gate named /proc/self/fd/6/base/RUN, a descriptor of its own."""
    run = min((copied / "new").glob("*.jsonl"))
    run.write_bytes(run.read_bytes()[:-20])
    with opened(copied) as folder:
        (fault,) = incomplete_runs(side_of(f"{folder}/new"))
    assert fault.endswith(f"(the first: {run})")


@pytest.mark.parametrize(
    ("options", "case"),
    [
        ({"new": {"algorithms": ["library", "two_shot"]}}, "one_shot_push"),
        ({"new": {"change": lambda block: None if block.case == 1 else block}}, "one_shot_push"),
        ({"main": {"variants": ["copied", "registered"]}}, "one_shot_push registered"),
    ],
)
def test_a_case_that_the_current_side_lacks_is_named(options, case, tmp_path, capsys):
    folder = write_campaign(tmp_path / "lacks", ALIKE, options=options)
    status, printed = judge(capsys, folder)
    sentence = f"UNUSABLE: new lacks 16 KiB {case}, "
    assert (status, sentence in printed) == (5, True)


def test_a_current_side_without_any_case_of_the_baseline_is_unusable(tmp_path, capsys):
    base = write_launches(tmp_path / "a", 6, sizes=[16384])
    status, printed = gate(capsys, base, write_launches(tmp_path / "b", 6, sizes=[65536], seed=1))
    assert (status, "have no case in common" in printed) == (5, True)


def test_the_status_is_kept_if_the_text_cannot_be_printed(alike):
    runs = [sorted((alike / name).glob("*.jsonl"))[0] for name in ("main", "new")]
    words = [sys.executable, "-m", "reports", "regress", "--baseline", runs[0], "--current"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*words, runs[1]], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 3
    assert not done.stderr


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_difference_ends_with_status_4_and_stays_visible_if_allowed(key, copied, capsys):
    for run in (copied / "new").glob("*.jsonl"):
        rewrite_head(run, **DIFFERENT[key])
    status, printed = judge(capsys, copied)
    assert (status, f"{key} differs" in printed, f"--allow {key}" in printed) == (4, True, True)
    status, printed = judge(capsys, copied, "--allow", key)
    assert (status, f"allowed to differ: {key} differs" in printed) == (0, True)


def test_a_full_disk_under_standard_error_is_no_regression():
    command = [sys.executable, "-m", "reports", "regress", "--baseline", "a", "--current", "b"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=ROOT, stderr=full).returncode == UNREADABLE
