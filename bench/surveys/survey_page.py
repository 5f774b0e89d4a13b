"""The page of a survey and its archive, the two things to send."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote

from markupsafe import Markup

from bench.harness.console import CANNOT, FINE, INTERRUPTED, WRONG
from bench.surveys import thresholds
from bench.surveys.printed import log_text
from bench.surveys.steps import LOGS, RESULTS, TABLE, Survey, SurveyStep, gpu_of, to_type
from bench.surveys.survey_archive import clean_logs, command_of, folder_inside, write_archive
from reports.advice.candidates import FigureKey, content_of_spec, figures_of, read_spec
from reports.advice.given_card import FORM
from reports.advice.reduce_times import CONFIDENCE, read_launches
from reports.kit.page import SIGNATURE, Banner, Cell, Page, Section, command_cell, to_html
from reports.site.run_page import run_page
from reports.tables import show
from reports.tables.headline import Point
from reports.tables.sentences import counted, number
from wiretax import __version__
from wiretax.common.program import BENCH, REPORTS, RUN, SEND_ARCHIVE
from wiretax.common.untrusted import printable
from wiretax.record.archive import CONTENTS, digest
from wiretax.record.result import ResultError
from wiretax.record.schema import Result
from wiretax.record.writing import write_whole

PAGE = "index.html"
# The first that was measured; of ranks that share a GPU the chain from a graph, as a model decodes.
HEADLINES = ("graph", "allreduce", "link", "decode", "tune")
SPEC = "spec.toml"
SPEC_TEXT = """\
# For {command}. Write your own requirements (a tail: "16K p99 <= 20 us") and, below, the price of
# all cards.
requirements = ["16K <= 8 us", "32M >= 5 GB/s", "70b-q4 >= 25 tok/s"]
# For the cost of a million tokens:
# lifetime_years = 4
# hours_per_day = 8
# electricity = {{amount = 0.30, currency = "EUR", per = "kWh"}}

[models]
70b-q4 = {{model = "llama-3.1-70b", weights = "q4"}}

[candidates.here]
runs = {runs}{asked}
gpu = {gpu}
gpus = {gpus}
price = {{amount = 1, currency = "EUR", date = {date}}} # in place of 1, what you pay
"""
# Of each exit status the word of the banner, if it is not that of the headline's run, its role, and
# the statuses of the steps that it names.
ENDINGS: dict[int, tuple[str, str, Sequence[str]]] = {
    FINE: ("", "better", ()),
    WRONG: ("WRONG RESULTS", "worse", ("wrong",)),
    CANNOT: ("Not complete", "unsure", ("failed", "not run", "interrupted")),
    INTERRUPTED: ("Interrupted", "unsure", ()),
}
SEND = (
    "Once you send the archive, the figures of these cards become rows of what is published, on "
    "which the tables and answers of Wiretax rest. Nothing is sent by itself: it is your choice.",
)
TO_SEND = f"to publish these figures, if you like (the page says what is sent): {SEND_ARCHIVE}"
PRIVACY = (
    f"The archive holds this page, {RESULTS}/ (the runs, for wiretax show and wiretax.load), "
    f"{LOGS}/ (what each step printed), {TABLE} (the table from which auto chose), "
    f"{thresholds.PICTURE} (of the page), {SPEC} (for procure) and {CONTENTS} (the steps, and the "
    "SHA-256 of each file).",
    "It names CPU, GPUs and their PCI addresses, kernel, drivers, libraries, the load, and listed "
    "variables that change the speed, such as NCCL_PROTO. The host's name, users, folders and "
    "other variables are left out.",
)


def page_of(
    survey: Survey, exit_status: int, folder: Path, archive: Path, archive_sha256: str = ""
) -> Page:
    """The headline, what was measured, a row for each step with what to type if it failed, the page
    of the headline's run, and what each step printed. `folder` and `archive` are the survey's as
    they are shown; the page in the archive cannot name the archive's own SHA-256."""
    # Of each step its first launch that measured something, or its first.
    shown = [
        next(iter(survey.launches(step.name)), step) for step in survey.steps if step.launch == 1
    ]
    measured = {
        step.name: step.result
        for step in shown
        if step.result and show.kind_of(step.result).points(step.result)
    }
    first = next((measured[name] for name in HEADLINES if name in measured), None)
    page = Page(
        "Survey: nothing was measured",
        Banner("Nothing was measured", "The survey has no figure to show.", role="unsure"),
    )
    if first:
        page = run_page(first.path)
        page.title = show.headline_of(first)
    page.banner = banner_of(survey, exit_status, page.banner, shown)
    rows = [
        {
            "step": step.title,
            "status": step.status,
            "finding": step.sentence,
            "to run it again": ""
            if step.status == "done"
            else command_cell(to_type(survey, step, folder)),
        }
        for step in survey.steps
    ]
    to_do, command = next_command(survey, folder)
    page.sections = [
        thresholds.section(survey),
        Section("Tokens/s", model_sentences(survey)),
        Section("Next", [f"{to_do}:"], text=command),
        *([send_section(archive)] if asks_for_archive(survey) else []),
        Section("Steps", rows=rows),
        Section("Machine", survey.remarks),
        *page.sections,
        *(
            Section(
                step.title,
                text=show.text(step.result, brief=True)
                if step.result
                else log_text(survey.logs / step.log, "out").rstrip(),
                folded=True,
            )
            for step in shown
        ),
        *sign_sections(survey, archive_sha256),
        Section("In the archive", [] if asks_for_archive(survey) else PRIVACY, folded=True),
    ]
    page.reproduce["this page"] = command_of(survey)
    return page


def banner_of(
    survey: Survey, exit_status: int, banner: Banner, shown: Sequence[SurveyStep]
) -> Banner:
    """The banner of the headline's run if the survey ended well, green unless that is unsure;
    otherwise what came between."""
    n_done = sum(step.status == "done" for step in shown)
    end = ", then the survey was interrupted" if exit_status == INTERRUPTED else ""
    facts = [
        *thresholds.in_short(survey),
        *banner.facts,
        f"{n_done} of {len(shown)} steps are done{end}.",
    ]
    statuses = {step.status for step in survey.steps}
    word, role, meant = ENDINGS[WRONG if "wrong" in statuses else exit_status]
    named = [
        f"{step.title}, {step.status}: {step.sentence}"
        for step in survey.steps
        if step.status in meant
    ]
    if not named:
        role = "unsure" if banner.role == "unsure" else role
        return Banner(word or banner.word, banner.sentence, facts, role)
    more = f" (and {counted(len(named) - 1, 'other step')})" if len(named) > 1 else ""
    return Banner(word, f"{named[0]}{more}.", [f"{banner.sentence.rstrip('.')}.", *facts], role)


def asks_for_archive(survey: Survey) -> bool:
    """Whether its all-reduces may become rows of what is published: those of ranks that share a GPU
    cross no wire, and no incomplete launch counts."""
    return bool(survey.vendor) and not survey.shares_gpus and has_complete(survey)


def has_complete(survey: Survey) -> bool:
    """Whether a launch of the all-reduces measured all its cases."""
    return any(result.complete for result in survey.results("allreduce"))


def send_section(archive: Path) -> Section:
    """Where the archive goes, if its owner wants, what it holds, and what shows its rows."""
    address = Markup('<a href="{0}">{0}</a>').format(SEND_ARCHIVE)
    return Section(
        "Send the archive",
        [["Attach it to the form at", address], *SEND, *PRIVACY, "This prints the rows of it:"],
        text=f"{RUN}{REPORTS} references check {quote(str(archive))}",
    )


def sign_sections(survey: Survey, archive_sha256: str) -> list[Section]:
    """The SHA-256 of each run, when and by what this was made, and where to sign for it."""
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    sentences: list[Cell] = [f"Made on {made} by Wiretax {__version__}, {command_of(survey)}."]
    if archive_sha256:
        sentences.append(f"The archive, {survey.archive.name}: SHA-256 {archive_sha256}.")
    sentences.append("bench.qualify prints the serial number of each card; a survey leaves it out.")
    rows = [
        {
            "run": step.result.path.name,
            "step": step.title,
            "SHA-256": digest(step.result.path),
        }
        for step in survey.steps
        if step.result
    ]
    return [Section("Runs", rows=rows), Section("To sign", [*sentences, SIGNATURE])]


def model_sentences(survey: Survey) -> list[str]:
    """Tokens/s of a 70B model: by the spec's arithmetic, as the reports say, and as a decode step
    was measured."""
    sentences = list[str]()
    with suppress(ResultError):  # of an unknown GPU, or without a run that counts
        path = survey.folder / SPEC
        spec, offers, _ = read_spec(path, content_of_spec(path))
        here = offers["here"]
        keys: list[FigureKey] = [("tok/s", name) for name in spec.models]
        launches = read_launches(here.runs, here.gpus)
        # With the intervals of all tables here; procure's are wider the more is required.
        figures, _ = figures_of(here, launches, spec, keys)
        sentences += [
            f"{figure.name}, one chat on {survey.ranks} GPUs: "
            f"{' '.join(figure.text.split()).replace(' likely ', ', likely ')} "
            f"({figure.note}; intervals are at {CONFIDENCE:.0%})."
            for figure in figures.values()
            if launches.runs
        ]
    sentences += [
        f"{step.title}: {step.sentence}."
        for step in survey.steps
        if step.reads and step.is_measured
    ]
    sentences += [
        decode_sentence(result, point, survey.ranks)
        for result in survey.results("decode")
        for point in show.kind_of(result).points(result)[:1]
    ]
    hint = ": a survey without --quick measures one" if survey.is_quick else ""
    return sentences or [f"No decode step of a 70B model was measured{hint}."]


def decode_sentence(result: Result, point: Point, ranks: int) -> str:
    """What the headline's figure of a decode step means for a chat."""
    shape = result.cases[0].shape or {}
    model, scale = shape.get("model"), shape.get("scale")
    took = (
        f"A decode step of {model}, {point.label}, split over {ranks} ranks, took "
        f"{number(point.value / 1e3)} ms here"
    )
    if scale == "1":
        return f"{took}: {number(1e6 / point.value)} tokens/s of a chat."
    return f"{took}, with {scale} of each matrix: no figure of the whole model."


def next_command(survey: Survey, folder: Path) -> tuple[str, str]:
    """What to do next, and what to type for it; `folder` is the survey's as it is shown."""
    again = f"{RUN}{BENCH}survey{' --quick' if survey.is_quick else ''}"
    if survey.shares_gpus:
        return "On a machine with two such cards, to measure what is predicted", again
    if not survey.runs("allreduce"):
        return "No all-reduce was measured: mend what failed, or give more --max-time", again
    if not has_complete(survey):
        sentence = (
            "No launch of the all-reduces is complete: type it again, now that its kernels are "
            "compiled, or give more --max-time"
        )
        return sentence, again
    runs, gpu = quote(str(folder / RESULTS / "allreduce")), gpu_of(survey)[1]
    if gpu and survey.is_quick:
        sentence = "Which split of your own model: write its name and the size of its file"
        model = "--model llama-3.1-70b --weights 40GB"
        load = f"{model} --gpu {gpu.name} --gpus {survey.ranks}"
        return sentence, f"{RUN}{REPORTS} advise {load} --run {runs}"
    if gpu:
        sentence = f"Write your price and requirements into {SPEC}, to judge this machine"
        return sentence, f"{RUN}{REPORTS} procure {quote(str(folder / SPEC))}"
    sentence = (
        "The all-reduces in full; reports compare puts them beside those of another machine, with "
        "--allow machine"
    )
    return sentence, f"{RUN}{REPORTS} show {runs}"


def write(survey: Survey, exit_status: int) -> Page:
    """Writes a spec for `procure` and the page, then `survey.json` and the archive with all files
    of the folder; returns the page, which then names the SHA-256 of the archive. The page in the
    archive names its own folder, as that of the survey may have a name that tells too much. Raises
    OSError, ResultError."""
    clean_logs(survey)
    write_whole(survey.inside / SPEC, spec_of(survey).encode())
    inside = folder_inside(survey)
    page = page_of(survey, exit_status, survey.folder, survey.archive)
    write_whole(survey.inside / PAGE, to_html(page).encode(errors="replace"))
    sent = page_of(survey, exit_status, inside, Path(f"{inside}.tar.gz"))
    others = {PAGE: to_html(sent).encode(errors="replace")}
    sha256 = write_archive(survey, "survey", exit_status, inside, others)
    page = page_of(survey, exit_status, survey.folder, survey.archive, sha256)
    write_whole(survey.inside / PAGE, to_html(page).encode(errors="replace"))
    return page


def spec_of(survey: Survey) -> str:
    """A spec to complete. Where no data sheet of the GPU is known, `procure` asks for figures."""
    name, gpu = gpu_of(survey)
    unknown = printable(name) or "CPU cores"
    asked = f'\n# No data sheet of it is known: write a card or its figures, such as "{FORM}".'
    # Ranks that share a GPU measured no other candidate than it.
    has_runs = survey.runs("allreduce") and not survey.shares_gpus
    return SPEC_TEXT.format(
        command=f"{RUN}{REPORTS} procure",
        runs='["results/allreduce/*.jsonl"]' if has_runs else "[]",
        asked="" if gpu else asked,
        gpu=json.dumps(gpu.name if gpu else unknown, ensure_ascii=False),
        gpus=1 if survey.shares_gpus else survey.ranks,
        date=time.strftime("%Y-%m-%d"),
    )
