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


def test_where_no_bridge_works_the_slots_are_assumed(tmp_path):
    """The data sheet's NVLink must not stand for PCIe."""
    path = doctor(tmp_path, ([0, 1], ROOT_COMPLEX, "NS"))
    _, words = answer(LESSON, "--doctor", path)
    assert "pcie5x16 has at most 63.0 GB/s" in words
    assert "GPU 0 and 1 (0000:01:00.0 0000:11:00.0), joined by PCIe, same root complex, no" in words
    assert "which programs take" not in words
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
    ("fields", "refused"),
    [
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
    path.write_text("GPU  bus id")
    assert "is not JSON" in refusal(LESSON, "--doctor", path)
    assert "no such file" in refusal(LESSON, "--doctor", tmp_path / "none").lower()


def test_a_hostile_path_prints_no_control_characters(tmp_path):
    path = doctor(tmp_path, ([0, 1], "PCIe\x1b[31m\n", "OK"))
    text, _ = answer(LESSON, "--doctor", path)
    assert "\x1b" not in text
