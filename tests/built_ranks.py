"""Run by mpirun: `bench.allreduce` over kernels that are built with macros, such as a fault of kernels/faults.h or a
negative control of platform.h.

`built_ranks.py MACRO=VALUE[,MACRO=VALUE ...] ...options of bench.allreduce`
"""

import sys
from dataclasses import replace

import bench.harness.run
import bench.harness.session
from collectives.operation import World


def main(macros: dict[str, str], options: list[str]) -> None:
    opened = bench.harness.run.open_world  # type: ignore[attr-defined]

    def open_world(*arguments, **named) -> World:
        return replace(opened(*arguments, **named), macros=macros)

    bench.harness.run.open_world = open_world  # type: ignore[attr-defined]
    bench.harness.session.main("allreduce", "all_reduce", "All-reduce of a special build.", options)


if __name__ == "__main__":
    main(dict(item.split("=") for item in sys.argv[1].split(",") if item), sys.argv[2:])
