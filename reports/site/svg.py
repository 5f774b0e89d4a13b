"""Turns a matplotlib drawing into an SVG inside a page.

The SVG has no size, prolog or metadata. Its ids are unique in the page, its colours are the page's
CSS variables, so that one drawing serves light and dark, and each mark of a line has its case.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """`name` starts the ids in the SVG, `table` is the id of the table with the same figures, and
    `scale` names the vertical axis if there is another drawing with the other axis."""

    name: str
    title: str
    description: str
    table: str
    scale: str = ""
    svg: str = ""


@dataclass
class Toggle:
    """The number, the name and a sample of a line, for the legend that shows and hides it."""

    line: int
    name: str
    svg: str


def draw_picture(picture: Picture, draw: Draw,
                 cases: Mapping[int, Sequence[int]] | None = None) -> Picture:
    """Fill in the SVG with the output of `draw`. `cases` has for a line's number the case of each
    of its marks, in order."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": picture.name, "savefig.transparent": True,
                                "savefig.format": "svg"}):
        draw(file)
    head, _, body = file.getvalue().partition("<svg")[2].partition(">")
    body = _clean(body, picture.name)
    for line, numbers in (cases or {}).items():
        body = _add_cases(body, f'id="{picture.name}-line{line}"', numbers)
    body = re.sub(rf'id="{picture.name}-(?:line|band)(\d+)"', r'\g<0> data-line="\1"', body)
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box
    title, description = f"{picture.name}-t", f"{picture.name}-d"
    svg = (f'<svg role="img" viewBox="{box[1]}" aria-labelledby="{title} {description}" '
           f'style="--drawn: {float(box[1].split()[2]):.0f}px">'
           f'<title id="{title}">{escape(picture.title)}</title>'
           f'<desc id="{description}">{escape(picture.description)}</desc>{body}')
    return replace(picture, svg=Markup(svg))


def _clean(body: str, name: str) -> str:
    """Rewrite all tags. Words are escaped, so that each `<` starts a tag."""
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _clean_tag(tag[0], name), body)
    body = re.sub(r">\s+<", "><", body)
    # Marks of one style: the group that holds them gets the style.
    use = r'<use [^>]* style="([^"]*)"/>(?:<use [^>]* style="\3"/>)*'
    return re.sub(rf'<g( clip-path="[^"]*")?>({use})</g>', _style_group, body)


def _clean_tag(tag: str, name: str) -> str:
    """Add the picture's name to ids, insert the page's colours, and round to 0.1 points."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda colour: VARIABLES.get(colour[0], colour[0]), tag)
    tag = re.sub(r"font-family: 'DejaVu Sans',[^;\"]*;? ?", "", tag)
    if "opacity" not in tag or " d=" in tag:
        tag = re.sub(r'(?<=[ "(-])(\d+\.\d)\d+(?=[ "),\n])', r"\1", tag)
    return tag.replace("\n", " ")


def _style_group(group: re.Match[str]) -> str:
    style = f' style="{group[3]}"'
    return f"<g{group[1] or ''}{style}>{group[2].replace(style, '')}</g>"


def _add_cases(body: str, group: str, cases: Sequence[int]) -> str:
    """Add the number of its case to each mark of a line, from the last mark to the first."""
    start = body.find(group)
    if start < 0:
        return body
    marks = list(re.finditer("<use ", body[start:]))
    for mark, case in reversed(list(zip(marks, cases, strict=False))):
        end = start + mark.end()
        body = f'{body[:end]}data-case="{case}" {body[end:]}'
    return body


def draw_toggle(line: int, name: str, pictures: Sequence[Picture]) -> Toggle:
    """The entry of a line in the legend, with the dashes and the mark of the first picture that
    draws the line."""
    pattern = re.compile(rf'-line{line}" data-line="\d+">.*?</g>\s*</g>', re.DOTALL)
    group = next(filter(None, (pattern.search(picture.svg) for picture in pictures)), None)
    stroke = group and re.search(r'<path d="[^"]*" clip-path="[^"]*" style="([^"]*)"', group[0])
    if not group or not stroke:
        return Toggle(line, name, "")
    shape = re.search(r'<path id="([^"]*)"', group[0])
    style = re.search(r'<g[^>]* style="([^"]*)"><use', group[0])
    mark = ""
    if shape and style:
        mark = f'<use href="#{shape[1]}" x="22" y="8" style="{style[1]}"/>'
    return Toggle(line, name, Markup(
        '<svg class="swatch" viewBox="0 0 44 16" aria-hidden="true">'
        f'<path d="M 0 8 L 44 8" style="{stroke[1]}"/>{mark}</svg>'))
