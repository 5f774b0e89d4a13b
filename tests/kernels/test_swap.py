"""The build words `swap` and `sleep`: each changes the code of the kernels that take it, and only
theirs."""

import pytest

from collectives.operation import KernelAlgorithm
from collectives.registry import ALGORITHMS
from tests.kernels.gpu_builds import compiled
from tests.kernels.kernel_code import kernels_in
from tests.launch import few

# The collective of each kernel file, and how its entries begin.
FILES = {
    "allgather": ("all_gather", "all_gather_"),
    "alltoall": ("alltoall", "all_to_all_"),
    "reduce_scatter": ("reduce_scatter", "reduce_scatter_"),
    "sendrecv": ("sendrecv", "ping_pong_"),
    "allreduce_one_shot": ("all_reduce", ""),
    "allreduce_one_shot_ll": ("all_reduce", ""),
    "allreduce_one_shot_sentinel": ("all_reduce", ""),
    "allreduce_one_shot_pipelined": ("all_reduce", ""),
    "allreduce_two_shot": ("all_reduce", ""),
    "allreduce_ring": ("all_reduce", ""),
}


def changed_by_swap(stem: str, architecture: str) -> dict[str, bool]:
    plain, swapped = (
        kernels_in(compiled(stem, architecture, macros).text, architecture)
        for macros in ((), (("WT_SWAP", "1"),))
    )
    return {entry: plain[entry] != swapped[entry] for entry in plain}


def takes_swap(collective: str, name: str) -> bool:
    """Whether the algorithm of an entry takes the word in the entry's variant."""
    base = name.removesuffix("_registered")
    variant = "copied" if base == name else "registered"
    known = ALGORITHMS[collective]
    algorithm = known.get(base) or known[f"direct_{base}"]
    assert isinstance(algorithm, KernelAlgorithm)
    return variant in algorithm.swaps


@pytest.mark.parametrize("architecture", few(["gfx942", "sm_90", "sm_80", "gfx1201"], 1))
def test_swap_changes_exactly_the_kernels_that_take_the_word(architecture):
    for stem, (collective, prefix) in FILES.items():
        for entry, changes in changed_by_swap(stem, architecture).items():
            if entry.startswith(prefix):
                assert changes == takes_swap(collective, entry.removeprefix(prefix)), entry


SLEEPS = {"gfx1201": "s_sleep 1", "gfx942": "s_sleep 1", "sm_90": "nanosleep.u32"}


@pytest.mark.parametrize("architecture", few(["gfx1201", "sm_90", "gfx942"], 2))
def test_sleep_is_in_a_kernel_s_waits_only_with_the_word(architecture):
    for stem in ("allreduce_one_shot", "allreduce_one_shot_ll"):
        plain, sleeping = (
            compiled(stem, architecture, macros).text for macros in ((), (("WT_SLEEP", "1"),))
        )
        assert SLEEPS[architecture] not in plain
        assert SLEEPS[architecture] in sleeping
