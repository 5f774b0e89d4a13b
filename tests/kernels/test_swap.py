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
# Its code changes, but all its slabs are the rank's own: the rank uses the same places.
ROTATES_ONE_SLAB = "one_shot_multimem"


def codes(stem: str, architecture: str, *macros: tuple[str, str]) -> dict[str, list[str]]:
    return kernels_in(compiled(stem, architecture, macros).text, architecture)


@pytest.mark.parametrize("architecture", few(["sm_90", "gfx942", "sm_80", "gfx1201"], 2))
def test_swap_changes_exactly_the_kernels_that_take_the_word(architecture):
    changed = dict[str, bool]()
    for stem in FILES:
        plain, swapped = codes(stem, architecture), codes(stem, architecture, ("SWAP", "1"))
        changed |= {entry: plain[entry] != swapped[entry] for entry in plain}
    takes_word = {entry for entry in changed if not WITHOUT_SWAP.fullmatch(entry)} - {
        "one_shot_ll",
        "gemv",
    }
    assert {entry for entry in changed if changed[entry]} == takes_word


def test_two_shot_over_a_multicast_address_keeps_its_places():
    plain, swapped = (
        codes("allreduce_multimem", "sm_90"),
        codes("allreduce_multimem", "sm_90", ("SWAP", "1")),
    )
    assert {entry for entry in plain if plain[entry] != swapped[entry]} == {ROTATES_ONE_SLAB}
    assert WITHOUT_SWAP.fullmatch(ROTATES_ONE_SLAB)


@pytest.mark.parametrize(
    ("architecture", "ranks"), few([("gfx942", "8"), ("gfx942", "3"), ("gfx1100", "8")], 1)
)
def test_swap_spills_no_registers_on_amd(architecture, ranks):
    for stem in few(("allreduce_ring", *FILES), 1):  # the ring has the fewest registers to spare
        plain, swapped = (
            compiled(stem, architecture, (("WORLD", ranks), ("SWAP", value))) for value in "01"
        )
        spills = {kernel.kernel: kernel.spills for kernel in plain.kernels}
        more = [kernel for kernel in swapped.kernels if kernel.spills > spills[kernel.kernel]]
        assert more == []
