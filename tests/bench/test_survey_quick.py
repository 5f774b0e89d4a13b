"""What an owner of two cards gets in three minutes: launches within the time also if kernels are
compiled, the thresholds of docs/answer.md, why a step failed, and the table that `auto` took."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import msgspec
import pytest

from bench import survey as command
from bench.harness import tuned
from bench.survey import run_steps, run_survey
from bench.surveys import survey_page, table_taken, thresholds
from bench.surveys.steps import plan
from reports.advice.even_calls import even_chunk_us, even_token_us
from reports.advice.given_card import FORM
from reports.advice.reduce_times import LEAST_LAUNCHES
from reports.advice.specs import GPUS
from tests.bench.test_survey import survey_of, survey_of_stored_runs
from tests.reports.synthetic_archive import launch, mark
from tests.reports.synthetic_candidates import R9700
from tests.reports.synthetic_run import ranks_of, rewrite, rewrite_head, write_run
from wiretax.record.archive import CONTENTS, Contents
from wiretax.record.result import read

CARD = GPUS["r9700"]
SVG = "{http://www.w3.org/2000/svg}"


def quick_survey(folder, vendor="hip"):
    survey = survey_of(folder, plan("separate", vendor, True), left_s=180.0)
    return replace(survey, vendor=vendor)


class Clock:
    """A machine whose first launches compile beside the time that they are given."""

    def __init__(self, monkeypatch, compile_s, failing=()):
        self.now_s, self.compile_s, self.failing = 0.0, compile_s, failing
        self.said = list[str]()
        monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(command, "STARTED_S", 0.0)
        monkeypatch.setattr(command, "perform", self.perform)

    def perform(self, survey, step, share_s, left_s):
        compiles = step.launch == 1 and step.command in ("link", "allreduce", "decode")
        compiled_s = self.compile_s if compiles else 0.0
        took_s = share_s + compiled_s
        step.elapsed_s = min(took_s, left_s)
        step.status = "failed" if took_s > left_s or step.name in self.failing else "done"
        end, run = SimpleNamespace(compile_s=compiled_s), SimpleNamespace(gpus=[R9700])
        step.result = SimpleNamespace(end=end, run=run, cases=[])
        self.now_s += step.elapsed_s
        self.said.append(f"{step.log} {step.status}")
        if survey.is_quick and step.name == "allreduce":
            assert share_s >= 10, "a launch on GPUs takes some seconds to start"


@pytest.mark.parametrize("compile_s", [0.0, 15.0])
@pytest.mark.parametrize("vendor", ["hip", ""])
def test_a_quick_survey_has_five_launches_also_where_kernels_are_compiled(
    tmp_path, monkeypatch, vendor, compile_s
):
    """On a new machine the decode step took the time of the launches, or had none for its own
    compilers."""
    clock = Clock(monkeypatch, compile_s)
    made = replace(quick_survey(tmp_path / "survey", vendor), deadline_s=180.0)
    run_steps(made)
    assert clock.now_s <= 180.0
    launches = [said for said in clock.said if said.startswith("allreduce")]
    assert launches[:LEAST_LAUNCHES] == [
        "allreduce done",
        *(f"allreduce-{number} done" for number in range(2, LEAST_LAUNCHES + 1)),
    ]
    logs = [said.split()[0] for said in clock.said]
    assert logs.index("decode") > logs.index(f"allreduce-{LEAST_LAUNCHES}")
    assert "decode done" in clock.said


def test_a_quick_survey_tunes_nothing_and_calls_from_graphs_on_gpus():
    steps = {step.name: step.line for step in plan("separate", "hip", True)}
    assert not [line for line in steps.values() if line.startswith("tune")]
    assert "--sizes 16K,1M,32M" in steps["allreduce"]
    assert " -G 1" in steps["allreduce"]
    assert " -G" not in {step.name: step.line for step in plan("separate", "", True)}["allreduce"]
    full = {step.name: step for step in plan("separate", "hip", False)}["thresholds"]
    assert " -G 1" in full.line
    assert full.again["number"] + 1 >= LEAST_LAUNCHES


@pytest.mark.parametrize(
    ("time_s", "failing", "tunings"),
    [
        (900.0, (), ["tune done", "confirm done"]),
        (900.0, ("tune",), ["tune failed"]),
        (150.0, (), []),
    ],
)
def test_tuning_has_its_time_or_is_left_out(tmp_path, monkeypatch, time_s, failing, tunings):
    """Two short ones took a third of the time for "table: none", the second after a failed first,
    of which it had nothing to confirm."""
    clock = Clock(monkeypatch, 15.0, failing)
    made = replace(
        quick_survey(tmp_path / "survey", ""),
        deadline_s=time_s,
        is_quick=False,
        steps=plan("separate", "", False),
    )
    run_steps(made)
    assert [said for said in clock.said if said.startswith(("tune", "confirm"))] == tunings
    left_out = [remark for remark in made.remarks if remark.startswith("Tuning")]
    assert len(left_out) == 2 - len(tunings)


def owners(folder, graph_us, launches=LEAST_LAUNCHES, gpu=R9700, wide=1.0):
    """A survey of two such cards, whose launches differ, `wide` ones by that factor."""
    made, name = quick_survey(folder), "allreduce"
    (first,) = [step for step in made.steps if step.name == name]
    for number in range(launches):
        path = launch(folder, number, graph_us * wide ** (-1) ** number, 1.0)
        mark(path, "5a11ab1e0c0d")
        rewrite_head(path, world__ranks=ranks_of(gpu))
        step = first if number == 0 else first.next_launch(number + 1)
        step.status, step.result = "done", read(path)
        if number:
            made.steps.append(step)
    return made


@pytest.mark.parametrize(
    ("share", "wide", "word"),
    [
        (0.5, 1.0, "met"),
        (2.5, 1.0, "not met"),
        (0.97, 1.1, "undecided"),
    ],
)
def test_the_call_of_a_token_is_held_to_the_break_even_of_these_cards(tmp_path, share, wide, word):
    made = owners(tmp_path / "survey", share * even_token_us(CARD), wide=wide)
    library, *_ = thresholds.judged(made)
    assert library.word == word
    # Three of five launches are slow ones.
    assert library.us.value == pytest.approx(wide * share * even_token_us(CARD), rel=0.03)
    said = thresholds.sentences(made)
    assert said[0] == (
        "Transport: RCCL 2.27.7 through peer access (P2P/IPC); our kernels through peer access "
        "(mapped)."
    )
    decode, _, prefill, _, necessary = said[1:]
    assert decode.startswith("decode, 16 KiB in a chain from a graph: RCCL 2.27.7 ")
    assert (": undecided: the interval reaches across." in decode) == (word == "undecided")
    assert prefill.startswith("prefill, 32 MiB in one call: RCCL 2.27.7 ")
    assert prefill.endswith(", break-even 4.82 ms: met.")
    assert necessary.startswith("To pass is necessary, not sufficient")


def test_too_few_launches_decide_nothing(tmp_path):
    """Four launches have no interval: their mean once would have been called met."""
    made = owners(tmp_path / "survey", 20.0, launches=LEAST_LAUNCHES - 1)
    assert {each.word for each in thresholds.judged(made)} == {"undecided"}
    assert "undecided: 4 launches, and an interval takes 5." in thresholds.sentences(made)[1]
    assert "inf" not in thresholds.drawing(made, thresholds.judged(made))


def test_what_no_threshold_is_for_is_not_judged(tmp_path):
    """Of a chain without a graph, of a wrong result, of unknown cards, of one card, of CPUs."""
    good = owners(tmp_path / "good", 20.0, launches=1)
    wrong = owners(tmp_path / "wrong", 20.0, launches=1)
    wrong.steps[-1].status = "wrong"
    eager = owners(tmp_path / "eager", 20.0, launches=1)
    for result in eager.results("allreduce"):
        result.run.method.clear()
    cut = owners(tmp_path / "cut", 20.0, launches=1)
    for result in cut.results("allreduce"):
        result.end.status = "incomplete"
    why = {
        "a result was wrong": wrong,
        "no launch of all-reduces from a graph is complete": eager,
        "from a graph is complete": cut,
        "they are for two cards and more": replace(good, shares_gpus=True),
        "has no data sheet of Voodoo 2. For a card of such figures, python -m reports advise "
        f"--model llama-3.1-70b --weights 40GB --gpu {FORM} --gpus 2 prints the first "
        "break-even": owners(
            tmp_path / "unknown",
            20.0,
            launches=1,
            gpu="Voodoo 2",
        ),
    }
    for reason, made in why.items():
        assert thresholds.judged(made) == []
        assert thresholds.sentences(made)[-1].endswith(f"{reason}.")
    cpus = replace(good, vendor="")
    assert (thresholds.judged(cpus), thresholds.sentences(cpus)) == ([], [])


def test_the_picture_has_every_call_and_markup_of_a_name_stays_text(tmp_path):
    made = owners(tmp_path / "survey", 20.0, launches=1)
    for result in made.results("allreduce"):
        for case in result.cases:
            case.library = case.library and "<script>alert(1)</script>"
    thresholds.write_picture(made)
    picture = (made.folder / thresholds.PICTURE).read_text()
    assert picture.count("<circle") == 4
    assert "<script" not in picture


def test_no_text_of_the_picture_covers_another(tmp_path):
    """Its title lay over the first call, and the line of the break-even through all others."""
    made = owners(tmp_path / "survey", 20.0, launches=1)
    picture = ElementTree.fromstring(thresholds.drawing(made, thresholds.judged(made)))
    lefts = [text for text in picture.iter(f"{SVG}text") if text.get("x") == "0"]
    lines = [int(text.get("y", "")) for text in lefts]
    assert min(b - a for a, b in pairwise(lines)) >= 14
    for line in [each for each in picture.iter(f"{SVG}rect") if each.get("width") == "2"]:
        top, height = int(line.get("y", "")), int(line.get("height", ""))
        assert not [y for y in lines if top < y < top + height + 8]


def test_a_page_says_in_its_banner_and_a_table_what_is_met(tmp_path):
    """A green banner of a finished survey stood over thresholds that were not met."""
    made = owners(tmp_path / "survey", 1.5 * even_token_us(CARD))
    who = "RCCL 2.27.7"
    assert thresholds.in_short(made) == [
        f"Thresholds: decode not met by {who}; decode met by auto; prefill met by {who} and auto."
    ]
    section = thresholds.section(made)
    assert [row["verdict"] for row in section.rows] == ["not met\n", *3 * ["met\n"]]
    assert (
        thresholds.in_short(made)[0]
        in survey_page.page_of(made, 0, Path("x"), Path("y")).banner.facts
    )


def test_more_cards_leave_a_call_more_time():
    """Four cards by tensor read a quarter each, by layer they take four turns."""
    assert even_token_us(CARD, 2) == pytest.approx(201.9, abs=0.05)
    assert even_token_us(CARD, 4) == pytest.approx(1.5 * even_token_us(CARD, 2))
    assert even_chunk_us(CARD, 4) == pytest.approx(1.5 * even_chunk_us(CARD, 2), rel=1e-5)


def stored_tuning(tmp_path, monkeypatch, end):
    """A survey of CPUs that tunes, of a run of `tmp_path`/made, and ends as `end` says."""
    steps = [step for step in plan("separate", "", False) if step.name == "tune"]
    return survey_of_stored_runs(monkeypatch, tmp_path, steps, 90.0, end)


def test_a_tuning_that_only_compiled_says_so_everywhere(tmp_path, monkeypatch, capsys):
    """It said "table: none (exit status 3)": 29 of its 33 s had gone into compiling."""
    path = write_run(tmp_path / "made", sizes=(16384,), status="incomplete").path
    spent = {"compile_s": 29.2, "elapsed_s": 33.4, "reason": "time ran out"}
    rewrite(path, lambda line: line["kind"] == "end" and line.update(spent))
    lines = "INCOMPLETE: time ran out.", "INCOMPLETE: too few rounds at 16 KiB: --max-time 50"
    said = "\\n".join([*lines, "table: none"])
    made = stored_tuning(tmp_path, monkeypatch, f'printf "{said}\\n"; exit 3')
    assert run_survey(made) == 3
    sentence = (
        "too few rounds at 16 KiB: --max-time 50; no table was made; 29 of 33 s went into compiling"
    )
    assert f"Tuning, failed: {sentence}\n" in capsys.readouterr().out
    assert sentence in (made.folder / "index.html").read_text()
    contents = msgspec.json.decode((made.folder / CONTENTS).read_bytes(), type=Contents)
    assert contents.status == 3
    assert [(step.status, step.sentence) for step in contents.steps] == [("failed", sentence)]


def test_a_second_tuning_says_what_waits_for_it(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "made", sizes=(16384,))
    end = 'echo "table: /x/tuned.toml, 2 candidates (?): run the command again to confirm"'
    made = stored_tuning(tmp_path, monkeypatch, end)
    assert run_survey(made) == 0
    assert made.steps[0].sentence.endswith("; 2 candidates (?) that a second launch must confirm")


@pytest.mark.parametrize("is_tuned", [False, True])
def test_the_table_that_auto_took_is_in_the_folder(tmp_path, monkeypatch, is_tuned):
    """Two machines' figures differ with it, and it lay in the owner's home alone."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    made = owners(tmp_path / "survey", 20.0, launches=1)
    (run,) = [result.run for result in made.results("allreduce")]
    if is_tuned:
        run.method["tuned"] = "1a2b3c4"
    path = tuned.path_of(None, run)
    path.parent.mkdir(parents=True)
    path.write_text("# a table\n")
    table_taken.keep_table(made)
    assert (made.folder / "tuned.toml").exists() == is_tuned
    (remark,) = made.remarks
    assert ("which is in the archive: tuned.toml" in remark) == is_tuned
    assert ("it chose by default" in remark) == (not is_tuned)
