"""SPEC.toml of a procurement: the candidates, what they and their electricity cost, and what is required of them."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from reports.advice import specs
from reports.store.foreign import printable_in
from reports.store.result import ResultError, content_of

MOST_SPEC_BYTES = 1 << 20
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
FORMS = [(r"(\d{1,9})([KMG]?) *<= *(\d{1,12}(?:\.\d+)?) *us", "us"),
         (r"(\d{1,9})([KMG]?) *>= *(\d{1,12}(?:\.\d+)?) *GB/s", "GB/s"),
         (r"(\S+)() *>= *(\d{1,12}(?:\.\d+)?) *tok/s", "tok/s")]

Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]  # ISO 4217
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Key = tuple[str, int | str]  # what a figure is of: ("us", bytes), ("GB/s", bytes) or ("tok/s", a model's name)


class Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table of the spec; a key that it does not know is refused."""


class Electricity(Table, kw_only=True):
    """What a kilowatt hour costs."""

    price_per_kwh: Positive
    currency: Currency


class Price(Table, kw_only=True):
    """What a candidate costs, and when that was the price."""

    amount: Positive
    currency: Currency
    date: datetime.date


class Model(Table, kw_only=True):
    """A model and the type of its weights, by the advisor's names; `context` tokens of its one stream are cached."""

    model: str
    weights: str
    context: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 4096


class Candidate(Table, kw_only=True):
    """A machine: its runs (paths and globs from the spec's folder), its GPUs, and what all of them draw by their data
    sheet in W, None: the advisor's figure."""

    runs: list[str] = []
    gpu: str
    gpus: Annotated[int, msgspec.Meta(ge=2, le=1024)]
    power_w: Positive | None = None
    price: Price


class Spec(Table, kw_only=True):
    """What is compared, at what cost, and what is required. `candidates` are read one by one, so that a complaint can
    name the one that it is about."""

    candidates: Annotated[dict[Name, dict[str, Any]], msgspec.Meta(min_length=1)]
    electricity: Electricity
    hours_per_year: Annotated[float, msgspec.Meta(gt=0, le=8784)]
    lifetime_years: Positive
    models: dict[Name, Model] = {}
    requirements: list[str] = []


TABLES = (Spec, Electricity, Price, Model, Candidate)


@dataclass
class Requirement:
    """One line of `requirements`. A time is to be at most `limit`, all else at least."""

    text: str
    key: Key
    limit: float


AnyTable = TypeVar("AnyTable", bound=Table)


def read_spec(path: Path) -> tuple[Spec, dict[str, Candidate], list[Requirement]]:
    """The spec, its candidates by name, and its requirements. Raises ResultError for what is no such spec."""
    try:
        raw = printable_in(specs.from_toml(content_of(path, MOST_SPEC_BYTES)))
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not TOML ({error})") from error
    spec = _table(raw, Spec, str(path))
    candidates = {name: _table(table, Candidate, f"{path}, candidate {name}")
                  for name, table in spec.candidates.items()}
    for known, names in ((specs.model, [model.model for model in spec.models.values()]),
                         (specs.bits, [model.weights for model in spec.models.values()]),
                         (specs.gpu, [candidate.gpu for candidate in candidates.values()])):
        for name in names:
            known(name)
    return spec, candidates, [_requirement(text, spec, path) for text in spec.requirements]


def _table(raw: Any, kind: type[AnyTable], where: str) -> AnyTable:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$")
        said = said.replace("Object missing required field", "lacks").replace("Object contains unknown field", "has no")
        if unknown := re.fullmatch("has no `(.*)`", said):
            said += _near(unknown[1], {name for table in TABLES for name in table.__struct_fields__})
        raise ResultError(f"{where}{place.strip('`').replace('.', ', ', 1)}: {said}") from error


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _requirement(text: str, spec: Spec, path: Path) -> Requirement:
    for form, unit in FORMS:
        if (found := re.fullmatch(form, text.strip())) and float(found[3]) > 0:
            what, scale, limit = found.groups()
            if unit != "tok/s":
                return Requirement(text, (unit, int(what) * UNITS[scale]), float(limit))
            if what not in spec.models:
                raise ResultError(f"{path}: {text!r} is of a model that [models] lacks{_near(what, spec.models)}")
            return Requirement(text, (unit, what), float(limit))
    raise ResultError(f"{path}: the requirement {text!r} has none of the three forms: 16K <= 8 us, 32M >= 50 GB/s "
                      "(busbw), MODEL >= 25 tok/s")
