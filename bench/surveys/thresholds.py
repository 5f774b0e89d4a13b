"""Whether the cards of a survey meet the two thresholds of docs/answer.md: a call alone, over the
survey's launches, beside its break-even for these cards. And what carried the calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10

from markupsafe import Markup, escape

from bench.surveys.steps import Survey, gpu_of
from reports.advice.even_calls import CHUNK_BYTES, TOKEN_BYTES, even_chunk_us, even_token_us
from reports.advice.reduce_times import LEAST_LAUNCHES, span_over_launches
from reports.advice.spans import Span
from reports.advice.specs import Gpu
from reports.kit.page import Section
from reports.references.published import PublishedCall
from reports.tables.beside_published import WAYS, library_ways, own_calls
from reports.tables.figure import ROLES
from reports.tables.sentences import counted, number, size_text
from wiretax.common.untrusted import printable
from wiretax.record.writing import write_whole

PICTURE = "thresholds.svg"
NECESSARY = (
    "To pass is necessary, not sufficient: an engine adds to a call, so a call alone is not a "
    "token. Your engine's own benchmark in each split decides (docs/answer.md)."
)
COLOURS = {"met": "better", "not met": "worse", "undecided": "unsure"}


@dataclass(frozen=True)
class Threshold:
    """A call of the library or of our kernel (`who`) as engines make it (`form`), in us over
    `launches`, beside its break-even. Too few launches have no interval: its ends are 0 and
    infinity."""

    form: str
    who: str
    us: Span
    even_us: float
    launches: int

    @property
    def word(self) -> str:
        if self.us.high <= self.even_us:
            return "met"
        return "not met" if self.us.low > self.even_us else "undecided"

    @property
    def figures(self) -> str:
        """The call, its time and its break-even."""
        scale, unit = (1e-3, "ms") if self.even_us >= 1e3 else (1.0, "us")
        took = f"{number(self.us.value * scale)} {unit}"
        if self.launches >= LEAST_LAUNCHES:
            took = (self.us * scale).text(f" {unit}")
        return f"{self.form}: {self.who} {took}, break-even {number(self.even_us * scale)} {unit}"

    @property
    def verdict(self) -> str:
        """The word, and why nothing is decided."""
        if self.launches < LEAST_LAUNCHES:
            launches = counted(self.launches, "launch")
            return f"{self.word}: {launches}, and an interval takes {LEAST_LAUNCHES}"
        across = ": the interval reaches across" if self.word == "undecided" else ""
        return f"{self.word}{across}"


def calls_of(survey: Survey) -> list[list[PublishedCall]]:
    """The all-reduces of each complete launch from a graph: of an incomplete one a case may have a
    single block, and no other report takes it."""
    return [
        own_calls(result)
        for name in ("thresholds", "allreduce")
        for result in survey.results(name)
        if result.complete and result.run.method.get("graph")
    ]


def thresholds(survey: Survey, card: Gpu) -> list[Threshold]:
    """Both thresholds for the library and for our kernels, as far as they were measured."""
    found, launches = list[Threshold](), calls_of(survey)
    for phase, size, mode, form, even_us in (
        ("decode", TOKEN_BYTES, "graph", "in a chain from a graph", even_token_us),
        ("prefill", CHUNK_BYTES, "eager", "in one call", even_chunk_us),
    ):
        for kind in ("library", "tuned"):
            own = [
                call
                for launch in launches
                for call in launch
                if (call.size_bytes, call.mode, call.kind) == (size, mode, kind)
            ]
            if not own:
                continue
            times_us = [call.us for call in own]
            us = Span(span_over_launches(times_us, None).value, 0.0, inf)
            if len(own) >= LEAST_LAUNCHES:
                us = span_over_launches(times_us)
            name, who = f"{phase}, {size_text(size)} {form}", printable(own[-1].library)
            found.append(Threshold(name, who, us, even_us(card, survey.ranks), len(own)))
    return found


def transport(survey: Survey) -> str:
    """What carried the last launch's all-reduces; empty without one."""
    results = [each for name in ("allreduce", "thresholds") for each in survey.results(name)]
    if not results:
        return ""
    run = results[-1].run
    memory = [str(run.memory[name]) for name in ("behaved", "data") if run.memory.get(name)]
    kinds = {call.kind: call for call in own_calls(results[-1])}
    ways = [
        f"{call.library} {WAYS[call.transport]} ({', '.join(sorted(library_ways(run)))})"
        if kind == "library"
        else f"our kernels {WAYS[call.transport]} ({', '.join(dict.fromkeys(memory))})"
        for kind, call in kinds.items()
    ] or [f"our kernels' memory is {', '.join(dict.fromkeys(memory))}"]
    return printable(f"Transport: {'; '.join(ways)}.".replace(" ()", ""))


def reason_against(survey: Survey) -> str:
    """Why there is no verdict; empty if there may be one."""
    name, card = gpu_of(survey)
    if survey.shares_gpus or not survey.vendor:
        return "they are of two cards and more"
    if any(step.status == "wrong" for step in survey.steps):
        return "a result was wrong"
    if not calls_of(survey):
        return "no launch of all-reduces from a graph is complete"
    return "" if card else f"reports/advice/specs.toml has no data sheet of {printable(name)}"


def judged(survey: Survey) -> list[Threshold]:
    """The thresholds on which there is a verdict."""
    card = gpu_of(survey)[1]
    return thresholds(survey, card) if card and not reason_against(survey) else []


def sentences(survey: Survey) -> list[str]:
    """The transport, and each threshold with its verdict, or why there is none."""
    said = [f"{each.figures}: {each.verdict}." for each in judged(survey)]
    if said:
        said.append(NECESSARY)
    elif why := reason_against(survey):
        said = [f"The thresholds of docs/answer.md are not judged: {why}."]
    return [*filter(None, [transport(survey)]), *said]


def sections(survey: Survey) -> list[Section]:
    """What a page says of them, with the picture."""
    found = judged(survey)
    drawn = [drawing(survey, found)] if found else []
    return [Section("Thresholds", [*drawn, *sentences(survey)])]


def write_picture(survey: Survey) -> None:
    """Writes the picture into the folder, if there is a verdict. Raises ResultError."""
    if found := judged(survey):
        write_whole(survey.inside / PICTURE, drawing(survey, found).encode())


def drawing(survey: Survey, found: Sequence[Threshold]) -> Markup:
    """A picture: each call over its break-even, from a hundredth to ten times, with its interval.
    Left of the line by tensor is faster."""
    width, row, axis = 640, 56, 48 + 56 * len(found)

    def x(times: float) -> float:
        return 20 + 200 * (log10(min(max(times, 0.01), 10)) + 2)

    cards = escape(printable(f"{survey.ranks}x {gpu_of(survey)[0]}"))
    title = f"{cards}: a call alone over its break-even, a dense 70B of 40 GB"
    shapes = [
        f'<text x="20" y="22" font-weight="bold">{title}</text>',
        f'<rect x="{x(1)}" y="36" width="2" height="{axis - 28}" fill="{ROLES["bound"][0]}"/>',
    ]
    for number_, each in enumerate(found):
        y = 44 + row * number_
        low, middle, high = (
            x(us / each.even_us) for us in (each.us.low, each.us.value, each.us.high)
        )
        colour = ROLES[COLOURS[each.word]][0]
        shapes += [
            f'<text x="20" y="{y - 16}">{escape(each.figures)}: {each.word}</text>',
            f'<rect x="{low}" y="{y - 2}" width="{high - low}" height="4" fill="{colour}"/>',
            f'<circle cx="{middle:.1f}" cy="{y}" r="6" fill="{colour}"/>',
        ]
    for times, text in ((0.01, "1/100"), (0.1, "1/10"), (1, "break-even"), (10, "10 x")):
        shapes.append(f'<text x="{x(times)}" y="{axis + 18}" text-anchor="middle">{text}</text>')
    size = f'viewBox="-20 0 {width + 40} {axis + 30}" width="{width + 40}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    box = f'<rect x="-20" width="{width + 40}" height="{axis + 30}" fill="{ROLES["page"][0]}"/>'
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} {style}>{box}{"".join(shapes)}'
        "</svg>"
    )
