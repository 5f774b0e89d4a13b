"""Which GPUs the doctor proposes for a split, and its JSON."""

import json

import pytest

from bench.doctor import json_of
from bench.machine.best_group import distance, group_facts
from bench.machine.diagnosis import problems
from tests.bench.machines import only

FOUR = [f"0000:{bus}:00.0" for bus in ("01", "21", "41", "61")]
ZERO, ONE, TWO, THREE = FOUR
PATHS_BY_MERIT = (
    "NVLink x18 through NVSwitch",
    "NVLink x4",
    "xGMI",
    "PCIe, below the same switch",
    "PCIe, same root complex",
    "PCIe, two root complexes of one socket",
    "PCIe, across sockets",
    "unknown",
)


def one_bridge_down(examined):
    """The facts of two bridged pairs, of which the first one's links are down."""
    gpus = {
        end: {"nvlinks": [(is_up, other)] * 4}
        for is_up, one, two in ((False, ZERO, ONE), (True, TWO, THREE))
        for end, other in ((one, two), (two, one))
    }
    return examined("", *(gpu.removeprefix("0000:") for gpu in FOUR), nvml_of=gpus)


def test_the_pair_whose_nvlink_works_is_proposed(examined):
    """TP 2 on GPU 0 and 1 would go over PCIe, where 2 and 3 have a bridge that works."""
    facts = one_bridge_down(examined)
    best, first = group_facts(facts, 2)
    assert (best["gpus"], best["path"], best["bus_ids"]) == ([2, 3], "NVLink x4", [TWO, THREE])
    assert first["gpus"] == [0, 1]
    assert not first["path"].startswith("NVLink")
    sentence = only(problems(facts), "NVLinks of GPU 0 are down")
    assert sentence.endswith(
        "Until then split over GPU 2 and 3 (NVLink x4), or use one GPU alone where the model fits."
    )
    # Four are as good as their worst pair, and all there are.
    (all_four,) = group_facts(facts, 4)
    assert all_four["gpus"] == [0, 1, 2, 3]
    assert not all_four["path"].startswith("NVLink")


def test_without_another_bridge_one_gpu_is_proposed(examined):
    gpus = {gpu: {"nvlinks": [(False, end)]} for gpu, end in ((ZERO, ONE), (ONE, ZERO))}
    facts = examined("", "01:00.0", "21:00.0", nvml_of=gpus)
    sentence = only(problems(facts), "NVLinks of GPU 0 are down")
    assert sentence.endswith("Until then use one GPU alone where the model fits.")


def test_paths_are_ranked_by_what_they_carry(examined):
    facts = one_bridge_down(examined)
    pair = facts["pairs"][0] | {"status": "OK"}
    keys = [distance(facts, pair | {"path": path}) for path in PATHS_BY_MERIT]
    assert keys == sorted(keys)
    assert len({*keys}) == len(keys)
    # A link that the driver refuses is no link.
    refused = distance(facts, pair | {"path": "NVLink x4", "status": "NS"})
    assert refused > distance(facts, pair | {"path": "PCIe, across sockets"})


def test_one_gpu_has_no_group_and_shared_gpus_have_none(examined):
    facts = one_bridge_down(examined)
    assert group_facts(facts | {"gpus": facts["gpus"][:1], "pairs": []}, 2) == []
    shared = [pair | {"path": "the same GPU"} for pair in facts["pairs"]]
    assert group_facts(facts | {"pairs": shared}, 2) == []


def test_the_json_has_the_facts_and_the_groups(examined):
    """`advise --doctor` reads it, and so may a scheduler."""
    answer = json.loads(json_of(one_bridge_down(examined)))
    assert (answer["schema"], answer["command"]) == (1, "doctor")
    assert [gpu["bus_id"] for gpu in answer["gpus"]] == FOUR
    assert {*answer["groups"]} == {"2", "3", "4"}
    assert answer["groups"]["2"][0]["gpus"] == [2, 3]
    assert any("NVLinks of GPU 0 are down" in sentence for sentence in answer["problems"])
    assert answer["unknown"]


@pytest.mark.parametrize("status", [0, 2])
def test_a_pair_says_whether_the_driver_makes_them_peers(examined, status):
    cards = {f"0000:{bus}:00.0": {"memory": 32 << 30} for bus in ("01", "03")}
    name = "two_rtx5090_on_one_root_complex"
    facts = examined(name, "01:00.0", "03:00.0", nvml_of=cards, status=status)
    (group,) = group_facts(facts, 2)
    assert group["status"] == ("OK" if status == 0 else "GNS")
    assert group["link_gb_s"] == pytest.approx(31.5, rel=0.01)
