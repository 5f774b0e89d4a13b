"""The workflow runs the README's commands as .ci/run does, and the hooks are the checks of make."""

import re
import shlex

import pytest
import yaml

from tests.launch import ROOT

pytestmark = pytest.mark.unit

CI = (ROOT / ".ci/run").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_workflow_runs_the_commands_of_the_readme_as_ci_does():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert [command.split()[:2] for command in commands] == [
        ["make", "allreduce"],
        ["make", "test"],
    ]
    assert [command for command in commands if f"\n{command}" not in CI] == []
    assert {step["uses"].split("@")[0] for step in job["steps"] if "uses" in step} == {
        "actions/checkout",
        "actions/setup-python",
    }
    versions = job["strategy"]["matrix"]["python"]
    assert versions[0] == "3.10", "the oldest that pyproject.toml allows"
    assert all(isinstance(version, str) for version in versions), "3.10 is no number"


def test_the_hooks_are_the_checks_of_make():
    """Otherwise a commit that the hooks accept would fail in `make check`."""
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    lint = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    tools = {
        re.sub(r"^\.venv/bin/(python -m )?", "", hook["entry"]) for hook in repository["hooks"]
    }
    in_make = set(re.findall(r"\$\(VENV\)/bin/(?:python -m )?([\w-]+(?: format| check)?)", lint))
    assert {
        " ".join(word for word in shlex.split(tool) if word[0] != "-") for tool in tools
    } == in_make
