"""Flight records: what they say of where a rank was."""

import pytest

from kernels.devices.device import Phase
from wiretax.record.flight_records import PHASES, sentence_on

pytestmark = pytest.mark.unit

WORDS = {
    Phase.PREPARE: "writing the send buffer",
    Phase.MEET: "barrier",
    Phase.OPERATION: "the collective",
    Phase.CONSUME: "reading the result",
    Phase.CHECK: "check",
}


def test_every_phase_of_a_rank_has_its_words():
    """Numbers in a record are of the program that wrote it: without words a new phase would raise,
    and one in another place would have another's."""
    assert len(PHASES) == len(Phase)
    assert dict(zip(Phase, PHASES, strict=True)) == {Phase.IDLE: "idle", **WORDS}
    for phase, words in WORDS.items():
        counters = {"phase": phase, "epoch": 7, "calls": 0}
        record = {
            "name": "rank 1",
            "text": "16 KiB",
            "block": 3,
            "step": "run",
            "counters": counters,
        }
        assert (
            sentence_on(record, "hangs")
            == f"rank 1 hangs: 16 KiB, block 3, step run, {words}, epoch 7"
        )
