"""The two forms of an uncertain figure: a value between its ends, and three cases by merit."""

from math import inf

import msgspec

from reports.tables.sentences import number


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A figure that is not negative, between its `low` and its `high` end: an interval of
    confidence, or the least and the most that others published. Both ends are the value if they
    are unknown. In JSON it is the array [value, low, high].

    Arithmetic is that of intervals (Moore, Interval Analysis, 1966): a difference and a quotient
    are low where what is taken off, or divided by, is high."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Span | float") -> "Span":
        other = as_span(other)
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Span | float") -> "Span":
        other = as_span(other)
        return Span(self.value - other.value, self.low - other.high, self.high - other.low)

    def __mul__(self, other: "Span | float") -> "Span":
        other = as_span(other)
        return Span(self.value * other.value, self.low * other.low, self.high * other.high)

    def __truediv__(self, other: "Span | float") -> "Span":
        other = as_span(other)
        return Span(
            _quotient(self.value, other.value),
            _quotient(self.low, other.high),
            _quotient(self.high, other.low),
        )

    def __rtruediv__(self, dividend: float) -> "Span":
        return as_span(dividend) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def at_least(self, least: "Span | float") -> "Span":
        """The larger of both, end by end."""
        least = as_span(least)
        return Span(
            max(self.value, least.value), max(self.low, least.low), max(self.high, least.high)
        )

    def at_most(self, most: "Span | float") -> "Span":
        """The smaller of both, end by end."""
        most = as_span(most)
        return Span(min(self.value, most.value), min(self.low, most.low), min(self.high, most.high))

    def text(self, unit: str = "") -> str:
        """`33.0 us [31.0 36.0]`; without the ends if they look alike."""
        value, low, high = number(self.value), number(self.low), number(self.high)
        ends = f" [{low} {high}]" if low != high else ""
        return f"{value}{unit}{ends}"


class Cases(msgspec.Struct, frozen=True, array_like=True):
    """What a figure is typically, at best and at worst, as a data sheet of a route lists it."""

    typical: float
    best: float
    worst: float

    def low_is_best(self) -> Span:
        """Of a time, or of what multiplies it."""
        return Span(self.typical, low=self.best, high=self.worst)

    def high_is_best(self) -> Span:
        """Of a rate, or of a share of it."""
        return Span(self.typical, low=self.worst, high=self.best)


def gain_of(more: Span, less: Span) -> Span:
    """How many times as much the first of two rates or two times is. Both have the same
    all-reduces: where those are at one end, they are for both, so that the ratio has no end of one
    beside the other end of the other."""
    value = more.value / less.value
    at_ends = more.low / less.low, more.high / less.high
    return Span(value, min(value, *at_ends), max(value, *at_ends))


def as_span(figure: Span | float) -> Span:
    """A number that is exact as a span of no width."""
    if isinstance(figure, Span):
        return figure
    return Span(figure, figure, figure)


def _quotient(dividend: float, divisor: float) -> float:
    """An interval of launches that differ wildly reaches down to 0: its reciprocal has no end."""
    return dividend / divisor if divisor else inf
