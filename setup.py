"""Builds the wheel: puts bench, collectives, kernels and reports inside the one package `wiretax`.

Under their own names they would collide with other packages: PyPI has a well-known `kernels`."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FOLDERS = "bench", "collectives", "kernels", "reports"
COMMANDS = "|".join(path.stem for path in sorted((ROOT / "bench").glob("[a-z]*.py")))
# How strings name a command in a checkout; all of it becomes `wiretax`.
SPELLINGS = (
    re.compile(
        r"(?:mpirun -n (?:2|RANKS) )?(?:python -m )?\bbench\."
        rf"(?=\{{(?:command|name|options|run)|(?:{COMMANDS})\b)"
    ),
    re.compile(r"(?:python -m reports\b|(?<=`)reports(?= [a-z]+`)|(?<=[\"'])reports(?=: ))"),
)
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
Edit = tuple[int, int, int, str]  # line from 1, first and last column, new text


def import_edits(source: str, name: str) -> Iterator[Edit]:
    """Puts `wiretax.` before our folders in absolute imports. Raises ValueError for a plain
    `import FOLDER`, which binds a name that the code would then have to change."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            if any(alias.name.split(".")[0] in FOLDERS for alias in node.names):
                raise ValueError(f"{name}, line {node.lineno}: write `from ... import`")
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in FOLDERS:
            column = node.col_offset + len("from ")
            yield node.lineno, column, column, "wiretax."


def spelling_edits(source: str) -> Iterator[Edit]:
    """Names the commands `wiretax COMMAND` in help texts and messages."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in STRINGS:
            continue
        (first, start), (last, end) = token.start, token.end
        for number in range(first, last + 1):
            line = lines[number - 1]
            for pattern in SPELLINGS:
                for match in pattern.finditer(line, start if number == first else 0):
                    if number < last or match.start() < end:
                        text = "wiretax " if match[0].endswith(".") else "wiretax"
                        yield number, *match.span(), text


def installed(source: str, name: str) -> str:
    """The source of a module as it stands in the wheel."""
    lines = source.splitlines(keepends=True)
    edits = {*import_edits(source, name), *spelling_edits(source)}
    for number, start, end, text in sorted(edits, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:start] + text + line[end:]
    return "".join(lines)


class BuildPy(build_py):
    """Copies each module as `installed` writes it."""

    def run(self) -> None:
        if self.editable_mode:
            raise SystemExit("a checkout runs as it is, after make setup; pip install without -e")
        super().run()

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
    setup(
        packages=[
            *("wiretax", "wiretax.examples.peers"),
            *(f"wiretax.{package}" for package in inner_packages()),
        ],
        package_dir={f"wiretax.{name}": name for name in (*FOLDERS, "examples")},
        cmdclass={"build_py": BuildPy},
    )
