"""The build word `swap`: it changes the code of the kernels that take it, and only theirs."""

import pytest

from collectives.build import WITHOUT_SWAP
from tests.kernels.gpu_builds import compiled
from tests.kernels.kernel_code import kernels_in
from tests.launch import few

FILES = (
    "allgather",
    "alltoall",
    "reduce_scatter",
    "allreduce_one_shot",
    "allreduce_one_shot_ll",
    "allreduce_one_shot_sentinel",
    "allreduce_two_shot",
    "allreduce_two_shot_quantized",
    "allreduce_ring",
    "sendrecv",
    "gemv_allreduce",
)


def changed_by_swap(stem: str, architecture: str) -> dict[str, bool]:
    plain, swapped = (
        kernels_in(compiled(stem, architecture, macros).text, architecture)
        for macros in ((), (("WT_SWAP", "1"),))
    )
    return {entry: plain[entry] != swapped[entry] for entry in plain}


@pytest.mark.parametrize("architecture", few(["gfx942", "sm_90", "sm_80", "gfx1201"], 1))
def test_swap_changes_exactly_the_kernels_that_take_the_word(architecture):
    for stem in FILES:
        for entry, changes in changed_by_swap(stem, architecture).items():
            takes_word = not WITHOUT_SWAP.fullmatch(entry) and entry not in ("one_shot_ll", "gemv")
            assert changes == takes_word, entry
