"""What a candidate costs: its price, its power, and the energy and the cost of its tokens."""

from collections.abc import Callable, Mapping
from statistics import fmean

from reports.advice.candidates import (
    NODES,
    PER_MILLION,
    PER_SPEED,
    PRICE,
    Figure,
    FigureKey,
    Offer,
    Price,
    Spec,
    card_of,
    requirement_of,
)
from reports.advice.reduce_times import AllReduceLaunches
from reports.tables.sentences import counted, number

DAYS_PER_YEAR = 365.25
POWER: FigureKey = ("W", "power of the GPUs")


def price_key(currency: str, model: str) -> FigureKey:
    """The key of what a token per second of a model costs."""
    return currency + PER_SPEED, f"{model}, price"


def money(
    offer: Offer,
    spec: Spec,
    launches: AllReduceLaunches,
    figures: Mapping[FigureKey, Figure],
) -> list[Figure]:
    """The price, also of a token per second of each model; the power; and the cost of a million
    tokens of each model, if the spec has COSTS, also on as many nodes as a requirement takes."""
    price, power = offer.price, power_of(offer, launches)
    speeds = [figure for figure in figures.values() if figure.unit == "tok/s"]
    costs = [
        Figure(
            f"{speed.name}, price",
            f"{price.currency}{PER_SPEED}",
            "price by speed",
            price.amount / speed.value if speed.value else None,
            price.amount / speed.high if speed.high else None,
            price.amount / speed.low if speed.low else None,
            likely=price.amount / speed.likely if speed.likely else None,
        )
        for speed in speeds
    ]
    costs += [energy_of_tokens(speed, power) for speed in speeds]
    if spec.electricity:
        costs += [cost_of_tokens(speed, power, price, spec) for speed in speeds]
        costs += [
            cost_on_nodes(nodes, str(text), power, price, spec)
            for (unit, text), nodes in figures.items()
            if unit == NODES
        ]
    return [
        Figure(PRICE, price.currency, price.date.isoformat(), price.amount),
        *costs,
        power,
    ]


def power_of(offer: Offer, launches: AllReduceLaunches) -> Figure:
    """The power of a candidate's GPUs: the mean over its runs of what they drew after each round,
    between the least and the greatest of a round; else by the spec, else by the data sheet."""
    unit, name = "W", str(POWER[1])
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
    tdp_w = card_of(offer).tdp_w
    if tdp_w is None:
        return Figure(name, unit, "neither power_w nor watts among the card's figures")
    return Figure(name, unit, "data sheet", offer.gpus * tdp_w)


def energy_of_tokens(speed: Figure, power: Figure) -> Figure:
    """The electricity of the GPUs for a million tokens."""
    return _of_a_million(speed, power, "energy", "kWh", "power", lambda power_w: power_w / 3.6e6)


def cost_on_nodes(nodes: Figure, text: str, power: Figure, price: Price, spec: Spec) -> Figure:
    """What a million tokens cost on the nodes that a requirement takes, while they give together
    the tokens/s that it asks for, and no more."""
    requirement = requirement_of(text)
    assert requirement
    share = Figure(
        nodes.name,
        nodes.unit,
        nodes.note,
        requirement.limit / nodes.low if nodes.low else None,
        likely=requirement.limit / nodes.likely if nodes.likely else None,
    )
    return cost_of_tokens(share, power, price, spec)


def cost_of_tokens(speed: Figure, power: Figure, price: Price, spec: Spec) -> Figure:
    """What a million tokens cost: the price over all seconds of work in the lifetime, and the
    electricity of a second, by the tokens of a second."""
    assert spec.electricity
    price_of_kwh, price_of_second = spec.electricity.amount, price.amount / work_s(spec)
    return _of_a_million(
        speed,
        power,
        "million tokens",
        price.currency,
        "price and electricity, power",
        lambda power_w: price_of_second + power_w * price_of_kwh / 3.6e6,
    )


def work_s(spec: Spec) -> float:
    """The seconds of work in the lifetime."""
    assert spec.lifetime_years
    assert spec.hours_per_day
    return spec.lifetime_years * DAYS_PER_YEAR * spec.hours_per_day * 3600


def _of_a_million(
    speed: Figure,
    power: Figure,
    what: str,
    unit: str,
    origin: str,
    of_a_second: Callable[[float], float],
) -> Figure:
    """An amount of a million tokens, by the amount of a second at a power in watts. It is least
    with the fastest tokens/s and the least power."""

    def amount(tokens_per_s: float | None, power_w: float | None) -> float | None:
        if not tokens_per_s or power_w is None:
            return None
        return 1e6 * of_a_second(power_w) / tokens_per_s

    likely = None
    if speed.likely and power.value is not None:
        likely = 1e6 * of_a_second(power.value) / speed.likely
    return Figure(
        f"{speed.name}, {what}",
        unit + PER_MILLION,
        f"{origin}: {power.note.partition(' after')[0]}",
        amount(speed.value, power.value),
        amount(speed.high, power.low or power.value),
        amount(speed.low, power.high or power.value),
        likely=likely,
    )
