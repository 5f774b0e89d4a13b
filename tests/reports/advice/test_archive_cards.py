"""Archives whose cards are not what they say, and honest ones of cards that are told apart by their
memory alone."""

import pytest

from tests.reports.forged_archive import add, edited, head, ranks
from tests.reports.synthetic_archive import packed

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("contributed")]
LAST = "1a2b34"


def second_rank(**facts):
    """A change of the facts of the second rank."""

    def change(line):
        if line["kind"] == "run":
            line["world"]["ranks"][1] |= facts

    return change


@pytest.mark.parametrize(
    ("change", "only", "reason"),
    [
        (ranks(device="cpu"), "", "not all of its ranks ran on GPUs of the vendor"),
        (second_rank(device="cuda"), "", "not all of its ranks ran on GPUs of the vendor"),
        (ranks(arch="gfx1100"), LAST, "its runs are of several machines or sets of cards"),
        (ranks(gpu="NVIDIA GeForce RTX 5090"), "", "is no card of the vendor that survey.json"),
        (second_rank(gpu="AMD Radeon RX 7900 XTX"), "", "its cards are of several models"),
        (ranks(memory_bytes=4 << 30), "", "R9700' has 4.00 GiB, and no data sheet"),
        (ranks(memory_bytes=24 << 30), "", "R9700' has 24.0 GiB, and no data sheet"),
        (second_rank(pci_bus_id="0000:03:00.1"), "", "does not name 2 GPUs by their bus ids"),
        (second_rank(pci_bus_id="another"), "", "does not name 2 GPUs by their bus ids"),
        (head(world__hosts=2), "", "it is of several hosts"),
        (second_rank(host=1), "", "it is of several hosts"),
    ],
)
def test_cards_that_are_not_what_they_say_are_refused(tmp_path, capsys, change, only, reason):
    made = edited(change, where="", only=only)
    status, said, _ = add(capsys, packed(tmp_path / "survey.tar.gz", made))
    assert status == 1
    assert [text for text in said["reasons"] if reason in text], said["reasons"]


@pytest.mark.parametrize(
    ("gpu", "gib"),
    [
        ("AMD Radeon AI PRO R9700", 31.86),
        ("AMD Instinct MI50", 15.98),  # the name of cards with 16 and 32 GB
        ("AMD Instinct MI250X", 63.98),  # a die of two
    ],
)
def test_a_card_may_have_the_memory_of_any_of_its_name(tmp_path, capsys, gpu, gib):
    made = edited(ranks(gpu=gpu, memory_bytes=int(gib * 2**30)), where="")
    _, said, _ = add(capsys, packed(tmp_path / "survey.tar.gz", made))
    assert not [text for text in said["reasons"] if "GiB" in text]
