"""What runs share that can be compared."""

from collections import Counter
from typing import Any

from reports.store.schema import Run


def world_of(run: Run) -> tuple[Any, ...]:
    """The number of ranks, of hosts (or of ranks on each of several hosts), and what each rank runs
    on."""
    ranks, hosts = run.world.get("ranks", []), run.world.get("hosts", 1)
    if hosts != 1:
        hosts = sorted(Counter(rank.get("host") for rank in ranks).values()) or hosts

    return (
        run.world["size"],
        hosts,
        sorted(str(tuple(map(rank.get, ("device", "arch", "gpu")))) for rank in ranks),
    )


def method_of(run: Run) -> str:
    """How the cases were measured, where not by default: `checks 0, warmup 5`."""
    return ", ".join(f"{name} {value}" for name, value in sorted(run.method.items()))
