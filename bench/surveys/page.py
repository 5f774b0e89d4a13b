"""The page of a survey and its archive, the two things to send."""

import io
import tarfile
import time
from pathlib import Path

from bench.surveys import steps
from bench.surveys.steps import (
    LOGS,
    READS,
    RESULTS,
    TABLE,
    Step,
    Survey,
    gpu_of,
    to_type,
    without_names,
)
from reports.advice.candidates import Figure
from reports.advice.procurement import evaluate
from reports.advice.reduce_times import LEAST_LAUNCHES, read_launches, spans_of
from reports.site.page import Banner, Card, Page, Row, Section, to_html
from reports.site.run_page import banner_of as run_banner
from reports.site.run_page import environment, sweep_sections
from reports.site.shared import how_to_reproduce
from reports.store.result import ResultError
from reports.store.untrusted import read_bytes
from reports.store.writing import write_named, write_whole
from reports.tables import sentences, show
from reports.tables.kinds import is_sweep, kind_of
from reports.tables.sentences import number, size_text

PAGE = "index.html"
HEADLINES = ("allreduce", "link", "decode", "tune")  # the first that was measured
SPEC = "spec.toml"
SPEC_TEXT = """\
# For python -m reports procure. Write your own requirements, and the price of all cards.
requirements = ["16K <= 8 us", "32M >= 5 GB/s", "70b-q4 >= 25 tok/s"]

[models]
70b-q4 = {{model = "llama-3.1-70b", weights = "q4"}}

[candidates.here]
runs = ["{runs}"]
gpu = "{gpu}"
gpus = {gpus}
price = {{amount = 1, currency = "EUR", date = {date}}}
"""
PRIVACY = (
    f"The archive holds this page, {RESULTS}/ (the runs, for wiretax show and wiretax.load), "
    f"{LOGS}/ (what each step printed), {TABLE} (the tuning table) and {SPEC} (for procure).",
    "They name CPU, GPUs and their PCI addresses, kernel, drivers, libraries, the load, and listed "
    "variables that change the speed, such as NCCL_PROTO. The host's name, users, folders and "
    "other variables are left out.",
)


def page_of(survey: Survey, is_interrupted: bool) -> Page:
    """The headline, a row and a section for each step, and what failed with what to type."""
    shown = survey.shown
    results = {step.name: step.result for step in shown if step.result}
    measured = [results[name] for name in HEADLINES if name in results]
    first = next((run for run in measured if any(case.time_us for case in run.cases)), None)
    table: list[Row] = [
        {"step": step.title, "status": step.status, "finding": step.sentence}
        for step in survey.steps
    ]
    missing = [step for step in survey.steps if step.status != "done"]
    n_done = sum(step.status == "done" for step in shown)
    done = f"{n_done} of {len(shown)} steps are done"
    done += ", then the survey was interrupted." if is_interrupted else "."
    failed = [
        f"{step.title}: {step.sentence}. To run it again: {to_type(survey, step)}"
        for step in missing
    ]
    to_do, command = next_command(survey, Path(survey.folder.resolve().name))
    sections = [
        Section("Tokens/s", model_sentences(survey)),
        Section("What was measured", cards=[card for step in shown for card in card_of(step)]),
        Section("Next", [f"{to_do}:"], text=command),
        *(sweep_sections(first) if first and is_sweep(first) else []),
        *spread_sections(survey),
        Section("What is missing", failed),
        Section("Steps", rows=table),
        Section("Machine", [*survey.remarks, *(first.run.notes if first else ())]),
        *(section_of(survey, step) for step in shown),
    ]
    banner = Banner("Nothing was measured", "The survey has no figure to show.", role="unsure")
    environments = list[Section]()
    if first:
        banner, environments = run_banner(first), [environment(first.run)]
    banner.facts = [*banner.facts, done]
    return Page(
        show.headline_of(first) if first else "Survey: nothing was measured",
        banner,
        [*sections, *environments, Section("In the archive", PRIVACY, folded=True)],
        how_to_reproduce(first.run) if first else {},
    )


def model_sentences(survey: Survey) -> list[str]:
    """Tokens/s of a 70B model: by the spec's arithmetic, as the reports say, and as a decode step
    was measured."""
    sentences = [
        f"{figure.name}, one chat split by tensor over {survey.ranks} GPUs, at most: "
        f"{' '.join(figure.text.split())} ({figure.note})."
        for figure in figures_of_spec(survey)
        if figure.unit == "tok/s"
    ]
    sentences += [
        f"{step.title}: {step.sentence}"
        for step in survey.steps
        if step.command in READS and step.is_measured
    ]
    for step in survey.launches("decode"):
        for case in step.result.cases if step.result else ():
            shape = case.shape or {}
            if shape.get("slots") == 1 and case.time_us and case.algorithm == "tensor_parallel":
                step_us = case.time_us.median
                sentences.append(
                    f"A decode step of {shape.get('model')} for one chat, split over "
                    f"{survey.ranks} ranks, took {number(step_us / 1e3)} ms here: "
                    f"{number(1e6 / step_us)} tokens/s."
                )
    hint = " A survey without --quick measures one." * survey.is_quick
    return sentences or [f"No decode step of a 70B model was measured.{hint}"]


def next_command(survey: Survey, folder: Path) -> tuple[str, str]:
    """What to do next, and what to type for it; `folder` is the survey's as it is shown."""
    if survey.shares_gpus:
        sentence = "On a machine with two such cards, to measure what is predicted"
        return sentence, "python -m bench.survey"
    if (survey.folder / SPEC).exists():
        sentence = f"Write your price and requirements into {SPEC}, to judge this machine"
        return sentence, f"python -m reports procure {folder / SPEC}"
    if not survey.runs("allreduce"):
        sentence = "No all-reduce was measured: mend what failed, or give more --max-time"
        return sentence, "python -m bench.survey"
    sentence = "Beside the same folder of another machine's survey, OTHER"
    return sentence, f"python -m reports compare {folder / RESULTS / 'allreduce'} OTHER"


def write_spec(survey: Survey) -> None:
    """Writes a spec for `procure`, if GPUs with a known data sheet measured an all-reduce."""
    gpu = gpu_of(survey)[1]
    if gpu and not survey.shares_gpus and survey.runs("allreduce"):
        text = SPEC_TEXT.format(
            runs=f"{RESULTS}/allreduce/*.jsonl",
            gpu=gpu.name,
            gpus=survey.ranks,
            date=time.strftime("%Y-%m-%d"),
        )
        write_whole(survey.folder / SPEC, text.encode())


def figures_of_spec(survey: Survey) -> list[Figure]:
    """The figures that `procure` has for this machine; none without a spec or a run that counts."""
    try:
        return evaluate(survey.folder / SPEC).appraisals[0].figures
    except ResultError:
        return []


def spread_sections(survey: Survey) -> list[Section]:
    """The all-reduce of each step with several launches: `auto` at each size, over its launches."""
    sections = []
    for first in survey.steps:
        if first.launch > 1 or first.command != "allreduce" or len(survey.runs(first.name)) < 2:
            continue
        try:
            launches = read_launches(survey.runs(first.name), survey.ranks)
        except ResultError:  # of several methods, if the user's table changed meanwhile
            continue
        groups = launches.times.groupby("size_bytes")["cost_us"]
        rows: list[Row] = [
            {
                "size": size_text(size),
                "us": number(mean),
                "95 %": f"{number(low)} to {number(high)}" if launches.have_intervals else "-",
                "launches": f"{number(groups.min()[size])} to {number(groups.max()[size])}",
            }
            for size, (mean, low, high) in spans_of(launches, "cost_us").items()
        ]
        n = len(launches.runs)
        sentence = f"auto over {n} launches: geometric mean, least and most"
        sentence += "." if n >= LEAST_LAUNCHES else f"; an interval needs {LEAST_LAUNCHES}."
        title = f"{first.title}: spread"
        sections += [Section(title, [sentence], rows=rows)] * (n > 1)
    return sections


def card_of(step: Step) -> list[Card]:
    """The first figure of a step that measured some, and its headline."""
    points = kind_of(step.result).points(step.result) if step.result else []
    return [
        Card(
            step.title,
            sentences.number(point.value),
            f"{point.unit}, {point.label}",
            "",
            [step.sentence],
        )
        for point in points[:1]
    ]


def section_of(survey: Survey, step: Step) -> Section:
    """The table that a step printed, or the doctor's page."""
    section, result = Section(step.title, folded=True), step.result
    if result:
        section.text = show.text(result, brief=True)
    else:
        section.text = steps.log_text(survey.folder / LOGS / step.log, "out").rstrip()

    return section


def write(survey: Survey, is_interrupted: bool) -> Page:
    """Writes the page, then the archive with all files of the folder; returns the page. Raises
    OSError, ResultError."""
    for path in (survey.folder / LOGS).iterdir():
        try:
            text = read_bytes(path, follow=False).decode(errors="replace")
        except OSError as error:
            text = f"left out: {error.strerror}"
        write_whole(path, without_names(text).encode())
    write_spec(survey)
    page = page_of(survey, is_interrupted)
    quick = " --quick" * survey.is_quick
    page.reproduce["this page"] = f"python -m bench.survey{quick} -n {survey.ranks}"
    write_whole(survey.folder / PAGE, to_html(page).encode(errors="replace"))
    write_named(survey.archive, archive_of(survey.folder))
    return page


def archive_of(folder: Path) -> bytes:
    """The folder's files as a .tar.gz, without their owner."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, arcname=folder.resolve().name, filter=without_owner)
    return content.getvalue()


def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The member of an archive without the user's name; None for what a killed run left."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if Path(member.name).suffix in (".flight", ".part") else member
