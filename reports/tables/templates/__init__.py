"""The templates of all HTML pages (gate, procurement, dashboard) and their jinja2 environment."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports.store import foreign

FOLDER = Path(__file__).parent
MOST_CHARACTERS = 4000  # of one value in a page


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), auto_reload=False,
                                     autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     finalize=_shorten)
    environment.filters["whole"] = _whole
    environment.globals["source"] = source
    return environment


def render(name: str, **values: Any) -> str:
    """Render a template. Every value is escaped, stripped of control characters and shortened to
    4,000 characters; the filter `whole` keeps the length."""
    return _environment().get_template(name).render(values)


@cache
def source(name: str) -> Markup:
    """A style sheet or script of this folder, to be inserted into a page unchanged."""
    return Markup((FOLDER / name).read_text())


def _whole(text: str) -> Markup:
    return Markup("\n").join(escape(foreign.printable(line)) for line in text.split("\n"))


def _shorten(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _whole(value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]} ...")
