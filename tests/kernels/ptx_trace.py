"""Runs compiled PTX thread by thread, to turn our kernels into litmus tests: a few ranks, small
blocks, one memory.

Integers are computed, floats are 0. All threads take turns, one memory operation each, so a wait
ends as soon as the peer has stored its flag. `run` returns what each thread did to memory; of a
polling loop only the last look."""

import re
from collections.abc import Callable, Iterator, Sequence

from kernels.devices.device import Arguments
from tests.kernels.ptx_model import INITIAL, Event, Place

PARAMETERS = 1 << 60  # the address of the launch's arguments
Memory = dict[
    int, tuple[int, tuple[int, int]]
]  # {address: (value, (thread, index of the event that wrote it))}
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": int.__eq__,
    "ne": int.__ne__,
    "lt": int.__lt__,
    "le": int.__le__,
    "gt": int.__gt__,
    "ge": int.__ge__,
}
INTEGER: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "shl": lambda a, b: a << min(b, 64),
    "shr": lambda a, b: a >> min(b, 63),
    "div": lambda a, b: a // b,
    "not": lambda a: ~a,
    "mad": lambda a, b, c: a * b + c,
    "mov": lambda a: a,
    "cvt": lambda a: a,
    "cvta": lambda a: a,
    "selp": lambda a, b, p: a if p else b,
    "bfi": lambda a, b, at, n: b & ~(((1 << n) - 1) << at) | (a & ((1 << n) - 1)) << at,
    "shf": lambda low, high, n: (high << 32 | low) << (n & 31) >> 32,
}


class Thread:
    """One thread of a launch. `steps` yields "B" at a block barrier, and otherwise after each
    memory operation."""

    def __init__(
        self, number: int, lines: Sequence[str], arguments: Arguments, special: dict[str, int]
    ) -> None:
        self.number, self.lines = number, lines
        self.arguments, self.registers = bytes(arguments), dict(special)
        self.events: list[Event] = []
        self.sources: dict[int, tuple[int, int]] = {}  # {index of a read: who wrote the value}
        self.polled: dict[tuple[int, object], int] = {}

    def value(self, operand: str, kind: str = "u64") -> int:
        bits = int(kind[1:]) if kind[1:].isdigit() else 64
        if operand in self.registers:
            x = self.registers[operand]
        elif operand.startswith("0f"):
            return 0
        else:
            x = PARAMETERS if "_param_0" in operand else int(operand, 0)
        x &= (1 << bits) - 1
        return x - (1 << bits) if kind[0] == "s" and x >> (bits - 1) else x

    def address(self, operand: str) -> int:
        base, _, offset = operand.strip("[]").partition("+")
        return self.value(base) + int(offset or 0)

    def steps(self, memory: Memory) -> Iterator[str]:
        labels = {line[:-1]: i for i, line in enumerate(self.lines) if line.endswith(":")}
        at = 0
        while at < len(self.lines):
            line = self.lines[at]
            at += 1
            guarded = re.match(r"@(!?)(%p\d+)\s+(.*)", line)
            if guarded:
                if bool(self.registers[guarded[2]]) == bool(guarded[1]):
                    continue
                line = guarded[3]
            name, _, rest = line.partition(" ")
            if not line or line.endswith(":") or line[0] in "./{}":
                continue
            op, *suffixes = name.strip().split(".")
            operands = [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", rest)]
            if op == "ret":
                return
            if op == "bra":
                at = labels[operands[0]]
            elif op in ("bar", "barrier"):
                self.events.append(Event("B"))
                yield "B"
            elif op in ("ld", "st", "atom", "fence"):
                if op == "ld" and suffixes[0] == "param":
                    self.load_argument(suffixes[-1], operands)
                    continue
                self.access(op, suffixes, operands, memory, at)
                yield op
            else:
                self.compute(op, suffixes, operands)

    def load_argument(self, kind: str, operands: list[str]) -> None:
        offset = self.address(operands[1]) - PARAMETERS
        self.registers[operands[0]] = int.from_bytes(
            self.arguments[offset : offset + int(kind[1:]) // 8], "little"
        )

    def compute(self, op: str, suffixes: list[str], operands: list[str]) -> None:
        kind, to = suffixes[-1], operands[0]
        if to[0] == "{":  # a move that splits 64 bits
            low, high = re.findall(r"[%\w]+", to)
            whole = self.value(operands[1])
            self.registers[low], self.registers[high] = whole & 0xFFFFFFFF, whole >> 32
        elif operands[-1][0] == "{":  # a move that joins 32 and 32 bits
            low, high = (self.value(part, "u32") for part in re.findall(r"[%\w]+", operands[-1]))
            self.registers[to] = high << 32 | low
        elif kind[0] == "f" or "%globaltimer" in operands or operands[-1].startswith("%f"):
            self.registers[to] = 0
        elif op == "setp":
            a, b = (self.value(operand, kind) for operand in operands[1:])
            self.registers[to] = int(COMPARE[suffixes[0]](a, b))
        elif kind == "pred":
            self.registers[to] = (
                INTEGER[op](*(self.registers[operand] for operand in operands[1:])) & 1
            )
        else:
            kinds = [kind] * 2 + ["u64"] * 2 if op in ("selp", "shl", "shr", "bfi") else [kind] * 3
            if op in ("shl", "shr"):
                kinds[1] = "u32"
            self.registers[to] = INTEGER[op](
                *(self.value(x, k) for x, k in zip(operands[1:], kinds, strict=False))
            )
            bits = (
                128 if "wide" in suffixes else int((suffixes[0] if op == "cvt" else kind)[1:] or 64)
            )
            self.registers[to] &= (1 << min(bits, 64)) - 1

    def access(
        self, op: str, suffixes: list[str], operands: list[str], memory: Memory, at: int
    ) -> None:
        words = ("weak", "relaxed", "acquire", "release", "acq_rel", "sc")
        order = next((word for word in words if word in suffixes), "weak")
        scope = next((word for word in ("cta", "gpu", "sys") if word in suffixes), "sys")
        if "volatile" in suffixes:
            order = "relaxed"
        if op == "fence":
            self.events.append(Event("F", order=order, scope=scope))
            return
        bracket = next(operand for operand in operands if operand[0] == "[")
        location = self.address(bracket)
        if op == "atom":
            order, scope = (
                "relaxed" if order == "weak" else order,
                "gpu",
            )  # without a scope: of the GPU
        registers = re.findall(r"[%\w]+", operands[0] if op == "ld" else operands[-1])
        element_bytes = int(suffixes[-1][1:]) // 8
        # PTX takes a vector as separate accesses; of weak data one element stands for all.
        for number in range(1 if op == "atom" else len(registers)):
            place = location + number * element_bytes
            value, source = memory.get(place, (0, (INITIAL, 0)))
            traced = order != "weak" or number == 0
            index = len(self.events)
            if op != "st":
                self.registers[operands[0] if op == "atom" else registers[number]] = value
            if op != "st" and traced:
                index = self.forget_last_look(at, place, order)
                self.sources[index] = source
                self.events.append(
                    Event("R", place, value if order != "weak" else None, order, scope)
                )
            if op != "ld":
                value = (
                    value + self.value(operands[-1], "u32")
                    if op == "atom"
                    else self.value(registers[number])
                )
                memory[place] = value, (self.number, len(self.events))
                if traced:
                    self.events.append(Event("W", place, value, order, scope, updates=op == "atom"))

    def forget_last_look(self, at: int, place: int, order: str) -> int:
        """Drops the last look of this polling loop, if only its other reads followed. Returns the
        new event's index."""
        first = self.polled.get((at, place), len(self.events))
        if order != "weak" and all(
            event.kind == "R" and event.order == order for event in self.events[first:]
        ):
            del self.events[first:]
        self.polled[at, place] = len(self.events)
        return len(self.events)


def run(
    lines: Sequence[str],
    ranks: Sequence[Arguments],
    block_threads: int,
    memory: Memory,
) -> tuple[list[Thread], list[Place]]:
    """Runs a launch of one block on every rank. Raises RuntimeError if it does not end."""
    lines = [re.sub(r"\s+", " ", line) for line in lines]
    threads, places = list[Thread](), list[Place]()
    for rank, arguments in enumerate(ranks):
        for thread in range(block_threads):
            special = {"%tid.x": thread, "%ntid.x": block_threads, "%ctaid.x": 0, "%nctaid.x": 1}
            threads.append(Thread(len(threads), lines, arguments, special))
            places.append(Place(rank))
    running = {thread.number: thread.steps(memory) for thread in threads}
    waiting: set[int] = set()
    for _ in range(2000):
        for number in [n for n in running if n not in waiting]:
            step = next(running[number], None)
            if step is None:
                del running[number]
            elif step == "B":
                waiting.add(number)
        for place in set(places):
            members = {n for n in running if places[n] == place}
            if members <= waiting:
                waiting -= members
        if not running:
            return threads, places
    raise RuntimeError("the launch does not end")


def arguments(rank: int, world: int, count: int, chunk_bytes: int) -> Arguments:
    """Arguments with invented addresses that do not overlap."""
    a = Arguments(count=count, chunk_bytes=chunk_bytes, half_bytes=1 << 16, timeout_ns=1, rank=rank)
    for kind, name in enumerate(("slab", "control", "sends", "receives"), 1):
        for r in range(world):
            getattr(a, name)[r] = (kind << 40) + (r << 32)
    for kind, name in ((3, "send"), (4, "receive"), (5, "watch"), (6, "own")):
        setattr(a, name, (kind << 40) + (rank << 32))
    return a
