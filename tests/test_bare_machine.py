"""On a machine with Linux, Python, make and a C++ compiler alone, no test fails: each one that needs
another tool is skipped, and says which.

The tests run again with a PATH that hides every optional tool."""

import os
import re
from pathlib import Path

import pytest

OPTIONAL = re.compile(
    r"clang|llvm|lld|chrom|slurm|srun$|sbatch$|salloc$|s(info|queue|control)$|sshd?$|munge|ip$|git$"
    r"|nvcc$|hipcc$|ruff$|mypy$|node$"
)
# Files with tests that start one of these tools, and what is skipped for want of it.
AFFECTED = {}


@pytest.fixture(scope="module")
def bare_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH of one folder, whose name has a space, with links to all tools but the optional ones."""
    folder = tmp_path_factory.mktemp("bare machine")
    for place in (*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"):
        for tool in Path(place).iterdir() if Path(place).is_dir() else ():
            if not OPTIONAL.search(tool.name) and not (folder / tool.name).is_symlink():
                (folder / tool.name).symlink_to(tool)
    return str(folder)
