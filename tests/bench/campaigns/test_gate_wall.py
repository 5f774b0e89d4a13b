"""Tests gates of whole processes, and the control: the base beside its own copy."""

import json
import signal
import subprocess
import sys

import pytest

from bench.campaigns import wall_timer
from bench.campaigns.campaign_options import Stop
from bench.gate import beside_control, read_options, same_commit
from bench.gate import main as gate
from reports.verdicts.regress import gate_junit, judge
from reports.verdicts.verdict_pages import next_command
from tests.reports.synthetic_campaign import write_campaign


def timed(*words, prepare=""):
    line = [sys.executable, "-I", "-S", wall_timer.__file__, prepare, *words]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.mark.unit
def test_a_process_is_timed_without_its_preparation_and_its_output():
    done = timed("sh", "-c", "echo '{\"time_us\": 1}'; sleep 0.01", prepare="sleep 0.1")
    line = json.loads(done.stdout)
    assert len(line["time_us"]) == 10
    assert all(1e4 <= time_us < 1e5 for time_us in line["time_us"])
    assert done.stderr.count('{"time_us": 1}') == 11  # with the run to warm up


@pytest.mark.unit
def test_a_process_that_fails_has_no_time():
    failed = timed("sh", "-c", "echo broken; exit 7")
    assert (failed.returncode, failed.stdout, failed.stderr) == (7, "", "broken\n")
    killed = timed("sh", "-c", "kill -SEGV $$")
    assert (killed.returncode, killed.stdout) == (128 + signal.SIGSEGV, "")
    assert timed("true", prepare="exit 3").returncode == 3
    assert "no-such-program: No such file" in timed("no-such-program").stderr


@pytest.mark.alone
def test_a_program_that_prints_nothing_is_gated(tmp_path):
    folder = tmp_path / "gate"
    words = ["--wall", "--base=sleep 0.01", "--head=sleep 0.02", "--out", str(folder), "--quiet"]
    assert gate([*words, "--pairs=6", "--min-effect=20"]) == 1
    assert "- wall_time: program " in (folder / "summary.md").read_text()
    assert json.loads((folder / "campaign.jsonl").open().readline())["wall"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--wall"], "--wall: variant base is a benchmark of Wiretax, which times itself"),
        (["--prepare", "sync"], "--prepare: it needs --wall"),
    ],
)
def test_what_wall_time_cannot_mean_is_refused(words, sentence):
    ours = "mpirun -n 2 wiretax allreduce"
    with pytest.raises(Stop, match=f"^{sentence}$"):
        read_options([f"--base={ours}", f"--head={ours}", "--budget=10m", *words])


@pytest.mark.unit
@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        ("true && true", "argument --head: variant head: no shell runs it, so && would be"),
        ("", "argument --head: it has no command"),
        ("no-such-program", "argument --head: no-such-program was not found"),
    ],
)
def test_a_mistake_in_a_command_names_the_option_that_was_typed(head, sentence):
    with pytest.raises(Stop, match=f"^{sentence}"):
        read_options(["--base=true", f"--head={head}"])


@pytest.mark.unit
def test_two_sides_of_one_commit_are_told():
    def sentence(base, head):
        names = ["--base-name", f"{base} v1.0", "--head-name", f"{head} main"]
        return same_commit(read_options(["--base=true", "--head=true", *names])[0].variants)

    assert sentence("a" * 40, "a" * 40).startswith(
        "base and head are the same commit, aaaaaaaaaaaa:"
    )
    assert sentence("a" * 40, "b" * 40) == ""


def controlled(folder, head, control):
    """The outcome of a campaign with sides of these factors, without and with its control."""
    factors = {"base": 1.0, "head": head, "control": control}
    effects = {name: lambda case, factor=factor: factor for name, factor in factors.items()}
    write_campaign(folder, effects, pairs=12)
    outcome, own = (judge(str(folder / "base"), str(folder / name)) for name in ("head", "control"))
    return outcome, beside_control(outcome, own)


@pytest.mark.unit
def test_a_control_that_differs_takes_the_verdict_back(tmp_path):
    outcome, doubted = controlled(tmp_path / "moved", 1.2, 1.1)
    assert outcome.status == 1
    assert doubted.status == 3
    assert doubted.headline.startswith("INCONCLUSIVE: not to be trusted, for the base differs")
    assert doubted.findings[0].startswith("without the control: REGRESSION: SLOWER")
    assert "<failure" not in gate_junit(doubted)
    assert " --control " in next_command(doubted)


@pytest.mark.unit
def test_a_quiet_control_keeps_the_verdict(tmp_path):
    outcome, kept = controlled(tmp_path / "quiet", 1.2, 1.0)
    assert (kept.status, kept.sentence) == (outcome.status, outcome.sentence)
    assert kept.findings[0] == "control: the base does not differ from its own copy"


@pytest.mark.unit
def test_the_control_is_the_base_with_its_revision():
    sides = "mpirun -n 2 python -m bench.allreduce"
    words = [f"--base={sides}", f"--head={sides} -e 1M", "--budget=30m", "--control"]
    options, _ = read_options([*words, "--revision", "base=HEAD"])
    base, control = (options.variants[name] for name in ("base", "control"))
    assert control.arguments == base.arguments
    assert control.commit == base.commit is not None
    assert options.variants["head"].commit is None
