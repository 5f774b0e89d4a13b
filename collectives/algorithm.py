"""The registry: every all-reduce by name, in the order of the table: the library first, `auto` last."""

from collectives.allreduce_one_shot import PULL, PUSH
from collectives.allreduce_ring import RING
from collectives.allreduce_two_shot import TWO_SHOT
from collectives.auto import choosing_among
from collectives.library import LIBRARY
from collectives.operation import Algorithm

OURS = (PUSH, PULL, TWO_SHOT, RING)
ALGORITHMS: dict[str, Algorithm] = {a.name: a for a in (LIBRARY, *OURS, choosing_among(OURS))}
