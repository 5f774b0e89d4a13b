"""HTML pages of the gate, of `procure`, of a survey and of the dashboard: a banner, then sections
of cards, charts, tables and text (docs/design-pages.md). A page needs no other file; it escapes
every value and replaces control characters."""

import base64
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reports.kit.chart import Chart, signs
from reports.tables import figure
from wiretax.common.untrusted import printable

FOLDER = Path(__file__).parent
VERDICT_SIGNS = {"worse": "✗", "better": "✓", "unsure": "?"}
COLOURS = [
    f":root {{ --{role}: light-dark({light}, {dark}); }} "
    f'.{role} {{ --role: var(--{role}); --sign: "{VERDICT_SIGNS.get(role, "=")} "; }}'
    for role, (light, dark) in figure.ROLES.items()
]
# The verdicts, statuses and reasons of each class.
WORDS = {
    "worse": "slower, slow, worse, wrong, fail, failed, regression, unusable, wrong results, "
    "not met",
    "better": "faster, better, pass, done, met",
    "unsure": "inconclusive, undecided, unverified, suspect, too early, noisy, within, "
    "unreplicated, disturbed, incomplete, differs, unclear, too few blocks",
    "steady": "same, steady, complete, n/a, even, fine",
}
ROLES = {word: role for role, words in WORDS.items() for word in words.split(", ")}

# `5.23`, `3.65 us`, `+5.0% [+4.1% +5.9%]`, a cell of a heat map.
NUMBER = re.compile(r"[-+]?\d[\d.]*%?( [\w/]+)?( \[[^]]*])?(\n|$)|<div class=.heat")

# Where a person signs, also on paper.
SIGNATURE = Markup("").join(
    Markup('<span class="sign">{}</span> ').format(field)
    for field in ("Name, department", "Date", "Signature")
)

# A text, with small print below its first line; a text and its link to a page; a drawing; or a row
# of these.
Cell = str | tuple[str, str] | list[str | tuple[str, str]]
Row = Mapping[str, Cell]  # by column


@dataclass
class Banner:
    """The answer of a page: a word or a figure, one sentence, and quiet `facts`, which are cells,
    such as how sure that is, where and when."""

    word: str
    sentence: str
    facts: Sequence[Cell] = ()
    role: str = ""  # `worse`, `better`, `unsure` or `steady`, by default the word's

    def __post_init__(self) -> None:
        self.role = self.role or role_of(self.word) or "steady"


@dataclass
class Card:
    """A figure under the name of a thing, which links to a page. `word` is its verdict, `lines` are
    cells. The name of its `group` stands before the first card of it."""

    name: tuple[str, str]
    figure: str
    word: str = ""
    lines: Sequence[Cell] = ()
    group: str = ""


@dataclass
class Section:
    """A heading and its content. `text` is preformatted; a `folded` section opens on demand. The
    rows of a matrix keep their order, and their columns on a phone."""

    heading: str
    sentences: Sequence[Cell] = ()
    cards: Sequence[Card] = ()
    charts: Sequence[Chart] = ()
    rows: Sequence[Row] = ()
    text: str = ""
    folded: bool = False
    is_matrix: bool = False

    @property
    def id(self) -> str:
        """For the address of a filter."""
        return re.sub(r"\W+", "-", self.heading).strip("-").lower()

    @property
    def columns(self) -> dict[str, str]:
        """Each column that has a cell, with its class; the first names the rows."""
        found = dict[str, str]()
        for name in self.rows[0]:
            cells = [row[name] for row in self.rows if row[name] not in ("", "-")]
            are_numbers = all(isinstance(cell, str) and NUMBER.match(cell) for cell in cells)
            if cells:
                found[name] = "number" if found and are_numbers else "text"

        return found


@dataclass
class Page:
    """`reproduce` has commands and ids, folded at the end; `picture` is a file beside the page, in
    which `draw` draws below the banner. For the dashboard: `near` are links to what is beside it.
    """

    title: str
    banner: Banner
    sections: Sequence[Section] = ()
    reproduce: dict[str, str] = field(default_factory=dict)
    picture: str = ""
    file: str = ""
    html: str = ""
    near: Sequence[tuple[str, str]] = ()
    draw: Callable[[Any], None] | None = None


def role_of(text: str) -> str:
    """The class of a cell that is a verdict, such as `FAIL` or `WRONG: 2 cases`, otherwise `""`."""
    return ROLES.get(re.split(":| [+]-", text)[0].lower(), "")


def to_html(page: Page, pages: Mapping[str, str] = {}, clean: Callable[[str], str] = str) -> str:
    """The page as HTML. `pages` are all pages of its site by file, with their names if they are in
    the navigation. `clean` changes each text."""
    origin = "\n\n".join(f"# {name}\n{text}" for name, text in page.reproduce.items() if text)
    last = Section("How to reproduce this page", text=origin, folded=True)
    charts = [chart for section in page.sections for chart in section.charts]
    for chart in charts:
        chart.links = [link if link in pages else "" for link in chart.links]

    scripts, styles = ["page.js"], ["page.css"]
    if charts:
        scripts += ["vendor/uplot.js", "chart.js"]
        styles.append("vendor/uplot.css")

    files = {file: name for file, name in pages.items() if name}
    files |= {file: name for name, file in page.near if file in pages}
    script = _content(scripts)
    return _template().render(
        page=page,
        sections=[*page.sections, last],
        pages=pages,
        links=[
            Markup('<b aria-current="page">{}</b>').format(name)
            if file == page.file
            else (name, file)
            for file, name in files.items()
        ],
        clean=clean,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup("\n".join(COLOURS)) + _content(styles),
    )


def banner_png(page: Page) -> bytes:
    """The banner, 1200 x 630 pixels: chats show that picture with a link to the page."""
    from matplotlib.figure import Figure

    banner, drawing = page.banner, Figure((10, 5.25), dpi=120)
    texts = (banner.word, 32), (banner.sentence, 18)
    word, sentence = (figure.fold(printable(signs(text)), 8.0, size) for text, size in texts)
    figure.use_colours()
    drawing.text(0.05, 0.86, word, size=32, weight="bold", color=banner.role)
    drawing.text(0.05, 0.8, sentence, size=18, verticalalignment="top")
    if page.draw:
        page.draw(drawing.add_axes((0.08, 0.1, 0.88, 0.34)))

    content = io.BytesIO()
    drawing.savefig(content, format="png")
    return content.getvalue()


def _content(names: Sequence[str]) -> Markup:
    return Markup("\n".join((FOLDER / name).read_text() for name in names))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_literal,
        line_statement_prefix="%",
    )
    environment.globals.update(role_of=role_of, plain=plain, can_draw=figure.can_draw)
    return environment.get_template("page.html")


@jinja2.pass_context
def _literal(context: jinja2.runtime.Context, value: Any) -> Any:
    return plain(signs(context["clean"](value))) if type(value) is str else value


def command_after(what: str, command: str) -> Cell:
    """Words and the command that they announce, as it is typed."""
    return [what, Markup("<code>{}</code>").format(plain(command))]


def command_cell(command: str) -> Markup:
    """A command in a column: its lines break between words, not after a hyphen of an option."""
    words = (Markup('<code class="word">{}</code>').format(plain(each)) for each in command.split())
    return Markup(" ").join(words)


def plain(text: str) -> Markup:
    """A text without control characters, as it is."""
    return Markup("\n").join(escape(printable(line)) for line in text.split("\n"))
