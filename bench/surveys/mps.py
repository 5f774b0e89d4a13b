"""NVIDIA's Multi-Process Service (MPS): with it ranks on one GPU run at once, else in turn."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CONTROL = "nvidia-cuda-mps-control"
LIMIT_S = 20.0
WITHOUT = "ranks that share one of NVIDIA's GPUs take turns of milliseconds"


@contextmanager
def service(opened_gpu: Callable[[], str | None]) -> Iterator[str]:
    """Starts the service and ends it, unless it runs already; yields a sentence about it.
    `opened_gpu` opens the GPU in a process of its own, and says why it cannot: a container may
    start the service and keep its clients out."""
    if not shutil.which(CONTROL):
        yield f"There is no {CONTROL}: {WITHOUT}."
    elif failure_of(command="get_server_list\n") is None:  # it fails without the service
        yield "MPS ran already, and ranks share the GPU through it."
    elif refusal := failure_of("-d"):
        yield f"MPS does not start ({refusal}): {WITHOUT}."
    elif refusal := opened_gpu():
        failure_of(command="quit\n")
        yield f"MPS starts, and no process opens the GPU through it ({refusal}): {WITHOUT}."
    else:
        try:
            yield "The survey started MPS, and ranks share the GPU through it."
        finally:
            failure_of(command="quit\n")


def failure_of(*options: str, command: str = "") -> str | None:
    """Why a call of the control program fails; None if it succeeds."""
    try:
        done = subprocess.run(
            [CONTROL, *options], input=command, capture_output=True, text=True, timeout=LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{CONTROL}: {error}"
    lines = f"{done.stdout}\n{done.stderr}".split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return (said[-1] if said else f"exit status {done.returncode}") if done.returncode else None
