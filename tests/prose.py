"""Counts oblique forms and unclear names, which the project's style forbids: sentences have a subject, a verb and an
object in the field's standard terms, and a name is a noun or a verb.

`python -m tests.prose` prints both counts for each folder and the worst files; `test_house` sets the limits. Prose is
comments, docstrings, long string literals, and Markdown outside of code.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PARTS = "README.md", "bench", "collectives", "docs", "kernels", "reports", "tests", "wiretax"
SENTENCE_WORDS = 6  # a string literal with this many words is prose
FORMS = (
    "so many", "so often", "so much", "so long", "so manieth", "that of", "those of", "of which",
    "whose", "whom", "whoever", "whatever", "else:", "; else", ", else", "is none", "are none",
    "there is none", "where there", "where that", "where it", "what is", "what has", "what they",
    "what it", "who", "thereof", "likewise", "one's own", "all the same", "of its own",
    "as far as", "hang on", "hangs on", "tell apart", "tells apart", "told apart", "goes by",
    "go by", "is of", "are of", "on the watch", "as it is", "as they are", "has it that",
    "none of these", "what a", "what the", "what was", "what no")
FORM = re.compile(rf"\b(?:{'|'.join(FORMS)})\b", re.IGNORECASE)
BANNED_NAMES = (
    "found", "what", "how", "where", "one", "its", "said", "asked", "known", "kept", "given",
    "manner")


class Count(NamedTuple):
    """The number of words of a text, and the number of its oblique forms."""

    words: int
    forms: int

    @property
    def per_thousand(self) -> float:
        return 1000 * self.forms / max(1, self.words)


def python_prose(source: str) -> str:
    """The comments, docstrings and long string literals of a Python file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT]
    constants = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    sentences = [text for text in constants
                 if isinstance(text, str) and len(text.split()) >= SENTENCE_WORDS]
    return "\n".join(comments + sentences)


def c_prose(source: str) -> str:
    """The comments of a C++ file."""
    blocks = re.findall(r"/\*(.*?)\*/", source, re.DOTALL)
    return "\n".join(re.findall(r"//[/!]? ?(.*)", source) + blocks)


def markdown_prose(source: str) -> str:
    """A Markdown file without its blocks of code."""
    source = re.sub(r"```.*?```", "", source, flags=re.DOTALL)
    return re.sub(r"^    .*$", "", source, flags=re.MULTILINE)


READERS: dict[str, Callable[[str], str]] = {
    ".py": python_prose, ".cu": c_prose, ".h": c_prose, ".cpp": c_prose, ".cc": c_prose,
    ".md": markdown_prose}


def project_files() -> list[Path]:
    """The files with prose, relative to the root, without recorded data of machines."""
    paths = [path for part in PARTS for path in [ROOT / part, *(ROOT / part).rglob("*")]]
    return sorted(path.relative_to(ROOT) for path in paths if path.suffix in READERS
                  and "recorded" not in path.parts)


def count_forms(text: str) -> Count:
    return Count(len(re.findall(r"[A-Za-z']+", text)), len(FORM.findall(text)))


def count_file(path: Path) -> Count:
    """The count of one file, relative to the project's root."""
    source = (ROOT / path).read_text(errors="replace")
    return count_forms(READERS[path.suffix](source))


def count_folders(paths: Iterable[Path]) -> dict[str, Count]:
    """The counts of the project's top folders; a file at the root has its own entry."""
    totals: dict[str, Count] = {}
    for path in paths:
        words, forms = totals.get(path.parts[0], Count(0, 0))
        count = count_file(path)
        totals[path.parts[0]] = Count(words + count.words, forms + count.forms)
    return totals


def banned_names(paths: Iterable[Path]) -> Counter[str]:
    """The number of times that Python files bind each banned name, as a variable or parameter."""
    bound: Counter[str] = Counter()
    for path in paths:
        if path.suffix == ".py":
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    bound[node.id] += 1
                elif isinstance(node, ast.arg):
                    bound[node.arg] += 1
    return Counter({name: bound[name] for name in BANNED_NAMES if bound[name]})


def main() -> None:
    paths = project_files()
    names = {folder: banned_names(p for p in paths if p.parts[0] == folder)
             for folder in {path.parts[0] for path in paths}}
    print("Oblique forms per 1,000 words, and bindings of banned names:")
    for folder, count in sorted(count_folders(paths).items()):
        bound = ", ".join(f"{name} {number}" for name, number in names[folder].most_common())
        print(f"  {folder:12} {count.per_thousand:5.1f} in {count.words:6,} words; {bound or '-'}")
    counts = {path: count_file(path) for path in paths}
    print("Files with the most forms:")
    for path in sorted(paths, key=lambda path: -counts[path].forms)[:10]:
        print(f"  {path}: {counts[path].forms} in {counts[path].words:,} words")


if __name__ == "__main__":
    main()
