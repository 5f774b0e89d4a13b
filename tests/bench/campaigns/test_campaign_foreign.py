"""Tests campaigns of other people's commands with real launches of small scripts."""

import json
import re
import shlex
import sys

import pytest

from bench.campaign import main
from reports.__main__ import main as reports
from tests.bench.campaigns.test_campaign import made, run
from tests.bench.campaigns.test_campaign_command import TIMED, named
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.imports.test_serving import LLAMA
from wiretax.record.manifest import read_manifest
from wiretax.record.result import read

# Prints timing lines of a program whose launches differ by 1 % and whose blocks do.
PROGRAM = """
import json, random, sys
factor, seed, *sizes = sys.argv[1:]
draw = random.Random(f"{seed} {factor}")
launch = draw.gauss(1, 0.01)
for size in map(int, sizes):
    times_us = [(5 + size / 1e4) * float(factor) * launch * draw.gauss(1, 0.01) for _ in range(8)]
    line = {"collective": "all_reduce", "size_bytes": size, "time_us": times_us, "n_wrong": 0}
    print(json.dumps(line | {"algorithm": "mine"}))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PROGRAM)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(path))}"


def test_timing_lines_of_a_slower_program_are_called_slower(tmp_path, program, capsys):
    folder = tmp_path / "slow"
    variants = named(
        a=f"{program} 1.0 {{seed}} 16384 1048576",
        b=f"{program} 1.1 {{seed}} {{sizes:16384}} {{max:4}}",
    )
    status, out, err = run(
        folder, *variants, "--pairs", "8", "--ranks", "2", "--set", "max=1048576"
    )
    assert status == 0, err
    assert "timed by its own clock" in out.replace("\n", " ")
    assert reports(["compare", str(folder), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["comparisons"][0]["cells"]
    assert [cell["verdict"] for cell in cells] == ["SLOWER", "SLOWER"]


def test_the_file_of_a_launch_is_read_and_deleted_unless_it_is_kept(tmp_path, monkeypatch):
    """nccl-tests writes the whole environment, with its secrets, into the report of -J."""
    log = tmp_path / "whole.log"
    log.write_text(WHOLE)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    copy = f"sh -c 'echo secret; cp {log} $0' {{out}}"
    status, _, err = run(tmp_path / "c", *named(a=copy, b=copy), "--pairs", "1")
    assert status == 0, err
    assert list((tmp_path / "temporary").iterdir()) == []
    assert made(tmp_path / "c", "first")
    run(tmp_path / "kept", *named(a=copy, b=copy), "--pairs", "1", "--keep-output")
    assert (tmp_path / "kept/a/launch-1.output/launch.file.txt").read_text() == WHOLE
    assert (tmp_path / "kept/a/launch-1.output/launch.out.txt").read_text() == "secret\n"
    assert read_manifest(tmp_path / "kept").foreign == []


def test_a_campaign_knows_the_device_kernel_of_nccl_tests_by_its_variants_command(tmp_path):
    """nccl-tests does not print its option -D."""
    program = tmp_path / "all_reduce_perf"
    program.write_text(f"#!/bin/sh\ncat <<'TABLE'\n{WHOLE}TABLE\n")
    program.chmod(0o755)
    variants = named(nccl=f"{program} -b 8 -R 2", lsa=f"{program} -b 8 -R 2 -D 1")
    status, _, err = run(tmp_path / "c", *variants, "--pairs", "1")
    assert status == 0, err
    libraries = {
        name: {
            case.library
            for file in (tmp_path / "c" / name).glob("*.jsonl")
            for case in read(file).cases
        }
        for name in ("nccl", "lsa")
    }
    assert libraries == {"nccl": {"NCCL 2.29.2"}, "lsa": {"nccl-tests LSA, NCCL 2.29.2"}}


LLAMA_BENCH = """
import json, os, sys
slow = {"nccl": 1.0, "internal": 0.8}[os.environ["GGML_CUDA_ALLREDUCE"]]
print(json.dumps([RESULT | {"samples_ns": [int(each * slow) for each in RESULT["samples_ns"]]}]))
"""


def test_a_campaign_of_llama_bench_says_what_its_own_all_reduce_wins(tmp_path, capsys):
    program = tmp_path / "llama_bench.py"
    program.write_text(f"RESULT = {LLAMA!r}\n{LLAMA_BENCH}")
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} -sm tensor -o json"
    variants = named(
        nccl=f"GGML_CUDA_ALLREDUCE=nccl {command}",
        internal=f"GGML_CUDA_ALLREDUCE=internal {command}",
    )
    status, _, err = run(tmp_path / "c", *variants, "--pairs", "6")
    assert status == 0, err
    assert reports(["compare", str(tmp_path / "c"), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["comparisons"][0]["cells"]
    assert {cell["verdict"] for cell in cells} == {"FASTER"}


UNRANKED = json.dumps({"size_bytes": 8, "time_us": 5.0})
BAD = [
    ("echo hello", 2, "variant a: its output has no timings; known are nccl-tests"),
    (f"echo '{UNRANKED}'", 2, "variant a: its output names no number of ranks: say how many"),
    ("sh -c 'echo no device; exit 2'", 1, "variant a cannot run: it died 3 times, .*no device"),
]


@pytest.mark.parametrize(("command", "status", "sentence"), BAD)
def test_a_command_without_timings_is_refused(tmp_path, refused, command, status, sentence):
    ended, message = refused(main, "--out", tmp_path / "c", *named(a=command, b=command))
    assert (ended, message.count("\n")) == (status, 0)
    assert re.match(sentence, message), message
    if status == 2:
        assert not (tmp_path / "c").exists()
    else:
        assert made(tmp_path / "c", status="died") == [("pilot", 0, "a")] * 3


def test_wrong_results_are_stored_and_have_status_1(tmp_path, refused):
    bad = TIMED.replace("}", ', "n_wrong": 3}')
    wrong = f"{bad}\n{TIMED.replace('8', '16')}"
    command = f"""sh -c 'echo "$0"; exit 1' '{wrong}'"""
    status, out, err = run(tmp_path / "c", *named(a=command, b=command), "--pairs", "1")
    assert status == 1, err
    assert "wrong in launches" in out.replace("\n", " ")
    assert len(made(tmp_path / "c")) >= 6
    variants = named(a=f"echo '{bad}'", b=f"echo '{bad}'")
    ended = refused(main, "--out", tmp_path / "all", *variants, "--quiet")
    assert ended == (1, "variant a: all its results are wrong")


def test_a_budget_buys_as_many_pairs_as_fit(tmp_path):
    command = f"sh -c 'sleep 0.05; echo $0' '{TIMED}'"
    options = *named(a=command, b=command), "--budget", "6s", "--pairs", "99"
    assert run(tmp_path / "c", *options)[0] == 0
    assert 6 <= len(made(tmp_path / "c", "first")) / 2 < 6 / 0.1


def test_rows_that_cannot_be_read_end_a_campaign_after_its_pilot(tmp_path, refused):
    """All pairs were launched before the gate said so, and called none of them usable."""
    command = f"printf '%s\\n' '{TIMED}' '{TIMED.replace('5.0', 'null')}'"
    ended, message = refused(main, "--out", tmp_path / "c", *named(a=command, b=command))
    assert (ended, made(tmp_path / "c")) == (1, [("pilot", 0, "a")])
    assert message.startswith("variant a: rows that could not be read: 1, the first in line 2; ")
