"""Where users are told to install Wiretax from, and what a release waits for."""

import hashlib
import os
import re
import subprocess

import pytest
import yaml

from tests.launch import NEEDS_GIT, ROOT
from wiretax import __version__
from wiretax.common.program import REPOSITORY

pytestmark = pytest.mark.unit

NAME_IS_OURS = "vars.PYPI_NAME_IS_OURS == 'true'"  # a variable that is not set is an empty text
COMMIT = r"@(?:COMMIT|[0-9a-f]{40})\b"
SHELL = r"(?:sudo +)?(?:/\S*/)?\b(?:ba|da|z|k)?sh\b"
# What no file may tell anybody to do as long as neither the name nor the address is confirmed.
WRONG = {
    # A name of ours among the words of an installer, neither a path nor with an address behind it.
    "from an index": (
        r"\b(?:(?:uv )?pip3? install|pipx (?:install|run)|uvx|uv (?:add|tool install))\b"
        r"(?:[ \t]+[^\s`|;&]+)*?[ \t]+[\"']?wiretax\b(?![\w./-])(?!\S*[\"']? ?@)"
    ),
    # Whoever owns the address can move a branch or a tag, and no commit.
    "without a commit": rf"git\+\S*/wiretax(?:\.git)?(?![\w./-])(?!{COMMIT})",
    "in a pipeline": r"\b(?:uses|repository): *[\"']?\w[\w.-]*/wiretax\b",
    "unread": rf"\b(?:curl|wget)\b.*\| *{SHELL}|{SHELL}.*[<$]\( *(?:curl|wget)\b",
}
ADDRESS = r"(?:\w+://|git@|github\.com[/:])[^\s\"'`<>()\]]*?/wiretax\b[^\s\"'`<>()\]]*"
OURS = rf"(?:git\+)?{re.escape(REPOSITORY)}(?:\.git)?(?:[/@#?].*)?[.,;:]?"


def what_is_wrong(line):
    found = [name for name, pattern in WRONG.items() if re.search(pattern, line, re.IGNORECASE)]
    others = [each for each in re.findall(ADDRESS, line) if not re.fullmatch(OURS, each)]
    return found + ["from another address"] * bool(others)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pip install wiretax", "from an index"),
        ("run `pip install wiretax`, then", "from an index"),
        ("python -m pip install --quiet -U 'wiretax[cuda13]'", "from an index"),
        ("pip3 install wiretax==0.1.0", "from an index"),
        ("pip install msgspec wiretax", "from an index"),
        ("pipx run wiretax allreduce", "from an index"),
        ("uvx wiretax allreduce", "from an index"),
        ("uv pip install wiretax", "from an index"),
        ("pip install git+https://github.com/wiretax/wiretax", "without a commit"),
        ("pip install git+https://github.com/wiretax/wiretax.git", "without a commit"),
        ('pip install "wiretax @ git+https://github.com/wiretax/wiretax@main"', "without a commit"),
        ("pip install wiretax@git+https://github.com/wiretax/wiretax@v0.1.0", "without a commit"),
        ("pip install git+https://github.com/wiretax/wiretax@0123abc", "without a commit"),
        ("- uses: wiretax/wiretax@main", "in a pipeline"),
        ("- uses: 'someone/wiretax@0123456789012345678901234567890123456789'", "in a pipeline"),
        ("  with: {repository: wiretax/wiretax}", "in a pipeline"),
        ("curl -fsSL https://example.org/install | sh", "unread"),
        ("wget -qO- https://example.org/install | sudo /bin/bash -s", "unread"),
        ('bash -c "$(curl -fsSL https://example.org/install)"', "unread"),
        ("bash <(curl -s https://example.org/install)", "unread"),
        ("git clone https://github.com/wiretaxes/wiretax", "from another address"),
        ("git clone git@github.com:wiretax/wiretax.git", "from another address"),
        ("see github.com/someone/wiretax/issues", "from another address"),
        ("https://gitlab.com/wiretax/wiretax-fork", "from another address"),
    ],
)
def test_a_wrong_way_to_install_is_known(line, wrong):
    assert what_is_wrong(line) == [wrong]


@pytest.mark.parametrize(
    "line",
    [
        'pip install "wiretax @ git+https://github.com/wiretax/wiretax@COMMIT"',
        "pip install 'wiretax[cuda13] @ git+https://github.com/wiretax/wiretax@" + "0" * 40 + "'",
        "pip install ./wiretax",
        "pip install dist/wiretax-0.1.0-py3-none-any.whl",
        "pip install . && wiretax allreduce",
        "`pip install .` installs the command `wiretax`",
        "pip install '.[cuda13]'",
        "- uses: ./wiretax",
        "git clone https://github.com/wiretax/wiretax && cd wiretax",
        "at <https://github.com/wiretax/wiretax>.",
        "https://github.com/wiretax/wiretax/blob/main/docs/index.md",
        "curl -O https://example.org/log.txt; sh script.sh",
    ],
)
def test_a_right_way_is_none_of_them(line):
    assert what_is_wrong(line) == []


@NEEDS_GIT
def test_no_file_tells_to_run_what_others_can_change():
    """Nobody owns the name on the index, and nobody has confirmed the address: who registers them
    would run code in users' pipelines."""
    words = "(pipx?3?|uvx?) .*wiretax|curl|wget|(uses|repository):|(://|git@|github[.]com).*wiretax"
    command = ["git", "grep", "--untracked", "-nIiE", words, "--", ":!tests/test_install.py"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert sum(REPOSITORY in line for line in lines) > 5, "the pattern of git finds nothing"
    assert {line: wrong for line in lines if (wrong := what_is_wrong(line))} == {}


def test_what_runs_unattended_has_no_address():
    """An example that a scheduler or a pipeline starts takes files that its owner has chosen."""
    files = [ROOT / "action.yml", ROOT / "Dockerfile", *(ROOT / "examples").glob("*.*")]
    assert len(files) > 8
    assert [path.name for path in files if REPOSITORY.partition("//")[2] in path.read_text()] == []


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
    for name in ("attach", "publish"):
        assert jobs[name]["needs"] == ["test", "try"]
    conditions = {name: job["if"] for name, job in jobs.items() if "if" in job}
    assert conditions == {"publish": NAME_IS_OURS}, "with always() a job would not wait"


def test_what_a_release_may_write():
    """A job that runs others' code, such as that of the tests' packages, may write nothing."""
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    jobs = release["jobs"]
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert release["permissions"] == ci["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in jobs.items() if "permissions" in job} == {
        "attach": {"contents": "write"},
        "publish": {"id-token": "write"},
    }
    assert "secrets" not in (ROOT / ".github/workflows/release.yml").read_text()
    assert "PYPI_NAME_IS_OURS" in (ROOT / "CONTRIBUTING.md").read_text(), "who is to set it?"


def test_actions_of_others_are_pinned_by_their_commit():
    """A tag of theirs may move, to code that then has the rights of our jobs."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for action in re.findall(r"uses: (\S+)", path.read_text()):
            assert action.startswith("./") or re.fullmatch(r"\S+@[0-9a-f]{40}", action), path


def test_the_files_of_a_release_are_told_by_their_hashes(tmp_path):
    """The step of `attach` runs here, with a `gh` that prints what it was given."""
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    (script,) = [step["run"] for step in release["jobs"]["attach"]["steps"] if "run" in step]
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/wiretax-0.1.0-py3-none-any.whl").write_text("a wheel")
    (tmp_path / "gh").write_text('#!/bin/sh\necho "$@"\ncat "$RUNNER_TEMP/notes.md"\n')
    (tmp_path / "gh").chmod(0o755)
    given = {"GITHUB_REF_NAME": "v0.1.0", "RUNNER_TEMP": str(tmp_path)}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=os.environ | given | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    command, *notes = done.stdout.splitlines()
    assert command.startswith("release create v0.1.0 --verify-tag ")
    assert command.endswith(" wiretax-0.1.0-py3-none-any.whl")
    digest = hashlib.sha256(b"a wheel").hexdigest()
    assert notes == ["```", f"{digest}  wiretax-0.1.0-py3-none-any.whl", "```"]


def test_the_first_release_is_told_by_task_on_a_page():
    """A tag of it publishes what stands there; what comes next stands above it."""
    text = (ROOT / "CHANGELOG.md").read_text()
    (_, *sections) = re.split(r"^## ", text, flags=re.MULTILINE)
    releases = [section for section in sections if not section.startswith("Unreleased\n")]
    assert releases[0].partition("\n")[0] == __version__
    assert len(releases[-1].splitlines()) <= 60
    _, _, tasks = (ROOT / "docs/index.md").read_text().partition("## Tasks\n")
    pages = re.findall(r"\]\((\w[\w-]*\.md)\)", tasks.partition("\n## ")[0])
    assert len(pages) > 8
    told = "".join([releases[-1], *(each for each in sections if each.startswith("Unreleased\n"))])
    assert [page for page in pages if f"(docs/{page}" not in told] == []
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
