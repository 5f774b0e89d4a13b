"""`make figures`: draws the pictures of docs/experiments/ from the tables in data/, and writes
docs/answer.md, docs/claims.md, docs/references.md and the sentences of README.md and docs/gpu.md
that follow from the published figures.

A file figures_*.py has a table FIGURES: the name of each picture -> (the function that draws it,
the names of the tables that it takes). To add a picture, add a function and a row there.
`python docs/experiments/figures.py NAME` draws one picture.
"""

import sys
from collections.abc import Callable
from importlib import import_module

import answer_marked
import answer_page
import claims_page
from drawing import HERE, read, write
from matplotlib.figure import Figure

from tests import references_page

FIGURES: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    name: figure
    for path in sorted(HERE.glob("figures_*.py"))
    for name, figure in import_module(path.stem).FIGURES.items()
}


def main() -> None:
    names = sys.argv[1:] or list(FIGURES)
    if "answer" in names:
        answer_page.write()
        answer_marked.write()
        claims_page.write()
        references_page.write()

    for name in names:
        draw, tables = FIGURES[name]
        write(draw(*map(read, tables)), HERE / f"{name}.png", tables)
        print(f"docs/experiments/{name}.png")


if __name__ == "__main__":
    main()
