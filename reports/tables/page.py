"""HTML pages of the gate, of `procure` and of the dashboard. A page needs no other file; it escapes
every value and replaces control characters."""

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

from reports.store.schema import Run
from reports.store.untrusted import printable
from reports.tables.figure import COLOURS

FOLDER = Path(__file__).parent
MOST_CHARACTERS = 4000  # of one line of a value
NUMBER = re.compile(r"[<>+-]?\d[\d.]*(e[+-]?\d+)?( ?[A-Za-z%/]{1,4})?!?( \[[^]]*\])?|-")
NO_HISTORY = "in no run that a history can use"
# The style of each verdict or reason; the dashboard's first page counts them by these words.
CLASSES = {
    **dict.fromkeys(("SLOWER", "SLOW", "WORSE", "WRONG", "FAIL", "FAILED"), "worse"),
    **dict.fromkeys(("FASTER", "BETTER", "PASS"), "better"),
    **dict.fromkeys(
        (
            "AMBIGUOUS",
            "UNREPLICATED",
            "TOO EARLY",
            "NOISY",
            "TOO FEW BLOCKS",
            "INCOMPLETE",
            "UNDECIDED",
            "UNVERIFIED",
            "SUSPECT",
            NO_HISTORY.upper(),
        ),
        "unknown",
    ),
}
# The CSS variable for each colour that matplotlib writes; other greys are `muted`.
VARIABLES = {
    "#000000": "currentColor",
    "#ffffff": "Canvas",
    "#999999": "var(--edge)",
    "#bbbbbb": "var(--band)",
    "#dddddd": "var(--band)",
    **{colour.lower(): f"var(--line{number})" for number, colour in enumerate(COLOURS)},
}

# By column: a text, with small print below its first line, or a text and its link to a page.
Row = Mapping[str, str | tuple[str, str]]


@dataclass
class Picture:
    """`table` is the id of its figures' table, `scale` names one of two vertical axes."""

    title: str
    table: str
    svg: Markup
    scale: str = ""


@dataclass
class Section:
    """A heading and its content. `lines` are the names of the pictures' lines, each with a sample
    and whether it is shown before a reader chooses; `text` is preformatted; a `folded` section
    opens on demand. `table` is the id of the table, and `filters` are columns to choose rows by. A
    row that begins with a link `#id` has that id."""

    heading: str
    sentences: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    lines: Sequence[tuple[str, Markup, bool]] = ()
    table: str = ""
    rows: Sequence[Row] = ()
    filters: Sequence[str] = ()
    text: str = ""
    folded: bool = False

    @property
    def number_columns(self) -> set[str]:
        """The columns in which each cell is a number, with or without unit and interval, or a dash.
        A column of hashes does not count, even if some of them look like numbers."""
        cells = {name: {row[name] for row in self.rows} for name in self.rows[0]}
        return {
            name
            for name, texts in cells.items()
            if texts != {"-"}
            and all(isinstance(text, str) and NUMBER.fullmatch(text) for text in texts)
        }


@dataclass
class Page:
    """`cards` are (headline, class, sentence) for the first screen, `reproduce` is for the footer.
    The rest is for the dashboard: `verdicts` counts the cells or series by machine and benchmark,
    `runs` are the heads of a campaign's runs, `complaint` says why there is nothing to show."""

    title: str
    sentences: Sequence[str] = ()
    sections: Sequence[Section] = ()
    reproduce: dict[str, str] = field(default_factory=dict)
    cards: Sequence[tuple[str, str, str]] = ()
    verdicts: Mapping[tuple[str, str], Counter[str]] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    complaint: str = ""
    file: str = ""
    html: str = ""

    @property
    def counts(self) -> Counter[str]:
        """All cells or series by verdict."""
        return sum(self.verdicts.values(), Counter[str]())


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
    lines = [
        line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]} ..."
        for line in value.split("\n")
    ]
    return Markup("\n").join(escape(printable(line)) for line in lines)


def draw_picture(
    name: str,
    draw: Callable[[IO[str]], None],
    title: str = "",
    description: str = "",
    table: str = "",
    scale: str = "",
) -> Picture:
    """The picture that `draw` writes as an SVG, in the page's colours, so that one drawing serves
    light and dark. `name` starts its ids; without a title it is decoration. An artist with the gid
    `line3-7-8` belongs to line 3, its marks to the cases 7 and 8."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "savefig.transparent": True}):
        draw(file)
    head, _, body = file.getvalue().partition("<svg")[2].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Words are escaped, so that each `<` starts a tag.
    body = re.sub(r"<[^>]*>", lambda tag: _clean_tag(tag[0], name), body)
    body = re.sub(r">\s+<", "><", body)
    box = re.findall(r'viewBox="([^"]*)"', head)[0]
    role, words = ' aria-hidden="true"', ""
    if title:
        role = f' role="img" aria-labelledby="{name}-t {name}-d"'
        words = (
            f'<title id="{name}-t">{escape(title)}</title>'
            f'<desc id="{name}-d">{escape(description)}</desc>'
        )
    style = f"--drawn: {float(box.split()[2]):.0f}px"
    svg = Markup(f'<svg{role} viewBox="{box}" style="{style}">{words}{body}')
    return Picture(title, table, svg, scale)


def _clean_tag(tag: str, name: str) -> str:
    """Names the cases of lines, prefixes ids, inserts the page's colours, rounds to 0.1 points."""
    tag = re.sub(r' id="line(\d+)-?([\d-]*)"', r' data-line="\1" data-cases="\2"', tag)
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda colour: VARIABLES.get(colour[0], colour[0]), tag)
    tag = re.sub(r"#([0-9a-f]{2})\1\1\b", "var(--muted)", tag)
    tag = re.sub(r"font-family: 'DejaVu Sans',[^;\"]*;? ?", "", tag)
    if "opacity" not in tag or " d=" in tag:
        tag = re.sub(r'(?<=[ "(-])(\d+\.\d)\d+(?=[ "),\n])', r"\1", tag)
    return tag.replace("\n", " ")
