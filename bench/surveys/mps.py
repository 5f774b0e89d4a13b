"""NVIDIA's Multi-Process Service (MPS): with it ranks on one GPU run at once, else in turn."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench.harness.console import say
from reports.store.program import BENCH

CONTROL = "nvidia-cuda-mps-control"
LIMIT_S = 20.0
WITHOUT = "ranks that share one of NVIDIA's GPUs take turns of milliseconds"


@contextmanager
def service(opened_gpu: Callable[[], str | None]) -> Iterator[str]:
    """Starts the service and ends it, unless it runs already; yields a sentence about it.
    `opened_gpu` opens the GPU in a process of its own, and says why it cannot: a container may
    start the service and keep its clients out."""
    # The usual folder for its logs is root's.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:
        if not shutil.which(CONTROL):
            yield f"There is no {CONTROL}: {WITHOUT}."
        elif failure_of(command="get_server_list\n") is None:  # it fails without the service
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
    return (lines[-1] if lines else f"exit status {done.returncode}") if done.returncode else None
