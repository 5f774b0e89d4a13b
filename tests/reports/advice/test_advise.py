"""`python -m reports advise`: its text for runs with known all-reduce times, and its refusals."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import pytest

from reports.__main__ import main
from reports.tables.sentences import number
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_run import (
    mark_wrong,
    ranks_of,
    rewrite_cases,
    rewrite_head,
    run_id,
    write_run,
)

pytestmark = pytest.mark.unit

TWO = "--model llama-3.1-70b --gpu r9700"
R9700 = f"{TWO} --weights 40GB --gpus 2 --context 0"
GPU = "AMD Radeon AI PRO R9700"
GPUS = ranks_of(GPU)
LARGE = 32 << 20
TIMES_US = {16384: 33, 131072: 66, LARGE: 600}  # of an all-reduce, by size


def advise(words, *more, command="advise"):
    """The exit status, standard output and standard error of `advise`, or of another command."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        try:
            status = main([command, *words.split(), *map(str, more)])
        except SystemExit as left:
            status = int(left.code or 0)
    return status, out.getvalue(), errors.getvalue()


def answer(words, *more):
    """The advice for valid arguments, as printed and on one line."""
    status, text, complaint = advise(words, *more)
    assert (status, complaint) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    return text, re.sub(r"\s+", " ", text)


def refusal(words, *more):
    """The one-sentence refusal of these arguments."""
    status, text, complaint = advise(words, *more)
    assert (status, text, complaint.count("\n")) == (2, "", 1)
    return complaint


def write(folder, us_by_size, ranks=GPUS, spread=0.0, **fields):
    """Writes a run of `auto` and of a library twice as slow; blocks differ by `spread`."""
    shape = {"sizes": list(us_by_size), "algorithms": ["auto", "library"], "datatype": "float16"}
    fields = shape | {"n": 5, "n_blocks": 12, "scale": 1e-6} | fields

    def us(case, block):
        us = us_by_size[case.size_bytes] * (2 if case.library else 1)
        return us * (1 + spread * (block.round - 5.5) / 5.5)

    path = write_run(folder, **fields, us=us).path
    rewrite_head(path, world__ranks=ranks, world__size=len(ranks))
    return path


def test_two_r9700_for_one_chat(tmp_path):
    """An engineer with two cards must get the right answer and the time at which the answer
    flips."""
    run = write(tmp_path, TIMES_US)
    text, words = answer(R9700, "--run", run)
    assert re.search(r"TP 2 +\S+ +\S+ +27\.4", text)
    assert re.search(r"PP 2 +\S+ +62\.[56]", text)
    assert re.search(
        r"latency of 1 stream: TP 2, likely [\d.]+ tokens/s \[[\d. ]+\], at most 27\.4, "
        r"1\.\d+x \[1\.\d+ [\d.]+\] PP 2 \(of upper limits 1\.71x\)\.",
        words,
    )
    assert re.search(r"an all-reduce of 16 KiB takes 19[56] us", words)
    assert "160 all-reduces (2 a layer) of 16,384 B: 160 x 33.0 us" in words
    assert "vLLM makes 161 (1 more for the embeddings: 73 counted for 36 layers" in words
    assert "2 replicas: 1 stream would not fit, " in words
    assert "ASSUMED" not in words
    assert "CPU cores" not in words


def test_the_all_reduces_have_their_share_of_a_measured_token(tmp_path):
    """A measured token and measured calls: an engine's calls, not the model's, and no more than the
    token."""
    run = write(tmp_path, TIMES_US)
    _, words = answer(R9700, "--run", run, "--tpot-ms", "40")
    assert "measured: 40.0 ms a token, of which 161 x 33.0 us = 5.31 ms are 13.3 %" in words
    assert "a microsecond less a call is 0.16 ms, 0.40 %" in words
    assert "Waiting for a late rank comes on top" in words
    assert "They do not fit" not in words
    _, words = answer(R9700, "--run", run, "--tpot-ms", "5")
    assert "They do not fit into the token: these are not its all-reduces." in words
    assert "--tpot-ms needs --run" in refusal(f"{R9700} --tpot-ms 40")
    assert "'x' is not a number of ms" in refusal(f"{R9700} --tpot-ms x")


def test_the_recommendation_turns_at_the_flip(tmp_path):
    """`advise` must not recommend TP over a link on which TP loses, nor name a winner where the
    range of likely ratios has both: there it says which all-reduce decides."""

    def latency(us):
        run = write(tmp_path / f"{us}", {16384: us, 131072: us, LARGE: 5000})
        _, words = answer(R9700, "--run", run)
        assert f"here it takes {number(us)} us" in words
        return words.partition("Decode, latency of 1 stream: ")[2].partition(" Decode, ")[0]

    assert latency(20).startswith("TP 2, likely")
    assert latency(900).startswith("PP 2, likely")
    unsure = latency(230)
    assert unsure.startswith("no winner. ")
    assert "measure an all-reduce of 16 KiB; below" in unsure
    (low, high), (even,) = (
        re.findall(pattern, unsure)[0] if "x to" in pattern else re.findall(pattern, unsure)
        for pattern in (r"from ([\d.]+)x to ([\d.]+)x of", r"below ([\d.]+) us TP 2 wins")
    )
    assert float(low) < 1 < float(high)
    # At that time the ratio is even: the other split leads above it.
    assert " TP 2, likely" in latency(round(float(even)) - 10)
    assert " PP 2, likely" in latency(round(float(even)) + 10)


def test_a_host_that_launches_each_kernel_is_likely_slower():
    """A user of --enforce-eager must not be told what a graph gives."""
    words = f"{R9700} --json"
    graph, eager = (
        json.loads(advise(f"{words} --engine {engine}")[1])["splits"][0]["likely"]
        for engine in ("sglang", "eager")
    )
    assert graph["engine"] == "graph"
    assert eager["engine"] == "eager"
    assert 1.5 * eager["stream_tokens_per_s"][0] < graph["stream_tokens_per_s"][0]
    assert "unknown engine 'vlm': did you mean vllm" in refusal(f"{R9700} --engine vlm")


def test_likely_is_never_above_at_most():
    """A range that reaches beyond the data sheet would promise what no card does."""
    for words in (
        R9700,
        "--model qwen3-30b-a3b --gpu h100 --gpus 4",
        "--model qwen3-8b --gpu rtx5090",
    ):
        answered = json.loads(advise(f"{words} --json")[1])
        likely = [split for split in answered["splits"] if split["likely"]]
        assert likely
        for split in likely:
            for figure in ("tokens_per_s", "prompt_tokens_per_s"):
                value, low, high = split["likely"][figure]
                assert low <= value <= high <= split[figure][2] * (1 + 1e-9)


def test_weights_that_kernels_multiply_in_8_bits_have_that_rate():
    """Two R9700s made 4406 to 5153 tokens/s of a prompt in MXFP4, where `advise` said at most
    3716."""
    words = "--model qwen3.8-27b --gpu r9700 --gpus 2 --prompt 8000 --json --weights"
    fp16, fp8 = (
        json.loads(advise(f"{words} {weights}")[1])["splits"][0]["prompt_tokens_per_s"][2]
        for weights in ("q4_k_m", "mxfp4")
    )
    assert fp16 < 5153 < fp8


def test_a_badly_seated_bridge_is_noticed_between_the_cards_that_it_joins(tmp_path):
    options = "--model qwen3.5-27b --weights 27GB --gpu h100-nvl --context 0"
    run = write(tmp_path, {16384: 12, LARGE: LARGE / 21e3}, ranks=ranks_of("NVIDIA H100 NVL"))
    _, words = answer(options, "--run", run)
    assert "nvlink4-bridge has 300 GB/s one way, and 32 MiB reached 21.0: the link is DOWN" in words
    four = ranks_of("NVIDIA RTX A6000", 4)
    slow = write(tmp_path / "four", {LARGE: 0.15 * LARGE / 1e3}, ranks=four)
    _, words = answer("--model llama-3.1-70b --gpu a6000 --gpus 4", "--run", slow)
    assert "pcie4x16 has 31.5 GB/s one way, and 32 MiB reached 10.0: as through host" in words


def test_without_a_run_the_published_range_is_shown():
    """The gain from a second card must be what people report for its link."""
    text, words = answer(f"{R9700} --link pcie5x16")
    assert "ASSUMED, not measured: a latency of 53.2 us [6.80 74.5] by 53 figures over" in words
    assert "pcie5x16 has at most 63.0 GB/s one way" in words
    assert "160 x 53.2 us [6.80 74.5], as up to 32 KiB" in words
    (speed,) = re.findall(r"^TP 2 +\S+ +\S+ +([\d.]+) \[", text, re.MULTILINE)
    assert 1.5 <= float(speed) * 62.5e-3 <= 1.8


@pytest.mark.parametrize(("gpus", "gb_s"), [(2, "48.0 GB/s [34.1 61.5]"), (8, "336 GB/s")])
def test_a_mesh_has_the_bandwidth_of_its_links(gpus, gb_s):
    """Eight MI300X reach five times what two do, over seven links and not one."""
    words = answer(f"--model llama-3.1-8b --gpu mi300x --gpus {gpus}")[1]
    assert f"from there on {gb_s}" in words


@pytest.mark.parametrize(
    ("words", "fabric", "library"),
    [
        ("rtxpro6000 --gpus 2", "PCIe 5", "NCCL"),
        ("r9700 --gpus 2 --link pcie3x8", "PCIe", "RCCL"),
        ("h100 --gpus 8", "NVLink 4", "NCCL"),
        ("mi300x --gpus 8", "xGMI", "RCCL"),
    ],
)
def test_a_card_has_the_times_of_its_fabric_and_library(words, fabric, library):
    """A buyer of two 5090s must not be told what RCCL does, nor one of H100s what PCIe does; over a
    fabric that fewer than three machines had, more count."""
    _, said = answer(f"--model llama-3.1-8b --gpu {words}")
    assert re.search(rf"figures over {fabric}, and from .*, published of {library} ", said)
    assert ("through host memory" in said) == fabric.startswith("PCIe")


def test_cards_without_their_bridge_are_asked_about():
    """Most owners of two 3090s have no bridge, and the advice counted on it in silence."""
    line = "--model llama-3.1-8b --gpu rtx3090"
    said = "Two cards without the bridge have their slots: name the link, pcie4x16 (advise --link"
    assert said in answer(line)[1]
    for other in ("--link pcie4x16", "--gpus 4"):
        assert "the bridge" not in answer(f"{line} {other}")[1]


def test_a_card_without_peer_access_is_asked_about():
    """Two GeForce cards on a board for desktops share sixteen lanes and reach each other through
    host memory: a buyer must hear it before the order."""
    _, words = answer(f"{TWO.replace('r9700', 'rtx5090')}")
    patched = (
        "rtx5090 (its driver ASSUMED not to be patched) and cards without peer access take 17.1 to"
    )
    assert patched in words
    assert "a latency of 31.1 us [17.1 81.0] by 5 figures over PCIe," in words
    assert "two cards eight lanes each: for these name their link, pcie5x8 (advise" in words
    assert "patched" not in answer(TWO)[1]
    assert "name their link" not in answer(TWO)[1]  # where it would change nothing


def test_a_model_that_does_not_fit_is_reported():
    """Otherwise memory would run out at the first long conversation."""
    _, words = answer(
        "--model llama-3-70b --weights 140GB --gpu a100-40gb --gpus 4 --batch 64 --context 4096"
    )
    assert "4 x a100-40gb. Nothing fits: take more GPUs" in words
    assert "TP 4: 64 streams would not fit, 20.6 GB short: at most --context 164 fits." in words


def test_one_stream_is_judged_alone():
    """A buyer would leave out a card that serves one chat well, and not eight."""
    text, words = answer("--model llama-3.1-70b --gpu w7900 --gpus 1")
    assert "Decode, latency of 1 stream: one GPU, likely" in words
    assert "at most 21.1." in words
    assert "one GPU: 8 streams would not fit, 7.57 GB short: at most --context 1209 fits." in words
    assert "would not fit, 0." in answer("--model llama-3.1-70b --gpu w7900 --gpus 1 --slots 3")[1]
    assert "would not" not in answer("--model llama-3.1-70b --gpu w7900 --gpus 1 --slots 2")[1]
    assert "all-reduces" not in words
    assert "Decode, throughput of 8 streams: nothing fits." in words
    assert re.search(r"one GPU 41\.4 +47\.5 +21\.1 +- ", text)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("--model llama-70b --gpu r9700", "unknown model 'llama-70b': did you mean llama-3"),
        (
            f"{TWO} --link nvlink4",
            "nobody published RCCL from 1 B to 32 KiB over NVLink, which nvlink4 is",
        ),
        (f"{TWO} --gpu=rtx5090", "--gpu is given 2 times, and takes one value"),
        (f"{TWO} --weights 42", "weights, neither a type nor a size above 0 such as 42.5GB, '42'"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(words, refused):
    """A typing error must end neither in a traceback nor in figures for other arguments."""
    assert refused in refusal(words)


def test_unsuitable_runs_are_refused(tmp_path):
    """Advice must not use a run of another collective, other ranks, other machines, or wrong
    sums."""
    good, gather = (write(tmp_path / name, {16384: 33}) for name in "ab")
    other = write(tmp_path / "c", {16384: 33}, run_id=run_id(7))
    rewrite_head(other, machine_id="z")
    rewrite_cases(gather, lambda case: case.update(collective="all_gather"))
    assert "the runs lack an all-reduce" in refusal(TWO, "--run", gather)
    assert "of several machines" in refusal(TWO, "--run", good, "--run", other)
    assert "a run of 2 ranks, not of 4" in refusal(f"{TWO} --gpus 4 --run", good)
    mark_wrong(good)
    assert "has wrong results" in refusal(TWO, "--run", good)


def test_several_launches_give_one_figure_with_students_interval(tmp_path):
    """A single unlucky launch must not decide the advice."""
    times_us = (30, 31, 33, 36, 60)
    for launch, us in enumerate(times_us):
        write(tmp_path / "runs", {16384: us, LARGE: 600}, run_id=run_id(launch))
    _, words = answer(R9700, "--run", tmp_path / "runs")
    assert "measured: auto, float16, AMD Radeon AI PRO R9700; 5 launches" in words
    middle, deviation = np.median(np.log(times_us)), np.std(np.log(times_us), ddof=1)
    error = deviation * (np.pi / 2 / 5) ** 0.5
    ends = np.exp(middle + np.array([0, -1, 1]) * 2.776 * error)
    assert f"160 x {ends[0]:.1f} us [{ends[1]:.1f} {ends[2]:.1f}]" in words


def test_times_that_were_not_measured_are_marked(tmp_path):
    """Times of single calls must not pass for times of dependent calls, nor one size's time for
    another's."""
    run = write(tmp_path / "a", {16384: 33, LARGE: 600}, modes=["isolated"])
    assert "No chain of dependent calls was measured at 16 KiB" in answer(R9700, "--run", run)[1]
    run = write(tmp_path / "b", {32768: 10, 131072: 40, LARGE: 600})
    assert "160 x 20.0 us between measured sizes" in answer(f"{R9700} --batch 4 --run", run)[1]


def test_an_imported_log_gives_advice_that_names_its_harness(tmp_path):
    """A user with RDMA between two hosts has only a log of rccl-tests; here two R9700s take 47.3
    us."""
    good = {"us": 47.3, "datatype": "float16"}
    path = write_log(tmp_path, {"us": 90.0, "datatype": "int8"}, good, name="two-hosts", gpu=GPU)
    _, words = answer(R9700, "--run", path)
    named = "measured by nccl-tests: NCCL 2.29.2, float16"
    for part in ("TP 2, likely", named, "1 launch, no interval", "160 x 47.3 us"):
        assert part in words
    assert (
        "nccl-tests measures no chain of dependent calls: its single calls are used instead."
        in words
    )
    # Latency taken for bandwidth would make a prompt ten times as slow.
    assert "Nothing above 16 KiB was measured" in words
    wrong = write_log(tmp_path, good | {"n_wrong": 1}, name="bad", status="failed")
    assert "failed or has wrong results" in refusal(R9700, "--run", wrong)
