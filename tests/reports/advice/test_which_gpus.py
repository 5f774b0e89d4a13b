"""`advise --doctor`: which GPUs of a machine to split over."""

import json
import re

import pytest

from tests.reports.advice.test_advise import answer, refusal
from tests.reports.advice.test_advise_splits import answer_json

pytestmark = pytest.mark.unit

# A 27B in fp8 fits one H100 NVL: the worked fault of a lesson on NVLink.
LESSON = "--model qwen3.5-27b --weights fp8 --gpu h100-nvl"
ROOT_COMPLEX = "PCIe, same root complex"
GROUP = {"bus_ids": ["0000:01:00.0"], "path": ROOT_COMPLEX, "status": "OK"}


def doctor(folder, *groups, gpus=4, **fields):
    """Writes a doctor's answer with these (numbers, path, status) of two GPUs."""
    content = {"schema": 1, "command": "doctor", "gpus": [{}] * gpus}
    content["groups"] = {
        "2": [
            {
                "gpus": numbers,
                "bus_ids": [f"0000:{number}1:00.0" for number in numbers],
                "path": path,
                "status": status,
            }
            for numbers, path, status in groups
        ]
    }
    path = folder / "doctor.json"
    path.write_text(json.dumps(content | fields))
    return path


def test_the_pair_with_a_working_link_or_one_gpu_is_advised(tmp_path):
    """TP 2 on GPU 0 and 1, whose NVLink is down, wastes the pair that has one."""
    path = doctor(tmp_path, ([2, 3], "NVLink x12", "OK"), ([0, 1], ROOT_COMPLEX, "OK"))
    _, words = answer(LESSON, "--doctor", path)
    assert "Which GPUs: GPU 2 and 3 (0000:21:00.0 0000:31:00.0), joined by NVLink x12; not" in words
    found = re.search(
        r"not GPU 0 and 1, which programs take by themselves: PCIe, same root complex, where TP 2 "
        r"takes at least ([\d.]+) ms a token\. Or TP 1: one GPU alone fits, at least ([\d.]+) ms",
        words,
    )
    assert found
    slow_ms, alone_ms = map(float, found.groups())
    splits = answer_json(LESSON, "--doctor", path)["splits"]
    (tensor_us,) = [each["step_us"][0] for each in splits if each["name"] == "TP 2"]
    assert tensor_us / 1e3 < slow_ms
    assert tensor_us / 1e3 < alone_ms
    assert "nvlink4-bridge has at most" in words


def test_gpus_whose_driver_refuses_peers_count_through_host_memory(tmp_path):
    """The sentence said `no peer access`, and the arithmetic counted with it."""
    two = "--model llama-3.1-70b --weights 40GB --gpu r9700"

    def splits_with(status):
        path = doctor(tmp_path, ([0, 1], ROOT_COMPLEX, status))
        return answer_json(two, "--doctor", path)["splits"]

    through_host = answer_json(two, "--peer-access", "off")["splits"]
    assert splits_with("NS") == through_host != splits_with("OK")


def test_where_no_bridge_works_the_slots_are_assumed(tmp_path):
    """The data sheet's NVLink must not stand for PCIe."""
    path = doctor(tmp_path, ([0, 1], ROOT_COMPLEX, "NS"))
    _, words = answer(LESSON, "--doctor", path)
    assert "pcie5x16 has at most 63.0 GB/s" in words
    assert "GPU 0 and 1 (0000:01:00.0 0000:11:00.0), joined by PCIe, same root complex, no" in words
    assert "which programs take" not in words
    path = doctor(tmp_path, ([0, 1], ROOT_COMPLEX, "OK"))
    sheet, found, slots = (
        {each["name"]: each["likely"] for each in answer_json(LESSON, *more)["splits"]}["TP 2"]
        for more in ((), ("--doctor", path), ("--link", "pcie5x16"))
    )
    assert (sheet["way"], found["way"]) == ("links", "peers")
    assert found == slots
    assert (
        "Or TP 1"
        not in answer(
            "--model llama-3.1-70b --weights fp16 --gpu h100-nvl --gpus 2", "--doctor", path
        )[1]
    )
    _, words = answer(f"{LESSON} --gpus 1,2", "--doctor", path)
    assert "2 GPUs: Which GPUs: GPU 0 and 1" in words


@pytest.mark.parametrize(
    ("link_gb_s", "sentence", "published"),
    [
        (15.752, "the slowest slot has at most 15.8 GB/s one way (bench.doctor)", "PCIe 5"),
        (0.985, "the slowest slot has at most 0.98 GB/s one way (bench.doctor)", "PCIe,"),
        (63.01, "pcie5x16 has at most 63.0 GB/s one way", "PCIe 5"),
        (None, "pcie5x16 has at most 63.0 GB/s one way", "PCIe 5"),
        (-5, "pcie5x16 has at most 63.0 GB/s one way", "PCIe 5"),
    ],
)
def test_the_second_slot_of_a_home_board_is_not_assumed_wide(
    tmp_path, link_gb_s, sentence, published
):
    """The doctor said 15.8 GB/s, and the line above that the slots have 63.0."""
    path = doctor(tmp_path, ([0, 1], ROOT_COMPLEX, "OK"), gpus=2)
    content = json.loads(path.read_text())
    content["groups"]["2"][0]["link_gb_s"] = link_gb_s
    path.write_text(json.dumps(content))
    _, words = answer("--model llama-3.1-8b --gpu rtx5090 --doctor", path)
    assert sentence in words
    assert f"figures over {published}" in words


def test_what_is_likely_knows_the_doctors_link(tmp_path):
    """It took the NVLink of the data sheet for cards that PCIe joins, and 16 lanes for one."""
    prompts = []
    for name, link_gb_s in (("NVLink x4", None), (ROOT_COMPLEX, 31.504), (ROOT_COMPLEX, 0.985)):
        path = doctor(tmp_path, ([0, 1], name, "OK"), gpus=2)
        content = json.loads(path.read_text())
        content["groups"]["2"][0]["link_gb_s"] = link_gb_s
        path.write_text(json.dumps(content))
        splits = answer_json("--model llama-3.1-8b --gpu rtx3090 --doctor", path)["splits"]
        prompts += [each["likely"]["prompt_us"][0] for each in splits if each["name"] == "TP 2"]
    assert prompts == sorted(prompts)
    assert len({*prompts}) == 3


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"groups": {"2": [GROUP | {"gpus": []}]}}, "a group of 2 names another number"),
        ({"groups": {"2": [GROUP | {"gpus": [0, 1, 2]}]}}, "a group of 2 names another number"),
        ({"command": "fit"}, "is not what bench.doctor --json prints"),
        ({"groups": [1]}, "Expected `object`, got `array`"),
        ({"groups": {"2": [{"gpus": "x"}]}}, "Expected `array`, got `str`"),
    ],
)
def test_a_file_that_is_no_doctors_is_refused(tmp_path, fields, refused):
    assert refused in refusal(LESSON, "--doctor", doctor(tmp_path, **fields))


def test_too_few_gpus_and_no_json_are_refused(tmp_path):
    path = doctor(tmp_path, gpus=2)
    assert "names 2 GPUs, not 4" in refusal(f"{LESSON} --gpus 4", "--doctor", path)
    assert "names 1 GPU, not 2" in refusal(LESSON, "--doctor", doctor(tmp_path, gpus=1))
    path.write_text("GPU  bus id")
    assert "is not JSON" in refusal(LESSON, "--doctor", path)
    assert "no such file" in refusal(LESSON, "--doctor", tmp_path / "none").lower()


def test_a_hostile_path_prints_no_control_characters(tmp_path):
    path = doctor(tmp_path, ([0, 1], "PCIe\x1b[31m\n", "OK"))
    text, _ = answer(LESSON, "--doctor", path)
    assert "\x1b" not in text
