"""Turns a matplotlib drawing into an SVG inside a page.

The SVG has no size, prolog or metadata. Its ids are unique in the page, its colours are the page's
CSS variables, so that one drawing serves light and dark, and each line has its cases.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import matplotlib
from markupsafe import Markup, escape

from reports.tables.figure import COLOURS

# The CSS variable for each colour that matplotlib writes; page.css has their values.
GREYS = {"--muted": "333333 444444 555555 6f6f6f 777777 808080 888888 b0b0b0 cccccc",
         "--band": "bbbbbb dddddd"}
VARIABLES = {"#000000": "currentColor", "#ffffff": "var(--page)", "#f0c808": "var(--gold)",
             **{f"#{grey}": f"var({name})" for name, greys in GREYS.items()
                for grey in greys.split()},
             **{colour.lower(): f"var(--line{number})" for number, colour in enumerate(COLOURS)}}

Draw = Callable[[IO[str]], None]


@dataclass
class Picture:
    """`table` is the id of the table with the same figures; `scale` names the vertical axis if
    there is another drawing with the other axis."""

    title: str
    table: str
    svg: Markup
    scale: str = ""


def draw_picture(name: str, draw: Draw, title: str = "", description: str = "", table: str = "",
                 scale: str = "") -> Picture:
    """The picture that `draw` writes as an SVG. `name` starts its ids; without a title it is
    decoration. An artist with the gid `line3-7-8` belongs to line 3, its marks to the cases 7
    and 8."""
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
        words = (f'<title id="{name}-t">{escape(title)}</title>'
                 f'<desc id="{name}-d">{escape(description)}</desc>')
    width = float(box.split()[2])
    svg = f'<svg{role} viewBox="{box}" style="--drawn: {width:.0f}px">{words}{body}'
    return Picture(title, table, Markup(svg), scale)


def _clean_tag(tag: str, name: str) -> str:
    """Name the cases of lines, add the picture's name to ids, insert the page's colours, and round
    to 0.1 points."""
    tag = re.sub(r' id="line(\d+)-?([\d-]*)"', r' data-line="\1" data-cases="\2"', tag)
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda colour: VARIABLES.get(colour[0], colour[0]), tag)
    tag = re.sub(r"font-family: 'DejaVu Sans',[^;\"]*;? ?", "", tag)
    if "opacity" not in tag or " d=" in tag:
        tag = re.sub(r'(?<=[ "(-])(\d+\.\d)\d+(?=[ "),\n])', r"\1", tag)
    return tag.replace("\n", " ")
