"""An emulated GPU: the project's Device over machine.py. Its memory is the host's, so processes can
share it."""

import ctypes
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kernels.devices.compile_cache import CompileError, compile_once, first_complaint
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import CopyEngine, DeviceError, Macros, Step
from kernels.devices.layout import SOURCES
from tests.emulated.l2 import L2
from tests.emulated.machine import CodeObject, Launch, Machine, compiler_version
from tests.kernels.kernel_resources import HIP, PRELUDE, clang

# An object file: the linker of AMD's code is another package.
FLAGS = [*HIP, "-O3", "-std=c++17", "-S", "-Xclang", "-emit-obj"]
# Never unloaded, because decoded instructions are known by their addresses.
CODE: dict[Path, CodeObject] = {}
LOADING = threading.Lock()


class EmulatedDevice(CpuDevice):
    """One rank's GPU and its stream. `kernels` is the folder of the sources."""

    name = "hip"
    is_cpu = False
    most_chunk_bytes = 8 << 10  # short messages then have several chunks

    def __init__(
        self, machine: Machine, arch: str, threads: int, most_blocks: int, kernels: Path = SOURCES
    ) -> None:
        super().__init__()
        self.machine, self.arch, self.threads, self.most_blocks, self.kernels = (
            machine,
            arch,
            threads,
            most_blocks,
            kernels,
        )
        self.compiler = compiler_version()
        self.l2: L2 | None = None
        self.stream: list[Launch | Callable[[], object]] = []

    def load(self, stem: str, macros: Macros) -> Any:
        source = self.kernels / f"{stem}.cu"

        def build(path: Path, options: list[str], checks: str) -> None:
            flags = [*FLAGS, f"--offload-arch={self.arch}", *options]
            files = ["-include", str(PRELUDE), "-include", str(source), "-", "-o", str(path)]
            command = [clang(), *flags, *files]
            done = subprocess.run(command, input=checks, capture_output=True, text=True)
            if done.returncode:
                complaint = first_complaint(done.stderr)
                raise CompileError(f"{source.name} does not compile for {self.arch}: {complaint}")

        inputs = [self.arch, self.compiler, PRELUDE.read_text(), *FLAGS]
        path = compile_once(source, inputs, macros, build)
        with (
            LOADING
        ):  # ranks bind in parallel: a second copy would be freed, and its address used again
            if path not in CODE:
                CODE[path] = CodeObject(path, self.arch, stem)
        return CODE[path]

    def function(self, loaded: Any, entry: str, threads: int | None = None) -> Any:
        kernel, threads = loaded.kernels[entry], min(threads or self.threads, self.threads)

        def enqueue(blocks: int, argument: Any) -> None:
            self.stream.append(Launch(kernel, blocks, threads, bytes(argument), self.l2))

        return enqueue

    def blocks_for(self, size_bytes: int) -> int:
        return max(1, min(self.most_blocks, -(-size_bytes // (16 * self.threads))))

    def copy_engine(self, memops: bool = False) -> CopyEngine:
        """Copies that the host makes in the stream's order: never beside a kernel of the rank."""
        if memops:
            raise DeviceError("HIP's streams have no such operations")

        def copy(target: int, source: int, size_bytes: int) -> Step:
            return self.python("copy", lambda: ctypes.memmove(target, source, size_bytes))

        return CopyEngine(copy, self.never, self.never)

    def never(self, address: int, value: int) -> Step:
        raise AssertionError("a stream of CUDA's alone has this operation")

    def python(self, name: str, function: Callable[[], object], entries: int = 1) -> Step:
        return Step(name, lambda blocks, argument: self.stream.append(function), None)

    def launches(self) -> Iterator[Launch | Callable[[], object]]:
        """Takes the stream's entries, in order."""
        entries, self.stream = self.stream, []
        yield from entries

    def caller(self, step: Step) -> Callable[[], None]:
        def call() -> None:
            step.function(step.blocks, step.argument)
            self.machine.run([self.launches()])
            if self.l2:
                self.l2.host_waited()

        return call

    def sequence(self, steps: Sequence[Step]) -> Step:
        def enqueue(blocks: int, argument: Any) -> None:
            for step in steps:
                step.function(step.blocks, step.argument)

        return Step("steps in a row", enqueue, None)
