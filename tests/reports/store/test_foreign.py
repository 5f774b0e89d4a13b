"""Users open run files from strangers. Their strings must stay text in every output, their arrays must be
numbers, and the reports must read no file outside the run's folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from reports.store.foreign import markdown_text, printable, spreadsheet_cell
from reports.store.result import ResultError, SamplesGone, read, read_samples
from tests.launch import ROOT
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.unit

HOSTILE = (
    "=cmd|' /C calc'!A0 <script>alert(1)</script> \x1b]0;owned\x07\x1b[31m ![x](http://e/x.png) $\\frac{ "
    "\u202e & \x9b2J"
)


def hostile_run(folder: Path, seed: int = 7, **changed: object) -> Path:
    """A run with HOSTILE in every name, note and fact of the machine."""
    path = write_run(
        folder,
        sizes=[16384, 1 << 20],
        algorithms=["library", "auto", "ring"],
        modes=["isolated"],
        n=5,
        seed=seed,
        run_id=f"2026-11-20T06-15-{seed:02}Z-allreduce-1a2b3c",
    ).path
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "run":
            line |= {
                "version": HOSTILE,
                "argv": [HOSTILE],
                "notes": [HOSTILE],
                "software_id": HOSTILE,
            }
            line["environment"][HOSTILE] = {"value": HOSTILE, "source": HOSTILE, "status": "ok"}
            line["environment"]["cpu.model"]["value"] = HOSTILE
            line["world"]["ranks"][0] |= {"arch": HOSTILE, "gpu": HOSTILE}
        for case in [*line.get("cases", []), line]:
            if case.get("library"):
                case["library"] = HOSTILE
            if case.get("algorithm") == "ring":
                case["algorithm"] = HOSTILE
        if line["kind"] == "case":
            line |= changed
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def reports(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "reports", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return hostile_run(tmp_path_factory.mktemp("hostile"))


def assert_harmless(text: str) -> None:
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize(
    "options", [[], ["--long"], ["--format", "csv"], ["--format", "nccl-tests"]]
)
def test_strings_of_a_run_reach_the_terminal_only_as_text(run, options):
    done = reports("show", run, *options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "alert(1)" in done.stdout.decode()
    assert_harmless(done.stdout.decode())


def test_no_cell_of_a_csv_is_a_formula(run):
    rows = list(csv.reader(io.StringIO(reports("show", run, "--format", "csv").stdout.decode())))
    assert any(cell.startswith("'=cmd") for row in rows for cell in row)
    for row in rows:
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@")) or float(cell) <= 0


def test_a_picture_draws_a_name_without_markup_or_formulas(run, tmp_path):
    picture = tmp_path / "run.svg"
    done = reports("show", run, "--plot", picture)
    assert (done.returncode, done.stderr) == (0, b"")
    tree = ElementTree.parse(picture)
    assert not [element for element in tree.iter() if element.tag.endswith("script")]
    assert any("<script>" in "".join(element.itertext()) for element in tree.iter())


def test_no_string_of_a_run_is_active_in_the_output_of_the_gate(tmp_path):
    """GitHub, a CI's test report and a browser show the output."""
    for seed in range(12):
        hostile_run(tmp_path / ("base", "new")[seed % 2], seed)
    done = reports(
        "regress",
        "--baseline",
        "base",
        "--current",
        "new",
        "--markdown",
        "s.md",
        "--junit",
        "j.xml",
        "--html",
        "p.html",
        cwd=tmp_path,
    )
    assert done.returncode in (0, 1, 3), done.stderr
    assert_harmless((done.stdout + done.stderr).decode())
    page, summary = (tmp_path / "p.html").read_text(), (tmp_path / "s.md").read_text()
    assert "alert(1)" in page
    assert "<script" not in page
    assert "alert(1)" in summary
    assert "<script" not in summary
    assert not re.search(r"(?<!\\)\]\(|(?<!\\)!\[", summary)
    assert "alert(1)" in "".join(
        text
        for element in ElementTree.parse(tmp_path / "j.xml").iter()
        for text in element.attrib.values()
    )


def test_a_file_name_does_not_control_the_terminal(tmp_path):
    path = tmp_path / "x\x1b[2Jy.jsonl"
    path.write_text("{}")
    for argument in (path, tmp_path / "no\x1b[2Jne.jsonl"):
        done = reports("show", argument)
        assert done.returncode == 2
        assert_harmless(done.stderr.decode())


@pytest.mark.parametrize(
    "name",
    [
        "../secret.npy",
        "/etc/passwd",
        "..",
        "",
        "a/b.npy",
        "linked.npy",
        "pickle.npy",
        "long.npy",
        "short.npy",
        "wide.npy",
        "pipe.npy",
        "text.npy",
    ],
)
def test_samples_are_only_numbers_from_the_runs_own_folder(tmp_path, name):
    path = hostile_run(tmp_path, samples=name)
    folder = path.with_suffix(".samples")
    good = np.load(folder / "case-0000.npy")
    np.save(tmp_path / "secret.npy", good)
    (folder / "linked.npy").symlink_to(tmp_path / "secret.npy")
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "wide.npy", np.zeros((3, 6), np.float32))
    content = (folder / "case-0000.npy").read_bytes()
    (folder / "long.npy").write_bytes(content + b"0")
    (folder / "short.npy").write_bytes(content[:-4])
    (folder / "text.npy").write_bytes(b"not an array")
    os.mkfifo(folder / "pipe.npy")
    result = read(path)
    with pytest.raises(ResultError, match="samples"):
        read_samples(result, result.cases[0])


@pytest.mark.parametrize(
    "shape",
    [
        5,
        "x",
        [1],
        {"arrival_skew_us": "soon"},
        {"skew": 3},
        {"beside": [1]},
        {"slots": 0},
        {"pairs": [[0, 1, 2]]},
    ],
)
def test_an_invalid_shape_is_refused_in_one_sentence(tmp_path, shape):
    done = reports("show", hostile_run(tmp_path, shape=shape))
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_samples_are_read_unchanged_and_may_be_missing(tmp_path):
    path = hostile_run(tmp_path)
    result = read(path)
    rows = read_samples(result, result.cases[0])
    assert rows is not None
    assert rows.shape == (2 * 5 * 10, 5)
    (path.with_suffix(".samples") / "case-0000.npy").unlink()
    with pytest.raises(SamplesGone):
        read_samples(result, result.cases[0])
    elsewhere = path.with_suffix(".samples").rename(tmp_path / "elsewhere")
    path.with_suffix(".samples").symlink_to(elsewhere)
    with pytest.raises(ResultError, match="link"):
        read_samples(result, result.cases[1])


def test_a_flight_record_that_is_a_link_or_a_pipe_is_not_read(tmp_path):
    """A link would show another file, a pipe would block the reader."""
    path = write_run(
        tmp_path, sizes=[16384], algorithms=["library"], modes=["isolated"], n=5, finish=False
    ).path
    folder = path.with_suffix(".flight")
    folder.mkdir()
    (tmp_path / "secret").write_text('{"case": 0, "step": "secret"}')
    (folder / "rank-0").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "rank-1")
    flight = read(path).flight
    assert flight is not None
    assert flight.ranks == {}


def half_a_gigabyte(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(500_000_000)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "holds no run"),
        (os.mkfifo, "ordinary file"),
        (half_a_gigabyte, "500 MB are more"),
    ],
)
def test_only_a_regular_file_is_read(tmp_path, make, why):
    path = tmp_path / "run.jsonl"
    make(path)
    done = reports("show", path)
    assert done.returncode == 2
    assert why in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_line_with_millions_of_values_is_refused(tmp_path):
    """The values of a file of 60 MB took more than 4 GB of memory and a minute of processor time."""
    path = write_run(tmp_path, sizes=[16384], algorithms=["library"], modes=["isolated"], n=5).path
    head, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(head[:-1] + b',"x":[' + b"[]," * 6_000_000 + b"0]}\n" + rest)
    with pytest.raises(
        ResultError, match="line 1: its 18 MB are more than the 16 MB that are read"
    ):
        read(path)


def test_a_manifest_with_too_many_launches_is_refused(tmp_path):
    """Each orphaned launch is compared with all earlier ones: 200,000 lines took hours."""
    from reports.store.manifest import MOST_RECORDS, read_manifest
    from tests.reports.synthetic_campaign import no_effect, write_campaign

    folder = write_campaign(tmp_path / "campaign", {"base": no_effect, "new": no_effect}, pairs=2)
    manifest = folder / "campaign.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines) + lines[1] * MOST_RECORDS)
    with pytest.raises(ResultError, match="more than the 10,000 records"):
        read_manifest(folder)


def test_a_manifest_names_no_run_outside_its_campaign(tmp_path):
    from reports.store.manifest import read_manifest
    from tests.reports.synthetic_campaign import no_effect, write_campaign

    folder = write_campaign(tmp_path / "campaign", {"base": no_effect, "new": no_effect}, pairs=2)
    manifest = folder / "campaign.jsonl"
    outside = write_run(
        tmp_path / "outside", sizes=[16384], algorithms=["library"], modes=["isolated"], n=5
    ).path
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    next(line for line in lines if line.get("run"))["run"] = f"../outside/{outside.name}"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ResultError, match="outside the campaign"):
        read_manifest(folder)


def test_harmless_text_stays_unchanged():
    for text in ("MPICH 5.0.2", "one_shot_push+nt", "é 漢字 ≥ 2×", "a-b_c"):
        assert printable(text) == spreadsheet_cell(text) == markdown_text(text) == text
    assert spreadsheet_cell(-1.5) == -1.5
