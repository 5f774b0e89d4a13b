"""Reads PTX and AMD assembly: the kernels, their loops, and the order of their synchronisation."""

import re
from dataclasses import dataclass

from kernels.devices.device import Control


def kernels_in(text: str, architecture: str) -> dict[str, list[str]]:
    """The instructions and labels of each kernel."""
    if architecture.startswith("sm_"):
        bodies = re.findall(r"^\.visible \.entry (\w+)\(.*?^\{(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    else:
        bodies = re.findall(r"^(\w+): +; @\1$(.*?)^\.Lfunc_end", text, re.MULTILINE | re.DOTALL)
    return {name: [re.sub(r"\s*(;|//).*", "", line).strip() for line in body.splitlines()] for name, body in bodies}


@dataclass(frozen=True)
class Access:
    """A global access of an instruction: `wide` for 16 bytes, `half` for 2 bytes."""

    load: bool
    wide: bool
    half: bool = False


def access(line: str) -> Access | None:
    ptx = re.match(r"(?:@!?%p\d+ )?(ld|st)\.(?:volatile\.|weak\.|relaxed\.\w+\.)?(?:global|local)(\S*)", line)
    if ptx:
        return Access(ptx[1] == "ld", ".v4.u32" in ptx[2], ptx[2] == ".u16")
    amd = re.match(r"(?:global|flat|scratch|buffer)_(load|store)_(\S+)", line)
    return Access(amd[1] == "load", amd[2] in ("dwordx4", "b128"), bool(re.search("short|16", amd[2]))) if amd else None


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its accesses in order, whether all loads come before the first store, and the number of loads
    in flight at the first wait."""

    accesses: list[Access]
    loads_first: bool
    in_flight: int

    @property
    def is_main(self) -> bool:
        return sum(a.load and a.wide for a in self.accesses) >= 4


def innermost_loops(lines: list[str]) -> list[Loop]:
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    spans = []
    for end, line in enumerate(lines):
        branch = re.search(r"(?:bra|bra\.uni|s_cbranch_\w+|s_branch)\s+(\S+)$", line)
        if branch and labels.get(branch[1], end) < end:
            spans.append((labels[branch[1]], end))
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [_loop(lines[begin : end + 1]) for begin, end in inner]


def loads_at_once(lines: list[str]) -> int:
    """The most loads of 16 bytes without a wait for loads or a store between them."""
    most = here = 0
    for line in lines:
        current = access(line)
        if re.match(r"s_wait(cnt.*vmcnt|_loadcnt)", line) or (current and not current.load):
            here = 0
        here += bool(current and current.load and current.wide)
        most = max(most, here)
    return most


def _loop(lines: list[str]) -> Loop:
    accesses = [a for a in map(access, lines) if a]
    first_store = next((i for i, a in enumerate(accesses) if not a.load), len(accesses))
    in_flight = 0
    for line in lines:
        current = access(line)
        in_flight += bool(current and current.load)
        if re.match(r"s_wait(cnt.*vmcnt|_loadcnt)", line):
            break
    return Loop(accesses, not any(a.load for a in accesses[first_store:]), in_flight)


FLAGS = Control.flags.offset
# The letter of each instruction of the protocol: W write-back or fence to the system, w wait for stores, S store of a
# flag, L load of a flag, l wait for loads, I invalidation for the system, i for the block, B block barrier, d other
# stores, r other loads, | a label, at which branches join. Kernels write the watch by flat_store, because the compiler
# does not know the address space of its pointer.
LETTERS = {
    "sm_": {
        "W": r"fence\.acq_rel\.sys",
        "B": r"bar\.sync|barrier\.sync",
        "S": r"(@\S+ )?st\.release\.sys",
        "L": r"(@\S+ )?ld\.acquire\.sys",
    },
    "gfx942": {
        "W": r"buffer_wbl2 sc0 sc1$",
        "w": r"s_waitcnt vmcnt\(0\)",
        "S": r"global_store_dwordx2 .* sc0 sc1$",
        "L": r"global_load_dwordx2 .* sc0 sc1$",
        "I": r"buffer_inv sc0 sc1$",
        "B": r"s_barrier$",
    },
    "gfx1100": {
        "w": r"s_waitcnt_vscnt null, 0x0$",
        "l": r"s_waitcnt vmcnt\(0\)",
        "S": rf"global_store_b64 .* offset:{FLAGS}$",
        "L": r"global_load_b64 .* glc$",
        "I": r"buffer_gl1_inv$",
        "i": r"buffer_gl0_inv$",
        "B": r"s_barrier$",
    },
    "gfx1201": {
        "W": r"global_wb scope:SCOPE_SYS$",
        "w": r"s_wait_storecnt(_dscnt)? 0x0$",
        "l": r"s_wait_loadcnt(_dscnt)? 0x0$",
        "S": r"global_store_b64 .* scope:SCOPE_SYS$",
        "L": r"global_load_b64 .* scope:SCOPE_SYS$",
        "I": r"global_inv scope:SCOPE_SYS$",
        "i": r"global_inv scope:SCOPE_SE$",
        "B": r"s_barrier_wait",
    },
}
# The instructions before a flag's store and after its load that AMD's memory model requires, from the tables in LLVM's
# "User Guide for AMDGPU Backend". gfx1100 has no write-back; there no store may be in flight.
RELEASE = {"gfx942": r"W[wlr]*w[wlr]*$", "gfx1100": r"(^|w)[^dS]*$", "gfx1201": r"W[wlr]*w[wlr]*$"}
ACQUIRE = {"gfx942": r"w+I", "gfx1100": r"l+Ii", "gfx1201": r"l+I"}
# The instructions of all threads of a block before one of them signals; on gfx1100 only the wait.
HANDOVER = {
    "sm_": r"WB[r|]*S",
    "gfx942": r"W[wlr]*wB[wlr|]*W[wlr]*S",
    "gfx1100": r"wBi[wlr|]*S",
    "gfx1201": r"W[wlr]*w+Bi[wlr|]*W[wlr]*S",
}
# RDNA runs a block on two CUs with separate caches, which the barrier must invalidate.
BARRIER = {"gfx1100": r"i", "gfx1201": r"i"}


def protocol(lines: list[str], architecture: str) -> str:
    """The kernel as a word of the letters above."""
    letters = LETTERS[family(architecture)]
    word = ""
    for line in lines:
        letter = next((c for c, pattern in letters.items() if re.match(pattern, line)), "")
        # A meeting's flag has no offset; on gfx1100 only the wait distinguishes its store from other stores.
        if architecture == "gfx1100" and word.endswith("w") and re.match("global_store_b64 (?!.*offset)", line):
            letter = "S"
        current = access(line)
        word += letter or ("|" if line.endswith(":") else "" if current is None else "r" if current.load else "d")
    return word


def family(architecture: str) -> str:
    return "sm_" if architecture.startswith("sm_") else architecture


def broken(word: str, architecture: str) -> list[str]:
    """Describes each violation of the order of a kernel's synchronisation."""
    kind = family(architecture)
    rules = [("S", RELEASE, True), ("L", ACQUIRE, False), ("B", BARRIER, False)]
    lacks = [f"no {letter}" for letter in "SL" if letter not in word]
    for letter, wanted, before in rules:
        for at in [m.start() for m in re.finditer(letter, word)] if kind in wanted else ():
            side = word[:at] if before else word[at + 1 :]
            if not (re.search if before else re.match)(wanted[kind], side):
                lacks.append(f"{letter} at {at}: {word[max(0, at - 8) : at + 9]}")
    return lacks
