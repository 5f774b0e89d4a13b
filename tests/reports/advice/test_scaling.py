"""The model of several nodes: its formulas against NCCL's own predictions and published times,
docs/scaling.md, and `advise --nodes`."""

import json

import numpy as np
import pytest

from reports.advice.scaling import ERROR, library_us
from reports.advice.specs import LINKS, NETWORKS
from tests import scaling_page
from tests.reports.advice.test_advise import advise, answer, write

pytestmark = pytest.mark.unit

NVLINK, NDR = LINKS["nvlink4"], NETWORKS["ib-ndr"]
H100 = [
    {"rank": rank, "device": "cuda", "arch": "sm_90", "gpu": "NVIDIA H100 80GB HBM3"}
    for rank in range(8)
]
LLAMA = "--model llama-3.1-405b --weights fp8 --gpu h100 --gpus 8"


def test_the_page_has_todays_tables():
    text = scaling_page.PAGE.read_text()
    assert scaling_page.page(text) == text, "run python -m tests.scaling_page"


def test_the_tree_takes_what_nccl_predicts_for_itself():
    """The log of NVIDIA/nccl issue 1453: 24 H100 on three nodes, 25.874907 us at 4 KiB, 26.549810
    at 8 KiB, with a correction for trees of at most 0.6 of the bandwidth, which the model lacks."""
    times = [library_us("tree", 3, 8, size, NVLINK, NDR) for size in (4096, 8192)]
    assert times == pytest.approx([25.874907, 26.549810], rel=0.03)


def test_published_times_are_within_the_stated_errors():
    ratios = np.concatenate(list(scaling_page.ratios().values()))
    assert len(ratios) > 30
    assert round(min(ratios), 2) >= ERROR[1]
    assert round(max(ratios), 2) <= ERROR[2]


def test_advice_over_nodes_is_marked_as_modelled(tmp_path):
    text, words = answer(f"{LLAMA} --nodes 4")
    assert "on 4 nodes of 8 x h100, MODELLED. Decode, latency of 1 stream" in words
    assert "MODELLED, not measured, over 4 nodes of 8: ib-ndr, 400 GB/s one way a node" in words
    for split in ("TP 32", "TP 8 x PP 4", "4 x TP 8", "PP 32"):
        assert f"\n{split} " in text
    status, record, _ = advise(f"{LLAMA} --nodes 4 --network eth-100g --json")
    all_reduce = json.loads(record)["all_reduce"]
    assert (status, all_reduce["hosts"], all_reduce["is_assumed"]) == (0, 4, True)
    assert "12.5 GB/s one way a node" in all_reduce["source"]


def test_a_run_of_one_node_gives_the_times_within_a_node(tmp_path):
    """A node that all-reduces in 2 us makes a hierarchical algorithm faster than the flat tree."""
    run = write(tmp_path, {1024: 2, 32768: 2, 32 << 20: 200}, ranks=H100)
    words = answer(f"{LLAMA} --nodes 4 --run", run)[1]
    assert "Within a node: measured: auto" in words
    assert "MODELLED: hierarchical" in words
    assert "MODELLED: tree" in answer(f"{LLAMA} --nodes 4")[1]


def splits(options):
    """The splits of `advise --json` by name."""
    status, record, _ = advise(f"{LLAMA} {options} --json")
    assert status == 0
    return {split["name"]: split for split in json.loads(record)["splits"]}


def test_nodes_as_replicas_double_the_rate_and_nodes_as_stages_halve_the_weights():
    one, two = splits("--slots 4"), splits("--slots 8 --nodes 2")
    for rate in ("tokens_per_s", "prompt_tokens_per_s"):
        assert two["2 x TP 8"][rate][0] == pytest.approx(2 * one["TP 8"][rate][0])
    assert two["2 x TP 8"]["step_us"] == pytest.approx(one["TP 8"]["step_us"])
    handoffs_us = two["TP 8 x PP 2"]["step_us"][0] - one["TP 8"]["step_us"][0]
    assert 2 * 20 < handoffs_us < 2 * 40, (
        "two hand-offs, each at most an all-reduce of a token over two nodes"
    )
    large = splits("--weights fp16 --nodes 2")  # 812 GB; a node has 576 GB for it
    assert "does not fit" in large["2 x TP 8"]["obstacle"]
    assert large["TP 8 x PP 2"]["obstacle"] is None
