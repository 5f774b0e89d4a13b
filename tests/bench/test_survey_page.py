"""The page of a survey: its banner, the command that it recommends, what it asks for, and the names
that neither it nor the archive tells."""

import hashlib
import html
import re
import shlex
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from bench.survey import exit_status, make_parser, run_readers, run_survey
from bench.surveys import survey_page
from bench.surveys.steps import SurveyStep
from reports.__main__ import main as reports_main
from reports.advice.given_card import FORM
from tests.bench.test_survey import survey_of
from tests.reports.synthetic_candidates import R9700, write_launches
from wiretax import __version__
from wiretax.common.program import SEND_ARCHIVE
from wiretax.record.archive import read_contents, unpacked
from wiretax.record.result import read

pytestmark = pytest.mark.unit

UNKNOWN = 'AMD Radeon "Next" 9999'  # of which there is no data sheet
HEADLINE = r"<h1>allreduce: 16.KiB "
TUNING = "<h1>Tuning, {}: element 3 differs.</h1>"


def step_of(path=None, status="done", name="allreduce", title="All-reduce", sentence="found"):
    step = SurveyStep(name, title, name, status=status, sentence=sentence)
    step.result = path and read(path)
    return step


@pytest.fixture
def reports(capsys):
    """A function that runs a command of reports: exit status, standard output and error."""

    def run(*words):
        return reports_main([*map(str, words)]), *capsys.readouterr()

    return run


def surveyed(folder, gpu=R9700, launches=1, more=(), **fields):
    """A survey that is over, with these launches of an all-reduce and `more` steps."""
    write_launches(folder / "results/allreduce", launches, gpu=gpu)
    steps = [step_of(path) for path in sorted(folder.glob("results/allreduce/*.jsonl"))]
    survey = survey_of(folder, [*steps, *more] or [step_of(status="failed")])
    return replace(survey, vendor="hip" if gpu else "", **fields)


def written(survey, status=0):
    """The survey's page, which stands in its folder."""
    survey_page.write(survey, status)
    return (survey.folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("status", "tuning", "role", "told"),
    [
        (0, "done", "better", rf"<b>[\d.]+.µs at 16.KiB</b>\n{HEADLINE}"),
        (1, "wrong", "worse", f"<b>WRONG RESULTS</b>\n{TUNING.format('wrong')}"),
        (3, "failed", "unsure", f"<b>Not complete</b>\n{TUNING.format('failed')}"),
        (130, "not run", "unsure", rf"<b>Interrupted</b>\n{HEADLINE}"),
        (130, "wrong", "worse", f"<b>WRONG RESULTS</b>\n{TUNING.format('wrong')}"),
    ],
)
def test_the_banner_follows_the_exit_status(tmp_path, status, tuning, role, told):
    """It was that of the all-reduce, above a tuning that had failed."""
    tune = step_of(None, tuning, "tune", "Tuning", "element 3 differs")
    page = written(surveyed(tmp_path / "survey", more=[tune]), status)
    assert f'<header class="banner {role}">' in page
    assert re.search(told, page)
    assert ("then the survey was interrupted" in page) == (status == 130)


def test_the_page_can_be_signed(tmp_path):
    """It named neither its date, its version nor a hash. The page in the archive cannot know the
    hash of the archive."""
    survey = surveyed(tmp_path / "survey", launches=2)
    page = written(survey)
    archived = unpacked(survey.archive)["index.html"].decode()
    runs = [path.read_bytes() for path in survey.folder.glob("results/allreduce/*.jsonl")]
    for content in runs:
        assert hashlib.sha256(content).hexdigest() in page
        assert hashlib.sha256(content).hexdigest() in archived
    assert f"SHA-256 {hashlib.sha256(survey.archive.read_bytes()).hexdigest()}." in page
    for each in (page, archived):
        assert re.search(
            rf"Made on \d{{4}}-\d\d-\d\d \d\d:\d\d UTC by Wiretax {__version__},", each
        )
        assert '<span class="sign">Signature</span>' in each


@pytest.mark.parametrize(
    ("gpu", "is_quick", "name"),
    [
        (R9700, False, "procure"),
        (R9700, True, "advise"),
        (UNKNOWN, False, "show"),
        (None, True, "show"),
    ],
)
def test_the_recommended_command_works_where_it_stands(
    tmp_path, monkeypatch, capsys, gpu, is_quick, name
):
    """On the page in a folder elsewhere, and on that of an archive unpacked in another place. The
    page named no folder above the survey's, and the other command took machines for equal."""
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    survey = surveyed(Path("../my results/alices box"), gpu, is_quick=is_quick)
    places = {Path.cwd(): written(survey)}
    elsewhere = tmp_path / "elsewhere"
    with tarfile.open(survey.archive) as archive:
        archive.extractall(elsewhere)
    places[elsewhere] = next(elsewhere.glob("*/index.html")).read_text()
    for place, page in places.items():
        monkeypatch.chdir(place)
        text = re.search(r'<section id="next">.*?<pre[^>]*>([^<]*)</pre', page, re.DOTALL)
        assert text
        words = shlex.split(html.unescape(text[1]))
        assert words[:4] == ["python", "-m", "reports", name]
        # Tokens are an upper limit.
        assert reports_main(words[3:]) == (3 if name == "procure" else 0)
        assert "16 KiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    "fields",
    [
        {"launches": 0},
        {"shares_gpus": True},
    ],
)
def test_without_a_second_card_or_an_all_reduce_another_survey_is_recommended(tmp_path, fields):
    survey = surveyed(tmp_path / "survey", **fields)
    for is_quick, options in ((False, []), (True, ["--quick"])):
        survey = replace(survey, is_quick=is_quick)
        command = survey_page.next_command(survey, survey.folder)[1]
        assert command.split() == ["python", "-m", "bench.survey", *options]
        make_parser().parse_args(options)


def test_a_survey_whose_time_went_into_compiling_is_to_be_typed_again(tmp_path):
    """It recommended procure, which answered that nothing is decided."""
    survey = surveyed(tmp_path / "survey", is_quick=True)
    (result,) = survey.results("allreduce")
    result.end.status = "incomplete"
    sentence, command = survey_page.next_command(survey, survey.folder)
    assert "now that its kernels are compiled" in sentence
    assert command == "python -m bench.survey --quick"


@pytest.mark.parametrize(
    ("gpu", "shown"),
    [
        (UNKNOWN, repr(UNKNOWN)),
        (None, "'CPU cores'"),
    ],
)
def test_a_spec_without_a_data_sheet_asks_for_figures(tmp_path, reports, gpu, shown):
    """It named a GPU `NAME`."""
    survey = surveyed(tmp_path / "survey", gpu)
    survey_page.write(survey, 0)
    spec = survey.folder / "spec.toml"
    status, out, err = reports("procure", spec)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"candidate here: unknown GPU {shown}, or give its figures, such as " in err
    lines = re.sub("(?m)^gpu = .*", f'gpu = "{FORM}"', spec.read_text())
    assert f'figures, such as "{FORM}".' in lines
    spec.write_text(lines)
    status, out, err = reports("procure", spec)
    if gpu:
        assert (status, f"that it is {UNKNOWN} is your word" in " ".join(out.split())) == (3, True)
    else:
        assert (status, "CPU" in err) == (2, True)


def test_neither_page_nor_archive_name_the_folder(tmp_path):
    """A folder may have the name of a person or a project."""
    advise = step_of(None, "failed", "advise", "Split")
    advise.line, advise.reads = "advise --gpu {gpu} --run", ["allreduce"]
    survey = surveyed(tmp_path / "alices box", more=[advise])
    path = f"{survey.folder}/results/run.jsonl"
    (survey.logs / "tune.out.txt").write_text(f"stored: {path}\n{path.replace(' ', chr(10))}")
    assert "alices box" in written(survey, 3)  # which stays here
    files = unpacked(survey.archive)
    assert [name for name, data in files.items() if b"alices" in data] == []
    log = files["logs/tune.out.txt"]
    assert log == b"stored: <path>/results/run.jsonl\n<path>/results/run.jsonl"
    command = read_contents(files).steps[-1].command
    inside = re.search(r" (survey-\S+)/results/allreduce/\*\.jsonl$", command)
    assert inside
    assert f"references check {inside[1]}.tar.gz" in files["index.html"].decode()


@pytest.mark.parametrize(
    ("gpu", "launches", "shares", "is_asked"),
    [
        (R9700, 1, False, True),
        (R9700, 0, False, False),
        (R9700, 1, True, False),  # whose times cross no wire: `references check` refuses them
        (None, 1, False, False),
    ],
)
def test_owners_of_cards_are_asked_for_the_archive(
    tmp_path, monkeypatch, capsys, gpu, launches, shares, is_asked
):
    survey = surveyed(tmp_path / "survey", gpu, launches, shares_gpus=shares)
    monkeypatch.setattr("bench.survey.run_steps", lambda survey: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run_survey(survey) == (0 if launches else 3)
    page = html.unescape((survey.folder / "index.html").read_text())
    for told in (page, capsys.readouterr().out):
        assert (SEND_ARCHIVE in told) == is_asked
    assert ("it is your choice" in page) == is_asked
    assert (f'<a href="{SEND_ARCHIVE}">' in page) == is_asked
    assert "The host's name, users, folders and other variables are left out." in page


def test_of_a_card_without_a_data_sheet_no_split_is_asked(tmp_path):
    """Such a survey always ended with status 3, for a report that cannot answer."""
    advise = step_of(None, "not run", "advise", "Which split")
    advise.line, advise.reads = "advise --gpu {gpu} --run", ["allreduce"]
    survey = surveyed(tmp_path / "survey", UNKNOWN, more=[advise])
    run_readers(survey)
    assert advise not in survey.steps
    assert survey.remarks[-1].startswith("Which split: left out, there is no data sheet of AMD ")
    assert exit_status(survey, False) == 0
