"""SPEC.toml of `procure`, and the figures of its candidates."""

import datetime
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import msgspec

from reports.advice.reduce_times import (
    AllReduceLaunches,
    assumed_gb_s,
    assumed_times,
    assumed_us,
    measured_times,
    spans_of,
    wire_factor,
)
from reports.advice.serving import Deployment
from reports.advice.specs import MODELS, convert, find, gpu_of, link_between
from reports.references.published import Positive
from reports.tables.sentences import counted, number, size_text
from wiretax.common.arguments import unknown
from wiretax.common.untrusted import printable_in
from wiretax.record.case import size_of
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import NotNegative

# The forms of a requirement by the unit of its limit.
FORMS = {
    "us": r"(\d{1,12}[KMG]?) *<= *(\d{1,12}(?:\.\d+)?) *us",
    "GB/s": r"(\d{1,12}[KMG]?) *>= *(\d{1,12}(?:\.\d+)?) *GB/s",
    "tok/s": r"(\S+) *>= *(\d{1,12}(?:\.\d+)?) *tok/s",
}
DOES_NOT_FIT = "does not fit"
ONE_GPU, DATA_SHEET = "one GPU needs no all-reduce", "data sheet"
PUBLISHED = "published by others, UNVERIFIED"  # typical, and the range

Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]  # ISO 4217
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class SpecTable(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the spec."""


class Price(SpecTable):
    amount: Positive
    currency: Currency
    date: datetime.date


class Electricity(SpecTable):
    """What a kilowatt-hour costs."""

    amount: NotNegative
    currency: Currency
    per: Literal["kWh"]


class Workload(SpecTable):
    """A model and its weights, named as in `advise`; one stream has `context` cached tokens."""

    model: str
    weights: str
    context: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 4096


class Offer(SpecTable):
    """A candidate: its GPUs and its runs (files, folders and globs, in the file relative to it).
    `power_w` is the power of all GPUs in watts, where its runs do not tell it; None stands for the
    data sheet."""

    gpu: str
    gpus: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    price: Price
    runs: list[str] = []
    power_w: Positive | None = None


class Spec(SpecTable):
    """The whole file. `read_spec` converts each candidate, so that an error can name it. The three
    fields of COSTS, all or none, tell what tokens cost."""

    candidates: Annotated[dict[Name, Any], msgspec.Meta(min_length=1)]
    models: dict[Name, Workload] = {}
    requirements: list[str] = []
    lifetime_years: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    hours_per_day: Annotated[float, msgspec.Meta(gt=0, le=24)] | None = None
    electricity: Electricity | None = None


PER_MILLION = " per million tokens"
COSTS = "lifetime_years", "hours_per_day", "electricity"
DAYS_PER_YEAR = 365.25
FigureKey = tuple[str, int | str]  # ("us", bytes), ("GB/s", bytes) or ("tok/s", model name)


@dataclass(frozen=True)
class Requirement:
    """A limit of a figure: the most for a time, the least for other figures."""

    text: str
    figure: FigureKey
    limit: float

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.figure[0] == "us" else value >= self.limit


@dataclass
class Figure:
    """A figure of a candidate: its geometric mean over launches and, from five launches on, its
    interval; without runs what is published. `note` has its origin, or why it is missing."""

    name: str
    unit: str
    note: str
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """`7.41 us` or `at most 26.4 tok/s`, then in a line of its own the interval, `[7.2 7.6]`;
        `-` without a value."""
        if self.value is None:
            return "-"

        interval = "" if self.low is None else f"\n[{number(self.low)} {number(self.high)}]"
        most = "at most " if self.unit == "tok/s" else ""
        if self.unit.endswith(PER_MILLION):
            most = "at least "
        return f"{most}{number(self.value)} {self.unit}{interval}"


def read_spec(path: Path) -> tuple[Spec, dict[str, Offer], list[Requirement]]:
    """The spec, its candidates by name, and its requirements. Raises ResultError."""
    try:
        tables = printable_in(
            msgspec.toml.decode(content_of(path, most_bytes=1 << 20).removeprefix(BOM_UTF8))
        )
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not TOML ({error})") from error

    spec, offers = convert(tables, Spec, str(path)), dict[str, Offer]()
    for name, fields in spec.candidates.items():
        offers[name] = convert(fields, Offer, f"{path}, candidate {name}")
        offers[name].runs = [str(path.parent / run) for run in offers[name].runs]

    missing = [field for field in COSTS if getattr(spec, field) is None]
    if missing and len(missing) < len(COSTS):
        raise ResultError(f"{path}: the cost of tokens takes {', '.join(missing)} too")
    if spec.electricity:
        paid = spec.electricity.currency
        for name, offer in offers.items():
            if (currency := offer.price.currency) != paid:
                raise ResultError(
                    f"{path}, candidate {name}: its price is in {currency} and electricity in "
                    f"{paid}, and nothing converts prices"
                )

    return (
        spec,
        offers,
        [_requirement(path, spec, text) for text in dict.fromkeys(spec.requirements)],
    )


def requirement_of(text: str) -> Requirement | None:
    """The requirement in one of the forms; None for another text."""
    for unit, form in FORMS.items():
        match = re.fullmatch(form, text.strip(), re.ASCII)
        if match and float(match[2]):
            label = match[1] if unit == "tok/s" else size_of(match[1])
            return Requirement(text, (unit, label), float(match[2]))

    return None


def _requirement(path: Path, spec: Spec, text: str) -> Requirement:
    requirement = requirement_of(text)
    if requirement is None:
        raise ResultError(
            f"{path}: the requirement {text!r} has none of the three forms: "
            "16K <= 8 us, 32M >= 50 GB/s (busbw), MODEL >= 25 tok/s"
        )

    unit, label = requirement.figure
    if unit == "tok/s" and label not in spec.models:
        problem = unknown("model in [models]", str(label), [*spec.models])
        raise ResultError(f"{path}: {text!r}: {problem}")

    return requirement


def figures_of(
    offer: Offer,
    launches: AllReduceLaunches,
    spec: Spec,
    keys: Iterable[FigureKey],
) -> tuple[dict[FigureKey, Figure], list[str]]:
    """These figures of a candidate, with the intervals of its launches, and doubts about its
    all-reduces. Raises ResultError for unknown names."""
    gpu, gpus = gpu_of(offer.gpu), offer.gpus
    link, figures = link_between(gpu, gpus), dict[FigureKey, Figure]()
    times, origin = assumed_times(gpus, gpu, link), ""
    is_published = gpus > 1 and not offer.runs

    if is_published:
        times.notes, origin = [times.source, *times.notes], PUBLISHED
    elif gpus > 1 and len(launches.times):
        times = measured_times(launches, gpus, gpu, link)
        origin = "measured"

    for unit, label in keys:
        span, note = None, ONE_GPU if gpus == 1 else "not in its runs, or in too few blocks"
        if isinstance(label, str):
            name, workload = label, spec.models[label]
            deployment = Deployment(
                find("model", MODELS, workload.model),
                gpu,
                workload.weights,
                times,
                workload.context,
                tensor=gpus,
            )
            if deployment.lack(1):
                note = DOES_NOT_FIT
            elif origin or gpus == 1:  # which needs no launches
                span = deployment.figures["tokens_per_s"]
                note = f"by arithmetic, {origin}" if origin else DATA_SHEET
        else:
            name = size_text(label) + (" busbw" if unit == "GB/s" else "")
            if is_published:
                published = assumed_us if unit == "us" else assumed_gb_s
                try:
                    span, origins = published(gpus, gpu, link, label)
                    note = f"{PUBLISHED}: {origins}"
                except ResultError as error:
                    note = f"no run, and {error}"
            elif origin and label in times.spans:
                span, note = times.spans[label], origin
                if unit == "GB/s":
                    # Without reading the result, as nccl-tests defines busbw.
                    alone_us = spans_of(launches, "time_us")[label]
                    span = wire_factor(gpus) * label / alone_us / 1e3
        figure = Figure(name, unit, note)
        if span is not None:
            figure.value = span.value
            if launches.have_intervals or is_published:
                figure.low, figure.high = span.low, span.high
        figures[unit, label] = figure

    return figures, list(times.notes if origin else launches.notes)


def money(
    offer: Offer, spec: Spec, launches: AllReduceLaunches, figures: Iterable[Figure]
) -> list[Figure]:
    """The price, also of a token per second of each model; the power; and the cost of a million
    tokens of each model, if the spec has COSTS."""
    price, power = offer.price, power_of(offer, launches)
    speeds = [figure for figure in figures if figure.unit == "tok/s"]
    costs = [
        Figure(
            f"{speed.name}, price",
            f"{price.currency} per token/s",
            "price by speed",
            price.amount / speed.value if speed.value else None,
        )
        for speed in speeds
    ]
    if spec.electricity:
        costs += [cost_of_tokens(speed, power, price, spec) for speed in speeds]
    return [
        Figure("price", price.currency, price.date.isoformat(), price.amount),
        *costs,
        power,
    ]


def power_of(offer: Offer, launches: AllReduceLaunches) -> Figure:
    """The power of a candidate's GPUs: the mean over its runs of what they drew after each round,
    between the least and the greatest of a round; else by the spec, else by the data sheet."""
    name, unit = "power of the GPUs", "W"
    measured = [
        power_w for run in launches.runs if run.end and (power_w := run.end.power_w(run.run))
    ]
    if measured:
        lows, medians, highs = zip(*measured, strict=True)
        note = f"measured after rounds of all-reduces in {counted(len(measured), 'run')}, range"
        if offer.power_w:
            note += f"; spec: {number(offer.power_w)} W"
        return Figure(name, unit, note, fmean(medians), min(lows), max(highs))
    if offer.power_w:
        return Figure(name, unit, "spec", offer.power_w)
    return Figure(name, unit, "data sheet", offer.gpus * gpu_of(offer.gpu).tdp_w)


def cost_of_tokens(speed: Figure, power: Figure, price: Price, spec: Spec) -> Figure:
    """What a million tokens of one stream cost: the price over all seconds of work in the lifetime,
    and the electricity of a second, by the tokens of a second."""
    assert spec.electricity
    assert spec.lifetime_years
    assert spec.hours_per_day
    work_s = spec.lifetime_years * DAYS_PER_YEAR * spec.hours_per_day * 3600
    price_of_joule = spec.electricity.amount / 3.6e6

    def cost(tokens_per_s: float | None, power_w: float | None) -> float | None:
        if not tokens_per_s or power_w is None:
            return None
        return 1e6 * (price.amount / work_s + power_w * price_of_joule) / tokens_per_s

    return Figure(
        f"{speed.name}, million tokens",
        f"{price.currency}{PER_MILLION}",
        f"price and electricity, power: {power.note.partition(' after')[0]}",
        cost(speed.value, power.value),
        cost(speed.high, power.low or power.value),
        cost(speed.low, power.high or power.value),
    )
