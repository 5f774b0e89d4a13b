"""Cards by their figures, slots of any width, and peer access as the user says it."""

import pytest

from reports.advice.reduce_times import assumed_times
from reports.advice.specs import GPUS, LINKS, gpu_of, link_between, link_by_name, with_peer_access
from tests.reports.advice.test_advise import TWO, answer, refusal
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

FIGURES = "32GB,640GB/s,191TFLOPS"
BY_FIGURES = TWO.replace("r9700", FIGURES)


def test_a_card_by_its_figures_has_the_answer_of_its_data_sheet():
    """A card of next year must not wait for a data sheet here."""
    text, words = answer(f"{BY_FIGURES},pcie5x16,rccl")
    known, _ = answer(TWO)
    rows = [line for line in text.splitlines() if line.startswith("TP 2")]
    assert len(rows) == 2  # at most, and likely
    assert all(row in known for row in rows)
    assert "191 TFLOP/s (as given): peaks" in words
    _, words = answer(BY_FIGURES)
    assert "its slot ASSUMED to be pcie4x16, its library NCCL" in words


def test_figures_of_a_card_may_stand_in_any_order():
    card = gpu_of("191tflops, 300W, 640GB/s, pcie5x4, 32GB, RCCL")
    assert (card.memory_gb, card.bandwidth_gb_s, card.fp16_tflops) == (32, 640, 191)
    assert (card.tdp_w, card.slot, card.library) == (300, "pcie5x4", "rccl")
    assert gpu_of(FIGURES).tdp_w is None
    assert gpu_of("32 GB, 640 GB/s, 191 TFLOPS").memory_gb == 32  # as data sheets print it


@pytest.mark.parametrize(
    ("gpu", "sentence"),
    [
        ("32GB,640GB/s", "'32GB,640GB/s' lacks TFLOPS; a card's figures are such as 32GB,640"),
        ("32GB", "'32GB' lacks GB/s and TFLOPS"),
        ("0GB,640GB/s,191TFLOPS", "0GB is not above 0 and at most 10,000 GB"),
        ("32GB,640GB/s,999999999TFLOPS", "is not above 0 and at most 1,000,000 TFLOPS"),
        ("32GB,16GB,640GB/s,191TFLOPS", "has two figures in GB;"),
        ("32GB,640GB/s,191TFLOPS,fast", "'fast' is no figure with a unit"),
        ("32GB,640GB/s,191TFLOPS,\x1b[2J", "'?[2J' is no figure with a unit"),
        ("32GB,-640GB/s,191TFLOPS", "'-640GB/s' is no figure with a unit"),
        ("32GB,nanGB/s,191TFLOPS", "'nanGB/s' is no figure with a unit"),
        ("32,640,191", "unknown GPU '32,640,191', or give its figures, such as 32GB,640GB/s,"),
        (",,,", "unknown GPU ',,,', or give its figures"),
    ],
)
def test_wrong_figures_of_a_card_take_one_sentence(gpu, sentence):
    assert sentence in refusal("--model llama-3.1-70b --gpu", gpu)


def test_a_link_without_a_name_is_none():
    """`--link "$LINK"` of an empty variable took the card's own link."""
    assert "unknown link ''" in refusal(f"{TWO} --link", "")


def test_narrow_and_old_slots_have_their_own_bandwidth():
    """`pcie4x4` was taken for a misspelt `pcie4x8`, which has twice of it."""
    assert LINKS["pcie5x4"].gb_s == LINKS["pcie4x8"].gb_s == LINKS["pcie3x16"].gb_s
    assert LINKS["pcie1x1"].gb_s == 0.25  # 2.5 GT/s, of ten bits eight
    assert LINKS["pcie2x4"].gb_s == 2
    assert link_by_name("PCIe 4.0 x4") is link_by_name("pcie4x4") is LINKS["pcie4x4"]
    assert "pcie3x4 has at most 3.94 GB/s one way (PCIe 3.0: 8 GT/s, 4 lanes" in " ".join(
        answer(f"{TWO} --link pcie3x4")[1].split()
    )
    # 16 KiB take 65 us over a lane of the first generation, whatever was published of sixteen.
    narrow = assumed_times(2, GPUS["p104-100"], LINKS["pcie1x1"])
    assert narrow(16384).low == pytest.approx(16384 / 0.25e3)
    assert narrow(1024).low == assumed_times(2, GPUS["p104-100"], LINKS["pcie3x16"])(1024).low
    words = answer(f"{TWO} --link pcie5x4")[1]
    assert (
        "link pcie5x4 changes nothing: what is published of RCCL does not distinguish it" in words
    )


@pytest.mark.parametrize("name", ["pcie4x3", "pcie9x4", "pcie4", "x4", "\x1b[2J", "nvlink9", ""])
def test_an_unknown_link_is_told_without_a_guess(name):
    with pytest.raises(ResultError) as refused:
        link_by_name(name)
    sentence = str(refused.value)
    assert sentence.startswith("unknown link '")
    assert "did you mean" not in sentence
    assert "PCIe 1 to 5 with 1, 2, 4, 8, 16 lanes" in sentence
    assert sentence.isprintable()


def test_a_patched_driver_and_none_at_all_are_asked_about():
    """An owner who patched the driver was told the times of host memory, and one whose board has no
    peers those of peers."""
    geforce = TWO.replace("r9700", "rtx5090")
    _, words = answer(f"{geforce} --peer-access on")
    assert "rtx5090 has peer access, as you say: figures through host memory are left out." in words
    assert "ASSUMED not to be patched" not in words
    _, words = answer(f"{TWO} --peer-access off")
    assert "r9700 (as you say) and cards without peer access take" in words
    off = assumed_times(2, with_peer_access(GPUS["r9700"], "off"), LINKS["pcie5x16"])
    assert "host memory" in " ".join(off.notes)
    assert off(16384) != assumed_times(2, GPUS["r9700"], LINKS["pcie5x16"])(16384)
    # Without peers NVLink is not used either.
    nvlink = GPUS["v100-sxm2-32gb"]
    assert with_peer_access(nvlink, "off").peer is None
    assert with_peer_access(nvlink, None) is nvlink
    assert "a run or a wire has its own" in refusal(f"{TWO} --peer-access on --wire 3,3,12")
    assert "invalid choice" in refusal(f"{TWO} --peer-access perhaps")


def test_a_library_that_nobody_replays_from_a_graph_has_its_eager_figures():
    """A buyer of two Arc cards was told that nobody published anything; one of two DGX Sparks too,
    which a network joins."""
    assert "eager figures over PCIe" in answer(f"{TWO.replace('r9700', 'b70')}")[1]
    assert "published of oneCCL" in answer(f"{TWO.replace('r9700', 'b70')}")[1]
    assert "eager figures over network" in answer(f"{TWO.replace('r9700', 'gb10')}")[1]


@pytest.mark.parametrize("gpus", [2, 8])
def test_every_card_is_answered_with_and_without_peers(gpus):
    """A data sheet whose link nobody published would be a card that advise knows and refuses."""
    for name, gpu in GPUS.items():
        for asked in (None, "on", "off"):
            card = with_peer_access(gpu, asked)
            times = assumed_times(gpus, card, link_between(card, gpus))
            assert 0 < times(16384).low <= times(16384).value <= times(16384).high, name
