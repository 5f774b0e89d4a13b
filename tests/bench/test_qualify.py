"""Tests `bench.qualify`: what rejects a machine, one line a card, and the scripts that call it."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from bench import qualify
from bench.survey import make_parser
from bench.surveys.steps import SurveyStep
from reports.store.result import read
from reports.store.schema import End
from tests.launch import ROOT
from tests.reports.advice.test_expect import gpu_run
from tests.reports.synthetic_run import mark_wrong, run_id, write_run

pytestmark = pytest.mark.unit

SMALL = {"sizes": [16384], "algorithms": ["auto", "library"], "modes": ["isolated"], "n": 5}
# Takes the next run of the folder `made`, in place of a launch.
LAUNCHER = """#!/bin/sh
for word; do
    case $word in --out=*) out="${word#--out=}" && mkdir -p "$out";; esac
done
for made in MADE/*.jsonl; do mv "$made" "$out" && break; done
"""


@pytest.fixture
def qualified(tmp_path, monkeypatch, capsys):
    """A function that makes launches of stored runs: exit status, lines, standard error."""
    launcher = tmp_path / "mpirun"
    launcher.write_text(LAUNCHER.replace("MADE", str(tmp_path / "made")))
    launcher.chmod(0o755)
    monkeypatch.setattr("bench.survey.find_mpirun", lambda: str(launcher))
    monkeypatch.setattr("bench.campaigns.launches.signal.signal", lambda *_: None)

    def ask(name, *words, scale=1.0, wrong=False):
        for number in range(3):
            fields = {**SMALL, "n_blocks": 8, "scale": scale, "seed": number}
            run = write_run(tmp_path / "made", run_id=run_id(number, name), **fields)
            if wrong:
                mark_wrong(run.path)
                launcher.write_text(launcher.read_text() + "exit 1\n")
        out = str(tmp_path / name)
        status = qualify.main(["--device", "cpu", "--quiet", "--out", out, *map(str, words)])
        text, err = capsys.readouterr()
        return status, [json.loads(line) for line in text.splitlines()], err

    return ask


def test_a_machine_is_accepted_or_rejected_by_a_trusted_one(qualified, tmp_path):
    status, [line], err = qualified("good")
    assert (status, line["status"], line["faults"], err) == (0, 0, [], "")
    assert list(line["steps"]) == ["link", "allreduce", "bits"]
    assert {"serial", "bus_id", "schema"} <= line.keys()
    same = qualified("same", "--expect", tmp_path / "good", scale=1.1)
    assert (same[0], same[1][0]["faults"], same[1][0]["compared"]) == (0, [], 6)
    other = write_run(tmp_path / "other", **SMALL | {"sizes": [4096]}, n_blocks=8).path
    status, _, err = qualified("lost", "--expect", other.parent)
    assert (status, "nothing of the trusted machine could be compared" in err) == (3, True)
    status, [line], _ = qualified("slow", "--expect", tmp_path / "good", scale=1.6)
    assert (status, line["status"]) == (1, 1)
    assert "auto 16 KiB isolated: at least " in line["faults"][0]
    assert "us, on the trusted machine " in line["faults"][0]
    status, [line], _ = qualified("wrong", wrong=True)
    assert (status, line["steps"]["link"].partition(":")[0]) == (1, "wrong")


def test_each_card_has_a_line_with_its_serial_number(qualified, monkeypatch):
    """An inventory by serial number takes the line of a card."""
    cards = {"0000:03:00.0": "1324021012345", "0000:83:00.0": None}
    monkeypatch.setattr(qualify, "find_gpus", lambda _: ("hip", [*cards]))
    monkeypatch.setattr(qualify, "serial", cards.get)
    status, lines, _ = qualified("two")
    assert status == 0
    assert [(line["bus_id"], line["serial"]) for line in lines] == [*cards.items()]


def test_a_time_behind_published_ones_and_pcie_errors_reject(tmp_path):
    def faults(us):
        step = SurveyStep("allreduce", "", "allreduce", status="done")
        step.result = read(gpu_run(tmp_path / str(us), lambda size: us))
        step.result.end = End(status="complete", note=None if us < 100 else "PCIe errors: 3")
        return [*qualify.faults_of(step, {})]

    assert faults(20.0) == []
    late, *others = faults(5000.0)
    assert late == "allreduce: PCIe errors: 3"
    assert any("us, published for equal machines are " in fault for fault in others)


@pytest.mark.parametrize(
    ("status", "sentence", "is_fault"),
    [
        ("failed", "rank 1 was lost", True),
        ("failed", "took longer than 10 s; rank 1 was interrupted", False),
        ("failed", "time ran out before some case was measured", False),
        ("wrong", "1 MiB: time ran out; 3 elements were wrong", True),
        ("incomplete", "time ran out", False),
    ],
)
def test_a_step_without_enough_time_rejects_no_machine(status, sentence, is_fault):
    """A prolog on a loaded node must not drain it."""
    step = SurveyStep("bits", "", "bits", status=status, sentence=sentence)
    assert bool([*qualify.faults_of(step, {})]) == is_fault


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--expect", "empty"), "empty has no run of a machine to compare with"),
        (("--out", "empty/.."), "is there already"),
        (("-n", "1"), "one rank has no link and adds nothing: give -n 2 or more"),
    ],
)
def test_what_cannot_begin_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.campaigns.launches.signal.signal", lambda *_: None)
    (tmp_path / "empty").mkdir()
    assert qualify.main(["--device", "cpu", "--out", "q", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, sentence in err, err.count("\n")) == ("", True, 1)


@pytest.mark.parametrize(("status", "ended"), [(0, 0), (1, 1), (3, 0)])
def test_only_a_rejected_node_is_drained_by_the_prolog(tmp_path, status, ended):
    stub = tmp_path / "wiretax"
    stub.write_text(f'#!/bin/sh\necho "$HYDRA_LAUNCHER $*"\nexit {status}\n')
    stub.chmod(0o755)
    log = tmp_path / "log"
    script = [str(ROOT / "examples/slurm-prolog.sh"), "--expect", "trusted"]
    variables = {"WIRETAX": str(stub), "WIRETAX_LOG": str(log), "PATH": "/usr/bin:/bin"}
    assert subprocess.run(script, env=variables).returncode == ended
    assert log.read_text().startswith("fork qualify --quiet --max-time 60 --out ")
    assert log.read_text().endswith("--expect trusted\n")


def test_the_commands_in_the_kubernetes_file_are_accepted():
    job, pod = yaml.safe_load_all((ROOT / "examples/kubernetes.yaml").read_text())
    words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    script = pod["spec"]["initContainers"][0]["command"][-1].partition("exec ")[2]
    for line in (words, script.split()):
        assert line[:2] == ["wiretax", "qualify"]
        assert make_parser("qualify").parse_args(line[2:]).out == Path(line[-1])
