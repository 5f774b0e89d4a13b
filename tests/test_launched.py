"""Processes that have a launcher's variables, whether it started them or a shell kept them: none
ends with 0 without having done its work."""

import os
import runpy
import shutil
import signal
import sys
from functools import partial

import pytest

from bench.harness import session
from bench.harness.parser import Parser
from reports.__main__ import COMMANDS as REPORTS
from tests.launch import ROOT, end_of, mpirun
from tests.reports.synthetic_campaign import write_launches
from wiretax.__main__ import BENCHMARKS, STARTERS, main
from wiretax.common.launched import RANK_VARIABLES
from wiretax.common.program import DAEMONS

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
WHOLE = TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}
OF_A_STEP = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}
LAUNCHED = [*({name: "1"} for name in RANK_VARIABLES), OF_A_STEP, TORCHRUN, WHOLE]
FORMS = [f"wiretax {name}" for name in BENCHMARKS]
FORMS += [f"bench.{name}" for name in BENCHMARKS]
FORMS += [f"{program} {name}" for program in ("wiretax", "reports") for name in REPORTS]
BECOMES_MPIRUN = 99  # whose status is the ranks'
LINES = """
reports regress --baseline nowhere --current nowhere
reports accept --baseline nowhere --current nowhere --reason better
reports procure nowhere.toml
reports bits nowhere --require run
reports compare nowhere elsewhere
reports history nowhere
reports fleet nowhere
reports tuner nowhere --format rccl
reports show nowhere
wiretax bits nowhere --require run
wiretax regress --baseline nowhere --current nowhere
wiretax gate --base /bin/false
wiretax survey --max-time none
wiretax qualify --ranks 1
bench.gate --base /bin/false
bench.qualify --ranks 1
""".strip().splitlines()


@pytest.fixture
def status_of(monkeypatch, tmp_path):
    """A function that runs a command line in this process, with variables of a launcher, and
    returns its exit status: the script of a Slurm job has some, and a benchmark in it starts
    mpirun."""
    for name in {*RANK_VARIABLES, *WHOLE, "SLURM_STEP_ID", "HYDRA_LAUNCHER"}:
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    for place, name in ((Parser, "require_ranks"), (Parser, "parse_args"), (session, "start")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # until rank 0 has spoken
    monkeypatch.setattr(os, "execv", lambda *_: sys.exit(BECOMES_MPIRUN))
    monkeypatch.setenv("NO_COLOR", "1")  # a rank sets it for its process
    monkeypatch.chdir(tmp_path)

    def run(line, variables):
        program, *words = line.split()
        monkeypatch.setattr(sys, "argv", [program, *words])
        with monkeypatch.context() as patched:
            for name, value in variables.items():
                patched.setenv(name, value)
            try:
                return main() if program == "wiretax" else runpy.run_module(program, {}, "__main__")
            except SystemExit as ended:
                return ended.code

    return run


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("line", [*(f"{form} --nonsense" for form in FORMS), *LINES])
def test_no_variable_of_a_launcher_turns_nonsense_into_success(status_of, tmp_path, capfd, line):
    """RANK=1 turned each gate into a pass, PMI_RANK=1 each report, and silenced each benchmark."""
    name = line.removeprefix("bench.").removeprefix("wiretax ").split()[0]
    has_ranks = name in BENCHMARKS and name not in STARTERS
    for variables in LAUNCHED:
        is_script = variables == {"SLURM_PROCID": "1"} and line.startswith("wiretax")
        possible = {2, BECOMES_MPIRUN} if is_script and has_ranks else {2}
        status = status_of(line, variables)
        assert status in possible, variables
        out, said = capfd.readouterr()
        assert (out, said.count("\n")) == ("", int(status != BECOMES_MPIRUN)), variables
    folder = tmp_path / "gate"  # in a step of Slurm a gate answers what it refused
    assert not {*tmp_path.iterdir()} - {folder}
    assert not folder.exists() or (folder / "status").read_text() == "2\n"


@pytest.mark.unit
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", STARTERS)
def test_what_starts_launches_refuses_the_variables_of_torchrun(status_of, capfd, command):
    """As it refuses mpirun: each of torchrun's processes would start all launches."""
    for form in (f"wiretax {command}", f"bench.{command}"):
        for variables in (TORCHRUN, WHOLE, {"RANK": "0"}, WHOLE | {"SLURM_PROCID": "0"}):
            assert status_of(form, variables) == 2
            names = " ".join(name for name in TORCHRUN if name in variables)
            assert capfd.readouterr().err == (
                f"bench.{command}: it starts mpirun itself: run it without torchrun, or unset "
                f"{names}\n"
            )
        assert status_of(f"{form} --help", TORCHRUN) == 0
        assert "usage: " in capfd.readouterr().out


@pytest.mark.unit
def test_mpirun_in_the_script_of_a_job_of_slurm_is_seen(status_of, capfd):
    """Such a script has a SLURM_PROCID, and so have the ranks that it starts."""
    assert status_of("wiretax gate", {"PMI_RANK": "0", "SLURM_PROCID": "0"}) == 2
    assert "run it without mpirun, or unset PMI_RANK" in capfd.readouterr().err


@pytest.mark.unit
@pytest.mark.parametrize("daemon", DAEMONS)
@pytest.mark.parametrize("module", ["reports show nowhere", "bench.allreduce --nonsense"])
def test_of_a_step_each_task_judges_and_one_speaks(tmp_path, daemon, module):
    """The daemon is a shell of its name."""
    above = tmp_path / daemon
    shutil.copy("/bin/sh", above)
    line = f"'{sys.executable}' -m {module}"
    end = partial(end_of, above, cwd=tmp_path, PYTHONPATH=str(ROOT), SLURM_STEP_ID="0")
    for task, lines in ((0, 1), (5, 0)):
        done = end("-c", f"{line}; exit $?", SLURM_PROCID=str(task))
        assert (done.returncode, done.stderr.count("\n")) == (2, lines)
    own = f'/bin/sh -c "{line} >own 2>&1"; exit'  # the daemon has another output
    end("-c", own, SLURM_PROCID="5")
    assert (tmp_path / "own").read_text().count("\n") == 1


@pytest.mark.unit
@pytest.mark.parametrize("module", ["reports show nowhere", "bench.allreduce --nonsense"])
def test_a_rank_that_a_shell_kept_does_not_silence_the_first_rank(tmp_path, module):
    """Only torchrun's processes have a RANK of their own."""
    above = tmp_path / "hydra_pmi_proxy"
    shutil.copy("/bin/sh", above)
    line = f"'{sys.executable}' -m {module}; exit $?"
    done = end_of(above, "-c", line, cwd=ROOT, RANK="1", PMI_RANK="0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "variables",
    [
        {"PMI_RANK": "1"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
        {"MV2_COMM_WORLD_RANK": "1"},
        OF_A_STEP,
    ],
)
def test_a_benchmark_with_another_ranks_variables_says_why_it_does_not_run(tmp_path, variables):
    """PMI_RANK=1 ran one rank and stored a run; others were refused without a word."""
    line = sys.executable, "-m", "wiretax", "allreduce", "--sizes", "16K", "--iters", "2"
    done = end_of(*line, cwd=tmp_path, PYTHONPATH=str(ROOT), **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "bench.allreduce: 2 ranks are announced, and " in done.stderr
    ranks = " ".join(name for name in variables if name != "SLURM_STEP_ID")
    assert done.stderr.endswith(f"if no launcher started this, unset {ranks}\n")
    assert not [*tmp_path.iterdir()]


def test_on_all_ranks_of_mpirun_a_report_has_its_status_and_its_files_are_whole(tmp_path):
    runs = write_launches(tmp_path / "new", 8)
    lines = {
        f"regress --baseline {runs} --current {tmp_path}/nowhere": 2,
        f"accept --baseline {tmp_path}/baselines --current {runs} --reason better": 0,
    }
    for line, status in lines.items():
        rank = f"'{sys.executable}' -m reports {line}; echo $? >{tmp_path}/status-$PMI_RANK"
        script = tmp_path / "rank.sh"
        script.write_text(rank)
        python = f"import os; os.execv('/bin/sh', ['sh', '{script}'])"
        done = mpirun(2, "-c", python)
        statuses = [int((tmp_path / f"status-{number}").read_text()) for number in (0, 1)]
        assert statuses == [status, status], done.stderr
        assert (done.stdout + done.stderr).count("\n") == 1
    assert (tmp_path / "baselines/accepted.jsonl").read_text().count("\n") == 1
    assert not [*tmp_path.rglob("*.part")]
