"""Whether the cards of a survey meet the two thresholds of docs/answer.md: a call alone, over the
survey's launches, beside its break-even for these cards. And what carried the calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, log10
from operator import attrgetter

from markupsafe import Markup, escape

from bench.surveys.steps import Survey, gpu_of
from reports.advice.even_calls import (
    CHUNK_BYTES,
    MODEL,
    TOKEN_BYTES,
    WEIGHTS,
    even_chunk_us,
    even_token_us,
)
from reports.advice.given_card import FORM
from reports.advice.reduce_times import LEAST_LAUNCHES, span_over_launches
from reports.advice.spans import Span
from reports.kit.chart import signs
from reports.kit.page import Row, Section
from reports.references.published import PublishedCall
from reports.tables.beside_published import WAYS, library_ways, own_calls
from reports.tables.figure import ROLES
from reports.tables.sentences import counted, number, size_text
from wiretax.common.program import REPORTS, RUN
from wiretax.common.untrusted import printable
from wiretax.record.writing import write_whole

PICTURE = "thresholds.svg"
NECESSARY = (
    "To pass is necessary, not sufficient: an engine adds to a call, so a call alone is not a "
    "token. Your engine's own benchmark in each split decides (docs/answer.md)."
)
WIDTH = 384  # of the picture
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
    def took(self) -> str:
        """Its time, with the interval if there is one."""
        if self.launches < LEAST_LAUNCHES:
            return self.in_unit(self.us.value)
        scale, unit = self.unit
        return (self.us * scale).text(f" {unit}")

    @property
    def unit(self) -> tuple[float, str]:
        """The unit of the break-even, and how many of it a us has."""
        return (1e-3, "ms") if self.even_us >= 1e3 else (1.0, "us")

    def in_unit(self, us: float) -> str:
        scale, unit = self.unit
        return f"{number(us * scale)} {unit}"

    @property
    def why_undecided(self) -> str:
        """Why nothing is decided; empty if something is."""
        if self.launches < LEAST_LAUNCHES:
            return f"{counted(self.launches, 'launch')}, and an interval takes {LEAST_LAUNCHES}"
        return "the interval reaches across" if self.word == "undecided" else ""

    @property
    def sentence(self) -> str:
        verdict = ": ".join(filter(None, [self.word, self.why_undecided]))
        even = self.in_unit(self.even_us)
        return f"{self.form}: {self.who} {self.took}, break-even {even}: {verdict}."


def calls_of(survey: Survey) -> list[PublishedCall]:
    """The all-reduces of complete launches from a graph: of an incomplete one a case may have a
    single block, and no other report takes it."""
    return [
        call
        for name in ("thresholds", "allreduce")
        for result in survey.results(name)
        if result.complete and result.run.method.get("graph")
        for call in own_calls(result)
    ]


def judged(survey: Survey) -> list[Threshold]:
    """Both thresholds for the library and for our kernels, as far as they were measured; none if
    something speaks against a verdict."""
    card = gpu_of(survey)[1]
    if not card or reason_against(survey):
        return []
    found, calls = list[Threshold](), calls_of(survey)
    for phase, size, mode, form, even_us in (
        ("decode", TOKEN_BYTES, "graph", "in a chain from a graph", even_token_us),
        ("prefill", CHUNK_BYTES, "eager", "in one call", even_chunk_us),
    ):
        for kind in ("library", "tuned"):
            own = [
                call
                for call in calls
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
        return "they are for two cards and more"
    if any(step.status == "wrong" for step in survey.steps):
        return "a result was wrong"
    if not calls_of(survey):
        return "no launch of all-reduces from a graph is complete"
    if card:
        return ""
    advise = f"{RUN}{REPORTS} advise --model {MODEL.name} --weights {WEIGHTS}"
    return (
        f"reports/advice/specs.toml has no data sheet of {printable(name)}. For a card of such "
        f"figures, {advise} --gpu {FORM} --gpus {survey.ranks} prints the first break-even"
    )


def sentences(survey: Survey) -> list[str]:
    """The transport, and each threshold with its verdict, or why there is none; [] of CPUs."""
    if not survey.vendor:
        return []
    said = [each.sentence for each in judged(survey)]
    if said:
        said.append(NECESSARY)
    elif why := reason_against(survey):
        said = [f"The thresholds of docs/answer.md are not judged: {why}."]
    return [*filter(None, [transport(survey)]), *said]


def in_short(survey: Survey) -> list[str]:
    """A line for a banner: `Thresholds: decode met by RCCL 2.27.7 and auto; prefill ...`."""
    parts = [
        f"{name} {word} by {' and '.join(each.who for each in calls)}"
        for (name, word), calls in groupby(
            judged(survey), key=lambda each: (each.form.partition(",")[0], each.word)
        )
    ]
    return [f"Thresholds: {'; '.join(parts)}."] if parts else []


def section(survey: Survey) -> Section:
    """What a page says of them: the picture, what it means, and a row for each call."""
    found = judged(survey)
    if not found:
        return Section("Thresholds", sentences(survey))
    rows: list[Row] = [
        {
            "call": each.form,
            "by": each.who,
            "time [95 %]": each.took,
            "break-even": each.in_unit(each.even_us),
            "verdict": f"{each.word}\n{each.why_undecided}",
        }
        for each in found
    ]
    return Section("Thresholds", [drawing(survey, found), transport(survey), NECESSARY], rows=rows)


def write_picture(survey: Survey) -> None:
    """Writes the picture into the folder, if there is a verdict. Raises ResultError."""
    if found := judged(survey):
        write_whole(survey.inside / PICTURE, drawing(survey, found).encode())


def drawing(survey: Survey, found: Sequence[Threshold]) -> Markup:
    """A picture: each call over its break-even, from a hundredth to ten times, with its interval.
    A phone shows it nearly at its own size; a page's colours follow its mode."""

    def x(times: float) -> float:
        return round(8 + 122 * (log10(min(max(times, 0.01), 10)) + 2), 1)

    def fill(role: str) -> str:
        colour = ROLES[role][0]
        return f'fill="{colour}" style="fill: var(--{role}, {colour})"'

    def text(y: int, words: str, role: str = "ink", more: str = 'x="0"') -> str:
        return f'<text y="{y}" {fill(role)} {more}>{escape(signs(printable(words)))}</text>'

    y, cards = 50, f"{survey.ranks}x {gpu_of(survey)[0]}"
    shapes = [
        text(14, cards, more='x="0" font-weight="bold"'),
        text(32, "A call alone over its break-even for a dense 70B of 40 GB.", "quiet"),
        text(50, "Left of the line a split by tensor can be faster.", "quiet"),
    ]
    for form, calls in groupby(found, key=attrgetter("form")):
        y += 30
        shapes.append(text(y, form, more='x="0" font-weight="bold"'))
        for each in calls:
            y += 38
            low, middle, high = (
                x(us / each.even_us) for us in (each.us.low, each.us.value, each.us.high)
            )
            role = fill(COLOURS[each.word])
            shapes += [
                text(y - 15, f"{each.who} {each.took}: {each.word}"),
                f'<rect x="8" y="{y}" width="366" height="1" {fill("edge")}/>',
                f'<rect x="{x(1) - 1}" y="{y - 8}" width="2" height="17" {fill("bound")}/>',
                f'<rect x="{low}" y="{y - 2}" width="{high - low:.1f}" height="5" {role}/>',
                f'<circle cx="{middle}" cy="{y + 0.5}" r="5" {role}/>',
            ]
    for times, words, anchor in (
        (0.01, "1/100", "start"),
        (0.1, "1/10", "middle"),
        (1, "break-even", "middle"),
        (10, "10x", "end"),
    ):
        shapes.append(text(y + 26, words, "quiet", f'x="{x(times)}" text-anchor="{anchor}"'))
    size = f'viewBox="0 0 {WIDTH} {y + 34}" width="{WIDTH}" height="{y + 34}"'
    box = f'<rect width="{WIDTH}" height="{y + 34}" {fill("page")}/>'
    look = (
        'style="max-width: 480px; height: auto" font-family="system-ui, sans-serif" font-size="12"'
    )
    name = f'role="img" aria-label="{escape(printable(cards))}: each call over its break-even"'
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" {name} {size} {look}>{box}{"".join(shapes)}</svg>'
    )
