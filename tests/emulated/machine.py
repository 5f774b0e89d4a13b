"""Executes AMD machine code on this CPU, instruction by instruction: the waves of all ranks
interleaved at random.

The instructions come from an emulator in a folder beside the project (`$WIRETAX_EMULATOR`, by
default ../shared/emulator), and from tinygrad's wheel, which `make test-emulated` installs to
.venv-emulated. The emulator has no caches but l2.py's, which a test adds: every store is visible to
all waves at once. So a test shows what the code computes, and that its waits suffice in each
interleaving tried; it does not show what orders memory on a GPU."""

import ctypes
import hashlib
import os
import pickle
import random
import secrets
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from kernels.devices.compile_cache import cache_folder
from kernels.devices.cpu import cpu_model, load
from kernels.devices.layout import Shared
from tests.emulated.l2 import L2
from tests.kernels.kernel_resources import NoCompiler, clang
from tests.launch import ROOT

FAMILIES = {"gfx942": "cdna", "gfx1201": "rdna4", "gfx1100": "rdna3"}  # the emulator's names
EMULATOR = Path(os.environ.get("WIRETAX_EMULATOR", ROOT.parent / "shared/emulator"))
PACKAGES = (
    ROOT / f".venv-emulated/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
)
BURSTS = (1, 3, 20, 200, 1000)  # instructions that a wave executes before another wave continues
MOST_INSTRUCTIONS = 200_000_000  # of one run; far beyond any time-out
LOCAL_POISON = 0xA5  # a block's shared memory before its first store
FP32_DENORMALS = (
    3 << 4
)  # in the kernel descriptor's float mode: neither inputs nor results are flushed
REL32, REL64, REL32_LO, REL32_HI = 4, 5, 10, 11  # relocation types, relative to the place
ACQUIRES, SCOPE_SYS = ("GLOBAL_INV", "BUFFER_INV"), 3
CACHE_CONTROL = (
    "GLOBAL_WB",
    "BUFFER_WBL2",
    "BUFFER_GL",
    "GL0_INV",
    "GL1_INV",
    "SCHED_BARRIER",
    "DCACHE",
)

CORRECTIONS = {
    # A thread that is switched off accesses a block's memory at whatever its register holds.
    "idx = mem.index(addr >> addr_shift)": "idx = mem.index((addr >> addr_shift).valid(active))",
    "'ADDR_BASE': addr": "'ADDR_BASE': addr, '_active': _lane_active(exec_mask, lane)",
    # The others: what it does as on RDNA also on gfx942, whose waves have 64 threads.
    # An atomic returns the old value if this bit is set: `sc0` on gfx942.
    "_iattr(inst, 'glc') or (": "_iattr(inst, 'glc') or _iattr(inst, 'sc0') or (",
    # A 16-bit operand in register 128 + n is the upper half of register n: not on gfx942.
    "if bits['s0'] == 16:  # src0 >=": "if bits['s0'] == 16 and ctx.wave_size == 32:  # src0 >=",
    "write_hi_half = bits": "write_hi_half = ctx.wave_size == 32 and bits",
    "vsrc1_hi = bits['s0'] == 16 and": "vsrc1_hi = ctx.wave_size == 32 and bits['s0'] == 16 and",
    "16:\n      vsrc1_hi =": "16 and ctx.wave_size == 32:\n      vsrc1_hi =",
}


def reason_against() -> str | None:
    """Why machine code cannot be executed here; None if it can."""
    if not (EMULATOR / "test/mockgpu/amd/emu.py").is_file():
        return f"no emulator of AMD's instruction sets in {EMULATOR}"
    if not (PACKAGES / "tinygrad").is_dir():
        return "tinygrad is not installed: run `make test-emulated`"
    try:
        clang()
    except NoCompiler as error:
        return str(error)
    return None


@cache
def compiler_version() -> str:
    return subprocess.run([clang(), "--version"], capture_output=True, text=True, check=True).stdout


@cache
def emulator() -> Any:
    """The emulator's module, with CORRECTIONS."""
    os.environ["CC"] = (
        clang()
    )  # tinygrad compiles each kind of instruction once, with this compiler
    sys.path.append(str(PACKAGES))
    sys.path.insert(
        0, str(EMULATOR)
    )  # before the standard library, which also has a package `test`
    path = EMULATOR / "test/mockgpu/amd/emu.py"
    text = path.read_text()
    for wrong, right in CORRECTIONS.items():
        assert text.count(wrong) == 1, f"{path} has {wrong!r} {text.count(wrong)} times"
        text = text.replace(wrong, right)
    emu: Any = ModuleType("emu")
    try:
        exec(compile(text, path, "exec"), vars(emu))
    finally:
        sys.path.remove(str(EMULATOR))
    emu.to_program = stored(emu.to_program)
    return emu


def stored(to_program: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """tinygrad's function, which takes 100 ms to compile an instruction, with its results in the
    compile cache."""
    tools = hashlib.sha256(
        "\0".join([compiler_version(), version("tinygrad"), *cpu_model()]).encode()
    ).hexdigest()
    folder = cache_folder() / f"emulated-{tools[:24]}"
    folder.mkdir(exist_ok=True)

    def load_or_compile(source: Any, renderer: Any) -> Any:
        path = folder / source.key.hex()
        if path.is_file():
            return pickle.loads(path.read_bytes())
        program, unfinished = to_program(source, renderer), folder / secrets.token_hex(8)
        unfinished.write_bytes(pickle.dumps(program))
        unfinished.replace(path)
        return program

    return load_or_compile


class Instruction(Shared, file=str(Path(__file__).with_name("execute.cpp"))):
    """A function, and the numbers of its buffers."""

    _fields_ = (
        ("run", ctypes.c_void_p),
        ("parameters", ctypes.c_uint8 * 6),
        ("kind", ctypes.c_uint8),
        ("size", ctypes.c_uint8),
    )


@cache
def native_loop() -> Any:
    function = load(Path(__file__).with_name("execute.cpp"), {}).execute
    pointer = ctypes.c_void_p
    function.argtypes = [pointer, pointer, pointer, ctypes.c_uint64, ctypes.c_long]
    function.restype = ctypes.c_long
    return function


class CodeObject:
    """The machine code of `kernels/<stem>.cu` in executable order: a relocatable ELF file,
    relocated in place."""

    def __init__(self, path: Path, arch: str, stem: str) -> None:
        data = path.read_bytes()
        self.arch, self.stem = arch, stem
        self.memory = ctypes.create_string_buffer(
            len(data) + 1024
        )  # the decoder reads beyond the last instruction
        self.base = -(-ctypes.addressof(self.memory) // 256) * 256
        ctypes.memmove(self.base, data, len(data))
        self.instructions = (Instruction * (len(data) // 4 + 1))()
        (table,), (count, self.names) = (
            struct.unpack_from("<Q", data, 40),
            struct.unpack_from("<HH", data, 60),
        )
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)
        ]
        self.kernels: dict[str, MachineKernel] = {}
        symbols = next(section for section in self.sections if section[1] == 2)
        names, self.symbols = self.sections[symbols[6]][4], list[int]()
        for at in range(symbols[4], symbols[4] + symbols[5], 24):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            place = value + (self.sections[section][4] if section < count else 0)
            self.symbols.append(place)
            text = data[names + name : data.index(b"\0", names + name)].decode()
            if text.endswith(".kd"):
                self.kernels[text[:-3]] = MachineKernel(text[:-3], self, place)
        for section in self.sections:
            if section[1] == 4:  # relocations with addends, of the section that field 7 names
                for at in range(section[4], section[4] + section[5], 24):
                    self._relocate(
                        self.sections[section[7]][4], *struct.unpack_from("<QQq", data, at)
                    )

    def _relocate(self, section: int, offset: int, info: int, addend: int) -> None:
        value = self.symbols[info >> 32] + addend - (section + offset)
        kind, place = info & 0xFFFFFFFF, self.base + section + offset
        if kind == REL64:
            ctypes.c_int64.from_address(place).value = value
        elif kind in (REL32, REL32_LO, REL32_HI):
            ctypes.c_uint32.from_address(place).value = (
                value >> (32 if kind == REL32_HI else 0) & 0xFFFFFFFF
            )
        else:
            raise NotImplementedError(f"relocation of type {kind}")


class MachineKernel:
    """A kernel's descriptor: LLVM's "User Guide for AMDGPU Backend", Kernel Descriptor."""

    def __init__(self, name: str, code: CodeObject, descriptor: int) -> None:
        self.name, self.code, self.descriptor = name, code, code.base + descriptor

    def _field(self, kind: Any, offset: int) -> int:
        return int(kind.from_address(self.descriptor + offset).value)

    @property
    def local_bytes(self) -> int:
        return self._field(ctypes.c_uint32, 0)

    @property
    def scratch_bytes(self) -> int:
        return self._field(ctypes.c_uint32, 4)

    @property
    def argument_bytes(self) -> int:
        return self._field(ctypes.c_uint32, 8)

    @property
    def entry(self) -> int:
        return self.descriptor + self._field(ctypes.c_int64, 16)

    @property
    def registers2(self) -> int:
        return self._field(ctypes.c_uint32, 52)

    @property
    def float_mode(self) -> int:
        return self._field(ctypes.c_uint32, 48) >> 12 & 0xFF

    def user_registers(self, arguments: int) -> list[int]:
        """The scalar registers that the hardware fills: no kernel here asks for more than the
        address of its arguments."""
        enabled = self._field(ctypes.c_uint16, 56) & 0x7F
        assert enabled == 1 << 3, f"{self.name} asks for other registers: {enabled:#x}"
        return [arguments & 0xFFFFFFFF, arguments >> 32] + [0] * ((self.registers2 >> 1 & 31) - 2)


@dataclass
class Launch:
    """A kernel in a rank's stream. Hidden arguments follow `argument`, as in code object version
    5."""

    kernel: MachineKernel
    blocks: int
    threads: int
    argument: bytes
    l2: L2 | None = None
    keep: list[Any] = field(default_factory=list)

    def waves(self, pace: float) -> "Iterator[Wave]":
        kernel, emu = self.kernel, emulator()
        assert kernel.float_mode & FP32_DENORMALS == FP32_DENORMALS, (
            "this CPU would not flush denormals"
        )
        hidden = -(-len(self.argument) // 8) * 8
        arguments = ctypes.create_string_buffer(max(kernel.argument_bytes, hidden + 256))
        ctypes.memmove(arguments, self.argument, len(self.argument))
        struct.pack_into(
            "<IIIHHHHHH", arguments, hidden, self.blocks, 1, 1, self.threads, 1, 1, 0, 0, 0
        )
        address = ctypes.addressof(arguments)
        self.keep.append(arguments)
        family = FAMILIES[kernel.code.arch]
        lanes = emu._wave_size(family)
        for number in range(self.blocks):
            firsts = range(0, self.threads, lanes)
            block = Block(kernel.local_bytes, len(firsts), pace)
            for first in firsts:
                state = emu._init_wave(
                    kernel.entry,
                    first,
                    self.threads,
                    self.threads,
                    1,
                    1,
                    address,
                    kernel.registers2,
                    kernel.scratch_bytes,
                    family,
                    number,
                    0,
                    0,
                    kernel.user_registers(address),
                    lanes,
                )
                yield Wave(self, block, state, lanes)


class Block:
    """A block's shared memory and its barrier. `pace` is the probability that a chosen wave
    continues."""

    def __init__(self, local_bytes: int, waves: int, pace: float) -> None:
        self.pace = pace
        self.shared = ctypes.create_string_buffer(bytes([LOCAL_POISON]) * max(local_bytes, 8))
        self.waves, self.arrived, self.passed = waves, 0, 0

    def arrive(self) -> None:
        self.arrived += 1
        self.release()

    def release(self) -> None:
        if self.arrived and self.arrived == self.waves:
            self.arrived, self.passed = 0, self.passed + 1


class Wave:
    """A wave: its registers, and the barrier that it waits for (`awaited`, counted by its
    block)."""

    def __init__(self, launch: Launch, block: Block, state: Any, lanes: int) -> None:
        self.launch, self.block, self.state = launch, block, state
        self.scratch = ctypes.create_string_buffer(launch.kernel.scratch_bytes * lanes + 8)
        self.arrived_at, self.awaited = 0, -1
        scalars, vectors, accumulators = (
            buffer._buf.va_addr for buffer in (state.sgpr_buf, state.vgpr_buf, state.accvgpr_buf)
        )
        # In the order of the emulator's parameters. The third is all memory, which starts at
        # address 0.
        self.buffers = (ctypes.c_void_p * 6)(
            scalars,
            vectors,
            0,
            ctypes.addressof(block.shared),
            ctypes.addressof(self.scratch),
            accumulators,
        )
        self.registers = state._sgpr_mv
        self.counter = ctypes.c_void_p(scalars + 4 * emulator().PC_LO_IDX)

    @property
    def can_run(self) -> bool:
        return self.awaited < self.block.passed


# The kinds of instructions: execute.cpp executes the first ones, and Machine those from SIGNAL on.
NOT_DECODED, NO_OPERATION, RUN, SIGNAL, WAIT, BARRIER, CLOCK, ACQUIRE = range(8)
KINDS = {"S_BARRIER_SIGNAL": SIGNAL, "S_BARRIER_WAIT": WAIT, "S_BARRIER": BARRIER}


def decoded(address: int, arch: str) -> Instruction:
    """The instruction at an address. CLOCK's only parameter is the first register of its result,
    ACQUIRE's whether its scope is the system."""
    emu, family = emulator(), FAMILIES[arch]
    raw = ctypes.string_at(address, 16)
    if (
        family == "rdna3" and raw[3] >> 2 == 0x38
    ):  # buffer_gl0_inv and buffer_gl1_inv, which the decoder does not know
        return Instruction(kind=ACQUIRE, size=8)
    instruction = emu.decode_inst(raw, family)
    text, size = str(getattr(instruction, "op", "")), instruction.size()
    if any(part in text for part in ACQUIRES):
        bits = (emu._iattr(instruction, name) for name in ("sc0", "sc1"))
        of_system = all(bits) or emu._iattr(instruction, "scope") == SCOPE_SYS
        return Instruction(kind=ACQUIRE, size=size, parameters=(of_system,))
    if any(part in text for part in CACHE_CONTROL):
        return Instruction(kind=NO_OPERATION, size=size)
    if "SENDMSG_RTN" in text or "MEMREALTIME" in text or "S_MEMTIME" in text:
        register = instruction.sdst if hasattr(instruction, "sdst") else instruction.sdata
        return Instruction(
            kind=CLOCK, size=size, parameters=(getattr(register, "offset", register),)
        )
    kind = next((kind for part, kind in KINDS.items() if part in text), RUN)
    if kind != RUN:
        return Instruction(kind=kind, size=size)
    if family == "cdna" and "FLAT_" in text:
        # The hardware ignores the field of the scalar address in a FLAT instruction; the emulator
        # ignores 127.
        ctypes.c_uint8.from_address(address + 6).value |= 0x7F
    program, runtime = emu._get_runner(ctypes.string_at(address, size) + bytes(4), family)
    return Instruction(
        ctypes.cast(runtime.fxn, ctypes.c_void_p).value, tuple(program.arg.globals), RUN, size
    )


class Machine:
    """Executes streams, one a rank. `clock` counts all instructions. `paces` are the ranks' in
    turn: with 0.1 a rank falls behind others, which then poll ten times as often. `executed` has
    the kernels that ran to their end, by file."""

    def __init__(self, seed: int = 0, paces: Sequence[float] = (1.0,)) -> None:
        self.paces = paces
        self.draw, self.clock = random.Random(seed), 0
        self.executed = defaultdict[str, set[str]](set)

    def run(self, streams: Sequence[Iterator[Launch | Callable[[], object]]]) -> None:
        """Runs all streams at once. A launch starts when the one before it in its stream has ended,
        and a function of Python is called then; the streams know nothing of each other. Raises
        RuntimeError if they do not end."""
        waves: list[Wave] = []
        running = [0] * len(streams)
        pending = list(range(len(streams)))  # streams that may start their next launch
        stream_of: dict[int, int] = {}
        started = self.clock
        while True:
            while pending:
                number = pending.pop()
                item = next(streams[number], None)
                while callable(item):
                    item()
                    item = next(streams[number], None)
                if item and item.l2:
                    item.l2.begin_launch()
                pace = self.paces[number % len(self.paces)]
                for wave in item.waves(pace) if item else ():
                    waves.append(wave)
                    stream_of[id(wave)] = number
                    running[number] += 1
            if not waves:
                return
            wave = self.draw.choice(waves)
            if not wave.can_run or self.draw.random() > wave.block.pace:
                continue
            ends, l2 = self._ends(wave, self.draw.choice(BURSTS)), wave.launch.l2
            if l2:
                l2.write_through()
            if ends:
                waves.remove(wave)
                number = stream_of.pop(id(wave))
                running[number] -= 1
                if not running[number]:
                    pending.append(number)
            if self.clock - started > MOST_INSTRUCTIONS:
                raise RuntimeError(f"no end after {MOST_INSTRUCTIONS} instructions")

    def _ends(self, wave: Wave, most: int) -> bool:
        """Executes up to `most` instructions of a wave; whether it has ended."""
        block, code, stop = wave.block, wave.launch.kernel.code, self.clock + most
        while self.clock < stop:
            self.clock += native_loop()(
                wave.counter,
                wave.buffers,
                code.instructions,
                code.base,
                stop - self.clock,
            )
            address = wave.state.pc
            if address == emulator().ENDPGM_PC:
                block.waves -= 1
                block.release()
                self.executed[code.stem].add(wave.launch.kernel.name)
                return True
            place = (address - code.base) // 4
            instruction = code.instructions[place]
            if instruction.kind == NOT_DECODED:
                code.instructions[place] = decoded(address, code.arch)
            if instruction.kind <= RUN or self.clock == stop:
                continue
            self.clock += 1
            wave.state.pc = address + instruction.size
            if instruction.kind == CLOCK:
                register = instruction.parameters[0]
                wave.registers[register] = self.clock & 0xFFFFFFFF
                wave.registers[register + 1] = self.clock >> 32
                continue
            if instruction.kind == ACQUIRE:
                if wave.launch.l2:
                    wave.launch.l2.acquire(bool(instruction.parameters[0]))
                continue
            if instruction.kind != WAIT:
                wave.arrived_at = block.passed
                block.arrive()
            if instruction.kind != SIGNAL and block.passed == wave.arrived_at:
                wave.awaited = wave.arrived_at
                break
        return False
