"""What a call takes alone: in a run of the instrument, or as published for these cards."""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wiretax.record.stats import Interval

if TYPE_CHECKING:
    from reports.breakdown.bill import CallBill


@dataclass
class Alone:
    """The same call without an engine around it: `us` with its range, and where that is from."""

    us: Interval
    source: str


def alone_of(call: "CallBill", gpus: int, arguments: argparse.Namespace) -> Alone | None:
    """The time of such a call alone, by --run or by the published figures of --gpu; None if
    neither tells."""
    return None
