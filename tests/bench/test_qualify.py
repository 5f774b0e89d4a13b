"""Tests `bench.qualify`: what rejects a machine, one line a card, and the scripts that call it."""

import json
import shlex
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench import qualify
from bench.surveys.criteria import SLOW, Findings, hold_to_published
from bench.surveys.steps import SurveyStep
from kernels.devices.gpu_driver import VisibleGpus
from reports.advice.nearest import BAD
from tests.bench.launches import stored_launches
from tests.launch import ROOT
from tests.reports.advice.test_expect import gpu_run
from tests.reports.synthetic_run import (
    mark_wrong,
    ranks_of,
    rewrite_head,
    run_id,
    world_of,
    write_run,
)
from wiretax import __version__
from wiretax.record import observations
from wiretax.record.archive import digest, read_contents, unpacked
from wiretax.record.histogram import steps_of
from wiretax.record.result import read
from wiretax.record.schema import End

pytestmark = pytest.mark.unit

SMALL = {"sizes": [16384], "algorithms": ["auto", "library"], "modes": ["isolated"], "n": 5}


@pytest.fixture
def qualified(tmp_path, monkeypatch, capsys):
    """A function that makes launches of stored runs: exit status, lines, standard error."""
    monkeypatch.setattr("bench.survey.find_mpirun", lambda: str(tmp_path / "mpirun"))
    monkeypatch.setattr("bench.campaigns.ending.signal.signal", lambda *_: None)

    def ask(name, *words, wrong=False, ranks=None, **made):
        stored_launches(tmp_path, "exit 1" if wrong else "exit 0")
        for number in range(3):
            fields = {**SMALL, "n_blocks": 8, "seed": number, **made}
            run = write_run(tmp_path / "made", run_id=run_id(number, name), **fields)
            if ranks:
                rewrite_head(run.path, world__ranks=ranks)
            if wrong:
                mark_wrong(run.path)
        out = str(tmp_path / name)
        status = qualify.main(["--device", "cpu", "--quiet", "--out", out, *map(str, words)])
        text, err = capsys.readouterr()
        return status, [json.loads(line) for line in text.splitlines()], err

    return ask


@pytest.fixture
def trusted(tmp_path):
    """A function that writes runs of a trusted machine, and returns their folder."""

    def write(name="trusted", runs=1, **made):
        folder = tmp_path / name
        for number in range(runs):
            fields = {**SMALL, "n_blocks": 8, "seed": number, **made}
            write_run(folder, run_id=run_id(len([*folder.glob("*.jsonl")]), name), **fields)
        return folder

    return write


def test_without_a_criterion_nothing_is_accepted(qualified):
    """A machine that nothing was compared with was accepted."""
    status, [line], err = qualified("good")
    assert (status, line["status"], line["faults"], line["compared"]) == (3, 3, [], 0)
    assert list(line["steps"]) == ["link", "allreduce", "bits"]
    assert {"serial", "bus_id", "schema", "left_out"} <= line.keys()
    assert line["undecided"][0].startswith("nothing says how fast this machine must be: give ")
    assert line["undecided"][0] in err
    assert qualified("slow", "--min", "16K <= 1 us", wrong=True)[0] == 1


def test_the_line_tells_when_what_and_by_which_limits_it_was_judged(qualified, tmp_path):
    """An inventory keeps the line alone, and the archive that it names."""
    qualified("good")
    limit = "16K <= 50 us"
    _, [line], _ = qualified("same", "--expect", tmp_path / "good.tar.gz", "--min", limit)
    when = datetime.strptime(line["date"], "%Y-%m-%dT%H:%M:%S%z")
    assert abs(datetime.now(timezone.utc) - when) < timedelta(minutes=5)
    assert line["version"] == __version__
    assert line["machine"] == {"id": "a1b2c3", "cpu": "AMD EPYC 9B45"}
    assert line["gpu"] is None
    assert line["margin"] == {"published": BAD, "trusted": SLOW, "limits": [limit]}
    kinds = "published", "trusted", "limits"
    assert [line[f"compared_with_{kind}"] for kind in kinds] == [0, 6, 1]
    assert line["compared"] == 7
    archive = tmp_path / "same.tar.gz"
    assert line["archive"] == digest(archive)
    contents = read_contents(unpacked(archive))
    assert (contents.status, contents.command) == (0, "python -m bench.qualify -n 2")
    assert len([name for name in contents.files if name.endswith(".jsonl")]) == 3


def test_a_machine_is_accepted_or_rejected_by_a_trusted_one(qualified, tmp_path):
    qualified("good")
    same = qualified("same", "--expect", tmp_path / "good", scale=1.1)
    assert (same[0], same[1][0]["faults"], same[1][0]["compared"], same[2]) == (0, [], 6, "")
    other = write_run(tmp_path / "other", **SMALL | {"sizes": [4096]}, n_blocks=8).path
    status, _, err = qualified("lost", "--expect", other.parent)
    assert (status, "nothing of the trusted machine could be compared" in err) == (3, True)
    status, [line], _ = qualified("slow", "--expect", tmp_path / "good", scale=1.6)
    assert (status, line["status"]) == (1, 1)
    assert "auto 16 KiB isolated: at least " in line["faults"][0]
    assert "us, on the trusted machine " in line["faults"][0]
    status, [line], _ = qualified("wrong", wrong=True)
    assert (status, line["steps"]["link"].partition(":")[0]) == (1, "wrong")


def test_few_blocks_reject_a_slow_machine_and_accept_none(qualified, trusted):
    """The slower a machine, the fewer its blocks: 32 MiB a hundred times slower passed."""
    both = {"sizes": [16384, 32 << 20], "n_blocks": 3}
    folder = trusted(sizes=both["sizes"])
    status, [line], _ = qualified("slow", "--expect", folder, scale=100.0, **both)
    assert (status, len(line["faults"])) == (1, 12)
    assert any(fault.startswith("auto 32 MiB isolated: ") for fault in line["faults"])
    status, [line], err = qualified("few", "--expect", folder, **both)
    assert (status, line["faults"], line["compared"]) == (3, [], 12)
    assert "; too few blocks here for an interval" in err


def test_a_trusted_case_that_is_absent_here_is_undecided(qualified, trusted):
    folder = trusted(sizes=[16384, 32 << 20])
    status, [line], err = qualified("half", "--expect", folder)
    assert (status, line["compared"]) == (3, 6)
    assert "auto 32 MiB isolated was not measured here" in err


def test_only_equal_machines_ranks_and_versions_are_compared(qualified, trusted):
    """Eight ranks were compared with two, and one machine with another."""
    kinds = {
        "world": {"world__ranks": world_of(8)["ranks"], "world__size": 8},
        "machine": {"machine_id": "000000"},
        "version": {"version": "0.0.9"},
        "method": {"method": {"checks": 0}},
    }
    for name, changes in kinds.items():
        folder = trusted(name)
        for path in folder.glob("*.jsonl"):
            rewrite_head(path, **changes)
        status, [line], err = qualified(f"of-{name}", "--expect", folder)
        assert (status, line["faults"], line["compared"]) == (3, [], 0)
        assert f"allreduce: not comparable: {name} differs: " in err
        assert qualified(f"as-{name}", "--expect", folder, "--allow", name)[0] == 0


def test_the_median_over_trusted_runs_counts(qualified, trusted):
    """The last of several alone decided, here a slow one."""
    folder = trusted(runs=2)
    trusted(scale=10.0)
    assert qualified("slow", "--expect", folder, scale=1.6)[0] == 1
    assert qualified("same", "--expect", folder)[0] == 0


def test_a_machine_with_fewer_cards_is_rejected(qualified, trusted, monkeypatch):
    folder = trusted()
    cards = [f"0000:0{number}:00.0" for number in range(8)]
    ranks = [
        {"rank": rank, "device": "cuda", "pci_bus_id": card} for rank, card in enumerate(cards)
    ]
    for path in folder.glob("*.jsonl"):
        rewrite_head(path, world__ranks=ranks, world__size=8)
    monkeypatch.setattr(qualify, "serial", lambda _: None)
    for here, sentence in (
        (cards[1:], "only 7 of the trusted machine's 8 GPUs can be used here"),
        ([], "only 0 of the trusted machine's 8 GPUs can be used here"),
    ):
        for module in ("bench.qualify", "bench.survey"):
            monkeypatch.setattr(f"{module}.find_gpus", lambda *_, here=here: VisibleGpus("", here))
        status, lines, _ = qualified(f"has-{len(here)}", "--device", "auto", "--expect", folder)
        assert (status, lines[0]["faults"]) == (1, [sentence])
        assert len(lines) == max(len(here), 1)


def test_cards_that_ranks_share_are_another_world(tmp_path):
    """Eight ranks on seven cards were as good as eight on eight."""
    run = write_run(tmp_path, **SMALL).run
    cards = [{"device": "cuda", "host": 0, "pci_bus_id": f"{number}"} for number in range(2)]
    run.world["ranks"] = cards
    assert ", sharing" not in observations.world_of(run)
    run.world["ranks"] = cards[:1] * 2
    assert observations.world_of(run).endswith("2x cuda, sharing 1")


@pytest.mark.parametrize(
    ("limit", "blocks", "expected"),
    [
        ("32M >= 0.5 GB/s", 8, 0),
        ("16K <= 50 us", 8, 0),
        ("32M >= 900 GB/s", 8, 1),
        ("32M >= 900 GB/s", 3, 1),
        ("16K <= 0.5 us", 8, 1),
        ("32M >= 0.5 GB/s", 3, 3),
    ],
)
def test_a_limit_accepts_or_rejects(qualified, limit, blocks, expected):
    made = {"sizes": [16384, 32 << 20], "n_blocks": blocks}
    status, [line], _ = qualified("one", "--min", limit, **made)
    assert (status, line["compared"]) == (expected, 1)
    assert all(text.startswith(f"{limit}: ") for text in line["faults"] + line["undecided"])


def test_a_limit_between_the_ends_or_without_a_figure_is_undecided(qualified):
    made = {"sizes": [16384], "us": lambda case, block: 10.0 + block.round}  # 13.5 [11 16]
    status, [line], _ = qualified("one", "--min", "16K <= 14 us", **made)
    assert (status, line["faults"]) == (3, [])
    assert "16K <= 14 us: 16 KiB has 13.5 us; the interval reaches " in line["undecided"][0]
    status, [line], _ = qualified("two", "--min", "32M >= 1 GB/s", **made)
    assert (status, line["undecided"][-1]) == (3, "32M >= 1 GB/s: not measured")


def with_slow_calls(share):
    """A change of blocks: 1,000 steps of 8 us, of which this share takes five times as long."""
    draw = np.random.default_rng(5)

    def change(block):
        block.n = 1000
        usual_us = 8 * draw.lognormal(0, 0.03, block.n)
        block.steps = steps_of(np.where(draw.random(block.n) < share, 5, 1) * usual_us)
        return block

    return change


@pytest.mark.parametrize(
    ("limit", "slow_share", "expected", "compared"),
    [
        ("16K p99 <= 20 us", 0.002, 0, 1),
        ("16K p99 <= 20 us", 0.03, 1, 1),
        ("16K P90 <= 20 us", 0.03, 0, 1),
        ("16K p99 <= 20 us", 0.0115, 3, 1),  # P99 is 38 us, or 9 in the next run
        ("16K p99 <= 20 us", None, 3, 0),  # no steps are stored
    ],
)
def test_a_limit_of_a_percentile_accepts_or_rejects_by_its_interval(
    qualified, limit, slow_share, expected, compared
):
    """A node whose every thirtieth call takes five times as long has the median of a good one."""
    made = (
        {"n_blocks": 20}
        if slow_share is None
        else {"n_blocks": 20, "change": with_slow_calls(slow_share)}
    )
    status, [line], _ = qualified("one", "--min", limit, "--min", "16K <= 20 us", **made)
    assert (status, line["compared"]) == (expected, 1 + compared)
    told = line["faults"] + line["undecided"]
    assert all(text.startswith(f"{limit}: ") for text in told)
    if slow_share is None:
        assert told == [f"{limit}: not measured; P99 takes 1,000 calls"]


def test_the_cpu_is_measured_only_if_it_is_meant(tmp_path, monkeypatch, capsys):
    """A node whose driver was not loaded was accepted by the speed of its cores."""
    monkeypatch.setattr("bench.campaigns.ending.signal.signal", lambda *_: None)
    monkeypatch.setattr(qualify, "find_gpus", lambda *_: VisibleGpus("", []))
    words = ["--quiet", "--out", str(tmp_path / "q"), "--min", "32M >= 1 GB/s"]
    assert qualify.main(words) == 3
    told = "bench.qualify: no GPU can be used here; to qualify the CPU add --device cpu\n"
    assert capsys.readouterr() == ("", told)


def test_each_card_has_a_line_with_its_serial_number(qualified, monkeypatch):
    """An inventory by serial number takes the line of a card."""
    cards = {"0000:03:00.0": "1324021012345", "0000:83:00.0": None}
    monkeypatch.setattr(qualify, "find_gpus", lambda *_: VisibleGpus("hip", [*cards]))
    monkeypatch.setattr(qualify, "serial", cards.get)
    ranks = [*ranks_of("R9700", 1, pci_bus_id="0000:03:00.0"), {"rank": 1, "device": "cpu"}]
    status, lines, _ = qualified("two", "--min", "16K <= 50 us", ranks=ranks)
    assert status == 0
    assert [(line["bus_id"], line["serial"]) for line in lines] == [*cards.items()]
    assert [line["gpu"] for line in lines] == ["R9700", None]


def test_pcie_errors_reject(tmp_path):
    step = SurveyStep("allreduce", "", "allreduce", status="done")
    step.result = read(gpu_run(tmp_path, lambda size: 20.0))
    assert [*qualify.faults_of(step)] == []
    step.result.end = End(status="complete", note="PCIe errors: 3")
    assert [*qualify.faults_of(step)] == ["allreduce: PCIe errors: 3"]


def test_a_time_behind_published_ones_rejects_and_accepts_nothing(tmp_path):
    """What was compared with them stands apart: no published figure accepts a machine."""
    for us, is_fault in ((20.0, False), (5000.0, True)):
        findings = Findings()
        hold_to_published(findings, read(gpu_run(tmp_path / str(us), lambda size, us=us: us)))
        assert bool(findings.faults) == is_fault
        assert all(" us, published for equal machines are " in fault for fault in findings.faults)
        assert findings.with_published >= 1
        assert findings.compared == 0


def test_wrong_results_and_unknown_cards_of_gpus_are_compared_with_nothing(tmp_path):
    """Such a machine had no line, and the status of a bad command line."""
    wrong, unknown = (gpu_run(tmp_path / name, lambda size: 20.0) for name in ("wrong", "unknown"))
    mark_wrong(wrong)
    rewrite_head(unknown, world__ranks=ranks_of("AMD Radeon Next 9999", 2))
    for path in (wrong, unknown):
        hold_to_published(findings := Findings(), read(path))
        assert findings == Findings()


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
    assert bool([*qualify.faults_of(step)]) == is_fault


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--expect", "empty"), "empty has no run of a machine to compare with"),
        (("--expect", "few"), "few has too few blocks for an interval of auto 16 KiB isolated"),
        (("--expect", "cut"), "cut is of no machine to trust: cut is incomplete in 1 of 1"),
        (("--min", "64K >= 5 GB/s"), "--min '64K >= 5 GB/s': all-reduces are of 16K, 32M"),
        (("--min", "32M > 5 GB/s"), "'32M > 5 GB/s' is no limit such as '32M >= 20 GB/s' (busbw)"),
        (("--min", "70b >= 5 tok/s"), "'70b >= 5 tok/s' is no limit such as "),
        (("--min", "16K p100 <= 90 us"), "'16K p100 <= 90 us' is no limit such as "),
        (("--min", "16K p99 >= 20 GB/s"), "or '16K p99 <= 90 us' (P50, P90, P99, P99.9)"),
        (("--min", "64K p99 <= 90 us"), "'64K p99 <= 90 us': all-reduces are of 16K, 32M"),
        (("--out", "empty/.."), "is there already"),
        (("-n", "1"), "one rank has no link and adds nothing: give -n 2 or more"),
    ],
)
def test_what_cannot_begin_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.campaigns.ending.signal.signal", lambda *_: None)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "few", **SMALL, n_blocks=3)
    write_run(tmp_path / "cut", **SMALL, finish=False)
    with pytest.raises(SystemExit) as ended:
        sys.exit(qualify.main(["--device", "cpu", "--out", "q", *words]))
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, sentence in err, err.count("\n")) == ("", True, 1)


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (0, 0),
        (1, 1),
        (3, 0),
    ],
)
def test_only_a_rejected_node_is_drained_by_the_prolog(tmp_path, status, ended):
    stub = tmp_path / "wiretax"
    stub.write_text(f'#!/bin/sh\necho "$HYDRA_LAUNCHER $*"\nexit {status}\n')
    stub.chmod(0o755)
    log = tmp_path / "log"
    script = [str(ROOT / "examples/slurm-prolog.sh"), "--expect", "trusted"]
    variables = {"WIRETAX": str(stub), "WIRETAX_LOG": str(log), "PATH": "/usr/bin:/bin"}
    assert subprocess.run(script, env=variables).returncode == ended
    assert log.read_text().startswith("fork qualify --quiet --max-time 60 --out ")
    assert " --min 32M >= 20 GB/s " in log.read_text()
    assert log.read_text().endswith("--expect trusted\n")


def test_the_commands_in_the_kubernetes_file_are_accepted():
    job, pod = yaml.safe_load_all((ROOT / "examples/kubernetes.yaml").read_text())
    words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    script = pod["spec"]["initContainers"][0]["command"][-1].partition("exec ")[2]
    for line in (words, shlex.split(script)):
        assert line[:2] == ["wiretax", "qualify"]
        options = qualify.make_qualify_parser().parse_args(line[2:])
        assert options.out == Path(line[-1])
        assert options.limits
