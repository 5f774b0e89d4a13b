"""The interface of optional parts of a sweep, such as an arrival skew.

A feature is a file of `bench/features/` and a line in its `__init__`; all else works without."""

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bench.harness.iteration import Iteration
from bench.harness.options import AddOption
from collectives.collective import Shape
from collectives.operation import Algorithm, CollectiveCase

if TYPE_CHECKING:  # no command line needs it
    from bench.harness.session import Session


class Feature:
    """An optional part of a sweep, with the value of the option that requests it. A feature
    overrides the methods that it needs."""

    option: str  # the name of its value among those of the command line
    mode: str | None = None  # of the cases, which the command line may not change

    def __init__(self, value: Any) -> None:
        self.value = value

    @staticmethod
    def add_options(add: AddOption) -> None:
        """Adds the feature's options to the group `what`: one that changes no case, but how all are
        measured, with `changes=METHOD`."""

    @classmethod
    def parse(cls, namespace: argparse.Namespace) -> "Feature | None":
        """The feature as the command line requests it; None if it does not."""
        value = getattr(namespace, cls.option)
        return cls(value) if value else None

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes to measure, given the shapes of the collective."""
        return list(shapes)

    def algorithms(self, session: "Session") -> Iterable[Algorithm]:
        """Algorithms beside the collective's own. All ranks call it."""
        return ()

    def change(self, session: "Session", case: CollectiveCase, iteration: Iteration) -> None:
        """Changes the iteration of a case. Raises DeviceError."""
