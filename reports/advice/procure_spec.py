"""SPEC.toml of `procure`: the candidates, their prices and the requirements."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from reports.advice.specs import BITS, GPUS, MODELS, close_names, convert
from reports.store.foreign import printable_in
from reports.store.result import ResultError, content_of

SCALES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# The forms of a requirement by the unit of its limit.
FORMS = {"us": r"(\d{1,9})([KMG]?) *<= *(\d{1,12}(?:\.\d+)?) *us",
         "GB/s": r"(\d{1,9})([KMG]?) *>= *(\d{1,12}(?:\.\d+)?) *GB/s",
         "tok/s": r"(\S+)() *>= *(\d{1,12}(?:\.\d+)?) *tok/s"}

Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]  # ISO 4217
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Key = tuple[str, int | str]  # a figure: ("us", bytes), ("GB/s", bytes) or ("tok/s", model name)


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """A table of the spec, which refuses unknown keys."""


class Electricity(Table):
    price_per_kwh: Positive
    currency: Currency


class Price(Table):
    amount: Positive
    currency: Currency
    date: datetime.date


class Model(Table):
    """A model and its weights, named as in `advise`; one stream has `context` cached tokens."""

    model: str
    weights: str
    context: Annotated[int, msgspec.Meta(ge=0, le=10**7)] = 4096


class Candidate(Table):
    """A machine: its GPUs and its runs (paths and globs, in the file relative to it). `power_w` is
    the power of all GPUs in watts; None stands for the data sheet."""

    gpu: str
    gpus: Annotated[int, msgspec.Meta(ge=2, le=1024)]
    price: Price
    runs: list[str] = []
    power_w: Positive | None = None


class Spec(Table):
    """The whole file. `read_spec` converts each candidate, so that an error can name it."""

    candidates: Annotated[dict[Name, Any], msgspec.Meta(min_length=1)]
    electricity: Electricity
    hours_per_year: Annotated[float, msgspec.Meta(gt=0, le=8784)]
    lifetime_years: Positive
    models: dict[Name, Model] = {}
    requirements: list[str] = []


class Requirement(NamedTuple):
    """A line of `requirements`; `limit` is the most for a time, the least for other figures."""

    text: str
    key: Key
    limit: float


def read_spec(path: Path, runs: Sequence[str] = (), only: str | None = None,
              ) -> tuple[Spec, dict[str, Candidate], list[Requirement]]:
    """The spec, its candidates by name (or `only` one) with the other `runs`, and its requirements.
    Raises ResultError."""
    try:
        tables = printable_in(msgspec.toml.decode(content_of(path, most_bytes=1 << 20)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not TOML ({error})") from error
    fields = {name for table in Table.__subclasses__() for name in table.__struct_fields__}
    spec = convert(tables, Spec, str(path), fields)
    candidates = {name: convert(table, Candidate, f"{path}, candidate {name}", fields)
                  for name, table in spec.candidates.items()}
    for model in spec.models.values():
        MODELS.find(model.model)
        BITS.find(model.weights)
    for candidate in candidates.values():
        GPUS.find(candidate.gpu)
        candidate.runs = [str(path.parent / run) for run in candidate.runs]
    requirements = [_requirement(text, spec, path) for text in spec.requirements]
    if only is not None:
        if only not in candidates:
            raise ResultError(f"{path} has no candidate {only}: it has {', '.join(candidates)}")
        candidates = {only: candidates[only]}
    for run in runs:
        names = [name for name in candidates if run.startswith(f"{name}=")]
        if not names and len(candidates) > 1:
            raise ResultError(f"{run}: which candidate? Use NAME={run} with NAME one of "
                              f"{', '.join(candidates)}")
        name = max(names or candidates, key=len)
        candidates[name].runs.append(run.removeprefix(f"{name}="))
    return spec, candidates, requirements


def _requirement(text: str, spec: Spec, path: Path) -> Requirement:
    for unit, form in FORMS.items():
        match = re.fullmatch(form, text.strip())
        if match and float(match[3]) > 0:
            name, scale, limit = match.groups()
            if unit != "tok/s":
                return Requirement(text, (unit, int(name) * SCALES[scale]), float(limit))
            if name in spec.models:
                return Requirement(text, (unit, name), float(limit))
            hint = close_names(name, spec.models)
            raise ResultError(f"{path}: [models] lacks the model of {text!r}; {hint}".rstrip("; "))
    raise ResultError(f"{path}: the requirement {text!r} has none of the three forms: "
                      "16K <= 8 us, 32M >= 50 GB/s (busbw), MODEL >= 25 tok/s")
