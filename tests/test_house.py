"""Checks the imports and the shape of the packages."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
CORE = "bench", "collectives", "kernels"
RECORD = "wiretax.common", "wiretax.record"
PACKAGES = (*CORE, "reports", "wiretax")
EVERYTHING = (*PACKAGES, "tests", "docs")

MOST_FUNCTION_LINES = 100
MOST_FILE_LINES = 500
MOST_COLUMNS = 100
MOST_PARAMETERS = 8
FAKES = "fake_gpu", "fake_contenders"  # have the signatures of the packages that they stand for

# The rooms of reports, as docs/design.md draws them. Each room may import the rooms before it.
DESIGN = (ROOT / "docs/design.md").read_text()
[DRAWN] = re.findall("^in reports: (.*)", DESIGN, re.MULTILINE)
REPORTS = tuple(f"reports.{name}" for name in reversed(DRAWN.split(" -> ")))
BENEATH = "collectives", "kernels", *RECORD
GROUND = (*BENEATH, "reports", *REPORTS)
HARNESS = ("bench.harness", "bench.machine", *GROUND)
# The other rooms that each room may import. A module belongs to the room with the longest
# matching name: collectives/library is part of "collectives", the commands bench/*.py of "bench".
BELOW: dict[str, tuple[str, ...]] = {
    "wiretax.common": (),
    "wiretax.record": ("wiretax.common",),
    "wiretax": ("bench", "bench.campaigns", *HARNESS),  # the command, and pytest's plugin
    "kernels": RECORD,
    "collectives": BENEATH,
    "collectives.layers": BENEATH,
    "collectives.experts": BENEATH,
    "collectives.contenders": BENEATH,
    "reports": (*BENEATH, *REPORTS),
    **{room: (*BENEATH, *REPORTS[:number]) for number, room in enumerate(REPORTS)},
    "bench.machine": GROUND,
    "bench.harness": ("bench.machine", *GROUND),
    "bench.features": ("collectives.contenders", *HARNESS),
    "bench.campaigns": HARNESS,
    "bench.links": HARNESS,
    "bench.stability": ("collectives.layers", *HARNESS),
    "bench.surveys": ("bench.campaigns", *HARNESS),
    "bench.layers": ("collectives.layers", "collectives.experts", *HARNESS),
    "bench.tuning": HARNESS,
    "bench": (
        *("bench.layers", "bench.features", "bench.stability", "bench.surveys", "bench.tuning"),
        *("bench.links", "bench.campaigns", "collectives.layers", *HARNESS),
    ),
}
# What a split of experts costs depends on a router, whose draws are those of bench.alltoall.
BELOW["reports.advice"] = (*BELOW["reports.advice"], "collectives.experts")
# `wiretax` alone is its __init__.py with the version, and `bench` alone has its name.
NAMES = "wiretax", "bench"
OURS = (*PACKAGES, "tests")

# Modules that read files otherwise: the door, sources, tables beside a module, and the kernel's
# files. The witness imports nothing of ours, and reads what its own run has written.
OWN_READERS = {
    "bench/campaigns/launch_guard.py",
    "bench/harness/session.py",
    "bench/harness/witness.py",
    "bench/machine/environment.py",
    "bench/machine/files.py",
    "bench/machine/pci.py",
    "bench/surveys/steps.py",
    "reports/advice/likely.py",
    "reports/advice/specs.py",
    "reports/breakdown/kernel_names.py",
    "reports/kit/page.py",
    "reports/references/pairs.py",
    "wiretax/common/untrusted.py",
}


def files(*packages: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    """The files of these packages, relative to the project's root."""
    return sorted(
        path.relative_to(ROOT)
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.suffix in suffixes
    )


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def module_name(path: Path) -> str:
    """`bench.harness` for bench/harness/__init__.py, `bench.tune` for bench/tune.py."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    stem = ROOT.joinpath(*name.split("."))
    return stem.with_suffix(".py").is_file() or (stem / "__init__.py").is_file()


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a tree of Python imports, inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module for name in members)


def room(module: str) -> str:
    """The room of a module: the longest name in BELOW that its own name starts with."""
    rooms = [name for name in BELOW if f"{module}.".startswith(f"{name}.")]
    return max(rooms, key=len, default=module)


def test_imports_point_downwards():
    wrong = set()
    for path in files(*PACKAGES):
        module = module_name(path)
        allowed = {room(module), *BELOW[room(module)]}
        wrong |= {
            f"{module} imports {name}"
            for name in imported(parsed(path))
            if name.split(".")[0] in OURS and name not in NAMES and room(name) not in allowed
        }
    assert not wrong


def test_the_public_door_imports_no_room():
    """`import wiretax` takes no time, and `load` reads a run where nothing can measure one."""
    names = {*imported(parsed(Path("wiretax/__init__.py")))}
    assert {name for name in names if name.split(".")[0] in OURS} == {
        "wiretax.common.interpreter",
        "wiretax.record.frame",
    }


def test_a_file_has_a_name_of_its_own():
    """But a command, whose name its user types, can share that of its algorithms."""
    named: dict[str, list[Path]] = {}
    for path in files(*PACKAGES):
        if path.stem not in ("__init__", "__main__") and path.parts[:-1] != ("bench",):
            named.setdefault(path.stem, []).append(path)
    assert not [paths for paths in named.values() if len(paths) > 1]


def test_one_module_imports_mpi():
    doors = [
        path.as_posix()
        for path in files(*PACKAGES)
        if "mpi4py" in {name.split(".")[0] for name in imported(parsed(path))}
    ]
    assert doors == ["collectives/communicator.py"]


def test_no_file_makes_code_run():
    """A file of a stranger is data: nothing unpickles, evaluates or gives a line to a shell."""
    for path in files(*PACKAGES):
        assert not {"pickle", "marshal", "shelve", "yaml"}.intersection(imported(parsed(path))), (
            path
        )
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec", "os.system"), path
                assert "shell" not in [word.arg for word in node.keywords], path


def test_files_from_outside_come_through_one_door():
    """`wiretax.common.untrusted` checks the kind and the size of a file, and follows no link."""
    calls = {
        (path.as_posix(), call)
        for path in files("bench", "reports", "wiretax")
        for call in ast.walk(parsed(path))
        if isinstance(call, ast.Call)
    }
    assert {path for path, call in calls if reads_a_file(call)} == OWN_READERS


def reads_a_file(call: ast.Call) -> bool:
    """Whether this opens or reads a file; the door's functions take the path as an argument."""
    _, _, name = ast.unparse(call.func).rpartition(".")
    words = [*call.args, *(word.value for word in call.keywords)]
    texts = [word.value for word in words if isinstance(word, ast.Constant)]
    if name == "open":
        return ast.unparse(call.func) != "os.open" and not re.search("[wxa]", str(texts))
    return name in ("fromfile", "loadtxt") or (
        name in ("read_text", "read_bytes") and not call.args
    )


def functions(*packages: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function and the place where it begins."""
    for path in files(*packages):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path}:{node.lineno} {node.name}", node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The number of named parameters, without self and cls."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_functions_are_short():
    long = [
        place
        for place, node in functions(*EVERYTHING)
        if (node.end_lineno or 0) - node.lineno >= MOST_FUNCTION_LINES
    ]
    assert not long


def test_functions_have_few_parameters():
    many = [
        place
        for place, node in functions(*EVERYTHING)
        if parameters(node) > MOST_PARAMETERS and Path(place).parts[1] not in FAKES
    ]
    assert not many


def test_files_are_short_and_narrow():
    """ruff checks Python's columns; clang-format leaves long words and comments as they are."""
    for path in files(*EVERYTHING, suffixes=(".py", ".cu", ".h", ".cpp", ".cc")):
        lines = (ROOT / path).read_text().splitlines()
        assert len(lines) <= MOST_FILE_LINES, path
        assert max(map(len, lines), default=0) <= MOST_COLUMNS, path
