"""The GitHub Action: its steps run as GitHub runs them, on a repository with two revisions."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.bench.faulty_runs import wait_for
from tests.launch import NEEDS_GIT, ROOT

pytestmark = NEEDS_GIT

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
# A harness of the user's, as slow as its revision says.
PROGRAM = """
import json, random
for size in (16384, 1048576):
    times_us = [(5 + size / 1e4) * FACTOR * random.gauss(1, 0.004) for _ in range(6)]
    print(json.dumps({"collective": "all_reduce", "size_bytes": size, "time_us": times_us,
                      "ranks": 2, "n_wrong": 0}))
"""
COMMAND = f"{shlex.quote(sys.executable)} {{tree}}/harness.py"


@pytest.fixture
def work(tmp_path):
    """A checkout with the revisions `noisy`, `main` and HEAD, which is slower, and a `wiretax`."""
    wiretax = tmp_path / "bin" / "wiretax"
    wiretax.parent.mkdir()
    wiretax.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m wiretax "$@"\n')
    wiretax.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    git = "git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(work)
    subprocess.run([*git, "init", "-q"], check=True)
    for name, factor in ("noisy", "random.gauss(1, 0.2)"), ("main", "1.0"), ("head", "1.1"):
        (work / "harness.py").write_text(PROGRAM.replace("FACTOR", factor))
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", name], check=True)
        subprocess.run([*git, "tag", name], check=True)
    return work


def commit_of(work, name):
    return subprocess.check_output(["git", "-C", work, "rev-parse", name], text=True).strip()


def act(work, on_github=True, **inputs):
    """The last step's outcome, its outputs and the summary."""
    values = {name: str(about.get("default", "")) for name, about in ACTION["inputs"].items()}
    values |= inputs
    files = {name: work.parent / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    github = {"GITHUB_ACTIONS": "true", **{name: str(path) for name, path in files.items()}}
    path = f"{work.parent / 'bin'}:{os.environ['PATH']}"
    outside = {**os.environ, "PATH": path, "GITHUB_ACTION_PATH": str(ROOT), "WIRETAX_QUIET": "1"}
    outside |= github if on_github else {}
    for step in ACTION["runs"]["steps"]:
        given = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: values[match[1]], text)
            for name, text in step["env"].items()
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=work,
            capture_output=True,
            text=True,
            env=outside | given,
        )
    said = {name: path.read_text() if path.exists() else "" for name, path in files.items()}
    outputs = dict(line.split("=", 1) for line in said["GITHUB_OUTPUT"].splitlines())
    return done, outputs, said["GITHUB_STEP_SUMMARY"]


def test_a_slower_head_fails_and_the_outputs_name_the_files(work):
    done, outputs, summary = act(work, base="main", command=COMMAND, options="--pairs 8")
    assert done.returncode == 1, done.stderr
    assert outputs["status"] == "1"
    assert outputs.keys() == ACTION["outputs"].keys()
    assert all((work / path).is_file() for name, path in outputs.items() if name != "status")
    assert "SLOWER" in summary
    page, junit = ((work / outputs[name]).read_text() for name in ("page", "junit"))
    for name in ("main", "HEAD"):
        commit = commit_of(work, name)
        for text in (summary, page, junit):
            assert re.search(rf"{commit[:12]} .?\({name}\): .* (?:\S*/)?harness\.py", text), name
    assert f'value="{commit_of(work, "main")}"' in junit
    assert f"git log --oneline {commit_of(work, 'main')[:9]}.." in page
    (error,) = re.findall("::error title=wiretax gate::(.*)", done.stdout)
    assert "%25" in error
    assert re.search(r"; the worst: (16 KiB|1 MiB) program: 1\.\d+ .* SLOWER", error)
    assert "estimated at 5.0% or more" in summary, "min-effect is 5 by default"
    trees = subprocess.run(["git", "worktree", "list"], cwd=work, capture_output=True, text=True)
    assert trees.stdout.count("\n") == 1, "the folders of the revisions have gone"


@pytest.mark.parametrize(("on_github", "status"), [(True, 0), (False, 3)])
def test_not_enough_data_is_a_warning_on_github(work, on_github, status):
    """GitLab and Jenkins make a warning of status 3 themselves."""
    tree = {"base": "noisy", "head": "main", "command": COMMAND}
    done, outputs, _ = act(work, on_github, **tree, options="--pairs 6 --min-effect 1")
    assert done.returncode == status, done.stderr
    assert done.stdout.count("::warning") == on_github
    assert (work / "gate" / "status").read_text() == "3\n"
    assert outputs.get("status", "3") == "3"


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"base": ""}, "gate.sh: no base: name the command as it was, or with COMMAND its revis"),
        ({"base": "main", "command": "true"}, "gate.sh: COMMAND has no {tree}: both revisions"),
        ({"base": "gone", "command": COMMAND}, "gate.sh: gone is no revision here: a checkout"),
        ({"base": "main", "command": COMMAND, "build": "exit 7"}, "gate.sh: BUILD fails at main\n"),
        ({"base": "true", "head": "true", "out": "mine"}, "wiretax gate: mine "),
        (
            {"base": "true", "head": "true", "out": "a\nstatus=0"},
            "gate.sh: OUT has an end of a line",
        ),
    ],
)
def test_a_bad_input_is_a_sentence_and_overwrites_nothing(work, inputs, sentence):
    (work / "mine").mkdir()
    (work / "mine" / "notes").write_text("keep")
    done, outputs, _ = act(work, **inputs)
    assert (done.returncode, outputs, done.stderr.count("\n")) == (2, {"status": "2"}, 1)
    assert done.stderr.replace("bench.gate", "wiretax gate").startswith(sentence)
    assert (work / "mine" / "notes").read_text() == "keep"
    assert [path.name for path in (work / "mine").iterdir()] == ["notes"]


def test_a_folder_for_temporary_files_may_have_any_name(work, monkeypatch):
    odd = work.parent / "a & b's"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    command = COMMAND.replace("{tree}/harness.py", "'{tree}/harness.py'")
    done, outputs, _ = act(work, base="main", command=command, options="--pairs 6 --min-effect 30")
    assert (done.returncode, outputs["status"]) == (0, "0"), done.stderr
    assert not [*odd.iterdir()]


def scripts():
    """The shell's part of each example, the variables that its pipeline gives, and of its own."""
    (job,) = yaml.safe_load((ROOT / "examples/gitlab-ci.yml").read_text()).values()
    assert job["allow_failure"] == {"exit_codes": 3}
    assert job["artifacts"]["reports"]["junit"] == f"{job['artifacts']['paths'][0]}/junit.xml"
    target = {"CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "target"}
    yield "\n".join(job["script"]), target, job["variables"]
    text = (ROOT / "examples/Jenkinsfile").read_text()
    code = re.sub(r"'''.*?'''|//.*|'[^']*'|\"[^\"]*\"", "", text, flags=re.DOTALL)
    assert all(code.count(a) == code.count(b) for a, b in ("{}", "()"))
    (script,) = re.findall("script: '''(.*?)'''", text, re.DOTALL)
    own = dict(re.findall(r"^    ([A-Z_]+) = '(.*)'", text, re.MULTILINE))
    yield script, {"CHANGE_TARGET": "target"}, own


@pytest.mark.parametrize("number", [0, 1], ids=["gitlab", "jenkins"])
def test_the_examples_for_other_pipelines_run_as_they_stand(work, number):
    """In a clone with the submodule, where the branch of the target is on the remote alone."""
    script, given, own = [*scripts()][number]
    assert own.keys() >= {"COMMAND", "BUDGET", "MIN_EFFECT"}
    subprocess.run(["git", "-C", work, "branch", "target", "main"], check=True)
    clone = work.parent / "clone"
    words = "git", "clone", "-q", "--single-branch", f"file://{work}", clone
    subprocess.run(words, check=True)
    (clone / "wiretax").symlink_to(ROOT)
    mine = {"COMMAND": COMMAND, "OPTIONS": "--pairs 6", "WIRETAX_QUIET": "1"}
    path = f"{work.parent / 'bin'}:{os.environ['PATH']}"
    variables = {**os.environ, **{name: str(text) for name, text in own.items()}, **given, **mine}
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=clone,
        capture_output=True,
        text=True,
        env=variables | {"PATH": path},
    )
    assert done.returncode == 1, done.stderr
    assert (
        f"{commit_of(work, 'main')[:12]} (origin/target)" in (clone / "gate/junit.xml").read_text()
    )


def test_a_cancelled_job_leaves_nothing_running(work):
    """A runner sends SIGTERM to the shell alone."""
    path = f"{work.parent / 'bin'}:{os.environ['PATH']}"
    slow = f"sh -c 'echo $$ >>{work.parent}/launches; sleep 60' {{tree}}"
    given = {"BASE": "noisy", "HEAD": "main", "COMMAND": slow, "PATH": path, "WIRETAX_QUIET": "1"}
    shell = subprocess.Popen([ROOT / "examples/gate.sh"], cwd=work, env={**os.environ, **given})
    launches = work.parent / "launches"
    wait_for(launches.exists)
    shell.terminate()
    assert shell.wait(60) == 130
    assert (work / "gate" / "status").read_text() == "130\n"
    assert not [pid for pid in launches.read_text().split() if os.path.exists(f"/proc/{pid}")]


def test_no_text_of_an_input_becomes_code_of_a_shell():
    assert ACTION["runs"]["using"] == "composite"
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]
