"""What a launcher of ranks tells a process in its environment, before MPI is up."""

import os
import re
from collections.abc import Iterable

RANK_VARIABLES = (
    "PMI_RANK",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "SLURM_PROCID",
    "MV2_COMM_WORLD_RANK",
)
# What torchrun sets, with LOCAL_WORLD_SIZE, which other launchers set too.
TORCHRUN_VARIABLES = "RANK", "WORLD_SIZE", "LOCAL_RANK"
SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS", "MV2_COMM_WORLD_SIZE")
LOCAL_SIZE_VARIABLES = (
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_TASKS_PER_NODE",
)


def launched_rank() -> int | None:
    return _number_in(RANK_VARIABLES)


def in_slurm_step() -> bool:
    """Whether srun has started this process. The script of a Slurm job also has a SLURM_PROCID, and
    a step number that Slurm reserves, or none."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in os.environ and step.isdecimal() and int(step) < 1 << 31


def launched_ranks() -> int | None:
    return _number_in(SIZE_VARIABLES)


def ranks_on_host() -> int | None:
    return _number_in(LOCAL_SIZE_VARIABLES)


def _number_in(variables: Iterable[str]) -> int | None:
    """The number that the first of these variables starts with, such as 4 in Slurm's `4(x2)`."""
    for variable in variables:
        if match := re.match(r"\d+", os.environ.get(variable, "")):
            return int(match[0])
    return None
