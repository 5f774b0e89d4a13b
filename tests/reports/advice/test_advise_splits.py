"""`python -m reports advise` with splits of several kinds: tables, JSON and refusals."""

import json
import re

import pytest

from tests.reports.advice.test_advise import GPU, LARGE, advise, answer, refusal, write
from tests.reports.synthetic_run import ranks_of, rewrite_cases, rewrite_head, run_id

pytestmark = pytest.mark.unit

LLAMA = "--model llama-3.1-70b --gpu r9700"
FOUR = f"{LLAMA} --weights 40GB --gpus 4 --context 0"


def answer_json(words, *more):
    status, text, complaint = advise(f"--json {words}", *more)
    assert (status, complaint) == (0, "")
    return json.loads(text)


def write_of(folder, ranks, us, **fields):
    """A run of so many ranks with these times of a small and of a large all-reduce."""
    times_us = {16384: us, 131072: us, LARGE: 20 * us}
    return write(folder, times_us, ranks=ranks_of(GPU, ranks), run_id=run_id(ranks), **fields)


def test_four_cards_have_hybrids_with_the_times_of_their_groups(tmp_path):
    """Runs of two and of four ranks: TP 2 x PP 2 has those of two."""
    runs = [write_of(tmp_path / f"{ranks}", ranks, us) for ranks, us in ((4, 300), (2, 30))]
    text, words = answer(FOUR, "--run", *runs)
    # 31.25 ms, 160 all-reduces and 2 hand-offs of 30 us.
    assert re.search(r"^TP 2 x PP 2 +\S+ +36\.1 ", text, re.MULTILINE)
    assert re.search(r"^TP 4 +\S+ +63\.6 ", text, re.MULTILINE)
    assert "Groups of fewer GPUs" not in words
    assert "latency of 1 stream: no winner. 2 replicas of TP 2, likely" in words
    _, words = answer(FOUR, "--run", runs[0])
    assert "latency of 1 stream: PP 4, at least" in words or "4 replicas" in words
    assert "Groups of fewer GPUs take the all-reduces of the next larger" in words


def test_a_run_that_is_named_twice_counts_once(tmp_path):
    """A folder and a file in it: both were left out, and none remained."""
    run = write_of(tmp_path, 2, 30)
    once, twice = (
        answer_json(f"{LLAMA} --run", *runs)["splits"] for runs in ([run], [tmp_path, run])
    )
    assert once == twice


def test_a_smaller_group_s_times_stand_for_no_larger_one(tmp_path):
    """Four ranks are not as fast as two: without a run of four, eight are their upper bound."""
    runs = [write_of(tmp_path / f"{ranks}", ranks, us) for ranks, us in ((8, 300), (2, 30))]
    splits = answer_json(f"{LLAMA} --weights 40GB --gpus 8 --context 0", "--run", *runs)["splits"]
    steps_us = {each["name"]: each["step_us"][0] for each in splits if "step_us" in each}
    # 40 GB at 640 GB/s, 160 all-reduces, and hand-offs of 30 us.
    assert steps_us["TP 4 x PP 2"] == pytest.approx(62_500 / 4 + 160 * 300 + 2 * 30)
    assert steps_us["TP 2 x PP 4"] == pytest.approx(62_500 / 2 + 160 * 30 + 4 * 30)


def test_many_splits_are_shown_by_their_kinds():
    """Of eight cards ten splits: a table must not hide the best, nor fill the screen."""
    text, words = answer(f"{LLAMA} --gpus 8")
    names = [line[:25].strip() for line in text.splitlines() if re.match(r"(TP|PP|\d+ rep)", line)]
    assert {"TP 8", "PP 8", "TP 4 x PP 2"} <= {*names}
    splits = answer_json(f"{LLAMA} --gpus 8")["splits"]
    assert len(splits) == 10
    hidden = [each["name"] for each in splits if not each["obstacle"] and each["name"] not in words]
    assert not hidden or "others of their kind are faster" in words
    best = min((each for each in splits if "step_us" in each), key=lambda each: each["token_us"])
    assert best["name"] in names


def test_a_mixture_may_split_its_experts():
    words = "--model qwen3-30b-a3b --weights fp8 --gpu r9700 --gpus 2"
    text, said = answer(words)
    for name in ("TP 2 + EP", "DP 2 + EP"):
        assert re.search(rf"^{re.escape(name)} ", text, re.MULTILINE)
    assert "router uniform: of a layer's 8 choices the busiest of 2 GPUs has 5." in said
    assert "DP + EP 96 all-to-alls of 8,192 B" in said
    skewed = answer_json(f"{words} --skew zipf:99")["splits"]
    even = answer_json(words)["splits"]
    for name in ("TP 2 + EP", "DP 2 + EP"):
        (one,), (other,) = (
            [each["step_us"][0] for each in splits if each["name"] == name]
            for splits in (skewed, even)
        )
        assert one > other


def test_measured_all_to_alls_are_taken(tmp_path):
    """What the exchange costs is the user's to measure: 96 of 1 ms are 96 ms."""
    words = "--model qwen3-30b-a3b --weights fp8 --gpu r9700 --gpus 2 --context 0"
    reduces = write(tmp_path / "a", {4096: 10, LARGE: 600})
    exchanges = write(tmp_path / "b", {4096: 1000, LARGE: 2000}, run_id=run_id(3))
    rewrite_head(exchanges, benchmark="alltoall")
    rewrite_cases(exchanges, lambda case: case.update(collective="alltoall", redop="none"))
    _, said = answer(words, "--run", reduces, exchanges)
    assert "B, each 1" in said
    assert " us, measured." in said
    splits = answer_json(words, "--run", reduces, exchanges)["splits"]
    (by_streams,) = [each for each in splits if each["name"] == "DP 2 + EP"]
    assert 96_000 < by_streams["step_us"][0] < 120_000


def test_several_nodes_have_a_network_between_them(tmp_path):
    _, words = answer("--model llama-3.1-70b --weights fp8 --gpu h100 --gpus 16 --nodes 2")
    assert "all-reduce: ASSUMED between nodes, not measured: a latency of" in words
    assert "2 nodes of 8 GPUs" in words
    assert "within a node: ASSUMED, not measured" in words
    latency = words.partition("latency of 1 stream: ")[2].partition("Decode,")[0]
    assert re.match(r"by upper limits alone (TP 8 x PP 2|2 replicas of TP 8), at least", latency)
    assert "Not ranked, too few published rows of several nodes: TP 16" in words
    run = write_of(tmp_path, 4, 50)
    assert "ran on 1 host, not on 2" in refusal(f"{FOUR} --nodes 2 --run", run)
    rewrite_head(run, world__hosts=2)
    _, words = answer(f"{FOUR} --nodes 2 --run", run)
    assert "160 x 50.0 us = 8.00 ms" in words
    assert "within a node: ASSUMED" in words


def test_what_does_not_fit_has_its_rest_in_host_memory():
    """A buyer of one card must see what offload would cost, and which bandwidth holds it back."""
    text, words = answer("--model llama-3.1-70b --weights 40GB --gpu rtx3090 --gpus 1 --context 0")
    assert "Nothing fits: take more GPUs" in words
    assert re.search(r"^one GPU, rest on the CPU +21\.6 +2[34]\d ", text, re.MULTILINE)
    assert "18.7 GB of weights in host memory" in words
    # The first sentence has the best way, and not only that nothing fits.
    first = words.partition(" model: ")[0]
    assert "Over host memory a stream decodes at most 4" in first
    assert first.endswith("tokens/s: one GPU, rest on the CPU.")
    assert "5.43 times as long as with enough memory (the host memory's 89.6 GB/s, ASS" in words
    assert "rest streamed: " in words
    faster = answer("--model llama-3.1-70b --gpu rtx3090 --gpus 1 --host-memory 400")[1]
    assert "the host memory's 400 GB/s)" in faster
    assert answer_json("--model llama-3.1-70b --gpu rtx3090 --gpus 1")["offload"]
    assert "host memory;" not in answer("--model llama-3.1-70b --gpu w7900 --gpus 1")[1]


def test_a_second_card_is_compared_with_one():
    """Two ranges that overlap do not answer whether it pays: what both share cancels."""
    _, words = answer("--model qwen3.8-27b --weights 17GB --gpu r9700 --gpus 1,2 --prompt 9000")
    span = r"\d\.\d\dx \[\d\.\d\d \d\.\d\d\]"
    assert re.search(
        f"2 GPUs beside 1, likely tokens/s: {span} of 1 stream \\(TP 2\\), {span} of 8 streams "
        f"\\(TP 2\\), {span} of a prompt of 9000 \\(TP 2\\)\\. model: ",
        words,
    )
    assert "each with 9000 tokens cached; prompts of 9000" in words
    _, words = answer("--model qwen3.8-27b --weights 17GB --gpu r9700 --gpus 1,2 --prompt 32000")
    assert "8 streams fit on 2, not on 1. model: " in words
    _, words = answer("--model llama-3.1-70b --weights 40GB --gpu r9700 --gpus 1,2,4")
    assert "4 GPUs beside 2, likely" in words  # one card does not hold it
    assert "beside 1," not in words


def test_several_numbers_of_gpus_are_one_table():
    text, words = answer("--model llama-3.1-70b --gpu rtx3090 --gpus 1,2,4,8")
    alone, *speeds = re.findall(r"([\d.]+) on (\d) ?(and host memory)?", words)
    assert f"on 1, 2, 4, 8 x rtx3090. A stream decodes at most {alone[0]} on 1 and" in words
    assert alone[1:] == ("1", "and host memory")
    assert [speed[1:] for speed in speeds[:3]] == [("2", ""), ("4", ""), ("8", "")]
    nowhere = answer("--model llama-3.1-70b --gpu rtx3090 --gpus 1,2 --context 90000000")[1]
    assert "on 1, 2 x rtx3090. Nothing fits. " in nowhere
    rows = re.findall(r"^ +([1248]) +(yes|no) ", text, re.MULTILINE)
    assert rows == [("1", "no"), ("2", "yes"), ("4", "yes"), ("8", "yes")]
    # The prompt and the memory are of the split for one stream, and stand beside it.
    assert re.search(r"^GPUs +ms left: GB context +likely fastest +of all$", text, re.MULTILINE)
    answered = answer_json("--model llama-3.1-70b --gpu rtx3090 --gpus 1,2,4,8")
    assert answered["gpus"] == [1, 2, 4, 8]
    for gpus, each in zip((1, 2, 4, 8), answered["numbers"], strict=True):
        alone = answer_json(f"--model llama-3.1-70b --gpu rtx3090 --gpus {gpus}")
        assert {field: alone[field] for field in each} == each
    (split,) = [each for each in answered["numbers"][1]["splits"] if each["name"] == "TP 2"]
    assert {"most_context", "free_bytes", "last_first_token_us", "prompt_us"} <= {*split}


def test_the_way_over_host_memory_in_the_table_is_the_one_explained():
    """The row said `TP 8, rest streamed`, and the sentence below it was of the CPU alone."""
    text, words = answer("--model deepseek-v3 --weights fp8 --gpu h100 --gpus 8,16")
    row = re.search(r"^ +8 +no (TP 8, rest streamed) +([\d.]+) ", text, re.MULTILINE)
    assert row
    said = rf"8 GPUs: {row[1]}: [\d.]+ GB of weights in host memory; at least {row[2]} ms a token"
    assert re.search(said, words)


def test_numbers_without_a_run_are_assumed(tmp_path):
    run = write_of(tmp_path, 2, 30)
    words = f"{LLAMA} --weights 40GB --context 0"
    two, four = answer_json(f"{words} --gpus 2,4 --run", run)["numbers"]
    assert (two["all_reduce"]["is_assumed"], four["all_reduce"]["is_assumed"]) == (False, True)
    assert "a run of 2 ranks, not of 4" in refusal(f"{words} --gpus 4,8 --run", run)


def test_a_drafter_is_counted_and_told():
    text, words = answer(f"{LLAMA} --weights 40GB --context 0 --draft 4 --accept 3")
    assert "a step computes 5 tokens of a stream, which gets 3 of them" in words
    assert "160 all-reduces (2 a layer) of 81,920 B" in words
    assert "an all-reduce of 80 KiB takes" in words
    assert re.search(r"^PP 2 +\S+ +20\.9 ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (f"{LLAMA} --gpus 0", "'0' is not a whole number from 1 to 64"),
        (f"{LLAMA} --gpus 1,2,x", "'x' is not a whole number from 1 to 64"),
        (f"{LLAMA} --gpus 1,2,", "'' is not a whole number from 1 to 64"),
        (f"{LLAMA} --gpus 2,4,2", "2 is given 2 times"),
        (f"{LLAMA} --gpus 4 --nodes 3", "4 GPUs cannot be shared evenly by 3 nodes"),
        (f"{LLAMA} --draft 4", "--draft and --accept go together"),
        (f"{LLAMA} --accept 2", "--draft and --accept go together"),
        (f"{LLAMA} --draft 4 --accept 5.5", "--accept 5.5: a step with --draft 4 gives a stream"),
        (f"{LLAMA} --draft 4 --accept 0.5", "from 1 to 5 tokens, one of which is the model's own"),
        (f"{LLAMA} --draft 4 --accept nan", "'nan' is not a number of tokens above 0"),
        (f"{LLAMA} --skew steep", "'steep' is not a skew such as uniform or zipf:1.2"),
        (f"{LLAMA} --skew zipf:1.2", "--skew is of a router, and llama-3.1-70b has no experts"),
        (f"{LLAMA} --host-memory 0", "'0' is not a number of GB/s above 0"),
        (f"{LLAMA} --wire 3,2,12 --gpus 4 --nodes 2", "--wire is of one node"),
        (f"{LLAMA} --wire 3,2,12,4 --gpus 2", "--wire joins at least 4 GPUs, not 2"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words, refused):
    assert refused in refusal(words)


def test_the_gain_of_a_recommendation_is_one():
    """`8 replicas, 0.87x 2 replicas of DP 4 + EP` would recommend what is slower."""
    mixture = "--model qwen3-30b-a3b --weights fp8 --gpu h100 --slots 64"
    gains = []
    for words in (f"{LLAMA} --gpus 2", *(f"{mixture} --gpus {gpus}" for gpus in (2, 4, 8))):
        _, said = answer(words)
        gains += re.findall(r"(?:,|it is) ([\d.]+)x \[([\d.]+) [\d.]+\] \w", said)
    assert gains
    assert all(float(gain) >= float(least) >= 1 for gain, least in gains)
