"""Where users are told to install Wiretax from, and what a release waits for."""

import re
import subprocess

import pytest
import yaml

from tests.launch import NEEDS_GIT, ROOT

pytestmark = pytest.mark.unit

# A name of ours among the words of an installer, neither a path nor with an address behind it.
FROM_AN_INDEX = re.compile(
    r"\b(?:(?:uv )?pip3? install|pipx (?:install|run)|uvx|uv (?:add|tool install))\b"
    r"(?:[ \t]+[^\s`|;&]+)*?[ \t]+[\"']?wiretax\b(?![\w./-])(?!\S*[\"']? ?@)",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("line", "is_bare"),
    [
        ("pip install wiretax", True),
        ("run `pip install wiretax`, then", True),
        ("python -m pip install --quiet -U 'wiretax[cuda13]'", True),
        ("pip3 install wiretax==0.1.0", True),
        ("pip install msgspec wiretax", True),
        ("pipx run wiretax allreduce", True),
        ("uvx wiretax allreduce", True),
        ("uv pip install wiretax", True),
        ('pip install "wiretax @ git+https://github.com/wiretax/wiretax@0123abc"', False),
        ('pip install "wiretax[cuda13] @ git+https://github.com/wiretax/wiretax@0123abc"', False),
        ("pip install ./wiretax", False),
        ("pip install dist/wiretax-0.1.0-py3-none-any.whl", False),
        ("pip install . && wiretax allreduce", False),
        ("`pip install .` installs the command `wiretax`", False),
        ("pip install '.[cuda13]'", False),
    ],
)
def test_what_installs_from_an_index_is_known(line, is_bare):
    assert bool(FROM_AN_INDEX.search(line)) == is_bare


@NEEDS_GIT
def test_nobody_is_told_to_install_wiretax_from_an_index():
    """Nobody owns the name there: whoever registers it would run code in users' pipelines."""
    command = ["git", "grep", "-nIiE", "(pipx?3?|uvx?) .*wiretax"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    others = [line for line in lines if not line.startswith("tests/test_install.py:")]
    assert others, "the pattern of git finds nothing"
    assert [line for line in others if FROM_AN_INDEX.search(line)] == []


def test_a_release_waits_for_all_tests():
    """PyYAML reads the key `on` as true."""
    ci, release = (
        yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
        for name in ("ci.yml", "release.yml")
    )
    assert "workflow_call" in ci[True]
    assert {"run": "make test"} in ci["jobs"]["test"]["steps"]
    tools = ci["jobs"]["tools"]["steps"]
    assert {"run": "tests/install_system_tools.sh"} in tools
    assert "make test 2>&1" in tools[-1]["run"], "with the tools nothing may be skipped for them"
    jobs = release["jobs"]
    assert jobs["test"] == {"uses": "./.github/workflows/ci.yml"}
    assert jobs["build"]["needs"] == "test"
    assert jobs["publish"]["needs"] == ["test", "try"]
    assert not [name for name, job in jobs.items() if "if" in job], "always() would not wait"
