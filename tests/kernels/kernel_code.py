"""Reads PTX and AMD assembly: the kernels, their loops, and the order of their synchronisation."""

import re

from kernels.devices.device import Control


def kernels_in(text: str, architecture: str) -> dict[str, list[str]]:
    """The instructions and labels of each kernel."""
    if architecture.startswith("sm_"):
        bodies = re.findall(
            r"^\.visible \.entry (\w+)\(.*?^\{(.*?)^\}", text, re.MULTILINE | re.DOTALL
        )
    else:
        bodies = re.findall(r"^(\w+): +; @\1$(.*?)^\.Lfunc_end", text, re.MULTILINE | re.DOTALL)
    return {
        name: [re.sub(r"\s*(;|//).*", "", line).strip() for line in body.splitlines()]
        for name, body in bodies
    }


ACCESS = re.compile(
    r"(?:@!?%p\d+ )?(?:multimem\.)?(ld|st)(?:_reduce)?\.(?:volatile\.|weak\.|relaxed\.\w+\.)?"
    r"(?:global|local)|(?:global|flat|scratch|buffer)_(load|store)_"
)
WIDE = r".*(\.v4\.(u32|f32|b?f16x2)|_(load|store)_(dwordx4|b128))"  # accesses of 16 bytes
WAITS = r"s_wait(cnt.*vmcnt|_loadcnt)"  # AMD's waits for loads
BRANCH = re.compile(r"(?:bra|bra\.uni|s_cbranch_\w+|s_branch)\s+(\S+)$")


def access(line: str) -> str:
    """`r` for a load from global memory, `d` for a store, empty for any other instruction."""
    match = ACCESS.match(line)
    return ("r" if (match[1] or match[2])[0] == "l" else "d") if match else ""


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """The innermost loops, each from its label to the branch back."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    spans = []
    for end, line in enumerate(lines):
        branch = BRANCH.search(line)
        if branch and labels.get(branch[1], end) < end:
            spans.append((labels[branch[1]], end))
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [lines[begin : end + 1] for begin, end in inner]


def wide_loads(lines: list[str]) -> int:
    return sum(access(line) == "r" and bool(re.match(WIDE, line)) for line in lines)


def loads_at_once(lines: list[str], load: str = WIDE) -> int:
    """The most matching loads without a wait for loads or a store between them."""
    most = here = 0
    for line in lines:
        if re.match(WAITS, line) or access(line) == "d":
            here = 0
        here += access(line) == "r" and bool(re.match(load, line))
        most = max(most, here)
    return most


FLAGS = Control.flags.offset
# The letter of each instruction of the protocol: W write-back to the system, w wait for stores, S
# store of a flag, L load of a flag, l wait for loads, I invalidation for the system, i for the
# block, B block barrier. Other loads and stores of global memory are r and d. The watch and
# arguments in memory have neither: kernels access them by flat instructions or in 8 bytes, and the
# data of the checked builds in 16, 4 or 2 bytes.
NVIDIA = {
    "S": r"(@\S+ )?st\.release\.sys",
    "B": r"bar\.sync|barrier\.sync",
    "": r"(@\S+ )?(ld\.global|(ld|st)\.volatile\.global)\.[bu]64",
}
LETTERS = {
    "sm_80": {"L": r"(@\S+ )?ld\.acquire\.sys", **NVIDIA},
    "sm_90": {"L": r"(@\S+ )?ld\.relaxed\.sys", "I": r"fence\.acquire\.sys", **NVIDIA},
    "gfx942": {
        "W": r"buffer_wbl2 sc0 sc1$",
        "w": r"s_waitcnt vmcnt\(0\)",
        "S": r"global_store_dwordx2 .* sc0 sc1$",
        "L": r"global_load_dwordx2 .* sc0 sc1$",
        "I": r"buffer_inv sc0 sc1$",
        "B": r"s_barrier$",
        "": r"flat_|global_load_(dwordx2|b64)",
    },
    "gfx1100": {
        "w": r"s_waitcnt_vscnt null, 0x0$",
        "l": r"s_waitcnt vmcnt\(0\)",
        "S": rf"global_store_b64 .* offset:{FLAGS}$",
        "L": r"global_load_b64 .* glc$",
        "I": r"buffer_gl1_inv$",
        "i": r"buffer_gl0_inv$",
        "B": r"s_barrier$",
        "": r"flat_|global_load_(dwordx2|b64)",
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
        "": r"flat_|global_load_(dwordx2|b64)",
    },
}
# What may be true of a wave before an instruction. A flag must not be stored while a fact of
# UNRELEASED holds. No barrier and no access may follow a poll while a fact of UNACQUIRED holds.
IN_FLIGHT, OTHERS_IN_FLIGHT = "own stores in flight", "other waves' stores in flight"
UNWRITTEN, WRITING = "stores not written back", "write-back in flight"
UNSHARED = "stores of other threads since the barrier"
POLLING, STALE, STALE_L0 = "poll in flight", "stale caches", "stale L0 of this CU"
FLUSHING = "HDP flush in flight"
UNMET = "polls of other threads since the barrier"
UNRELEASED = {IN_FLIGHT, OTHERS_IN_FLIGHT, UNWRITTEN, WRITING, UNSHARED}
UNACQUIRED = {POLLING, STALE, STALE_L0}
BLOCK_STALE = "stale L0 of other waves"  # after a block barrier, on RDNA: a block runs on two CUs
# The effect of each letter: {letter: [(if this fact holds, these replace it)]}. ANY adds facts
# without a condition. For AMD from the tables "AMDHSA Memory Model Code Sequences" of LLVM's User
# Guide for AMDGPU Backend:
# - a system release writes L2 back, then waits (gfx1100: only waits), and covers stores that
#   have completed;
# - a workgroup release of gfx942 does not wait for global stores, so waves of a block wait by
#   themselves;
# - a system acquire waits for the load, then invalidates (gfx1100: gl1, then gl0).
Effects = dict[str, list[tuple[str, tuple[str, ...]]]]
ANY = ""
HANDED = [
    (UNSHARED, ()),
    (UNMET, ()),
    (OTHERS_IN_FLIGHT, ()),
    (IN_FLIGHT, (IN_FLIGHT, OTHERS_IN_FLIGHT)),
]
CDNA: Effects = {
    "d": [(ANY, (UNSHARED, IN_FLIGHT, UNWRITTEN))],
    "B": [*HANDED, (ANY, (UNWRITTEN,))],
    "W": [(UNWRITTEN, (WRITING,))],
    "w": [(IN_FLIGHT, ()), (WRITING, ()), (POLLING, (STALE,))],
    "L": [(STALE, ()), (ANY, (POLLING, UNMET))],
    "I": [(STALE, ())],
}
RDNA: Effects = {
    **CDNA,
    "B": [*CDNA["B"], (ANY, (BLOCK_STALE,))],
    "w": [(IN_FLIGHT, ()), (WRITING, ())],
    "l": [(POLLING, (STALE,))],
    "i": [(BLOCK_STALE, ()), (STALE_L0, ())],
    "I": [(STALE, ()), (BLOCK_STALE, ())],
}
# A barrier orders a block's stores before a release of any of its threads (PTX ISA, "Causality
# order": synchronization by a barrier is part of base causality order).
SM_80: Effects = {
    "d": [(ANY, (UNSHARED,))],
    "L": [(ANY, (UNMET,))],
    "B": [(UNSHARED, ()), (UNMET, ())],
}
EFFECTS: dict[str, Effects] = {
    "sm_80": SM_80,
    "sm_90": {**SM_80, "L": [(ANY, (UNMET, STALE))], "I": [(STALE, ())]},
    "gfx942": CDNA,
    "gfx1100": {
        **RDNA,
        "d": [(ANY, (UNSHARED, IN_FLIGHT))],
        "B": [*HANDED, (ANY, (BLOCK_STALE,))],
        "I": [(STALE, (STALE_L0,))],
    },
    "gfx1201": RDNA,
}


def family(architecture: str) -> str:
    return "sm_" if architecture.startswith("sm_") else architecture


def _model(architecture: str) -> str:
    return "sm_90" if architecture.startswith("sm_") and architecture != "sm_80" else architecture


def protocol(lines: list[str], architecture: str) -> list[str]:
    """The letter of each line of a kernel."""
    letters = []
    last = ""
    for line in lines:
        letter = next(
            (c for c, pattern in LETTERS[_model(architecture)].items() if re.match(pattern, line)),
            None,
        )
        # A meeting's flag has no offset; on gfx1100 only the wait distinguishes its store from
        # other stores.
        if (
            architecture == "gfx1100"
            and last == "w"
            and re.match("global_store_b64 (?!.*offset)", line)
        ):
            letter = "S"
        letters.append(access(line) if letter is None else letter)
        last = letters[-1] or last
    return letters


def _followers(lines: list[str]) -> list[list[int]]:
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    following = []
    for i, line in enumerate(lines):
        branch = BRANCH.search(line)
        goes_on = not re.match(r"(s_endpgm|ret|s_branch|bra)\b", line) and i + 1 < len(lines)
        following.append([i + 1] * goes_on + ([labels[branch[1]]] if branch else []))
    return following


# Of a build for uncached slabs with streamed results: stores into slabs have the system's scope, so
# they need no write-back, as on gfx1100; all others stream, and no peer reads them.
STREAMED = r"global_store_\S+ .* (nt|glc slc dlc|th:TH_STORE_NT)$"
SYSTEM = {"gfx942": r".* sc0 sc1$", "gfx1201": r".* scope:SCOPE_SYS$", "gfx1100": ""}


def broken(
    lines: list[str], architecture: str, uncached: bool = False, flushes: bool = False
) -> list[str]:
    """Describes each violation of the memory model on some path through a kernel. It `flushes` the
    HDP by its only flat stores of 4 bytes."""
    effects, letters, following = (
        EFFECTS[_model(architecture)],
        protocol(lines, architecture),
        _followers(lines),
    )
    cached = list[str]()
    if flushes:
        written: Effects = {"H": [(ANY, (FLUSHING,))], "w": [*effects["w"], (FLUSHING, ())]}
        effects = {**effects, **written}
        for at, line in enumerate(lines):
            if re.match(r"flat_store_(dword|b32) ", line):
                letters[at] = "H"
    if uncached:
        stale = (ANY, (BLOCK_STALE,))
        barrier = [*HANDED, stale] if stale in effects["B"] else HANDED
        effects = {**effects, "d": EFFECTS["gfx1100"]["d"], "B": barrier}
        for at, line in enumerate(lines):
            if letters[at] == "d" and re.match(STREAMED, line):
                letters[at] = ""
            elif letters[at] == "d" and not re.match(rf"\S*(x2|b64) |{SYSTEM[architecture]}", line):
                cached.append(f"cached store at {at}")  # counters have 8 bytes
        cached += ["writes back"] * ("W" in letters)
    needed = "SLH" if flushes else "SL"
    flaws = {f"no {letter}" for letter in needed if letter not in letters} | {*cached}
    start: tuple[int, frozenset[str]] = (0, frozenset())
    reached, open_states = {start}, [start]
    while open_states:
        at, facts = open_states.pop()
        letter = letters[at]
        forbidden = UNACQUIRED if letter in ("d", "B", "S", "r") else set()
        forbidden = forbidden | {
            "S": {*UNRELEASED, FLUSHING},
            "H": UNRELEASED,
            "r": {BLOCK_STALE, UNMET},
            "d": {UNMET},
        }.get(letter, set())
        flaws |= {f"{letter} at {at}: {fact}" for fact in facts & forbidden}
        for condition, replaced in effects.get(letter, []):
            if condition == ANY or condition in facts:
                facts = facts - {condition} | {*replaced}
        for state in [(after, facts) for after in following[at]]:
            if state not in reached:
                reached.add(state)
                open_states.append(state)
    return sorted(flaws)
