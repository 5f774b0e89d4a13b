"""On a machine with Linux, Python, make and a C++ compiler alone no test fails: each that needs
another tool is skipped, and says which."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ROOT

OPTIONAL = re.compile(
    r"clang|llvm|lld|chrom|slurm|srun$|sbatch$|salloc$|s(info|queue|control)$|sshd?$|munge|ip$|git$"
    r"|nvcc$|hipcc$|ruff$|mypy$|node$"
)
# Files with tests that start these tools. That a tool is absent fails where a test does not ask.
AFFECTED = (
    "test_kernels_broken",
    "test_kernels_compile",
    "test_kernels_matrix",
    "test_campaign_revisions",
    "test_dashboard_browser",
)
CHOSEN = f"({' or '.join(AFFECTED)}) and not sm_"  # NVIDIA's compiler is a wheel


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """One folder, whose name has a space, with links to all tools but the optional ones."""
    folder = tmp_path / "bare machine"
    folder.mkdir()
    for place in (*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"):
        for tool in Path(place).iterdir() if Path(place).is_dir() else ():
            if not OPTIONAL.search(tool.name) and not (folder / tool.name).is_symlink():
                (folder / tool.name).symlink_to(tool)
    return str(folder)


def test_without_optional_tools_tests_are_skipped_and_none_fails(bare_path: str) -> None:
    """All files are collected, and the tests of some run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN]
    variables = {**os.environ, "PATH": bare_path}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    for tool in ("chromium", "clang-19", "clang-22", "git"):
        assert f"system tool absent: {tool}" in done.stdout
