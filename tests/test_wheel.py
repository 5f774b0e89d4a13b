"""The wheel, and the command `wiretax` in it: everything lies in one package, and other packages
and folders with our folders' names do not change what runs. `make reliability` builds and installs
it, also from a source distribution.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collectives.communicator import find_mpirun, name_library
from kernels.devices.gpu_driver import VisibleGpus
from reports.__main__ import COMMANDS as REPORTS
from setup import FOLDERS, installed
from tests.launch import MPIRUN, ROOT, SLOW_TEST
from tests.test_house import imported
from wiretax.__main__ import BENCHMARKS, gpu_count, is_rank
from wiretax.common.interpreter import module_command

SOURCES = [
    path for folder in (*FOLDERS, "wiretax") for path in sorted((ROOT / folder).rglob("*.py"))
]
PIP = sys.executable, "-m", "pip"
SMALL = "-b", "16K", "-e", "16K", "--iters", "2", "--max-time", "30"
LAUNCHERS = "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "SLURM_STEP_ID"


def run(*words, cwd=ROOT, timeout_s=300, **variables):
    """The outcome of a command with more environment variables, outside of any launcher."""
    plain = {
        name: value for name, value in os.environ.items() if name not in (*LAUNCHERS, "PYTHONPATH")
    }
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=plain | variables,
    )


def wiretax(*words, **options):
    return run(sys.executable, "-m", "wiretax", *words, **options)


@pytest.fixture
def mpirun(tmp_path):
    """A folder with an `mpirun` that prints its arguments, and a function that reads them."""
    script = tmp_path / "bin" / "mpirun"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$*"\nexit 7\n')
    script.chmod(0o755)
    return script


# The command finds mpirun beside its interpreter. This one looks in PATH alone.
ELSEWHERE = """
import sys, sysconfig
sys.executable, sys.argv[0] = "/nowhere/python", "wiretax/__main__.py"
sysconfig.get_path = lambda name: "/"
from wiretax.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("programs", "is_named"),
    [
        (["mpirun"], True),  # a Python in /usr, whose wheels lie in /usr/local
        (["mpirun", "mpiexec.hydra", "prterun"], True),  # Open MPI's wheel took the name mpirun
        (["mpirun", "mpiexec.hydra"], True),  # Intel's took it with a script
        (["mpirun", "prterun"], False),  # Open MPI's alone
    ],
)
def test_ranks_load_the_library_of_the_mpirun_that_starts_them(
    tmp_path, monkeypatch, programs, is_named
):
    monkeypatch.delenv("MPI4PY_LIBMPI", raising=False)
    library = tmp_path / "lib" / ("libmpi.so.12" if is_named else "libmpi.so.40")
    for path in (library, *(tmp_path / "bin" / name for name in programs)):
        path.parent.mkdir(exist_ok=True)
        path.touch(mode=0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    mpirun = find_mpirun()
    name = "mpiexec.hydra" if "mpiexec.hydra" in programs else "mpirun"
    assert mpirun == str(tmp_path / "bin" / name)
    assert name_library(mpirun) == is_named
    assert os.environ.pop("MPI4PY_LIBMPI", None) == (str(library) if is_named else None)


def test_what_pip_installs_for_one_user_brings_its_own_mpirun(tmp_path, monkeypatch):
    """No shell has its folder in PATH, and `wiretax` said that mpich is not installed."""
    launchers = {}
    for scheme in ("user", "system"):
        (tmp_path / scheme).mkdir()
        launchers[scheme] = tmp_path / scheme / "mpiexec.hydra"
        launchers[scheme].touch(mode=0o755)
    monkeypatch.setattr("sysconfig.get_preferred_scheme", lambda key: key)
    monkeypatch.setattr("sysconfig.get_path", lambda _, scheme="system": str(tmp_path / scheme))
    monkeypatch.setattr("site.ENABLE_USER_SITE", True)
    assert find_mpirun() == str(launchers["user"])
    launchers["user"].unlink()
    assert find_mpirun() == str(launchers["system"])
    launchers["user"].touch(mode=0o755)
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)  # as in an environment of venv
    assert find_mpirun() == str(launchers["system"])


@pytest.mark.parametrize(
    ("line", "started"),
    [
        ("allreduce -n 3 --iters 9", "-n 3 /nowhere/python -m wiretax allreduce --iters 9"),
        ("-n 4 allreduce", "-n 4 /nowhere/python -m wiretax allreduce"),
        ("decode", "-n 2 /nowhere/python -m wiretax decode"),
        ("doctor -n8", "-n 8 /nowhere/python -m wiretax doctor"),
    ],
)
def test_a_benchmark_becomes_mpirun_with_its_ranks(mpirun, line, started):
    done = run(sys.executable, "-c", ELSEWHERE, *line.split(), PATH=str(mpirun.parent))
    assert (done.stdout, done.stderr, done.returncode) == (f"{started}\n", "", 7)


ONE_GPU = """
from kernels.devices import gpu_driver
gpu_driver.visible_gpus = lambda mixed: gpu_driver.VisibleGpus("cuda", ["0000:01:00.0"])
"""


def test_who_has_one_gpu_is_told_what_measures_it(mpirun):
    done = run(sys.executable, "-c", ONE_GPU + ELSEWHERE, "link", PATH=str(mpirun.parent))
    assert done.stdout == "-n 1 /nowhere/python -m wiretax link\n"
    assert done.stderr == (
        "wiretax link: one GPU, so one rank and no link: wiretax survey has two ranks share it\n"
    )


def test_without_mpirun_one_sentence_says_what_to_install(tmp_path):
    done = run(sys.executable, "-c", ELSEWHERE, "link", PATH=str(tmp_path))
    assert (
        done.stderr
        == "wiretax link: there is no mpirun, which starts the ranks: pip install mpich\n"
    )
    assert done.returncode == 3


def test_a_child_imports_nothing_from_the_current_folder(tmp_path):
    """A survey in a downloaded folder must not run what lies there."""
    for name in "numpy", "json", "msgspec", "bench":
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    child = run(*module_command("bench.doctor"), "--help", cwd=tmp_path)
    assert (child.returncode, child.stderr) == (0, "")
    control = run(sys.executable, "-m", "json.tool", "--help", cwd=tmp_path)
    assert control.stderr == "planted\n"


def test_a_gpu_each_gets_a_rank_unless_the_cpu_is_chosen(monkeypatch):
    monkeypatch.setattr(
        "kernels.devices.gpu_driver.visible_gpus",
        lambda mixed: VisibleGpus("cuda", ["0000:01:00.0", "0000:02:00.0"]),
    )
    assert gpu_count(["-b", "16K"]) == 2
    assert gpu_count(["--device", "cpu"]) == gpu_count(["--device=cpu"]) == 0


@pytest.mark.parametrize(
    ("line", "variables", "sentence"),
    [
        (
            "allreduce -n 99999999999",
            {},
            "wiretax allreduce: ranks: '99999999999' is not a whole number from 1 to 8; --iters is "
            "the number of iterations",
        ),
        (
            "allreduce -n 20",
            {"PMI_RANK": "0"},
            "wiretax allreduce: the launcher has chosen the number of ranks: leave out "
            "-n 20; --iters 20 is the number of iterations",
        ),
        ("allredcue", {}, "wiretax: unknown command 'allredcue': did you mean allreduce?"),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(line, variables, sentence):
    done = wiretax(*line.split(), **variables)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{sentence}\n")
    if variables:
        alone = wiretax(*line.split(), PMI_RANK="1")  # whose variable a shell has kept
        assert (alone.returncode, alone.stderr) == (2, f"{sentence}\n")


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, False),
        ({"PMI_RANK": "1"}, True),
        ({"PMIX_RANK": "0"}, True),
        ({"OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"SLURM_PROCID": "0"}, False),  # the script of a job
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, True),  # srun
    ],
)
def test_a_process_of_a_launcher_is_a_rank(monkeypatch, variables, rank):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_rank() == rank


def test_help_lists_every_command_at_once():
    done = wiretax("--help")
    modules = {
        path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text()
    }
    assert set(BENCHMARKS) == modules
    assert {*BENCHMARKS, *REPORTS} <= {
        line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")
    }


def test_in_a_checkout_the_command_starts_ranks_and_reads_runs(tmp_path):
    done = wiretax("allreduce", "--list")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()].count("two_shot") == 1, (
        "rank 0 alone prints"
    )
    done = wiretax("show", tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"reports: {tmp_path} holds no run yet: type mpirun -n 2 python -m bench.allreduce\n",
    )


def test_the_wheel_imports_our_folders_from_one_package():
    for path in SOURCES:
        source = installed(path.read_text(), str(path))
        assert not {name.split(".")[0] for name in imported(ast.parse(source))} & {*FOLDERS}, path
        assert not re.search(rf"import_module\(f?.(?:{'|'.join(FOLDERS)})\.", source), (
            f"{path}: use __package__"
        )


def new_environment(folder):
    """The programs of a fresh environment. It sees this environment's packages, and its MPI beside
    the interpreter."""
    programs = folder / "environment" / "bin"
    assert (
        run(sys.executable, "-m", "venv", "--without-pip", folder / "environment").returncode == 0
    )
    [site] = (folder / "environment" / "lib").glob("python*/site-packages")
    [packages] = Path(sys.prefix, "lib").glob("python*/site-packages")
    (site / "shared.pth").write_text(f"{packages}\n")
    for path in (*Path(sys.prefix, "lib").glob("[!p]*"), MPIRUN, *MPIRUN.parent.glob("hydra*")):
        (folder / "environment" / path.relative_to(sys.prefix)).symlink_to(path)
    return programs


def copy_of_the_project(folder):
    for name in run("git", "ls-files", "-co", "--exclude-standard").stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment with the wheel, made from a source distribution, and with another package
    `kernels`."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_of_the_project(folder / "tree")
    build = "import setuptools.build_meta as backend, sys; backend.build_sdist(sys.argv[1])"
    done = run(sys.executable, "-c", build, folder, cwd=tree)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    done = run(*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, archive)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    programs = new_environment(folder)
    done = run(*PIP, "--python", programs / "python", "install", "--quiet", "--no-deps", wheel)
    assert done.returncode == 0, done.stderr
    [site] = (folder / "environment" / "lib").glob("python*/site-packages")
    (site / "kernels").mkdir()
    (site / "kernels" / "__init__.py").write_text("raise ImportError('another package')")
    return programs


@SLOW_TEST
def test_the_steps_of_the_image_run_in_a_clean_environment(tmp_path):
    """Without an image: apt-get only prints, and the image's folders lie in one of the test's."""
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    steps = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    entry = [line.split('"')[1] for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    programs, image, work = (tmp_path / name for name in ("programs", "image", "work"))
    programs.mkdir()
    work.mkdir()
    (programs / "apt-get").write_text('#!/bin/sh\necho "$*" >>"$HOME/installed"\n')
    (programs / "apt-get").chmod(0o755)
    places = {"HOME": str(tmp_path), "EXTRA": ""}
    places["PATH"] = f"{image}/bin:{programs}:/usr/local/bin:/usr/bin:/bin"
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    tree = copy_of_the_project(tmp_path / "tree")
    for step in [*steps, f"cd {work} && {' '.join(entry)} --max-time 20"]:
        step = step.replace("/opt/wiretax", str(image)).replace("/var/lib/apt", str(tmp_path))
        shell = ["sh", "-c", step]
        done = subprocess.run(shell, cwd=tree, env=places | pip, capture_output=True, text=True)
        assert done.returncode == 0, (step, done.stderr)
    assert "allreduce: 2 ranks" in done.stdout
    assert "install -y --no-install-recommends g++" in (tmp_path / "installed").read_text()


@pytest.fixture
def work(tmp_path):
    """A user's folder with names of ours."""
    for name in ("reports", "bench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the folder of a user')")
    return tmp_path


@SLOW_TEST
def test_the_installed_command_runs_beside_packages_of_the_same_names(environment, work):
    [site] = environment.parent.glob("lib/python*/site-packages")
    ours = [path.name for path in site.iterdir() if path.suffix not in {".pth", ".dist-info"}]
    assert sorted(ours) == ["kernels", "wiretax"]
    answer = run("git", "ls-files", *FOLDERS, "examples/contenders")
    sources = {Path(name) for name in answer.stdout.splitlines()}
    assert sources <= {path.relative_to(site / "wiretax") for path in (site / "wiretax").rglob("*")}
    program = environment / "wiretax"
    assert run(program, "--version", cwd=work).stdout == "wiretax 0.1.0\n"
    options = run(environment / "python", "-m", "pytest", "--help", cwd=work).stdout
    assert "--wiretax-baseline" in options  # without -p
    for launcher in ([], [environment / "mpirun", "-n", "2"]):
        done = run(*launcher, program, "allreduce", *SMALL, cwd=work)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\nallreduce: 2 ranks" in done.stdout
    assert run(program, "show", cwd=work).stdout.splitlines()[0] == done.stdout.splitlines()[0]
    survey = run(
        program,
        "survey",
        "--quick",
        "--max-time",
        "90",
        "--out",
        "vendor",
        cwd=work,
        WIRETAX_QUIET="",
    )
    assert survey.returncode in (0, 3), survey.stderr  # 3: 90 s are too short for a step
    assert re.search(r"\] allreduce: (done|incomplete) after", survey.stderr), survey.stderr
    assert "bench." not in survey.stderr + (work / "vendor" / "index.html").read_text()
    code = "import wiretax; assert set(wiretax.load('results').world_size) == {2}"
    assert run(environment / "python", "-P", "-c", code, cwd=work).stderr == ""
    helped = run(program, "allreduce", "--help", cwd=work).stdout
    assert helped.startswith("usage: wiretax allreduce -n RANKS [OPTION ...]")


@SLOW_TEST
def test_the_job_of_slurm_runs(environment, work):
    """`srun` is a stand-in that starts MPICH's mpirun."""
    programs = work / "programs"
    programs.mkdir()
    (programs / "srun").write_text(
        f'#!/bin/sh\n[ "$1" = --mpi=pmi2 ] || exit 9\nshift\n'
        f'exec {environment}/mpirun -launcher fork -n $SLURM_NTASKS "$@"\n'
    )
    (programs / "srun").chmod(0o755)
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_TASKS_PER_NODE": "2",
        "WIRETAX_ENV": str(environment.parent),
        "PATH": f"{programs}:{os.environ['PATH']}",
    }
    done = run("bash", ROOT / "examples" / "wiretax.sbatch", *SMALL, cwd=work, **job)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("allreduce: 2 ranks") == 2, (
        "once from the ranks, once from `wiretax show`"
    )
