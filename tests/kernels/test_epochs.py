"""What an earlier launch left behind, a flag or a packet, must not pass for this launch's, however
many launches ago that was. Epochs are set, so no test has to launch 2^31 times."""

import ctypes
from itertools import product
from typing import cast

import numpy as np
import pytest

from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import CollectiveCase, KernelAlgorithm, Operation
from collectives.peer_buffer import PeerBuffer, write_own
from collectives.registry import exact
from kernels.devices.cpu import CpuDevice, load
from kernels.devices.device import HALF_BYTES, PACKETS_BYTES, Control
from tests.ranks.sanitized_ranks import open_bed

pytestmark = pytest.mark.unit

EPOCHS = 2**32
COUNT, CHUNK_BYTES = 5003, 8192  # floats, in three chunks
# Launches since the flag was stored. 2^k: where a mark or a comparison of k bits would wrap.
OLD = sorted({2**k + more for k in range(32) for more in (-1, 0, 1)} - {0} | {EPOCHS - 3})
OWN = 2**31 + 1, 0, 5, 2**16, EPOCHS - 1  # epochs of the launch that waits


def test_a_flag_is_reached_in_its_launch_and_in_the_next_alone(tmp_path):
    """A peer is at most one launch ahead, since each launch waits for all ranks: directly, or, in a
    ring, over as many rounds as there are other ranks."""
    source = tmp_path / "reached.cu"
    source.write_text(
        '#include "include/sync.h"\n'
        'extern "C" int is_reached(u64 seen, u64 wanted) { return reached(seen, wanted); }\n'
    )
    is_reached = load(source, {}).is_reached
    is_reached.argtypes = ctypes.c_uint64, ctypes.c_uint64
    for own, ahead, step, wanted in product(
        OWN, (0, 1, 2, 3, *(-age for age in OLD)), (0, 1, 2, 2**32 - 1), (0, 1, 2**32 - 1)
    ):
        flag = (own + ahead) % EPOCHS
        is_new = (ahead == 0 and step >= wanted) or ahead == 1
        assert is_reached(flag << 32 | step, own << 32 | wanted) == is_new, (own, ahead, step)


class Pair:
    """Both ranks of an all-reduce in this process."""

    def __init__(self, algorithm: KernelAlgorithm) -> None:
        device = CpuDevice()
        bed = open_bed([device] * 2, 1, timeout_s=1e-6)
        in_chunks = algorithm.built(Build(chunk_bytes=CHUNK_BYTES))
        buffers = [device.private(4 * COUNT) for _ in range(3)]
        self.peers = [cast(PeerBuffer, world.peers) for world in bed.worlds]
        self.keep, self.launches = buffers, []
        for world, receive in zip(bed.worlds, buffers[:2], strict=True):
            at = buffers[-1].address, receive.address
            kind = COLLECTIVES["all_reduce"], COUNT, DATATYPES["float32"], "sum"
            bound = in_chunks.bind(world, CollectiveCase(*kind, *at))
            assert isinstance(bound, Operation), (
                f"{algorithm.name} is not launched here: {bound.reason}. If it is for GPUs alone, "
                "or does not wait for an epoch, enter it in NOT_BY_EPOCH with that reason."
            )
            bound.step.argument.yields = False  # nobody comes
            self.launches.append(device.caller(bound.step))

    def launch(self, rank: int, epoch: int, waits: bool) -> bool:
        """Launches a rank alone in an epoch. Returns whether it waited in vain; without `waits` it
        takes what is there, and so stores all its flags and packets."""
        watch = self.peers[rank].waits.watch
        watch.timed_out, watch.stop = 0, not waits
        write_own(self.peers[rank], (epoch - 1) % EPOCHS)
        self.launches[rank]()
        return bool(watch.timed_out)

    def forget(self) -> None:
        """Takes back the flags and packets that rank 0 has got."""
        self.peers[0].controls[0].write(np.zeros(ctypes.sizeof(Control), np.uint8))
        self.peers[0].slabs[0].write(np.zeros(PACKETS_BYTES, np.uint8), 2 * HALF_BYTES)


# All-reduces over slabs that are not launched here: why.
NOT_BY_EPOCH = {
    "one_shot_sentinel": "its reader writes 0 back, so nothing old is left",
    "one_shot_copy_engine": "of GPUs alone",
    "one_shot_multimem": "of GPUs alone",
    "two_shot_multimem": "of GPUs alone",
}
BY_EPOCH = {
    each.name: each
    for each in exact("all_reduce", hosts=1)
    if isinstance(each, KernelAlgorithm)
    and "copied" in each.variants
    and each.name not in NOT_BY_EPOCH
}


@pytest.mark.parametrize("name", BY_EPOCH)
def test_a_launch_waits_where_a_peer_was_in_an_older_launch(name):
    """The block's flags, or packets behind those of shorter messages, are then old."""
    pair = Pair(BY_EPOCH[name])
    pair.forget()
    assert pair.launch(0, 1, waits=True)  # nothing has come yet
    for own, age in product(OWN, [*OLD, EPOCHS - 2]):
        pair.launch(1, (own - age) % EPOCHS, waits=False)
        assert pair.launch(0, own, waits=True), f"epoch {own} takes what is {age} launches old"
        pair.launch(1, own, waits=False)
        assert not pair.launch(0, own, waits=True), f"epoch {own}"
        pair.forget()
