"""The interface of optional parts of a sweep, such as an arrival skew.

A feature is a file of `bench/features/` and a line in its `__init__`; all else works without."""

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.harness.iteration import Iteration
from bench.harness.parser import Option, Parser
from collectives.collective import Shape
from collectives.operation import Algorithm, CollectiveCase

if TYPE_CHECKING:  # no command line needs it
    from bench.harness.session import Session


class Feature:
    """An optional part of a sweep, with the value of the options that request it. A feature
    overrides the methods that it needs."""

    name: str  # of its value among those of the command line
    options: Sequence[Option]  # which make the value
    mode: str | None = None  # of the cases, which the command line may not change

    def __init__(self, value: Any) -> None:
        self.value = value

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes to measure, given the shapes of the collective."""
        return list(shapes)

    def algorithms(self, session: "Session") -> Iterable[Algorithm]:
        """Algorithms beside the collective's own. All ranks call it."""
        return ()

    def change(self, session: "Session", case: CollectiveCase, iteration: Iteration) -> None:
        """Changes the iteration of a case. Raises DeviceError."""


def add_features(parser: Parser, features: Iterable[type[Feature]]) -> None:
    for feature in features:
        for option in feature.options:
            parser.add_option(feature.name, option)


def requested(features: Iterable[type[Feature]], namespace: argparse.Namespace) -> list[Feature]:
    """The features that the command line requests."""
    values = vars(namespace)
    return [feature(values[feature.name]) for feature in features if values[feature.name]]
