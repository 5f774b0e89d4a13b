"""The arrows between packages: bench -> collectives -> kernels, bench -> reports, and no others."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "kernels": {"kernels"},
    "collectives": {"collectives", "kernels"},
    "reports": {"reports"},
    "bench": {"bench", "collectives", "reports"},
}


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_lies_below_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) & (ALLOWED.keys() | {"tests"}) <= ALLOWED[package], path


def test_mpi_has_one_door():
    doors = [
        p.relative_to(ROOT).as_posix() for d in ALLOWED for p in (ROOT / d).rglob("*.py") if "mpi4py" in imported(p)
    ]
    assert doors == ["collectives/communicator.py"]


def test_nothing_of_a_gpu_is_imported_where_there_is_none():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            at_the_top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
            names = {a.name.split(".")[0] for n in at_the_top if isinstance(n, ast.Import) for a in n.names}
            names |= {(n.module or "").split(".")[0] for n in at_the_top if isinstance(n, ast.ImportFrom)}
            assert not names & {"cupy", "cupyx", "cuda", "pynvml", "nccl"}, path


def test_platforms_differ_in_one_file():
    for path in [*ROOT.glob("kernels/**/*.cu"), *ROOT.glob("kernels/**/*.h")]:
        has_if = any(line.lstrip().startswith(("#if", "#elif")) for line in path.read_text().splitlines())
        assert has_if == (path.name == "platform.h"), path
        assert "#include <" not in path.read_text(), path


def test_no_file_outgrows_its_budget():
    for package in ALLOWED:
        for path in (ROOT / package).rglob("*"):
            most = {".py": 400, ".cu": 200, ".h": 200}.get(path.suffix)
            assert most is None or len(path.read_text().splitlines()) <= most, path
