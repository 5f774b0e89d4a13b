"""The page of a survey and its archive, the two things to send."""

import io
import tarfile
from pathlib import Path

from bench.surveys import steps
from bench.surveys.steps import LOGS, RESULTS, TABLE, Step, Survey, to_type, without_names
from reports.site.page import Banner, Card, Page, Row, Section, to_html
from reports.site.run_page import banner_of as run_banner
from reports.site.run_page import environment, sweep_sections
from reports.site.shared import how_to_reproduce
from reports.store.untrusted import read_bytes
from reports.store.writing import write_named, write_whole
from reports.tables import sentences, show
from reports.tables.kinds import is_sweep, kind_of

PAGE = "index.html"
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
    results = {step.name: step.result for step in survey.steps if step.result}
    measured = [results[name] for name in HEADLINES if name in results]
    first = next((run for run in measured if any(case.time_us for case in run.cases)), None)
    table: list[Row] = [
        {"step": step.title, "status": step.status, "finding": step.sentence}
        for step in survey.steps
    ]
    missing = [step for step in survey.steps if step.status != "done"]
    done = f"{len(survey.steps) - len(missing)} of {len(survey.steps)} steps are done"
    done += ", then the survey was interrupted." if is_interrupted else "."
    failed = [
        f"{step.title}: {step.sentence}. To run it again: {to_type(survey, step)}"
        for step in missing
    ]
    sections = [
        Section(
            "What was measured", cards=[card for step in survey.steps for card in card_of(step)]
        ),
        *(sweep_sections(first) if first and is_sweep(first) else []),
        Section("What is missing", failed),
        Section("Steps", table="steps", rows=table),
        Section("Machine", [*survey.remarks, *(first.run.notes if first else ())]),
        *(section_of(survey, step) for step in survey.steps),
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
        section.text = steps.log_text(survey.folder / LOGS / step.name, "out").rstrip()

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
