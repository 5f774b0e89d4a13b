"""In which order a layer adds its columns, from the results of probes: `fprev` has the method."""

from collections.abc import Sequence

from bench.stability.layer_data import Room
from bench.stability.subject import Subject
from wiretax.record.bits_record import TpBits


def add_orders(room: Room, measured: Sequence[tuple[Subject, TpBits]]) -> None:
    pass
