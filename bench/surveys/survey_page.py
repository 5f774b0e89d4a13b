"""The page of a survey and its archive, the two things to send."""

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.harness.console import INTERRUPTED
from bench.surveys.steps import (
    LOGS,
    RESULTS,
    TABLE,
    Survey,
    gpu_of,
    log_text,
    to_type,
    without_names,
)
from reports.advice.candidates import FigureKey, figures_of, read_spec
from reports.advice.reduce_times import CONFIDENCE, read_launches
from reports.kit.page import Banner, Page, Section, to_html
from reports.site.run_page import run_page
from reports.tables import show
from reports.tables.headline import Point
from reports.tables.sentences import number
from wiretax import __version__
from wiretax.common.program import BENCH, REPORTS, RUN
from wiretax.common.untrusted import read_bytes
from wiretax.record.archive import CONTENTS, Contents, StepRecord
from wiretax.record.result import ResultError
from wiretax.record.schema import Result
from wiretax.record.writing import write_whole

PAGE = "index.html"
# The first that was measured; of ranks that share a GPU the chain from a graph, as a model decodes.
HEADLINES = ("graph", "allreduce", "link", "decode", "tune")
SPEC = "spec.toml"
SPEC_TEXT = """\
# For {command}. Write your own requirements (a tail: "16K p99 <= 20 us"), the price of all cards,
# and what stands as NAME.
requirements = ["16K <= 8 us", "32M >= 5 GB/s", "70b-q4 >= 25 tok/s"]
# For the cost of a million tokens:
# lifetime_years = 4
# hours_per_day = 8
# electricity = {{amount = 0.30, currency = "EUR", per = "kWh"}}

[models]
70b-q4 = {{model = "llama-3.1-70b", weights = "q4"}}

[candidates.here]
runs = {runs}
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


def page_of(survey: Survey, exit_status: int) -> Page:
    """The headline, what was measured, a row for each step with what to type if it failed, the page
    of the headline's run, and what each step printed."""
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
    n_done = sum(step.status == "done" for step in shown)
    end = ", then the survey was interrupted" if exit_status == INTERRUPTED else ""
    page.banner.facts = [*page.banner.facts, f"{n_done} of {len(shown)} steps are done{end}."]
    rows = [
        {
            "step": step.title,
            "status": step.status,
            "finding": step.sentence,
            "to run it again": "" if step.status == "done" else to_type(survey, step),
        }
        for step in survey.steps
    ]
    to_do, command = next_command(survey, Path(survey.folder.resolve().name))
    page.sections = [
        Section("Tokens/s", model_sentences(survey)),
        Section("Next", [f"{to_do}:"], text=command),
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
        Section("In the archive", PRIVACY, folded=True),
    ]
    return page


def model_sentences(survey: Survey) -> list[str]:
    """Tokens/s of a 70B model: by the spec's arithmetic, as the reports say, and as a decode step
    was measured."""
    sentences = list[str]()
    with suppress(ResultError):  # of an unknown GPU, or without a run that counts
        spec, offers, _ = read_spec(survey.folder / SPEC)
        here = offers["here"]
        keys: list[FigureKey] = [("tok/s", name) for name in spec.models]
        launches = read_launches(here.runs, here.gpus)
        # With the intervals of all tables here; procure's are wider the more is required.
        figures, _ = figures_of(here, launches, spec, keys)
        sentences += [
            f"{figure.name}, one chat on {survey.ranks} GPUs: "
            f"{' '.join(figure.text.split())} ({figure.note}; intervals are at {CONFIDENCE:.0%})."
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
    again = f"{RUN}{BENCH}survey"
    if survey.shares_gpus:
        return "On a machine with two such cards, to measure what is predicted", again
    if not survey.runs("allreduce"):
        return "No all-reduce was measured: mend what failed, or give more --max-time", again
    if gpu_of(survey)[1]:
        sentence = f"Write your price and requirements into {SPEC}, to judge this machine"
        return sentence, f"{RUN}{REPORTS} procure {folder / SPEC}"
    sentence = "Beside the same folder of another machine's survey, OTHER"
    return sentence, f"{RUN}{REPORTS} compare {folder / RESULTS / 'allreduce'} OTHER"


def write(survey: Survey, exit_status: int) -> Page:
    """Writes a spec for `procure` and the page, then `survey.json` and the archive with all files
    of the folder; returns the page. Raises OSError, ResultError."""
    for path in survey.logs.iterdir():
        try:
            text = read_bytes(path, follow=False).decode(errors="replace")
        except OSError as error:
            text = f"left out: {error.strerror}"
        write_whole(path, without_names(text).encode())
    gpu, runs = gpu_of(survey)[1], survey.runs("allreduce")
    # Ranks that share a GPU measured no other candidate than it.
    spec = SPEC_TEXT.format(
        command=f"{RUN}{REPORTS} procure",
        runs='["results/allreduce/*.jsonl"]' if runs and not survey.shares_gpus else "[]",
        gpu=gpu.name if gpu else "NAME",
        gpus=1 if survey.shares_gpus else survey.ranks,
        date=time.strftime("%Y-%m-%d"),
    )
    write_whole(survey.inside / SPEC, spec.encode())
    page = page_of(survey, exit_status)
    quick = " --quick" if survey.is_quick else ""
    page.reproduce["this page"] = f"{RUN}{BENCH}survey{quick} -n {survey.ranks}"
    write_whole(survey.inside / PAGE, to_html(page).encode(errors="replace"))
    files = files_of(survey)
    files[CONTENTS] = msgspec.json.encode(contents_of(survey, exit_status, files))
    write_whole(survey.inside / CONTENTS, files[CONTENTS])
    write_whole(survey.archive, pack(survey.folder.resolve().name, files))
    return page


def files_of(survey: Survey) -> dict[str, bytes]:
    """The folder's files, without what a killed run left. Another user's link is left out: it could
    lead to what only this user may read."""
    files = dict[str, bytes]()
    for parent, _, names, handle in os.fwalk(dir_fd=int(survey.inside.name)):
        for name in names:
            path = Path(parent, name)
            if path.suffix in ("", ".part"):  # flight records, unfinished files
                continue
            with suppress(OSError):  # a link or a pipe
                data = read_bytes(Path(f"/proc/self/fd/{handle}/{name}"), follow=False)
                files[path.as_posix()] = data
    return files


def contents_of(survey: Survey, exit_status: int, files: Mapping[str, bytes]) -> Contents:
    steps = [
        StepRecord(
            name=step.name,
            launch=step.launch,
            command=to_type(survey, step),
            status=step.status,
            sentence=step.sentence,
            elapsed_s=round(step.elapsed_s, 1),
            run=f"{RESULTS}/{step.name}/{step.result.path.name}" if step.result else None,
        )
        for step in survey.steps
    ]
    return Contents(
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=__version__,
        command=f"{RUN}{BENCH}survey{' --quick' if survey.is_quick else ''} -n {survey.ranks}",
        status=exit_status,
        vendor=survey.vendor,
        ranks=survey.ranks,
        shares_gpus=survey.shares_gpus,
        steps=steps,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )


def pack(top: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of these files below a folder `top`, without their owner's name."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime = len(data), time.time()
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()
