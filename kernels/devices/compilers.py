"""Threads that compile kernel files side by side. CuPy calls NVRTC and hipRTC without Python's
lock, and a compiler of the CPU is a process. NVRTC and ROCm 6's hipRTC compile one file at a time
in a process: there ranks share the files, and threads gain little. ROCm 7's compiles several."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from kernels.devices.compile_cache import Busy, waiting
from kernels.devices.device import Device
from wiretax.common.launched import ranks_on_host

Compile = Callable[[bool], Path]  # by whether it waits for another process, or raises Busy


class Compilers:
    """As many threads as this rank has cores. A file that another rank of the host compiles comes
    last, when it is in the cache: so the ranks share the work, also those with one core each."""

    def __init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) // (ranks_on_host() or 1)
        self.threads = ThreadPoolExecutor(max(1, cores), "compiler")
        self.started = dict[object, tuple[Compile, Future[Path]]]()
        self.lock, self.taken = Lock(), set[object]()  # by a thread that compiles it, or has

    def start(self, key: object, compile: Compile) -> None:
        """Compiles a file, once for this key."""
        if key not in self.started:
            self.started[key] = compile, Future[Path]()
            self.threads.submit(self._compile, key, False)

    def _compile(self, key: object, wait: bool) -> None:
        compile, future = self.started[key]
        with self.lock:
            if key in self.taken:
                return
            self.taken.add(key)
        try:
            future.set_result(compile(wait))
        except Busy:
            with self.lock:
                self.taken.remove(key)
            with suppress(RuntimeError):  # it has been closed
                self.threads.submit(self._compile, key, True)
        except Exception as error:  # noqa: BLE001 - who waits for the file gets it
            future.set_exception(error)

    def path(self, key: object) -> Path:
        """The compiled file, once it is; this thread compiles it if no other one has begun. Raises
        what its compilation raised."""
        self._compile(key, True)
        with waiting():
            return self.started[key][1].result()

    def close(self, wait: bool) -> None:
        """Starts no further file, and may wait for the end of those that are begun."""
        with waiting():
            self.threads.shutdown(wait, cancel_futures=True)


@contextmanager
def side_by_side(device: Device) -> Iterator[None]:
    """Files of steps that are made inside are compiled meanwhile, and none once it is left: that
    would disturb what is measured then. Whoever made the steps calls `finish_builds` before."""
    device.compilers = compilers = Compilers()
    try:
        yield
        compilers.close(wait=True)  # where time was short, files that no case needs are begun
    finally:
        compilers.close(wait=False)
        device.compilers, device.later = None, []
