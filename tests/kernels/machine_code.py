"""What each kernel does to memory, read from SASS (nvdisasm over NVRTC's cubins) and from AMD's assembly.

`python -m tests.kernels.machine_code` prints the table and exits with 1 if a kernel misses a bar. Columns:

    store    bytes of the widest store of a lane into another rank's memory
    stride   bytes between two lanes' addresses of that store, as PTX computes them: equal to `store` when it coalesces
    flight   most loads of 8 or 16 bytes before the first wait for one
    trips    most round trips of one turn of a loop that polls a flag or packets
    fences   most system fences that one signal executes in a row before its flag
    spills   registers spilled, or bytes of stack
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from functools import cache
from importlib import util
from pathlib import Path

from kernels.devices.compile_cache import SOURCES, CompileError
from tests.kernels.gpu_builds import PACKETS, compiled
from tests.kernels.kernel_code import FLAGS, LETTERS, bursts, innermost_with, kernels_in
from tests.kernels.kernel_resources import ARCHITECTURES

LAYOUT = "{:<30} {:<8} {:>6} {:>7} {:>7} {:>6} {:>7} {:>7}"
HEAD = LAYOUT.format("kernel", "arch", "store", "stride", "flight", "trips", "fences", "spills")
MOST_FENCES = 1
# In SASS: the loads that poll, the stores of a flag, the fences. In assembly the letters L and W, and the flag's place.
SASS = {
    "poll": r"(@\S+ )?LDG?\.E\.(128|64)\.STRONG\.SYS",
    "flag": rf"(@\S+ )?STG?\.E\.64\.STRONG\.SYS .*\+{hex(FLAGS)}\]",
    "fence": r"MEMBAR\.\w+\.SYS",
}
AMD = {
    kind: {
        "poll": LETTERS[kind]["L"],
        "flag": rf"global_store_(dwordx2|b64) .* offset:{FLAGS}\b",
        "fence": LETTERS[kind].get("W", "never"),
    }
    for kind in ("gfx942", "gfx1100", "gfx1201")
}


@cache
def nvdisasm() -> str:
    """The disassembler of the nvidia-cuda-nvdisasm wheel, or the installed one. Raises CompileError without it."""
    spec = util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).glob("*/bin/nvdisasm"):
            return str(path)
    if installed := shutil.which("nvdisasm"):
        return installed
    raise CompileError("no nvdisasm was found: pip install nvidia-cuda-nvdisasm")


def sass_in(cubin: bytes) -> dict[str, list[str]]:
    """The instructions and labels of each kernel of a cubin. Raises CompileError."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    kernels: dict[str, list[str]] = {}
    for part in re.split(r"^\.text\.", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition(":\n")
        found = re.findall(r"^(\.L_x_\d+:)|^\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", body, re.MULTILINE)
        kernels[name] = [label or instruction for label, instruction in found]
    return kernels


def round_trips(lines: list[str], poll: str, name: str) -> int:
    """The most round trips of one turn of a polling loop. In SASS only the width of packets and the place of flags tell
    them from `Watch.stop`."""
    if poll == SASS["poll"]:
        poll = poll.replace("(128|64)", "128") if name in PACKETS else rf"{poll} .*\+{hex(FLAGS)}\]"
    return max((len(bursts(loop, poll)) for loop in innermost_with(lines, poll)), default=0)


def fences(lines: list[str], flag: str, fence: str) -> int:
    """The most fences between a flag's store and the last access before it."""
    most = 0
    for at in [i for i, line in enumerate(lines) if re.match(flag, line)]:
        count = 0
        for line in reversed(lines[:at]):
            if re.match(r"(@\S+ )?(LDG?|STG?)\.|(global|flat)_(load|store)", line):
                break
            count += bool(re.match(fence, line))
        most = max(most, count)
    return most


def lane_strides(ptx: list[str]) -> list[tuple[int, int | None]]:
    """(width, stride) of every global store: the bytes that a lane stores, and the factor of %tid.x in its address."""
    factors: dict[str, int | None] = {}

    def factor(operand: str) -> int | None:
        return factors.get(operand.partition("+")[0]) if operand.startswith("%r") else 0

    strides: list[tuple[int, int | None]] = []
    for line in ptx:
        match = re.match(r"(?:@!?%p\d+ )?([\w.]+)\s+(.*)", line)
        if not match:
            continue
        name, operands = match[1], [word.strip("[]{} ") for word in match[2].split(",")]
        if name.startswith("st.") and ".global" in name:
            words = int((re.search(r"\.v(\d)", name) or [0, 1])[1])
            width = words * int((re.search(r"[bufs](\d+)$", name) or [0, 8])[1]) // 8
            strides.append((width, factor(operands[0])))
            continue
        target, *rest = operands
        values = [factor(operand) for operand in rest]
        result: int | None = None
        if rest == ["%tid.x"]:
            result = 1
        elif None not in values and rest and not (name.startswith("ld.") and any(values)):
            known = [value or 0 for value in values]
            if name.startswith(("mov", "cvt", "add", "or", "min", "selp", "cvta")):
                result = (
                    max(known[:2], key=abs)
                    if name.startswith(("or", "min", "selp"))
                    else sum(known)
                )
            elif name.startswith("sub"):
                result = known[0] - known[1]
            elif name.startswith(("mul.", "mad")):
                scale = rest[1]
                product = (
                    known[0] * int(scale)
                    if re.fullmatch(r"-?\d+", scale)
                    else None
                    if any(known[:2])
                    else 0
                )
                result = None if product is None else product + (known[2] if len(known) > 2 else 0)
            elif name.startswith("shl") and rest[1].isdigit():
                result = known[0] << int(rest[1])
            elif not any(known):
                result = 0
        if factors.get(target) is None:
            factors[target] = result
    return strides


@dataclass(frozen=True)
class Figures:
    kernel: str
    architecture: str
    store: int
    stride: int | None
    flight: int
    trips: int
    fences: int
    spills: int


def figures(
    stem: str, architecture: str, macros: tuple[tuple[str, str], ...] = (), folder: Path = SOURCES
) -> list[Figures]:
    """The figures of the kernels in a file. Raises CompileError."""
    built = compiled(stem, architecture, macros, folder)
    texts = kernels_in(built.text, architecture)
    is_cuda = architecture.startswith("sm_")
    codes = sass_in(built.binary) if is_cuda else texts
    rows = []
    for resources in built.kernels:
        name, lines = resources.kernel, codes[resources.kernel]
        patterns = SASS if is_cuda else AMD[architecture]
        widths = [
            int((re.search(r"\.(128|64)\b", line) or [0, 32])[1]) // 8
            if is_cuda
            else 16
            if re.search("dwordx4|b128", line)
            else 8
            if re.search("dwordx2|b64", line)
            else 4
            for line in lines
            if re.match(r"(@\S+ )?STG?\.E|global_store_", line)
        ]
        widest = max(widths, default=0)
        strides = (
            {stride for width, stride in lane_strides(texts[name]) if width == 16}
            if is_cuda
            else {None}
        )
        loads = (
            SASS["poll"].replace(r"\.STRONG\.SYS", "")
            if is_cuda
            else r"global_load_(dwordx[24]|b64|b128)"
        )
        rows.append(
            Figures(
                name,
                architecture,
                widest,
                strides.pop() if len(strides) == 1 else None,
                max(bursts(lines, loads), default=0),
                round_trips(lines, patterns["poll"], name),
                fences(lines, patterns["flag"], patterns["fence"]),
                resources.stack_bytes or resources.spills,
            )
        )
    return rows


def misses(row: Figures) -> list[str]:
    """The bars that a kernel misses."""
    # The fence between aliases, of one thread, is another fence of the system.
    is_multimem = row.kernel.endswith("_multimem") and row.architecture.startswith("sm_")
    bars = {
        f"{row.trips} round trips of a poll": row.trips <= 1,
        f"{row.fences} fences a signal": row.fences
        <= (0 if row.kernel in PACKETS else MOST_FENCES + is_multimem),
        f"{row.spills} spilled": row.spills == 0,
    }
    if row.kernel in PACKETS:
        bars |= {
            f"stores of {row.store} bytes": row.store == 16,
            f"lanes {row.stride} bytes apart": row.stride
            in (16, None if row.architecture.startswith("gfx") else 16),
            "no polling loop": row.trips == 1,
            f"{row.flight} loads in flight": row.flight
            >= (2 if row.architecture.startswith("sm_") else 4),
        }
    return [
        f"{row.kernel} for {row.architecture}: {text}"
        for text, is_met in bars.items()
        if not is_met
    ]


def main() -> int:
    stems = sorted(str(path.relative_to(SOURCES).with_suffix("")) for path in SOURCES.rglob("*.cu"))
    rows = [
        row
        for stem in stems
        for architecture in ARCHITECTURES
        for row in figures(stem, architecture)
    ]
    print("2 ranks, float32", HEAD, sep="\n")
    for row in sorted(rows, key=lambda row: (row.kernel, ARCHITECTURES.index(row.architecture))):
        print(LAYOUT.format(*("-" if figure is None else figure for figure in astuple(row))))
    missed = [sentence for row in rows for sentence in misses(row)]
    print(*missed, sep="\n", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
