"""The two commands for an owner of two cards: the lines of README.md and docs/gpu.md are the same,
docker and pip can parse them, and what they name is there."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.launch import ROOT
from tests.test_locks import PROJECT

pytestmark = pytest.mark.unit

README, GPU = ((ROOT / name).read_text() for name in ("README.md", "docs/gpu.md"))
CONTAINER = re.compile(r"^(?:docker|podman) run .*?(?=  #|$)", re.MULTILINE)
INLINE = re.compile(r"`((?:docker|podman) run [^`]* -v [^`]*)`")
SHELLS = [*CONTAINER.findall(README), *INLINE.findall(GPU)]
INSTALL = re.compile(r"^pip install '\.\[rocm\]' .*\n(.*)", re.MULTILINE)


@pytest.mark.parametrize("page", [README, GPU])
def test_the_two_commands_stand_in_both_pages(page):
    [second] = INSTALL.findall(page)
    assert second.startswith("wiretax survey --quick ")
    extras = {*re.findall(r"'\.\[(\w+)\]'", page)}
    assert {"rocm", "cuda12", "cuda13"} <= extras <= {*PROJECT["optional-dependencies"]}


def test_the_readme_s_shells_are_those_of_the_page():
    in_readme = [shlex.split(line) for line in CONTAINER.findall(README)]
    assert len(in_readme) == 2
    on_page = [shlex.split(line) for line in INLINE.findall(GPU)]
    assert [words for words in in_readme if words not in on_page] == []


@pytest.mark.parametrize("line", SHELLS)
def test_a_container_sees_the_checkout_and_the_gpus(line):
    """Without them the next command fails, or measures the CPU."""
    words = shlex.split(line)
    assert "--ipc=host" in words
    assert {"--gpus", "nvidia.com/gpu=all", "/dev/kfd"} & {*words}
    assert ("/dev/kfd" in words) == ("/dev/dri" in words) == ("--group-add" in words)
    assert words[words.index("-v") + 1].startswith("$PWD:/w")
    if "--entrypoint" in words:  # an engine's image, which starts its server otherwise
        assert words[words.index("-w") + 1] == "/w"
        assert words[words.index("--entrypoint") + 1] == "bash"
        assert not words[-1].startswith("-")


@pytest.mark.skipif(not shutil.which("docker"), reason="system tool absent: docker")
@pytest.mark.parametrize("line", [line for line in SHELLS if line.startswith("docker")])
def test_docker_parses_the_lines(line):
    """Its client does so before it looks for a daemon, of which there is none here."""
    words = [word for word in shlex.split(line) if word != "-it"]
    done = subprocess.run(
        words,
        env={**os.environ, "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 125
    assert re.search("annot connect to the Docker|unknown server OS", done.stderr), done.stderr
    control = subprocess.run([*words[:2], "--no-such", *words[2:]], capture_output=True, text=True)
    assert "unknown flag" in control.stderr


def test_pip_knows_the_option_for_a_system_s_python():
    """Also as a variable, which it derives from the option's name."""
    assert "PIP_BREAK_SYSTEM_PACKAGES=1" in GPU
    assert "--break-system-packages" in GPU
    command = sys.executable, "-m", "pip", "install", "--help"
    helped = subprocess.run(command, capture_output=True, text=True).stdout
    assert "--break-system-packages" in helped
