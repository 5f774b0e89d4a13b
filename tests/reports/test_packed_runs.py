"""Reports read the archive of a survey as they read its folder, and refuse a damaged one."""

import hashlib
import os

import pytest

from bench.surveys.survey_archive import pack
from tests.reports.synthetic_archive import packed
from tests.reports.synthetic_candidates import ask, spec, write_launches
from tests.reports.synthetic_run import ONE, rewrite_head, run_id, write_run
from wiretax import load
from wiretax.record import result
from wiretax.record.manifest import files_of

pytestmark = pytest.mark.unit

RUNS = "results/allreduce"
ADVISE = "advise --model llama-3.1-70b --weights q4 --gpu r9700 --gpus 2 --run"
SPEC = """[candidates.box]
runs = ["box.tar.gz"]
gpu = "r9700"
gpus = 2
price = {amount = 1, currency = "EUR", date = 2026-11-01}
"""


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    """The runs of a survey of two R9700s, `box`, of slower ones, `other`, and their archives."""
    folder = tmp_path_factory.mktemp("surveyed")
    for name, first, slower in (("box", 0, 1), ("other", 10, 1.05)):
        write_launches(folder / name / RUNS, 5, first, slower=slower)
        name_of_run = run_id(first, name)
        tuned = write_run(folder / name / "results/tune", run_id=name_of_run, finish=False, **ONE)
        rewrite_head(tuned.path, benchmark="tune")
        os.utime(tuned.path, (0, 0))  # otherwise it seems to be measured still
        files = {
            file.relative_to(folder / name).as_posix(): file.read_bytes()
            for file in (folder / name).rglob("*.jsonl")
        }
        packed(folder / f"{name}.tar.gz", files)
    return folder


def test_the_archive_has_the_rows_of_its_folder(surveyed):
    folder, archive = load(surveyed / "box"), load(surveyed / "box.tar.gz")
    columns = ["run_id", "algorithm", "size_bytes", "time_us_median", "left_out"]
    assert archive[columns].equals(folder[columns])
    file = files_of(surveyed / "box" / RUNS)[0]
    [path] = archive.path[archive.run_id == file.stem].unique()
    assert path == f"{surveyed}/box.tar.gz/{RUNS}/{file.name}"
    assert {*load(path).run_id} == {file.stem}  # what is shown can be typed


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("box.tar.gz", 6),
        (f"box.tar.gz/{RUNS}", 5),
        (f"box.tar.gz/{RUNS}/*-allreduce-*.jsonl", 5),
        ("*.tar.gz", 12),
    ],
)
def test_archives_folders_in_them_and_globs_name_their_runs(surveyed, name, number):
    assert len(files_of(surveyed / name)) == number


@pytest.mark.parametrize(
    "line",
    [
        "show box.tar.gz",
        f"show box.tar.gz/{RUNS}",
        "expect box.tar.gz",
        "export box.tar.gz --csv",
        "history box.tar.gz",
        f"compare box.tar.gz/{RUNS} other.tar.gz/{RUNS}",
        f"{ADVISE} box.tar.gz",
    ],
)
def test_a_report_says_of_the_archive_what_it_says_of_the_folder(
    surveyed, monkeypatch, reports, line
):
    monkeypatch.chdir(surveyed)
    status, out, err = reports(*line.split())
    assert status == 0, err
    of_folder = reports(*line.replace(".tar.gz", "").split())
    assert (status, out.replace(".tar.gz", "").split(), err) == (
        of_folder[0],
        of_folder[1].split(),
        of_folder[2],
    )


def test_procure_reads_archives_and_says_that_a_spec_must_be_unpacked(surveyed, capsys):
    status, out, _ = ask(capsys, spec(surveyed, ("16K <= 8000 us",), SPEC))
    # Its runs are of another day than its survey: read and doubtful.
    assert (status, "box.tar.gz is doubtful: " in out) == (3, True), out
    assert "runs 5 2026-11-20" in out
    status, out, err = ask(capsys, surveyed / "box.tar.gz")
    assert (status, out) == (2, "")
    assert f"box.tar.gz is an archive: unpack it (tar xf {surveyed}/box.tar.gz), " in err


@pytest.mark.parametrize("line", ["show", "expect", "export --csv", "history", "compare x"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("text", "bad.tar.gz is no archive: "),
        ("changed", "bad.tar.gz: index.html was changed: its SHA-256 is not that of survey.json"),
        ("unlisted", "bad.tar.gz: it has no survey.json: bench.survey did not write it"),
    ],
)
def test_a_damaged_archive_is_one_sentence(tmp_path, reports, line, kind, sentence):
    path = tmp_path / "bad.tar.gz"
    if kind == "text":
        path.write_bytes(b"no archive")
    elif kind == "changed":
        packed(path, {"index.html": b"Page"}, files={"index.html": hashlib.sha256().hexdigest()})
    else:
        path.write_bytes(pack("survey", {"index.html": b"page"}))
    name, *options = line.split()
    status, out, err = reports(name, path, *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    with pytest.raises(ValueError, match=sentence):
        load(path)


def test_a_run_that_the_archive_lacks_is_named(surveyed, reports):
    status, _, err = reports("show", surveyed / "box.tar.gz/results/nope.jsonl")
    assert (status, "box.tar.gz has no file results/nope.jsonl" in err) == (2, True)


def test_a_run_in_an_archive_that_is_too_large_is_told_so(surveyed, monkeypatch, reports):
    """It read "cannot be read: Not a directory"."""
    monkeypatch.setattr(result, "MOST_RUN_BYTES", 1000)
    [file, *_] = files_of(surveyed / "box.tar.gz")
    status, _, err = reports("show", file)
    assert (status, "MB are more than the 0 MB that are read" in err) == (2, True), err


@pytest.mark.parametrize("line", ["show", "expect", "history", "export --csv"])
def test_a_folder_of_archives_alone_is_told_apart_from_an_empty_one(tmp_path, reports, line):
    """It held "no run yet: type wiretax allreduce", where surveys lay."""
    (tmp_path / "box.tar.gz").write_bytes(b"")
    name, *options = line.split()
    status, out, err = reports(name, tmp_path, *options)
    assert (status, out, err.count("box.tar.gz")) == (2, "", 1)
    assert "archive" in err.replace(str(tmp_path), "")
