"""HTML pages of the gate, of `procure`, of a survey and of the dashboard. A page needs no other
file; it escapes every value and replaces control characters."""

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import jinja2
from markupsafe import Markup, escape

from reports.store.untrusted import printable

FOLDER = Path(__file__).parent
# The style of each verdict or reason.
CLASSES = {
    **dict.fromkeys(("SLOWER", "SLOW", "WORSE", "WRONG", "FAIL", "FAILED"), "worse"),
    **dict.fromkeys(("FASTER", "BETTER", "PASS", "DONE"), "better"),
}

# By column: a text, with small print below its first line, or a text and its link to a page.
Row = Mapping[str, str | tuple[str, str]]


@dataclass
class Picture:
    """`table` is the id of the table with its figures."""

    title: str
    svg: Markup
    table: str = ""


@dataclass
class Section:
    """A heading and its content. `text` is preformatted, `table` is the id of the table of `rows`;
    a `folded` section opens on demand."""

    heading: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    table: str = ""
    rows: Sequence[Row] = ()
    text: str = ""
    folded: bool = False


@dataclass
class Page:
    """`reproduce` is for the footer. The rest is for the dashboard: `counts` of cells by
    verdict; `complaint` says why there is nothing to show."""

    title: str
    sentences: Sequence[str] = ()
    sections: Sequence[Section] = ()
    reproduce: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    complaint: str = ""
    file: str = ""
    html: str = ""


def to_html(page: Page, pages: Mapping[str, str] | None = None) -> str:
    """The page as HTML. `pages` are all pages of its site by file, with their names if they are in
    the navigation. A page without a site has no navigation and no script."""
    script = (FOLDER / "page.js").read_text()
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        page=page,
        pages=pages or {},
        classes=CLASSES,
        script=Markup(script),
        script_hash=script_hash,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_literal,
    )
    return environment.get_template("page.html")


def _literal(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value

    return Markup("\n").join(escape(printable(line)) for line in value.split("\n"))


def draw_picture(
    name: str, draw: Callable[[IO[str]], None], title: str, table: str = ""
) -> Picture:
    """The picture that `draw` writes as an SVG. `name` makes its ids differ from those of the other
    pictures of the page."""
    import matplotlib

    file = io.StringIO()

    with matplotlib.rc_context({"svg.hashsalt": name, "savefig.transparent": True}):
        draw(file)

    head, _, body = file.getvalue().partition("<svg")[2].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # nothing refers to the ids of groups
    [box] = re.findall(r'viewBox="([^"]*)"', head)
    size = f'viewBox="{box}" width="{box.split()[2]}"'
    svg = f'<svg role="img" aria-label="{escape(title)}" {size}>{body}'
    return Picture(title, Markup(svg), table)
