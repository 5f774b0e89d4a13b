"""NVIDIA's Multi-Process Service (MPS): with it ranks on one GPU run at once, else in turn."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.campaigns.processes import run_to_end, with_status
from bench.harness.console import say
from wiretax.common.program import BENCH

CONTROL = "nvidia-cuda-mps-control"
LIMIT_S = 20.0
OPENING_S = 60.0  # for a process that opens a GPU
WITHOUT = "ranks that share one of NVIDIA's GPUs take turns of milliseconds"


@contextmanager
def service() -> Iterator[str]:
    """Starts the service and ends it, unless it runs already; yields a sentence about it. A
    container may start the service and keep its clients out."""
    # The usual folder for its logs is root's.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:
        if failure_of(command="get_server_list\n") is None:  # it fails without the service
            yield "MPS ran already, and ranks share the GPU through it."
        elif refusal := failure_of("-d", CUDA_MPS_LOG_DIRECTORY=logs):
            yield f"MPS does not start ({refusal}): {WITHOUT}."
        else:
            with ExitStack() as running:
                running.callback(end)
                if refusal := opened_gpu():
                    running.close()
                    said = f"MPS starts, and no process opens the GPU through it ({refusal})"
                    yield f"{said}: {WITHOUT}."
                else:
                    yield "The survey started MPS, and ranks share the GPU through it."


def opened_gpu() -> str | None:
    """Why a new process cannot use the GPU; None if it can."""
    command = [sys.executable, "-c", "import cupy; cupy.cuda.runtime.malloc(1)"]
    status, last_line = run_to_end(command, Path("/"), os.environ, OPENING_S)
    return with_status(last_line, status) if status else None


def end() -> None:
    """Ends the service, or says that it goes on."""
    if refusal := failure_of(command="quit\n"):
        say(f"{BENCH}survey", f"MPS does not end ({refusal}): echo quit | {CONTROL}")


def failure_of(*options: str, command: str = "", **variables: str) -> str | None:
    """Why a call of the control program fails; None if it succeeds. With CUDA_VISIBLE_DEVICES the
    service would number these GPUs from 0, and clients with the same variable would miss theirs."""
    environment = variables | os.environ
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    with tempfile.TemporaryFile("w+", errors="replace") as said:  # a service keeps a pipe open
        try:
            done = subprocess.run(
                [CONTROL, *options],
                input=command,
                stdout=said,
                stderr=said,
                env=environment,
                text=True,
                timeout=LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{CONTROL}: {error}"
        said.seek(0)
        lines = [line.strip() for line in said if line.strip()]
    if done.returncode == 0:
        return None
    return lines[-1] if lines else f"exit status {done.returncode}"
