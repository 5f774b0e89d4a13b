"""Tests the table "The same bits" of docs/methods.md on data that round: which bits depend on
nothing but the inputs, and the order of every sum."""

import pytest

from tests.kernels.broken_kernels import PACK, Patch, apply, tree
from tests.launch import few, mpirun

RANKS = "tests/ranks/stable_ranks.py"


@pytest.mark.parametrize(("ranks", "types"), [(3, ("float32", "bfloat16")), (4, ("float32",))])
def test_every_sum_has_the_order_that_it_documents_at_any_size_and_place(ranks, types):
    """Sums in rank order are rounded once, and the ring's at each hop. So their bits are the same
    in every launch and on all ranks, whichever rank is late; those in rank order also for any size,
    address and variant, and in place. A benchmark's data never round, so it would not notice."""
    done = mpirun(ranks, RANKS, "sums", *types)
    assert done.returncode == 0, done.stderr[-3000:]
    performed, _, words = done.stdout.partition(" ")
    assert words == f"examples right on {ranks} ranks\n"
    assert int(performed) > 60 * len(types)


def test_a_fused_norm_has_the_same_bits_up_to_four_ranks_in_any_form_batch_and_place():
    """A model then answers alike whether it runs on three GPUs or on four."""
    command = RANKS, "norms", "float32", "bfloat16"
    launches = [mpirun(ranks, *command) for ranks in few((3, 4, 2), 2)]
    for done in launches:
        assert done.returncode == 0, done.stderr[-3000:]
    assert len({done.stdout for done in launches}) == 1
    assert len(launches[0].stdout.split()) == 6


def test_sums_that_begin_with_the_last_rank_are_noticed(tmp_path):
    """They are right, and alike on all ranks."""
    where = tree(tmp_path / "tree")
    first, next_one = "Element::widen(load(0))", "Element::widen(load(s))"
    last_first = Patch(PACK, first, first.replace("0", "SOURCES - 1"))
    apply(where, [last_first, Patch(PACK, next_one, next_one.replace("s", "s - 1"))])
    done = mpirun(3, RANKS, "sums", "float32", tree=where)
    assert done.returncode != 0
    assert "elements have other bits" in done.stderr
