"""`python -m tests.kernels.hiprtc_process LIBRARY ARCHITECTURE FOLDER [MACRO=VALUE ...]`

Compiles the kernel files that standard input names with a real hipRTC, and stores each code object
in the folder. It prints the compiler's log, or what is wrong, of each file as JSON. With LIBRARY
`bindings` it calls hipRTC by AMD's bindings.

In a process of its own: the library of a newer system needs that system's loader."""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import CompileError
from kernels.devices.layout import SOURCES
from tests.kernels.compile_matrix import RuntimeCompiler, layouts


def main(library: str, architecture: str, folder: str, *macros: str) -> None:
    compiler: Any
    if library == "bindings":
        from kernels.devices.hip import nvrtc as compiler
    else:
        compiler = RuntimeCompiler(ctypes.CDLL(library), "hiprtc")
    flags = [*gpu_driver.compiler_flags(architecture), *(f"-D{macro}" for macro in macros)]
    logs = dict[str, str]()
    for name in map(str.strip, sys.stdin):
        source = SOURCES / f"{name}.cu"
        try:
            _, code, log = gpu_driver.build(
                compiler, source, flags, "hipRTC refuses it", layouts(source)
            )
        except CompileError as error:
            log = str(error)
        else:
            Path(folder, f"{source.stem}.bin").write_bytes(code)
        logs[name] = log.rstrip("\0")
    print(json.dumps(logs))


if __name__ == "__main__":
    main(*sys.argv[1:])
