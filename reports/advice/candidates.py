"""SPEC.toml of `procure`, and the figures of its candidates."""

import datetime
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from reports.advice.best_split import Speed, best_speed, nodes_needed
from reports.advice.call_percentiles import FIELDS, call_percentile
from reports.advice.group_times import assumed_groups
from reports.advice.reduce_times import (
    SMALL,
    AllReduceLaunches,
    assumed_gb_s,
    assumed_times,
    assumed_us,
    measured_times,
    spans_of,
    undistinguished,
    wire_factor,
)
from reports.advice.serving import Deployment
from reports.advice.spans import Span
from reports.advice.specs import (
    ENGINES,
    GPUS,
    CardLink,
    Gpu,
    convert,
    find,
    gpu_of,
    link_between,
    link_by_name,
    model_by_name,
    with_peer_access,
)
from reports.references.published import Positive
from reports.tables.sentences import counted, exact, number, size_text, some
from wiretax.common.arguments import unknown
from wiretax.common.untrusted import printable_in
from wiretax.record.archive import is_archive
from wiretax.record.case import size_of
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import NotNegative

# The forms of a requirement by the unit of its limit, or by a percentile in us.
FORMS = {
    "us": r"(\d{1,12}[KMG]?) *<= *(\d{1,12}(?:\.\d+)?) *us",
    **{
        name: rf"(\d{{1,12}}[KMG]?) +(?i:{re.escape(name)}) *<= *(\d{{1,12}}(?:\.\d+)?) *us"
        for name in FIELDS
    },
    "GB/s": r"(\d{1,12}[KMG]?) *>= *(\d{1,12}(?:\.\d+)?) *GB/s",
    "tok/s": r"(\S+) *>= *(\d{1,12}(?:\.\d+)?) *tok/s",
}
DOES_NOT_FIT = "does not fit"
ONE_GPU, DATA_SHEET, MEASURED = "one GPU needs no all-reduce", "data sheet", "measured"
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
    """A model, its weights and the engine that serves it, named as in `advise`; each of its `users`
    has a stream with `context` cached tokens."""

    model: str
    weights: str
    engine: str = "vllm"
    context: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 4096
    users: Annotated[int, msgspec.Meta(ge=1, le=10**5)] = 1


class Offer(SpecTable):
    """A candidate: its GPUs and its runs (files, folders and globs, in the file relative to it).
    `link` joins its GPUs, named as in `advise`, and `peer_access` says whether their driver joins
    them without host memory; None stands for the GPU's own. `power_w` is the power of all GPUs in
    watts, where its runs do not tell it; None stands for the data sheet. `qualified` are the files
    of lines that `bench.qualify` printed on it."""

    gpu: str
    gpus: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    price: Price
    runs: list[str] = []
    qualified: list[str] = []
    link: str | None = None
    peer_access: bool | None = None
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


PRICE = "price"  # of the whole candidate
PER_SPEED, PER_MILLION = " per token/s", " per million tokens"
COSTS = "lifetime_years", "hours_per_day", "electricity"
NODES = "nodes"
# ("us", bytes), ("P99", bytes) in us, ("GB/s", bytes), ("tok/s", model name), (NODES, requirement)
FigureKey = tuple[str, int | str]


@dataclass(frozen=True)
class Requirement:
    """A limit of a figure: the most for a time, the least for other figures."""

    text: str
    figure: FigureKey
    limit: float

    def is_met(self, value: float) -> bool:
        if self.figure[0] in ("GB/s", "tok/s"):
            return value >= self.limit
        return value <= self.limit


@dataclass
class Figure:
    """A figure of a candidate: its median over launches and, from five launches on, its
    interval; without runs what is published. `note` has its origin, or why it is missing; `speed`
    what tokens/s are of, None where the model does not fit. `likely` is the range that engines
    reach, where the value is their limit. `n_launches` is 0 where nobody launched anything."""

    name: str
    unit: str
    note: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    is_published: bool = False
    speed: Speed | None = None
    likely: Span | None = None
    n_launches: int = 0

    @property
    def text(self) -> str:
        """`7.41 us` or `at most 26.4 tok/s`, then in lines of their own the interval, `[7.2 7.6]`,
        unless it has no width, and `likely 18.0 to 24.0`; `-` without a value."""
        likely = f"\n{self.likely_text}" if self.likely else ""
        return self.limit_text + likely

    @property
    def limit_text(self) -> str:
        """The text without what is likely."""
        if self.value is None:
            return "-"
        if self.unit == NODES:
            return f"at least {counted(round(self.low or self.value), 'node')}"

        if self.name == PRICE and self.unit != "tok/s":  # of a model that has this name
            return f"{exact(self.value)} {self.unit}"
        interval = ""
        if self.low != self.high:
            interval = f"\n[{number(self.low)} {number(self.high)}]"
        most = "at most " if self.unit == "tok/s" else ""
        if self.unit.endswith((PER_SPEED, PER_MILLION)):
            most = "at least "
        return f"{most}{number(self.value)} {self.unit}{interval}"

    @property
    def likely_text(self) -> str:
        """`likely 18.0 to 24.0`, with the split if another one is likely the fastest; empty where
        nothing is known."""
        if not self.likely:
            return ""
        if self.unit == NODES:
            return f"likely {self.likely.low:.0f} to {self.likely.high:.0f}"
        text = f"likely {number(self.likely.low)} to {number(self.likely.high)}"
        if self.speed and self.speed.likely_split != self.speed.split:
            text += f" by {self.speed.likely_split}"
        return text


def content_of_spec(path: Path) -> bytes:
    """Raises ResultError."""
    if is_archive(path):
        raise ResultError(
            f"{path} is an archive: unpack it (tar xf {path}), complete the spec.toml in it, and "
            "name that"
        )
    return content_of(path, most_bytes=1 << 20)


def read_spec(path: Path, content: bytes) -> tuple[Spec, dict[str, Offer], list[Requirement]]:
    """The spec with this content, its candidates by name, and its requirements. Raises
    ResultError."""
    try:
        tables = printable_in(msgspec.toml.decode(content.removeprefix(BOM_UTF8)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not TOML ({error})") from error

    spec, offers = convert(tables, Spec, str(path)), dict[str, Offer]()
    for name, fields in spec.candidates.items():
        offers[name] = convert(fields, Offer, f"{path}, candidate {name}")
        offers[name].runs = [str(path.parent / run) for run in offers[name].runs]
        offers[name].qualified = [str(path.parent / file) for file in offers[name].qualified]
        with placed(f"{path}, candidate {name}"):
            link_of(offers[name])

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


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Names the place of a ResultError in front of it."""
    try:
        yield
    except ResultError as error:
        raise ResultError(f"{place}: {error}") from error


def requirement_of(text: str) -> Requirement | None:
    """The requirement in one of the forms; None for another text."""
    for unit, form in FORMS.items():
        match = re.fullmatch(form, text.strip(), re.ASCII)
        if match and float(match[2]):
            label = match[1] if unit == "tok/s" else size_of(match[1])
            return Requirement(text, (unit, label), float(match[2])) if label else None

    return None


def _requirement(path: Path, spec: Spec, text: str) -> Requirement:
    requirement = requirement_of(text)
    if requirement is None:
        raise ResultError(
            f"{path}: the requirement {text!r} has none of the four forms: "
            f"16K <= 8 us, 16K p99 <= 20 us ({', '.join(FIELDS)}), 32M >= 50 GB/s (busbw), "
            "MODEL >= 25 tok/s"
        )

    unit, label = requirement.figure
    if unit == "tok/s" and label not in spec.models:
        problem = unknown("model in [models]", str(label), [*spec.models])
        raise ResultError(f"{path}: {text!r}: {problem}")

    return requirement


def card_of(offer: Offer) -> Gpu:
    """The offer's GPU, with the peer access that it names. Raises ResultError for an unknown
    one."""
    asked = {True: "on", False: "off", None: None}[offer.peer_access]
    return with_peer_access(gpu_of(offer.gpu), asked)


def link_of(offer: Offer) -> CardLink:
    """The link that the offer names, or its GPU's own. Raises ResultError for unknown names."""
    if offer.link is not None:
        return link_by_name(offer.link)
    return link_between(card_of(offer), offer.gpus)


def figures_of(
    offer: Offer,
    launches: AllReduceLaunches,
    spec: Spec,
    keys: Iterable[FigureKey],
) -> tuple[dict[FigureKey, Figure], list[str]]:
    """These figures of a candidate, with the intervals of its launches, and doubts about its
    all-reduces. Raises ResultError for unknown names."""
    gpu, gpus, link = card_of(offer), offer.gpus, link_of(offer)
    times, origin = assumed_times(gpus, gpu, link), ""
    is_published = gpus > 1 and not offer.runs
    groups = (
        assumed_groups(gpus, gpu, link=link if offer.link is not None else None)
        if is_published
        else None
    )
    has_interval = launches.have_intervals or is_published

    if is_published:
        times.notes, origin = [times.source, *times.notes], PUBLISHED
        if sentence := undistinguished(gpus, gpu, link, link_between(gpu, gpus)):
            times.notes.append(sentence)
    elif gpus > 1 and len(launches.times):
        times, origin = measured_times(launches, gpus, gpu, link), MEASURED
        if gpu.name not in GPUS:
            names = some([*dict.fromkeys(name for run in launches.runs for name in run.run.gpus)])
            times.notes.append(f"Its gpu has figures and no name: that it is {names} is your word.")

    def all_reduce(size: int, unit: str) -> tuple[Span | None, str]:
        """Its us or its busbw in GB/s, and the origin or why there is none."""
        if is_published:
            published = assumed_us if unit == "us" else assumed_gb_s
            try:
                span, origins = published(gpus, gpu, link, size)
            except ResultError as error:
                return None, f"no run, and {error}"
            if unit == "us" and size <= SMALL:
                span = times(size)  # as the arithmetic has it
            return span, f"{PUBLISHED}: {origins}"

        if not origin or size not in times.spans:
            return None, ONE_GPU if gpus == 1 else "not in its runs, or in too few blocks"
        if unit == "us":
            return times.spans[size], origin
        # Without reading the result, as nccl-tests defines busbw.
        alone_us = spans_of(launches, "time_us")[size]
        return wire_factor(gpus) * size / alone_us / 1e3, origin

    def speed_of(name: str, users: int) -> Speed | None:
        """Of so many of the model's users on this candidate."""
        work = spec.models[name]
        with placed(f"model {name}"):
            load = Deployment(
                model_by_name(work.model),
                gpu,
                work.weights,
                times,
                work.context,
                batch=users,
                slots=users,
                tensor=gpus,
                groups=groups,
            )
            engine = find("engine", ENGINES, work.engine)
            return best_speed(load, link, engine, has_times=bool(origin))

    figures = dict[FigureKey, Figure]()
    for unit, label in keys:
        if unit == NODES:
            figures[unit, label] = _nodes(str(label), offer, spec, speed_of)
            continue
        if unit in FIELDS:
            figures[unit, label] = _percentile(gpus, launches, int(label), unit)
            continue
        if isinstance(label, str):
            name, speed = label, speed_of(label, spec.models[label].users)
            span, note = speed.span if speed else None, _origin_of_speed(speed, origin)
        else:
            name = size_text(label) + (" busbw" if unit == "GB/s" else "")
            speed, (span, note) = None, all_reduce(label, unit)

        figure = Figure(
            name, unit, note, is_published=is_published, speed=speed, n_launches=len(launches.runs)
        )
        if speed:
            figure.likely = speed.likely
        if span is not None:
            figure.value = span.value
            if has_interval:
                figure.low, figure.high = span.low, span.high
        figures[unit, label] = figure

    return figures, list(times.notes if origin else launches.notes)


def _nodes(
    text: str, offer: Offer, spec: Spec, speed_of: Callable[[str, int], Speed | None]
) -> Figure:
    """How many nodes such as this candidate the requirement of tokens/s takes, and their price."""
    requirement = requirement_of(text)
    assert requirement
    model = str(requirement.figure[1])
    users = spec.models[model].users
    least, likely = nodes_needed(partial(speed_of, model), users, requirement.limit)
    figure = Figure(f"nodes for {text}", NODES, "no number of nodes is known to reach it")
    if least:
        figure.likely = likely
        figure.value, figure.low, figure.high = least.value, least.low, least.high
        price = offer.price
        figure.note = f"{exact(least.low * price.amount)} {price.currency}"
        if likely and likely.high > least.low:
            ends = [exact(nodes * price.amount) for nodes in (likely.low, likely.high)]
            figure.note += f", likely {ends[0]} to {ends[1]}"
    return figure


def _percentile(gpus: int, launches: AllReduceLaunches, size_bytes: int, name: str) -> Figure:
    """A percentile of the candidate's single calls."""
    estimate, note, n_launches = call_percentile(launches, size_bytes, name)
    figure = Figure(f"{size_text(size_bytes)} {name}", "us", note, n_launches=n_launches)
    if gpus == 1:
        figure.note = ONE_GPU
    elif estimate:
        figure.value, figure.low, figure.high = msgspec.structs.astuple(estimate)
    return figure


def _origin_of_speed(speed: Speed | None, origin: str) -> str:
    """The split in words, and where its figures come from."""
    if speed is None:
        return DOES_NOT_FIT
    if speed.span is None:
        return "no all-reduce in its runs, or in too few blocks"
    if speed.gpus == 1:
        return DATA_SHEET

    by = DATA_SHEET if speed.is_one_card else f"by arithmetic, {origin}"
    if speed.at_best != speed.split:
        return f"{speed.split}, {by}; at best {speed.at_best}, by arithmetic, {origin}"
    return f"{speed.split}, {by}"
