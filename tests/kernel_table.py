"""`python -m tests.kernel_table`: what each kernel takes of each GPU architecture; it needs compilers, and no GPU."""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import astuple

from kernels.devices.compile_cache import SOURCES, CompileError
from kernels.devices.device import MOST_RANKS
from tests.kernel_resources import ARCHITECTURES, Resources, compile_for

DATATYPES = ("float32", "float16", "bfloat16", "float64", "int32", "int64")
COMPUTED_IN_FP32 = {"allreduce_rmsnorm", "allreduce_two_shot_quantized", "gemv_allreduce"}  # of the first three alone
LAYOUT = "{:<30} {:<8} {:>9} {:>5} {:>6} {:>5} {:>6} {:>6} {:>4}"
HEAD = LAYOUT.format("kernel", "arch", "registers", "sgprs", "shared", "stack", "spills", "blocks", "wave")


def row(resources: Resources) -> str:
    return LAYOUT.format(*("-" if figure is None else figure for figure in astuple(resources)))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel_table", description=__doc__, allow_abbrev=False)
    parser.add_argument("--world", type=int, default=2, choices=range(1, MOST_RANKS + 1), metavar="RANKS")
    parser.add_argument("--datatype", choices=DATATYPES, default="float32")
    parser.add_argument("--arch", choices=ARCHITECTURES, nargs="+", default=ARCHITECTURES)
    asked = parser.parse_args(words)
    macros = {"WORLD": str(asked.world), "ELEMENT": asked.datatype.capitalize()}

    found: list[Resources] = []
    missing: dict[str, list[str]] = {}
    for architecture in dict.fromkeys(asked.arch):
        try:
            for source in sorted(SOURCES.rglob("*.cu")):
                if source.stem not in COMPUTED_IN_FP32 or asked.datatype in DATATYPES[:3]:
                    found += compile_for(source, architecture, macros)[1]
        except CompileError as error:
            missing.setdefault(str(error), []).append(architecture)
    for reason, architectures in missing.items():
        print(f"{', '.join(architectures)}: not shown, {reason}", file=sys.stderr)
    if not found:
        return 3
    rows = sorted(found, key=lambda r: (r.kernel, asked.arch.index(r.architecture)))
    print(f"{asked.world} ranks, {asked.datatype}", HEAD, *map(row, rows), sep="\n")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads may have read enough
    sys.exit(main())
