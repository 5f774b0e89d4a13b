"""SPEC.toml of `procure`: the candidates, their prices and the requirements."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from reports.advice import specs
from reports.store.foreign import printable_in
from reports.store.result import ResultError, content_of

MOST_SPEC_BYTES = 1 << 20
SCALES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# The forms of a requirement by the unit of its limit.
FORMS = {"us": r"(\d{1,9})([KMG]?) *<= *(\d{1,12}(?:\.\d+)?) *us",
         "GB/s": r"(\d{1,9})([KMG]?) *>= *(\d{1,12}(?:\.\d+)?) *GB/s",
         "tok/s": r"(\S+)() *>= *(\d{1,12}(?:\.\d+)?) *tok/s"}

Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]  # ISO 4217
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Key = tuple[str, int | str]  # a figure: ("us", bytes), ("GB/s", bytes) or ("tok/s", model name)


class Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table of the spec, which refuses unknown keys."""


class Electricity(Table, kw_only=True):
    price_per_kwh: Positive
    currency: Currency


class Price(Table, kw_only=True):
    """The price of a candidate on a date."""

    amount: Positive
    currency: Currency
    date: datetime.date


class Model(Table, kw_only=True):
    """A model and its weights, named as in `advise`; one stream has `context` cached tokens."""

    model: str
    weights: str
    context: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 4096


class Candidate(Table, kw_only=True):
    """A machine: its runs (paths and globs, in the file relative to it) and its GPUs. `power_w` is
    the power of all GPUs in watts; None stands for the data sheet."""

    runs: list[str] = []
    gpu: str
    gpus: Annotated[int, msgspec.Meta(ge=2, le=1024)]
    power_w: Positive | None = None
    price: Price


class Spec(Table, kw_only=True):
    """The whole file. `read_spec` converts each candidate, so that an error can name it."""

    candidates: Annotated[dict[Name, Any], msgspec.Meta(min_length=1)]
    electricity: Electricity
    hours_per_year: Annotated[float, msgspec.Meta(gt=0, le=8784)]
    lifetime_years: Positive
    models: dict[Name, Model] = {}
    requirements: list[str] = []


FIELDS = {name for table in (Spec, Electricity, Price, Model, Candidate)
          for name in table.__struct_fields__}


@dataclass
class Requirement:
    """A line of `requirements`; `limit` is the most for a time, the least for other figures."""

    text: str
    key: Key
    limit: float


def read_spec(path: Path) -> tuple[Spec, dict[str, Candidate], list[Requirement]]:
    """The spec, its candidates by name, and its requirements. Raises ResultError."""
    try:
        tables = printable_in(msgspec.toml.decode(content_of(path, MOST_SPEC_BYTES)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not TOML ({error})") from error
    spec = specs.convert(tables, Spec, str(path), FIELDS)
    candidates = {name: specs.convert(table, Candidate, f"{path}, candidate {name}", FIELDS)
                  for name, table in spec.candidates.items()}
    for model in spec.models.values():
        specs.model(model.model)
        specs.bits(model.weights)
    for candidate in candidates.values():
        specs.gpu(candidate.gpu)
        candidate.runs = [str(path.parent / run) for run in candidate.runs]
    return spec, candidates, [_requirement(text, spec, path) for text in spec.requirements]


def _requirement(text: str, spec: Spec, path: Path) -> Requirement:
    for unit, form in FORMS.items():
        match = re.fullmatch(form, text.strip())
        if match and float(match[3]) > 0:
            name, scale, limit = match.groups()
            if unit != "tok/s":
                return Requirement(text, (unit, int(name) * SCALES[scale]), float(limit))
            if name in spec.models:
                return Requirement(text, (unit, name), float(limit))
            hint = specs.close_names(name, spec.models)
            raise ResultError(f"{path}: [models] lacks the model of {text!r}; {hint}".rstrip("; "))
    raise ResultError(f"{path}: the requirement {text!r} has none of the three forms: "
                      "16K <= 8 us, 32M >= 50 GB/s (busbw), MODEL >= 25 tok/s")
