"""Tests surveys with real launches: the folder, the page and the archive of a survey, also of one
in which a step fails or which is interrupted. The launches are as short as possible;
their figures mean nothing."""

import os
import re
import runpy
import signal
import sys
import tarfile
import time
from dataclasses import replace
from typing import Any

import pytest

from bench import link, tune
from bench.harness.progress import Progress
from bench.layers import layers_command as layers
from bench.survey import main, run_survey
from bench.surveys.printed import without_names
from bench.surveys.steps import Survey, SurveyStep, command_line, plan
from bench.surveys.survey_page import write
from bench.sweep import sweep_options, sweep_parser
from kernels.devices import gpu_driver
from reports.__main__ import main as reports_main
from reports.advice.reduce_times import LEAST_LAUNCHES
from reports.kit.chart import signs
from tests.another_user import as_root, give, link_of_nobody
from tests.bench.faulty_runs import wait_for
from tests.bench.launches import stored_launches, watched
from tests.launch import ROOT, SLOW_TEST
from tests.reports.synthetic_candidates import R9700, write_launches
from tests.reports.synthetic_run import mark_wrong, rewrite_cases, run_id, write_run
from wiretax import load
from wiretax.common.interpreter import module_command

# Python imports a sitecustomize at its start. This one breaks the benchmark that FAULT names.
FAULTY = """
import os, sys
fault = os.environ.get("FAULT")
if fault and any(fault in word for word in sys.orig_argv):
    sentence = "bench.decode: no memory is left, says a test in /home/alice/secret/file.py"
    os.write(2, f"{sentence}\\nMPI: bad end\\n".encode())
    os._exit(3)
"""


def started(folder, *options, **variables):
    """Starts a survey in `folder`, as `watched` does."""
    variables = {"API_TOKEN": "s3cret", "WIRETAX_QUIET": "", **variables}
    return watched("-m", "bench.survey", "--out", str(folder), *options, **variables)


def archived(folder):
    """The archive's members and the text of all of them, for a folder named `survey`, a name that
    the archive does not have."""
    with tarfile.open(folder.with_name("survey.tar.gz")) as archive:
        members = archive.getmembers()
        opened = [archive.extractfile(member) for member in members]
        text = b"".join(file.read() for file in opened if file)
    assert {(member.uid, member.uname, member.gname) for member in members} == {(0, "", "")}
    [top] = {member.name.partition("/")[0] for member in members}
    assert re.fullmatch(r"survey-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", top)
    inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {member.name for member in members if member.isfile()} == {
        f"{top}/{name}" for name in inside
    }
    return inside, text.decode(errors="replace")


@SLOW_TEST
def test_a_survey_goes_on_past_a_step_that_fails(tmp_path):
    """Every step runs and one of them fails: the page has the others' figures and the failed step's
    sentence, and the archive has everything, without names of folders and users."""
    folder, faulty = tmp_path / "survey", tmp_path / "faulty"
    faulty.mkdir()
    (faulty / "sitecustomize.py").write_text(FAULTY)
    variables = {"FAULT": "bench.link", "PYTHONPATH": str(faulty)}
    with started(folder, "--quick", **variables) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert "Traceback" not in out + err, err
    page = (folder / "index.html").read_text()
    headline, failure, *_, page_line, archive_line = out.splitlines()
    assert failure == "Link, failed: no memory is left, says a test in <path>/file.py"
    assert re.match(r"allreduce: \d+ KiB \d", headline)
    assert "<h1>Link, failed: no memory is left, says a test in" in page
    assert (page_line, archive_line) == (f"page: {folder}/index.html", f"archive: {folder}.tar.gz")
    assert f"<title>{signs(headline)}</title>" in page
    sentence = "no memory is left, says a test in &lt;path&gt;/file.py"
    assert sentence in page
    assert "mpirun -n 2 python -m bench.link" in page
    form = r"^\[survey \d+ s\] (\S+): (?:done|incomplete|failed) after"
    ended = re.findall(form, err, re.MULTILINE)
    launches = [f"allreduce-{number}" for number in range(2, LEAST_LAUNCHES + 1)]
    assert ended[: LEAST_LAUNCHES + 2] == ["link", "allreduce", *launches, "decode"]
    files, text = archived(folder)
    names = "index.html", "logs/link.err.txt", "logs/allreduce-2.out.txt"
    assert {*names} <= files
    assert [
        word for word in ("/home/alice", "s3cret", str(tmp_path), str(ROOT)) if word in text
    ] == []
    frame = load(folder)
    assert {"allreduce"} <= set(frame.benchmark) <= {"allreduce", "decode"}


@SLOW_TEST
def test_an_interrupted_survey_keeps_what_it_has(tmp_path):
    folder = tmp_path / "survey"
    with started(folder, "--quick", "--max-time", "900") as process:
        path = wait_for(lambda: next(folder.glob("results/link/*.jsonl"), None))
        # The largest size has a block by now, but no push: the page shows those of 16 MiB.
        wait_for(lambda: path.read_bytes().count(b'"kind":"block"') > 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out.startswith("link: ")
    assert "] interrupted; " in err
    page = (folder / "index.html").read_text()
    assert "0 of 3 steps are done, then the survey was interrupted." in page
    assert "its turn never came" in page
    assert "mpirun -n 2 python -m bench.a" in page
    archived(folder)


def test_files_that_cannot_be_written_are_refused_before_the_first_step(tmp_path, refused):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("years of work")
    (tmp_path / "sent.tar.gz").write_text("an archive of last week")
    there = "is there already: remove it, or name a new folder: --out "
    for name, sentence in {
        "/dev/null/survey": "/dev/null/survey: Not a directory",
        "/": f"/ {there}",
        f"{tmp_path}/used": f"{tmp_path}/used {there}",
        f"{tmp_path}/sent": f"{tmp_path}/sent.tar.gz {there}{tmp_path}/sent-2",
        f"{tmp_path}/sent.tar.gz": f"{tmp_path}/sent.tar.gz {there}",
    }.items():
        status, refusal = refused(main, "--out", name)
        assert status == 2
        assert refusal.startswith(sentence)
    assert {path.name for path in tmp_path.rglob("*")} == {"sent.tar.gz", "thesis.tex", "used"}


def test_a_survey_that_cannot_begin_is_refused(tmp_path, refused, monkeypatch):
    folder = tmp_path / "survey"
    ranks = "argument -n/--ranks: '9' is not a whole number from 1 to 8"
    assert refused(main, "--out", folder, "-n", "9") == (2, ranks)
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/null",))  # GPUs that cannot be used
    status, refusal = refused(main, "--out", folder)
    assert (status, refusal.endswith("; to measure the CPU add --device cpu")) == (3, True), refusal
    seen = gpu_driver.VisibleGpus("cuda", ["0000:01:00.0", "0000:02:00.0"])
    monkeypatch.setattr(gpu_driver, "visible_gpus", lambda mixed: seen)
    monkeypatch.setenv("NCCL_MAX_CTAS", "8")  # the step of the all-reduces would end so
    status, refusal = refused(main, "--out", folder)
    assert (status, refusal.startswith("NCCL_MAX_CTAS is set, and outweighs ")) == (2, True)
    monkeypatch.setenv("PMI_RANK", "0")
    launcher = "it starts mpirun itself: run it without mpirun, or unset PMI_RANK"
    assert refused(main, "--out", folder) == (2, launcher)
    assert [*tmp_path.iterdir()] == []


def test_names_are_taken_out_of_logs(monkeypatch):
    monkeypatch.setenv("HOME", "/users/alice")
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-box")
    assert without_names("in /users/alice, /users/alice/x and /mnt/secret/y.py on gpu-box:3") == (
        "in <home>, <home>/x and <path>/y.py on <host>:3"
    )
    kept = (
        "/sys/bus/pci/devices, 16 KiB/s, see https://example.org/a/b; results/x/run.jsonl; GB/s 1/2"
    )
    assert without_names(kept) == kept


@as_root
def test_a_survey_changes_and_packs_no_file_beyond_the_links_of_another_user(open_folder):
    """With `logs` a link it rewrote each file behind it, and with the archive one that file. What
    only root may read went into an archive that everybody may."""
    victim, theirs = open_folder / "victim", give(open_folder / "theirs")
    victim.mkdir()
    (victim / "file").write_text("/home/root/kept")
    folder = give(theirs / "survey")
    survey = survey_of(folder, [SurveyStep("doctor", "Doctor", "doctor")])
    (survey.logs / "doctor.out.txt").write_text("printed")
    (folder / "logs").rename(folder / "moved")
    for path in (folder / "logs", folder / "results"):
        link_of_nobody(path, victim)
    for path in (folder / "index.html", survey.archive):
        link_of_nobody(path, victim / "file")
    write(survey, 0)
    assert [path.read_text() for path in victim.iterdir()] == ["/home/root/kept"]
    files, text = archived(folder)
    assert files == {"index.html", "spec.toml", "survey.json", "moved/doctor.out.txt"}
    assert "kept" not in text


def survey_of(folder, steps=(), launcher="mpirun", left_s=0.0):
    """A survey of two ranks that has this time left: of GPUs, or a quick one of these steps."""
    return Survey(
        folder,
        folder.with_name("survey.tar.gz"),
        2,
        str(launcher),
        "" if steps else "cuda",
        bool(steps),
        time.monotonic() + left_s,
        list(steps),
        Progress("survey", quiet=True),
    )


def parsed(monkeypatch, command, words):
    """The options that a benchmark reads from a command line, which it must accept."""
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setattr(sys, "argv", [command, *words])
    parser = sweep_parser("allreduce", "all_reduce", "")
    parse: dict[str, Any] = {
        "allreduce": lambda: sweep_options(parser, parser.parse_args()),
        "link": link.parse,
        "tune": tune.parse,
        "decode": lambda: layers.parse("decode"),
    }
    return parse[command]()[0]


@pytest.mark.parametrize(
    ("name", "vendor"), [("separate", "cuda"), ("separate", "hip"), ("shared", "cuda")]
)
def test_a_benchmark_accepts_the_command_line_of_each_step(tmp_path, monkeypatch, name, vendor):
    """Otherwise a step would fail on every GPU, where nobody has tried it yet."""
    survey = survey_of(tmp_path)
    (tmp_path / "tuned.toml").touch()
    firsts = [step for step in plan(name, vendor, False) if not step.reads]
    for step in [*firsts, *(step.next_launch(2) for step in firsts if step.again)]:
        words = command_line(survey, step, 5.0)
        assert words[:2] == ["mpirun", "-n"]
        assert words[3:6] == module_command(f"bench.{step.command}")
        if step.command == "doctor":
            assert words[6:] == []
            continue
        options = parsed(monkeypatch, step.command, words[6:])
        assert (options.max_time_s, options.out) == (5.0, str(tmp_path / "results" / step.name))
        if step.command == "allreduce":
            untuned = "--tuned none" in step.line
            assert options.tuned == ("none" if untuned else str(tmp_path / "tuned.toml"))


@pytest.mark.parametrize("is_one_card", [False, True])
def test_a_benchmark_accepts_the_command_line_of_each_open_question(monkeypatch, is_one_card):
    script = runpy.run_path(str(ROOT / "docs/experiments/open_questions.py"))
    for question in script["ONE_CARD" if is_one_card else "TWO_CARDS"]:
        command = question.line.split()[0]
        if command not in ("soak", "survey", "estimator"):
            vendor = question.vendor or "hip"
            words = script["arguments_of"](question, vendor, is_one_card, 5.0)
            options = parsed(monkeypatch, command, words)
            assert (options.max_time_s, options.ranks_share_gpus) == (5.0, is_one_card)


@pytest.mark.parametrize("torch", [None, "a module"])
def test_on_one_card_nccl_runs_first_and_with_nothing_else_set(monkeypatch, torch):
    """A limit of ours once stood in README as NCCL's speed. That it may hang costs 25 s."""
    script = runpy.run_path(str(ROOT / "docs/experiments/open_questions.py"))
    monkeypatch.setitem(script["variables_of"].__globals__, "find_spec", lambda name: torch)
    first, second, *others = script["ONE_CARD"]
    allowed = {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}

    def variables(question):
        ours = script["variables_of"](question)
        return {name: text for name, text in ours.items() if name != "WIRETAX_QUIET"}

    of_torch = script["TORCH"] if torch else {}
    assert variables(first) == of_torch | allowed
    assert variables(second) == of_torch | allowed | {"NCCL_NVLS_ENABLE": "0"}
    for question in (first, second):
        words = script["arguments_of"](question, "cuda", True, 60.0)
        options = parsed(monkeypatch, "allreduce", words)
        assert (options.timeout_s, options.graph) == (25.0, 1)
        assert ("--contender" in words) == bool(torch)
    # In the others nothing limits NCCL, so nothing voids the search of its `tuned`.
    for question in others:
        assert {*variables(question)} <= {*allowed, "NCCL_NVLS_ENABLE", *script["TORCH"]}


def survey_of_stored_runs(monkeypatch, tmp_path, steps, left_s, end="exit 0"):
    """A survey whose launcher takes the next run of the folder `made`, in place of a launch."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    launcher = stored_launches(tmp_path, end)
    return survey_of(tmp_path / "survey", steps, launcher, left_s)


def quick_steps(*names, vendor=""):
    return [step for step in plan("separate", vendor, True) if step.name in names]


def test_a_wrong_result_is_the_status_and_the_headline(tmp_path, monkeypatch):
    mark_wrong(write_run(tmp_path / "made", sizes=(16384,)).path, 0)
    wrong = 'echo "wiretax: auto 16384 B, block 0: element 3 of rank 1" >&2; exit 1'
    survey = survey_of_stored_runs(monkeypatch, tmp_path, quick_steps("allreduce"), 60.0, wrong)
    folder = survey.folder
    assert run_survey(survey) == 1
    page = (folder / "index.html").read_text()
    assert re.search(r"<h1>All-reduce, wrong: .*\.</h1>", page)
    assert '<header class="banner worse">' in page
    assert '<span class="chip worse">wrong</span>' in page
    assert "auto 16384 B, block 0" in page
    archived(folder)


def test_what_is_left_of_the_time_goes_into_launches_that_procure_can_judge(
    tmp_path, monkeypatch, capsys
):
    """Six launches of two R9700s: a line says how to ask about one's own model, and the spec judges
    them."""
    write_launches(tmp_path / "made", 6, gpu=R9700)
    steps = quick_steps("allreduce", "advise", vendor="hip")
    survey = survey_of_stored_runs(monkeypatch, tmp_path, steps, left_s=60.0)
    assert run_survey(survey) == 3  # the seventh launch stores no run
    printed = capsys.readouterr().out
    folder = survey.folder
    ask = "next: python -m reports advise --model llama-3.1-70b --weights 40GB --gpu r9700 --gpus"
    assert f"{ask} 2 --run {folder}/results/allreduce\n" in printed
    assert "All-reduce, launch 7, failed" in printed
    assert len([*folder.glob("results/allreduce/*.jsonl")]) == 6
    page = (folder / "index.html").read_text()
    tokens = r">70b-q4, one chat on 2 GPUs: at most 30.6 tok/s \[30.+ at 95\s%"
    assert re.search(tokens, page)  # as in the tables, whatever the spec requires
    archived(folder)
    assert reports_main(["procure", str(folder / "spec.toml")]) == 3  # tokens are an upper limit
    assert "may meet every requirement, but nobody measured 70b-q4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("vendor", "memory", "is_tuned"),
    [("hip", "mapped", True), ("hip", "host_staged", False), ("", "mapped", False)],
)
def test_gpus_that_map_each_others_memory_are_tuned_over_host_memory_too(
    tmp_path, monkeypatch, vendor, memory, is_tuned
):
    """Then the all-reduces have both kinds: a table says nothing of a kind that a run lacks."""
    names = "link", "tune_memory", "confirm_memory", "allreduce"
    for number, _ in enumerate(names):
        write_run(tmp_path / "made", sizes=(16384,), run_id=run_id(number))
    for path in (tmp_path / "made").glob("*.jsonl"):
        rewrite_cases(path, lambda case: case.update(memory=memory))
    steps = [step for step in plan("separate", vendor or "hip", False) if step.name in names]
    record = f'printf "%s\\0" "$*" >> {tmp_path}/words; exit 0'
    survey = survey_of_stored_runs(monkeypatch, tmp_path, steps, 200.0, record)
    survey = replace(survey, vendor=vendor)
    (survey.inside / "tuned.toml").touch()
    run_survey(survey)
    launches = (tmp_path / "words").read_text().split("\0")
    tuned = [words for words in launches if "bench.tune" in words]
    assert len(tuned) == (2 if is_tuned else 0)
    assert all("--memory mapped,host_staged -G 1" in words for words in tuned)
    reduced = [words for words in launches if "bench.allreduce" in words]
    assert reduced
    assert {"--memory=mapped,host_staged" in words for words in reduced} == {is_tuned}
    assert "bench.link" in launches[0]
    assert "--memory" not in launches[0]
    left = {step.name for step in survey.steps}
    assert ({"tune_memory", "confirm_memory"} <= left) == is_tuned
    assert is_tuned or not {"tune_memory", "confirm_memory"} & left


def test_a_quick_survey_tunes_one_kind_of_memory():
    assert not [step for step in plan("separate", "hip", True) if step.peers_only]


def test_what_is_no_log_is_left_out(tmp_path):
    """A link to /dev/zero took 24 GB, and a pipe never ended."""
    folder = tmp_path / "survey"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "link.err.txt").symlink_to("/dev/zero")
    os.mkfifo(folder / "logs" / "doctor.out.txt")
    write(survey_of(folder, [SurveyStep("doctor", "Doctor", "doctor")]), 0)
    texts = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
    assert texts["doctor.out.txt"] == "left out: it is not an ordinary file"
    assert texts["link.err.txt"].startswith("left out: ")
    archived(folder)
