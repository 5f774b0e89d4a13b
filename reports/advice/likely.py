"""Likely tokens/s, and the likely ratio of two deployments, beside the upper limits of `serving`.

A pass takes the sum of what it reads, computes and sends, each times a factor that published rows
of the same class of engine and of the same way between the cards have taken, and of costs that no
split shortens: launches and small kernels of each layer, what an engine adds to each call, the
host's part of a step. A host that launches kernel by kernel (eager) works beside the card: there
the longer of both counts. The factors and the ranges are in `likely.toml`, which
docs/experiments/advise_fit.py writes; docs/advise.md has the formula."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, exp, log
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from reports.advice.serving import CHUNK_TOKENS, Deployment
from reports.advice.spans import Span
from reports.advice.specs import Gpu

FILE = Path(__file__).parent / "likely.toml"
Figure = Literal["decode", "prefill"]
Array = NDArray[np.float64]
# The sharpness with which the longer of host and card counts: at 4, two equal ones take 1.19 times
# one of them. Between a sum (1) and a maximum (infinite).
OVERLAP = 4
# llama.cpp computes a prompt in batches of 512 tokens (--ubatch-size), and a decode step of all
# streams passes one card after another; vLLM's pipeline has a step for each stage in flight.
CHUNK_OF = {"llama.cpp": 512, "llama.cpp-vulkan": 512}
OVERLAPPING = "graph", "eager"
LEAST = 1e-12  # us of a term that is 0


class Parameter(msgspec.Struct, frozen=True):
    """A factor of a term, or its us; its natural logarithm varies by `spread` between owners. That
    of `ranks` is an exponent, which varies by `spread` itself."""

    value: float
    spread: float


class Way(msgspec.Struct, frozen=True):
    """A way between cards by published all-reduces: the us of a call of up to 32 KiB, and the share
    of the link's data sheet that large ones reach."""

    call_us: float
    share: float


class Reach(msgspec.Struct, frozen=True):
    """How many spreads a range goes to each side, by the residuals of so many owners' families that
    were left out in turn."""

    spreads: float
    families: int
    owners: int


class Fitted(msgspec.Struct, frozen=True):
    """The contents of `likely.toml`. `classes` multiply the parameter before the colon. The spreads
    between owners: a factor of those of the parameters, that of a class, and what no parameter
    explains. `ratio` and `rate` say
    how far their ranges go."""

    parameters: dict[str, Parameter]
    classes: dict[str, float]
    ways: dict[str, Way]
    ratio: Reach
    rate: Reach
    owner_spread: float
    class_spread: float
    split_spread: float
    of_most: dict[str, Span]


def way_of(fabric: str, has_peers: bool) -> str:
    """The way between cards by a fabric in the words of reports/references. NVLink and xGMI are
    alike: links between cards."""
    name = fabric.partition(" ")[0]
    if name in ("NVLink", "xGMI"):
        return "links"
    if name == "network":
        return "network"
    return "peers" if has_peers else "host"


@dataclass(frozen=True)
class Conditions:
    """What a pass runs under: a class of engine, a way between the cards and its GB/s of the data
    sheet, and whose all-reduce. `call_us` is the time of a call if it was measured."""

    engine: str
    way: str
    link_gb_s: float
    kernel: str = "library"
    call_us: float | None = None


@dataclass(frozen=True)
class Pass:
    """What a pass of a model does on the busiest of its cards. `passes` of them follow each other,
    and `bubbles` more in which a stage waits; together they make `tokens`. `ranks` cards reduce
    together, in `calls` of `call_bytes`."""

    figure: Figure
    gpu: Gpu
    conditions: Conditions
    read_bytes: float
    flop: float
    tflops: float
    layers: int
    is_mixture: bool
    tokens: float
    ranks: int = 1
    calls: int = 0
    call_bytes: float = 0
    hand_offs: float = 0
    passes: float = 1
    bubbles: float = 0


class Term(NamedTuple):
    """A part of a pass in us, before the parameters that multiply it; `ranks` is the logarithm that
    the parameter of this name multiplies."""

    us: float
    parameters: tuple[str, ...]
    ranks: float = 0
    is_hosts: bool = False


def named(parameter: str, *classes: str) -> tuple[str, ...]:
    """The parameter and its classes: `call` and `call:graph`."""
    return (parameter, *(f"{parameter}:{each}" for each in classes))


def terms(one: Pass, ways: dict[str, Way]) -> list[Term]:
    """The parts of a pass for a token, see docs/advise.md#likely."""
    conditions, way = one.conditions, ways[one.conditions.way]
    engine, eager = conditions.engine, conditions.engine == "eager"
    read_us = one.read_bytes / one.gpu.bandwidth_gb_s / 1e3
    compute_us = one.flop / one.tflops / 1e6
    bus_gb_s = conditions.link_gb_s * way.share
    sent_us = one.calls * one.call_bytes * 2 * (one.ranks - 1) / max(one.ranks, 1) / bus_gb_s / 1e3
    ranks = log(one.ranks / 2) if one.ranks > 1 else 0

    wire = Term(one.calls * way.call_us, named("wire", conditions.way, conditions.kernel), ranks)
    if conditions.call_us is not None:
        wire, sent_us = Term(one.calls * conditions.call_us, ()), 0

    if one.figure == "decode":
        parts = [
            Term(read_us, ()),
            Term(read_us, named("read", engine)),
            Term(compute_us, named("compute")),
            Term(one.layers, named("layer")),
            Term(one.layers * one.is_mixture, named("mixture")),
            Term(1, named("step"), is_hosts=eager),
            Term(one.layers * eager, named("eager"), is_hosts=True),
            Term(one.calls * (not eager), named("call", engine), ranks),
            Term(one.calls * eager, named("host_call"), is_hosts=True),
            wire,
            Term(sent_us, named("bus", conditions.way)),
            Term(one.hand_offs, named("hand_off", engine)),
        ]
    else:
        parts = [
            Term(max(compute_us, read_us), ()),
            Term(compute_us, named("prefill", engine)),
            Term(one.layers, named("prefill_layer", engine)),
            Term(sent_us, named("prefill_bus", conditions.way)),
            wire,
        ]

    made = [part._replace(us=part.us * one.passes) for part in parts if part.us > 0]
    for part in parts if one.bubbles else ():
        if part.us > 0:
            waits = (*part.parameters, "bubble")
            made.append(part._replace(us=part.us * one.bubbles, parameters=waits))
    return [part._replace(us=part.us / one.tokens) for part in made]


class Design(NamedTuple):
    """Terms of passes as arrays: the logarithms of their us (passes, terms), how often each
    parameter multiplies them (passes, terms, parameters), and whether they are the host's."""

    logs: Array
    powers: Array
    hosts: Array


def design(passes: Sequence[Pass], names: Sequence[str], ways: dict[str, Way]) -> Design:
    """Parameters without a name here count as 1."""
    listed = [terms(one, ways) for one in passes]
    most = max(map(len, listed), default=0)
    place = {name: index for index, name in enumerate(names)}
    logs = np.full((len(passes), most), log(LEAST))
    powers = np.zeros((len(passes), most, len(names)))
    hosts = np.zeros((len(passes), most))
    for row, parts in enumerate(listed):
        for column, part in enumerate(parts):
            logs[row, column] = log(part.us)
            hosts[row, column] = part.is_hosts
            for name in part.parameters:
                if name in place:
                    powers[row, column, place[name]] += 1
            if part.ranks and "ranks" in place:
                powers[row, column, place["ranks"]] = part.ranks
    return Design(logs, powers, hosts)


def log_us(of: Design, point: Array) -> tuple[Array, Array]:
    """The logarithms of the us of a token at these parameters' logarithms (passes,), and their
    gradients (passes, parameters)."""
    us = np.exp(of.logs + of.powers @ point)
    host_us = (us * of.hosts).sum(axis=1) + LEAST
    card_us = (us * (1 - of.hosts)).sum(axis=1) + LEAST
    longer_us = np.maximum(host_us, card_us)
    host, card = (host_us / longer_us) ** OVERLAP, (card_us / longer_us) ** OVERLAP
    total = np.log(longer_us) + np.log(host + card) / OVERLAP
    shares = us * of.hosts * (host / (host + card) / host_us)[:, None]
    shares += us * (1 - of.hosts) * (card / (host + card) / card_us)[:, None]
    return total, np.einsum("pt,ptn->pn", shares, of.powers)


def decode_pass(load: Deployment, streams: int, conditions: Conditions) -> Pass:
    """A decode step of so many streams: the groups, one for each stage of each replica, are all in
    flight, where the engine has several of a pipeline in flight."""
    groups = load.replicas * (load.stages if conditions.engine in OVERLAPPING else 1)
    groups = min(groups, streams)
    group = ceil(streams / groups)
    tokens, model = group * load.step_tokens, load.model
    return Pass(
        figure="decode",
        gpu=load.gpu,
        conditions=conditions,
        read_bytes=(load.work_bytes(tokens) + load.kv_bytes(group)) / load.tensor,
        flop=load.work_flop(tokens) / load.tensor,
        tflops=load.tflops,
        layers=model.layers,
        is_mixture=model.experts > 1,
        tokens=group * groups,
        ranks=load.tensor,
        calls=model.all_reduces if load.tensor > 1 else 0,
        call_bytes=model.all_reduce_bytes(tokens),
        hand_offs=load.stages - 1,
    )


def prompt_pass(load: Deployment, conditions: Conditions, many: bool = False) -> Pass:
    """One prompt, or `many` in a row, of which each replica has its own and no stage waits."""
    model = load.model
    chunks = ceil(load.prompt / CHUNK_OF.get(conditions.engine, CHUNK_TOKENS))
    tokens = load.prompt / chunks
    stages = load.stages
    return Pass(
        figure="prefill",
        gpu=load.gpu,
        conditions=conditions,
        read_bytes=load.work_bytes(tokens) / load.tensor,
        flop=load.work_flop(tokens) / load.tensor,
        tflops=load.tflops,
        layers=model.layers,
        is_mixture=model.experts > 1,
        tokens=load.prompt * (load.replicas if many else 1),
        ranks=load.tensor,
        calls=model.all_reduces if load.tensor > 1 else 0,
        call_bytes=model.all_reduce_bytes(tokens),
        passes=chunks / stages,
        bubbles=0 if many else (stages - 1) / stages,
    )


class Formula:
    """The formula at fitted parameters."""

    def __init__(self, fitted: Fitted) -> None:
        self.fitted, parameters = fitted, fitted.parameters
        self.names = [*parameters, *fitted.classes]
        values = [
            each.value if name == "ranks" else log(each.value) for name, each in parameters.items()
        ]
        self.point = np.array([*values, *map(log, fitted.classes.values())])
        spreads = [each.spread for each in parameters.values()]
        self.spreads = np.array([*spreads, *[0.0] * len(fitted.classes)]) * fitted.owner_spread

    def rate(self, one: Pass) -> Span:
        """Likely tokens/s of a pass."""
        return ranged(self.log_rate(one), self.fitted.rate)

    def ratio(self, one: Pass, other: Pass) -> Span:
        """How many times as fast as the one the other likely is."""
        return ranged(self.log_ratio(one, other), self.fitted.ratio)

    def break_even_us(self, tensor: Pass, other: Pass) -> float:
        """The us of a call alone at which both passes make as many tokens/s; not above 0 if no call
        is fast enough. What an engine adds to a call counts as it likely is."""
        free = replace(tensor, conditions=replace(tensor.conditions, call_us=0))
        free_us, other_us = np.exp(
            log_us(design([free, other], self.names, self.fitted.ways), self.point)[0]
        )
        calls = tensor.calls * (tensor.passes + tensor.bubbles) / tensor.tokens
        return float(other_us - free_us) / calls

    def log_ratio(self, one: Pass, other: Pass) -> tuple[float, float]:
        """The logarithm of the other's rate to the one's, and its spread between owners: the two
        share an owner's parameters, so that what both pay cancels."""
        return self._spread([one, other], np.array([1.0, -1.0]))

    def log_rate(self, one: Pass) -> tuple[float, float]:
        """The logarithm of tokens/s, and its spread between owners."""
        logarithm, spread = self._spread([one], np.array([-1.0]))
        return logarithm + log(1e6), spread

    def _spread(self, passes: Sequence[Pass], signs: Array) -> tuple[float, float]:
        """The signed sum of the passes' logarithms, and the root of the sum of squares of what each
        parameter changes by, a spread up or down. A class varies by itself only where the passes
        differ in it."""
        of = design(passes, self.names, self.fitted.ways)
        spreads = self.spreads.copy()
        for index, name in enumerate(self.names):
            parameter = name.partition(":")[0]
            if parameter != name and parameter in self.names:
                has, has_parameter = (
                    of.powers[:, :, place].any(axis=1)
                    for place in (index, self.names.index(parameter))
                )
                if has_parameter.all() and has.any() and not has.all():
                    spreads[index] = self.fitted.class_spread * self.fitted.owner_spread

        def at(point: Array) -> float:
            return float(signs @ log_us(of, point)[0])

        value, squares = at(self.point), self.fitted.split_spread**2
        for index in np.flatnonzero(spreads).tolist():
            step = np.zeros(len(self.point))
            step[index] = spreads[index]
            changes = at(self.point + step) - value, at(self.point - step) - value
            squares += max(map(abs, changes)) ** 2
        return value, squares**0.5


def ranged(logarithm: tuple[float, float], reach: Reach) -> Span:
    """A range that reaches so many spreads to each side."""
    value, spread = logarithm
    half = reach.spreads * spread
    return Span(exp(value), exp(value - half), exp(value + half))


@cache
def published() -> Formula:
    """The formula at the parameters of `likely.toml`."""
    return Formula(msgspec.toml.decode(FILE.read_bytes(), type=Fitted))


def title() -> str:
    """Over a table of likely figures: what its ranges are."""
    reach = published().fitted.rate
    return (
        f"likely, by published rows of {reach.families} machines and models of {reach.owners} "
        "owners"
    )


def reached_text() -> str:
    """What engines reach of the upper limits, in a clause."""
    of_most = published().fitted.of_most
    one, tensor, prefill = (
        f"{100 * of_most[kind].low:.0f} to {100 * of_most[kind].high:.0f} %"
        for kind in ("one", "tensor", "prefill")
    )
    return (
        f"engines of {published().fitted.rate.owners} owners reached {one} of them in decode with "
        f"one card at a time, {tensor} by tensor, and {prefill} in prefill"
    )
