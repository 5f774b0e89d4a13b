"""The gate, `python -m reports regress`: its exit status, its text, and the files that it writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest

from reports.__main__ import main
from reports.tables.sentences import spoken
from tests.launch import ROOT
from tests.reports.synthetic_campaign import (
    no_effect,
    rewrite_head,
    slower,
    write_campaign,
    write_launch,
    write_launches,
)
from tests.reports.synthetic_run import FAST_NS, mark_wrong
from tests.reports.verdicts.test_compare import DIFFERENT

pytestmark = pytest.mark.unit


def gate(capsys, baseline, current, *options) -> tuple[int, str]:
    """The exit status and the text, with its lines joined; standard error carries only notes."""
    status = main(
        ["regress", "--baseline", str(baseline), "--current", str(current), *map(str, options)]
    )
    out, err = capsys.readouterr()
    assert len(out.splitlines()) <= 24
    assert max((len(line) for line in out.splitlines()[:-1] if " " in line), default=0) <= 80
    return status, " ".join(out.split()) + err


def forms(files) -> list:
    """The options that write these files."""
    return ["--junit", files[0], "--markdown", files[1], "--html", files[2]]


@pytest.fixture(scope="module")
def slowed(tmp_path_factory):
    return write_campaign(
        tmp_path_factory.mktemp("slowed") / "campaign",
        {"main": no_effect, "new": slower(5)},
        fresh=10,
        fresh_sizes=[16384],
        control=True,
    )


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return write_campaign(
        tmp_path_factory.mktemp("alike") / "campaign", {"main": no_effect, "new": no_effect}
    )


def test_a_regression_is_named_in_every_format(slowed, tmp_path):
    """The gate runs as a real process, as in a pipeline."""
    junit, markdown, html = (tmp_path / name for name in ("junit.xml", "summary.md", "page.html"))
    command = [
        sys.executable,
        "-m",
        "reports",
        "regress",
        "--baseline",
        slowed / "main",
        "--current",
        slowed / "new",
        *forms([junit, markdown, html]),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert done.returncode == 1
    expected = "REGRESSION: 1 of 6 cells slower by 1.0% or more (exit status 1)\n"
    figures = r"allreduce: 16 KiB \d+\.\d us \(\d\.\d+x MPICH\), .* GB/s \(\d\.\d+x\)"
    ratios = (
        r"new takes 1\.00x the time of main at 16 KiB, 1\.00x at 64 KiB \(median of 3 algorithms\)"
    )
    wrapped = ratios.replace(" algo", "\nalgo")
    assert re.match(
        rf"{re.escape(expected)}{figures}\n{wrapped}\n16 KiB two-shot: 1\.0", done.stdout
    ), done.stdout

    (suite,) = ElementTree.parse(junit).getroot()
    failed = [case for case in suite.findall("testcase") if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in failed] == [
        ("allreduce.isolated", "16 KiB two-shot")
    ]
    assert [failure.get("type") for failure in suite.iter("failure")] == ["regression"]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == [
        "6",
        "1",
        "0",
        "0",
    ]
    facts = {fact.attrib["name"]: fact.attrib["value"] for fact in suite.iter("property")}
    assert facts["machine_id"] == "a1b2c3"
    assert len(facts["run_ids"].split()) == len(facts["seeds"].split()) == 18

    text = markdown.read_text()
    assert re.match(rf"## REGRESSION: 1 of 6.*\n\n\*\*{figures}\*\*\n\n\*\*{ratios}\*\*\n", text), (
        text[:400]
    )
    assert "- 16 KiB two-shot: 1.0" in text
    assert re.search(
        r"<details>.*\| two_shot \| 16 KiB \|.*\| SLOWER\\\* \|.*</details>", text, re.DOTALL
    )

    page = html.read_text()
    assert "http" not in page
    assert len(page) < 200_000
    assert re.search(f"<p>{figures}</p>", page)
    for words in (
        "REGRESSION: 1 of 6",
        "SLOWER*",
        "<svg",
        "16 KiB two-shot",
        "note: virtual machine",
        "color-scheme: light dark",
        "width=device-width",
    ):
        assert words in page
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.counts["td"] == 6 * 7


class Tags(HTMLParser):
    """The open tags, and the number of each tag."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert tag not in ("script", "link", "img", "iframe")
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_two_equal_variants_pass(alike, capsys):
    status, printed = gate(capsys, alike / "main", alike / "new")
    assert status == 0
    assert re.match(r"PASS: nothing slower than 0\.\d% anywhere \(exit status 0\)", printed)
    assert "the slowdown to exclude: 1.0%, which these launches decide new against main" in printed


def test_the_pilot_decides_the_default_margin_and_a_certain_slowdown_always_fails(
    alike, slowed, tmp_path, capsys
):
    """The gate names its margin. A slowdown of 5 % that the launches prove does not pass because the pilot promised
    8 % only."""
    for folder, expected in ((alike, 0), (slowed, 1)):
        planned = shutil.copytree(folder, tmp_path / str(expected))
        manifest = planned / "campaign.jsonl"
        manifest.write_text(
            manifest.read_text().replace('"visible_effect":null', '"visible_effect":0.08', 1)
        )
        status, printed = gate(capsys, planned / "main", planned / "new")
        assert (status, "to exclude: 8.0%, which the campaign's pilot decides" in printed) == (
            expected,
            True,
        )
        assert (
            "to exclude: 6.0%, of --min-effect"
            in gate(capsys, planned / "main", planned / "new", "--min-effect", "6")[1]
        )


def test_a_regression_must_reach_the_smallest_effect(slowed, capsys):
    assert gate(capsys, slowed / "main", slowed / "new", "--min-effect", "4")[0] == 1
    status, printed = gate(capsys, slowed / "main", slowed / "new", "--min-effect", "6")
    assert (status, printed.startswith("PASS: 0 of 6 cells slower by 6.0%")) == (0, True)
    status, printed = gate(capsys, slowed / "main", slowed / "new", "--min-effect", "0.5")
    assert status == 2
    assert "within the margin" in printed


@pytest.mark.parametrize(
    ("sizes", "status"), [("64K", 0), ("16K,64K", 1), ("16k", 1), ("32K:1M", 0), ("0:16384", 1)]
)
def test_sizes_choose_the_cells(slowed, sizes, status, capsys):
    assert gate(capsys, slowed / "main", slowed / "new", "--sizes", sizes)[0] == status


@pytest.mark.parametrize(
    "option",
    [
        ["--sizes", "16Q"],
        ["--sizes", "1K:2K:3K"],
        ["--sizes", ""],
        ["--sizes", "16K,"],
        ["--min-effect", "0"],
        ["--min-effect", "x"],
        ["--allow", "everything"],
    ],
)
def test_a_bad_option_is_one_sentence(slowed, option, capsys):
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "regress",
                "--baseline",
                str(slowed / "main"),
                "--current",
                str(slowed / "new"),
                *option,
            ]
        )
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (2, 1)
    assert option[0] in err


def test_sizes_that_no_cell_has_are_refused(slowed, capsys):
    status, printed = gate(capsys, slowed / "main", slowed / "new", "--sizes", "1M")
    assert (status, "has one of these sizes" in printed) == (2, True)


def test_one_launch_of_each_side_is_inconclusive(alike, tmp_path, capsys):
    baseline, current = (sorted((alike / name).glob("*.jsonl"))[0] for name in ("main", "new"))
    for passing in ("fail", "pass"):
        status, printed = gate(capsys, baseline, current, "--on-inconclusive", passing)
        assert status == 3
        assert (
            "INCONCLUSIVE: in 6 of 6 cells a slowdown of 1.0% could hide (exit status 3)" in printed
        )
        assert "unreplicated" in printed


def test_too_few_pairs_never_pass(tmp_path, capsys):
    """Four pairs cannot show a difference of any size, so a gate that passes on them checks nothing."""
    folder = write_campaign(tmp_path / "few", {"main": no_effect, "new": slower(50)}, pairs=4)
    junit = tmp_path / "junit.xml"
    for passing in ("fail", "pass"):
        status, printed = gate(
            capsys, folder / "main", folder / "new", "--junit", junit, "--on-inconclusive", passing
        )
        assert (status, "6 have no interval" in printed) == (3, True)
    assert {failure.get("type") for failure in ElementTree.parse(junit).iter("failure")} == {
        "inconclusive"
    }


def test_an_inconclusive_cell_passes_with_the_option(tmp_path, capsys):
    folder = write_campaign(tmp_path / "noisy", {"main": no_effect, "new": no_effect}, spread=0.03)
    junit = tmp_path / "junit.xml"
    status, printed = gate(
        capsys,
        folder / "main",
        folder / "new",
        "--min-effect",
        "1",
        "--junit",
        junit,
        "--on-inconclusive",
        "pass",
    )
    assert status == 0
    assert "inconclusive: 6 of 6 cells" in printed
    assert len(list(ElementTree.parse(junit).iter("skipped"))) == 6
    assert not list(ElementTree.parse(junit).iter("failure"))


def test_an_inconclusive_result_names_the_largest_slowdown_that_could_hide(tmp_path, capsys):
    """In noise of 3 %, an effect of half a per cent more than the margin can hide. The gate prints the worst end of the
    intervals and its cell."""
    folder = write_campaign(
        tmp_path / "noisy", {"main": no_effect, "new": no_effect}, spread=0.03, sizes=[16384]
    )
    status, printed = gate(capsys, folder / "main", folder / "new", "--min-effect", "1")
    assert status == 3
    assert re.search(r"about \d+ pairs would decide, in \d+ min", printed)
    main(["compare", str(folder), "--format", "json"])
    cells = json.loads(capsys.readouterr().out)
    worst = max(
        (cell for cell in cells if cell["verdict"] == "AMBIGUOUS"), key=lambda cell: cell["high"]
    )
    assert f"the most is {worst['high'] - 1:.1%}, in 16 KiB {spoken(worst['algorithm'])}" in printed
    assert (
        gate(capsys, folder / "main", folder / "new", "--min-effect", "90")[0] == 0
    )  # no slowdown of 90 % can hide


def test_improvements_pass_and_call_the_baseline_stale(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "faster", {"main": no_effect, "new": slower(-8)}, fresh=10, fresh_sizes=[16384]
    )
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert status == 0
    assert "baseline is stale: FASTER in 1 of 6 cells: 16 KiB two-shot" in printed


def test_wrong_results_are_always_unusable(slowed, tmp_path, capsys):
    folder = shutil.copytree(slowed, tmp_path / "wrong")
    run = sorted((folder / "new").glob("*.jsonl"))[3]
    mark_wrong(run, 1)
    junit = tmp_path / "junit.xml"
    status, printed = gate(capsys, folder / "main", folder / "new", "--junit", junit)
    assert status == 5
    assert printed.startswith(
        f"UNUSABLE: one-shot push 16 KiB isolated is wrong in {run}: 12 elements were wrong"
    )
    assert [error.get("type") for error in ElementTree.parse(junit).iter("error")] == ["unusable"]
    assert main(["compare", str(folder)]) == 0
    assert capsys.readouterr().out.split(": ")[1].startswith("16 KiB one-shot push wrong; ")
    rewrite_head(run, machine_id="ffffff")
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert (status, "one-shot push 16 KiB" in printed, "machine differs" in printed) == (
        5,
        True,
        True,
    )
    # A fault of the baseline does not make the current side unusable.
    assert gate(capsys, folder / "new", folder / "main", "--allow", "machine")[0] != 5


def test_an_incomplete_run_of_the_current_side_is_unusable(alike, tmp_path, capsys):
    folder = shutil.copytree(alike, tmp_path / "cut")
    run = sorted((folder / "new").glob("*.jsonl"))[5]
    run.write_bytes(run.read_bytes()[:-20])
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert status == 5
    assert f"UNUSABLE: {run} is incomplete" in printed


def test_an_interrupted_campaign_is_unusable(alike, tmp_path, capsys):
    folder = shutil.copytree(alike, tmp_path / "cut")
    lines = (folder / "campaign.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "campaign.jsonl").write_bytes(b"".join(lines[:-1]))
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert (status, "the campaign of new is incomplete" in printed) == (5, True)


def test_a_launch_that_died_and_succeeded_on_a_retry_is_no_fault(alike, tmp_path, capsys):
    folder = shutil.copytree(alike, tmp_path / "died")
    manifest = folder / "campaign.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    died = msgspec.json.decode(lines[3]) | {
        "status": "died",
        "exit": 1,
        "run": None,
        "reason": "rank 1 was killed",
    }
    manifest.write_bytes(b"".join([*lines[:3], msgspec.json.encode(died) + b"\n", *lines[3:]]))
    assert gate(capsys, folder / "main", folder / "new")[0] == 0


def test_a_case_that_the_current_side_lacks_is_named(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "lacks",
        {"main": no_effect, "new": no_effect},
        options={"new": {"algorithms": ["library", "two_shot"]}},
    )
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert status == 5
    assert "16 KiB one_shot_push of the baseline was not measured and 1 more" in printed
    assert "64 KiB one_shot_push of the baseline was not measured" in printed
    status, printed = gate(capsys, folder / "main", folder / "new", "--sizes", "64K")
    assert (status, "16 KiB one_shot_push" in printed) == (5, False)


def test_a_current_side_without_any_case_of_the_baseline_is_unusable(tmp_path, capsys):
    baseline = write_launches(tmp_path / "a", 6, sizes=[16384])
    current = write_launches(tmp_path / "b", 6, sizes=[65536], seed=1)
    page = tmp_path / "page.html"
    assert (
        main(
            ["regress", "--baseline", str(baseline), "--current", str(current), "--html", str(page)]
        )
        == 5
    )
    assert "have no case in common" in " ".join(capsys.readouterr().out.split())
    assert "UNUSABLE" in page.read_text()


def test_a_variant_that_never_finished_is_unusable_and_not_a_regression(alike, tmp_path, capsys):
    folder = shutil.copytree(alike, tmp_path / "dead")
    manifest = folder / "campaign.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text(
        "".join(
            f"{line}\n" for line in lines if '"launch"' not in line or '"variant":"main"' in line
        )
    )
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert (status, "new has no launch that finished" in printed) == (5, True)


def test_a_pair_lost_to_crashes_is_unusable(alike, tmp_path, capsys):
    """Otherwise the gate would judge a variant that crashes in its slow launches by its fast launches."""
    folder = shutil.copytree(alike, tmp_path / "crashing")
    manifest = folder / "campaign.jsonl"
    lines = manifest.read_text().splitlines()
    at = next(
        i for i, line in enumerate(lines) if '"variant":"new"' in line and '"stage":"first"' in line
    )
    lines[at] = lines[at].replace('"status":"finished"', '"status":"died"')
    manifest.write_text("".join(f"{line}\n" for line in lines))
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert (status, "no launch of new finished in 1 of its pairs" in printed) == (5, True)


def test_a_run_is_not_compared_with_itself(alike, capsys):
    status, printed = gate(capsys, alike / "main", alike / "main")
    assert (status, "compared with itself" in printed) == (2, True)


def test_the_status_is_kept_if_the_reader_closes_the_pipe(tmp_path):
    folder = write_campaign(tmp_path / "noisy", {"main": no_effect, "new": no_effect}, spread=0.03)
    command = [
        sys.executable,
        "-m",
        "reports",
        "regress",
        "--baseline",
        str(folder / "main"),
        "--current",
        str(folder / "new"),
        "--min-effect",
        "1",
    ]
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run(command, cwd=ROOT, stdout=writer, timeout=60).returncode == 3
    os.close(writer)


def test_a_planned_case_that_was_never_measured_is_missing(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "late",
        {"main": no_effect, "new": no_effect},
        sizes=[16384],
        options={"new": {"change": lambda block: None if block.case == 2 else block}},
    )
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert (status, "16 KiB two_shot of the baseline was not measured" in printed) == (5, True)


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_difference_ends_with_status_4_and_stays_visible_if_allowed(key, alike, tmp_path, capsys):
    baseline, current = alike / "main", shutil.copytree(alike / "new", tmp_path / "b")
    for run in current.glob("*.jsonl"):
        rewrite_head(run, **DIFFERENT[key])
    status, printed = gate(capsys, baseline, current)
    assert (status, f"{key} differs" in printed) == (4, True)
    files = [tmp_path / name for name in ("junit.xml", "summary.md", "page.html")]
    status, printed = gate(capsys, baseline, current, "--allow", key, *forms(files))
    assert status == 0
    for text in (printed, *(file.read_text() for file in files)):
        assert f"allowed to differ: {key} differs" in text


def test_another_type_ends_with_status_4(tmp_path, capsys):
    baseline, current = (
        write_launches(tmp_path / "a", 6),
        write_launches(tmp_path / "b", 6, seed=1, datatype="float16"),
    )
    status, printed = gate(capsys, baseline, current)
    assert (status, "type differs" in printed) == (4, True)


def test_pairs_without_a_common_state_are_inconclusive(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "apart",
        {"main": no_effect, "new": no_effect},
        sizes=[16384],
        options={"main": {"fast_rounds": range(6)}},
    )
    for passing in ("fail", "pass"):
        status, printed = gate(
            capsys, folder / "main", folder / "new", "--on-inconclusive", passing
        )
        assert (status, "3 have no interval" in printed) == (3, True)


def test_variants_of_the_same_name_are_distinguished(alike, tmp_path, capsys):
    """The sides are variants from the folders of two campaigns."""
    other = shutil.copytree(alike, tmp_path / "other")
    for run in (other / "main").glob("*.jsonl"):
        rewrite_head(run, notes=["Turbo is on."], run_id=f"{run.stem}-other")
    status, printed = gate(capsys, alike / "main", other / "main")
    assert status == 0
    assert "other/main against campaign/main, the baseline: 8" in printed
    assert "Turbo is on. (other/main alone)" in printed
    assert (
        "virtual machine: the link between two cores can change under the run (campaign/main alone)"
        in printed
    )


def test_one_common_state_is_enough_to_find_a_regression(tmp_path, capsys):
    """main was mostly in the fast state, and new never was."""
    folder = write_campaign(
        tmp_path / "states",
        {"main": no_effect, "new": slower(5)},
        fresh=10,
        fresh_sizes=[16384],
        n_blocks=14,
        options={"main": {"fast_rounds": range(9)}, "new": {"fast_rounds": []}},
    )
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert status == 1
    assert re.search(r"16 KiB two-shot: 1.0[45]", printed)


def test_the_fast_state_is_faster_in_synthetic_runs(tmp_path):
    """The tests of two states depend on this."""
    result = write_launch(tmp_path, 0, fast_rounds=[0])
    of_library = [block for block in result.blocks if block.case == 0]
    assert of_library[0].link_rtt_ns
    assert of_library[0].link_rtt_ns[0] < 2 * FAST_NS
    assert of_library[1].time_us / of_library[0].time_us > 1.3


def test_copies_of_a_run_count_as_one_launch(tmp_path, capsys):
    """Otherwise the gate would claim eight pairs for a single launch."""
    folder = write_campaign(
        tmp_path / "copied", {"main": no_effect, "new": slower(5)}, fresh=10, fresh_sizes=[16384]
    )
    first, *others = sorted((folder / "new").glob("*.jsonl"))
    for other in others:
        shutil.copy(first, other)
    status, printed = gate(capsys, folder / "main", folder / "new")
    assert (status, "is a copy of the run" in printed) == (3, True)


def test_facts_of_different_kinds_are_compared(tmp_path, capsys):
    """A traceback ends with status 1, which means a regression."""
    folder = write_campaign(tmp_path / "odd", {"main": no_effect, "new": no_effect})
    for run in (folder / "new").glob("*.jsonl"):
        rewrite_head(run, environment={"cpu.governor": {"value": 7}})
    assert (
        main(["regress", "--baseline", str(folder / "main"), "--current", str(folder / "new")]) == 4
    )
    assert "clock differs" in capsys.readouterr().err
    for run in (folder / "new").glob("*.jsonl"):
        rewrite_head(
            run, environment={}, world__ranks=[{"rank": 0, "gpu": "a"}, {"rank": 1, "gpu": None}]
        )
    assert (
        main(["regress", "--baseline", str(folder / "main"), "--current", str(folder / "new")]) == 4
    )
    assert "world differs" in capsys.readouterr().err


def test_a_closed_standard_output_loses_only_the_text(alike):
    command = (
        f'"{sys.executable}" -m reports regress --baseline {alike}/main --current {alike}/new >&-'
    )
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
