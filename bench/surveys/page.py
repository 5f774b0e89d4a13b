"""The page of a survey and its archive, the two things to send."""

import io
import tarfile
from functools import partial
from pathlib import Path

from bench.surveys import steps
from bench.surveys.steps import LOGS, RESULTS, TABLE, Outcome, Survey, to_type, without_names
from reports.site.page import Page, Row, Section, draw_picture, to_html
from reports.site.run_page import fact_text
from reports.site.shared import how_to_reproduce, start_time
from reports.store.case import find_states
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.store.writing import write_named, write_whole
from reports.tables import run_text, sentences, show
from reports.tables.kinds import kind_of

PAGE = "index.html"
FOLDED = ("tune", "library", "packets")
HEADLINES = ("allreduce", "link", "decode", "tune")  # the first that was measured
PRIVACY = (
    f"The archive holds this page, {RESULTS}/ (the runs, for wiretax show and wiretax.load), "
    f"{LOGS}/ (what each step printed) and {TABLE} (the tuning table).",
    "They name CPU, GPUs and their PCI addresses, kernel, drivers, libraries, the load, and listed "
    "variables that change the speed, such as NCCL_PROTO. The host's name, users, folders and "
    "other variables are left out.",
)


def page_of(survey: Survey, is_interrupted: bool) -> Page:
    """The headline, a row and a section for each step, and what failed with what to type."""
    outcomes = survey.outcomes
    results = {outcome.step.name: outcome.result for outcome in outcomes if outcome.result}
    measured = [
        name
        for name in HEADLINES
        if name in results and any(case.time_us for case in results[name].cases)
    ]
    first = results[measured[0]] if measured else None
    table: list[Row] = [
        {"step": outcome.step.title, "status": outcome.status, "finding": outcome.sentence}
        for outcome in outcomes
    ]
    n_done = sum(outcome.status == "done" for outcome in outcomes)
    done = f"{n_done} of {len(outcomes)} steps are done"
    lines = [f"{done}, then the survey was interrupted." if is_interrupted else f"{done}."]
    if first:
        lines = [
            sentences.machine(first),
            f"Survey of {start_time(first.run)}: {lines[0]}",
            *run_text.link_lines(find_states(first.blocks)),
        ]
    failed = [
        f"{outcome.step.title}: {outcome.sentence}. To run it again: "
        f"{to_type(survey, outcome.step)}"
        for outcome in outcomes
        if outcome.status != "done"
    ]
    sections = [
        Section("Steps", table="steps", rows=table),
        Section("What is missing", failed),
        Section("Machine", [*survey.remarks, *(first.run.notes if first else ())]),
        *(section_of(survey, outcome) for outcome in outcomes),
        *left_to_do(survey),
    ]
    title = show.headline_of(first) if first else "Survey: nothing was measured"
    return Page(
        title,
        lines,
        [*sections, *environment(first), Section("In the archive", PRIVACY)],
        how_to_reproduce(first.run) if first else {},
    )


def section_of(survey: Survey, outcome: Outcome) -> Section:
    """A step's picture and the table that it printed; the doctor's page."""
    step, result = outcome.step, outcome.result
    if not result:
        text = steps.log_text(survey.folder / LOGS / step.name, "out")
        return Section(step.title, text=text.rstrip(), folded=step.name in FOLDED)
    section = Section(step.title, folded=step.name in FOLDED)
    try:
        section.text = show.text(result, brief=True)
        draw(section, step.name, result)
    except ResultError as error:
        section.sentences = [f"There is no picture: {error}"]
    return section


def draw(section: Section, name: str, result: Result) -> None:
    """Adds the picture of a main step. Raises ResultError for a run without figures."""
    if name == "allreduce" or kind_of(result).draw:
        section.pictures = [
            draw_picture(name, partial(show.plot, result), sentences.machine(result))
        ]


def left_to_do(survey: Survey) -> list[Section]:
    """What only a card can tell and the survey did not run."""
    if not survey.on_gpus or survey.shares_gpus:
        return []
    names = [outcome.step.name for outcome in survey.outcomes]
    commands = {
        step.title: to_type(survey, step) for step in steps.GPU_STEPS if step.name not in names
    }
    rows = [
        f"{question} To type: {command}"
        for question, command in [*commands.items(), *steps.LEFT_TO_DO.items()]
    ]
    return [Section("What else only a card can tell", rows)]


def environment(result: Result | None) -> list[Section]:
    """The facts of the machine."""
    if not result:
        return []
    rows: list[Row] = [
        {"name": name, "value": fact_text(fact)} for name, fact in result.run.environment.items()
    ]
    return [Section("Environment", table="environment", rows=rows, folded=True)]


def write(survey: Survey, is_interrupted: bool) -> Page:
    """Writes the page, then the archive with all files of the folder; returns the page. Raises
    OSError, ResultError."""
    for path in (survey.folder / LOGS).iterdir():
        write_whole(path, without_names(path.read_text(errors="replace")).encode())
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
