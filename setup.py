"""Builds the wheel: puts bench, collectives, kernels and reports inside the one package `wiretax`.

Under their own names they would collide with other packages: PyPI has a well-known `kernels`. An
editable installation imports the checkout as it is."""

import ast
import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FOLDERS = "bench", "collectives", "kernels", "reports"
BELOW = "common", "record"  # of all of them: in `wiretax` also in a checkout


def installed(source: str, name: str) -> str:
    """The source of a module as it stands in the wheel: `wiretax.` before our folders in imports.
    Raises ValueError for a plain `import FOLDER`, which binds a name that the code would then have
    to change."""
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in bytes
    for node in reversed([*ast.walk(ast.parse(source))]):  # a line from its end
        if isinstance(node, ast.Import):
            if any(alias.name.split(".")[0] in FOLDERS for alias in node.names):
                raise ValueError(f"{name}, line {node.lineno}: write `from ... import`")
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FOLDERS:
            line, column = lines[node.lineno - 1], node.col_offset + len("from ")
            lines[node.lineno - 1] = line[:column] + b"wiretax." + line[column:]
    return b"".join(lines).decode()


class BuildPy(build_py):
    """Copies each module as `installed` writes it."""

    def build_module(self, module, module_file, package):  # type: ignore[no-untyped-def]
        target, copied = super().build_module(module, module_file, package)
        if copied:
            source = Path(module_file).read_text("utf-8")
            Path(target).write_text(installed(source, module_file), "utf-8")
        return target, copied


def inner_packages() -> list[str]:
    """The packages of the folders, also those without an `__init__.py`, which hold sources."""
    includes = [pattern for name in FOLDERS for pattern in (name, f"{name}.*")]
    return find_namespace_packages(str(ROOT), include=includes, exclude=["*__pycache__*"])


if __name__ == "__main__":
    if "editable_wheel" in sys.argv:
        setup(packages=["wiretax", *FOLDERS])
    else:
        setup(
            packages=[
                *("wiretax", *(f"wiretax.{name}" for name in BELOW), "wiretax.examples.contenders"),
                *(f"wiretax.{package}" for package in inner_packages()),
            ],
            package_dir={f"wiretax.{name}": name for name in (*FOLDERS, "examples")},
            cmdclass={"build_py": BuildPy},
        )
