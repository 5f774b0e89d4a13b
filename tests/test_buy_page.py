"""docs/buy.md as a buyer types it: each command of its four steps runs as printed, and prints the
lines that stand below it."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from bench.qualify import make_qualify_parser
from bench.survey import make_parser
from tests.launch import ROOT, SLOW_TEST
from tests.reports.synthetic_archive import packed
from tests.reports.synthetic_candidates import write_launches
from tests.reports.synthetic_fleet import write_fleet

PAGE = (ROOT / "docs/buy.md").read_text()
STEPS = PAGE.partition("## Four steps\n")[2].partition("\n## ")[0]
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", STEPS, re.DOTALL)
    for line in block.splitlines()
]
PRINTED = re.findall(r"```text\n(.*?)```", STEPS, re.DOTALL)


def run(line, folder):
    """Runs a line of the page in the folder, as a shell does."""
    paths = {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**os.environ, **paths, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The seller's archive, the spec of the page and runs of ten nodes, of which n3 is slow."""
    folder = tmp_path_factory.mktemp("buy")
    write_launches(folder / "seller", 6)
    runs = {
        f"results/allreduce/{path.name}": path.read_bytes()
        for path in folder.glob("seller/*.jsonl")
    }
    packed(folder / "two-r9700.tar.gz", runs)
    write_launches(folder / "two-5090", 6, gpu="NVIDIA GeForce RTX 5090")
    write_fleet(folder / "nodes", [f"n{number}" for number in range(10)], slower={"n3": 0.2})
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "spec.toml").write_text(text)
    return folder


@pytest.mark.unit
@pytest.mark.parametrize(
    ("step", "command", "status"),
    [
        (1, "python -m reports procure spec.toml --html procure.html", 3),
        (3, "python -m reports fleet nodes", 1),
    ],
)
def test_the_reports_print_what_the_page_says(folder, step, command, status):
    """A reader would copy the example and meet an error in the first minute."""
    assert command in COMMANDS
    done = run(command, folder)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith(PRINTED[step])


@pytest.mark.unit
def test_the_measuring_commands_parse():
    survey, _, qualify, _, _ = (shlex.split(line.partition(" > ")[0]) for line in COMMANDS)
    assert survey[:3] == ["python", "-m", "bench.survey"]
    assert make_parser().parse_args(survey[3:]).ranks == 2
    assert qualify[:3] == ["python", "-m", "bench.qualify"]
    [limit] = make_qualify_parser().parse_args(qualify[3:]).limits
    assert f'"{limit.text}"' in PAGE.partition("```toml")[2], "a requirement of the spec"


@SLOW_TEST
@pytest.mark.alone
def test_the_measuring_commands_run_as_printed(tmp_path):
    """On the cores of a host without GPUs, which need `--device cpu` to be qualified."""
    survey, _, qualify, measure, fleet = COMMANDS
    done = run(survey, tmp_path)
    assert done.returncode == 0, done.stderr
    page, archive = done.stdout.splitlines()[-2:]
    assert page == PRINTED[0].splitlines()[1]
    assert archive == f"archive: {tmp_path}/two-r9700.tar.gz"
    done = run(f"{qualify} --device cpu", tmp_path)
    assert done.returncode in (0, 1, 3), done.stderr  # the limit is of two GPUs
    fields = json.loads((tmp_path / "delivered.jsonl").read_text())
    assert {"status", "faults", "steps"} <= fields.keys()
    assert fields["compared"] > 0
    for _ in range(3):
        done = run(measure, tmp_path)
        assert done.returncode == 0, done.stderr
    assert run(fleet, tmp_path).returncode == 3  # fewer than four nodes
