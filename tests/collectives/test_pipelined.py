"""The pipelined one-shot on the software GPU, whose blocks run side by side: right, and wrong
without a wait for peers."""

import pytest

from tests.fake_gpu import environment
from tests.kernels.broken_kernels import Patch, apply, tree
from tests.launch import assert_right, few, mpirun

KERNEL = "kernels/allreduce_one_shot_pipelined.cu"


@pytest.mark.parametrize(("vendor", "ranks"), few([("cuda", 2), ("hip", 3), ("cuda", 8)], 2))
def test_messages_of_any_length_are_right(vendor, ranks):
    fake = environment(vendor=vendor, count=ranks, sms=6)
    words = "24", "1", vendor, "mapped", "one_shot_pipelined"
    assert assert_right(ranks, "collective", *words, **fake) > 8


WRONG = {
    "a slot that is still read": Patch(KERNEL, "if (step > 1) launch.wait(step - 1);", ""),
    "a chunk that has yet to come": Patch(KERNEL, "launch.wait(step + 1, EVERYONE);", ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_broken_forms_are_noticed(name, tmp_path):
    """How soon is random."""
    apply(tree(tmp_path / "tree"), [WRONG[name]])
    fake = environment(count=2, sms=6)
    for seed in range(8):
        words = "tests.ranks.collective_ranks", "24", str(seed), "cuda", "mapped"
        program = "-m", *words, "one_shot_pipelined"
        done = mpirun(2, *program, timeout_s=240, tree=tmp_path / "tree", **fake)
        if done.returncode:
            break
    assert ": element (" in done.stderr
