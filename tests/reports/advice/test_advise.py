"""`python -m reports advise`: its text for runs with known all-reduce times, and its refusals."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.imports.imported import (
    ImportedCase,
    ImportedFrom,
    ImportedRun,
    ImportedSummary,
    write_imported,
)
from reports.store.schema import Block, CaseHeader, End, LinkBlock, Run
from reports.store.writing import RunFile
from tests.reports.synthetic_run import without_fsync
from tests.reports.synthetic_together import CPUS, SLOW_NS, STEP, Made, always

pytestmark = pytest.mark.unit

R9700 = ("--weights", "40GB", "--gpu", "r9700", "--gpus", "2", "--context", "0")
GPUS = [
    {"rank": rank, "device": "hip", "arch": "gfx1201", "gpu": "AMD Radeon AI PRO R9700"}
    for rank in range(2)
]
NVL = [
    {"rank": rank, "device": "cuda", "arch": "sm_90", "gpu": "NVIDIA H100 NVL"} for rank in range(2)
]
LARGE = 32 << 20


def advise(*arguments):
    """The exit status, standard output and standard error of `advise`."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        try:
            status = main(["advise", *map(str, arguments)])
        except SystemExit as left:
            status = int(left.code or 0)
    return status, out.getvalue(), errors.getvalue()


def answer(*arguments):
    """The advice for valid arguments, as printed and on one line."""
    status, text, complaint = advise(*arguments)
    assert (status, complaint) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    return text, re.sub(r"\s+", " ", text)


def refusal(*arguments):
    """The one-sentence refusal of these arguments."""
    status, text, complaint = advise(*arguments)
    assert (status, text, complaint.count("\n")) == (2, "", 1)
    return complaint


@without_fsync
def write(
    folder,
    us_by_size,
    ranks=GPUS,
    spread=0.0,
    name="made",
    collective="all_reduce",
    chained=True,
    datatype="float16",
    **words,
):
    """Write a run of `auto` and of a library twice as slow; blocks differ by `spread`."""
    cases = [
        CaseHeader(
            collective=collective,
            size_bytes=size,
            count=size // 2,
            datatype=datatype,
            redop="sum",
            algorithm=algorithm,
            mode="chained" if size <= 512 << 10 and chained else "isolated",
            library="NCCL 2.28" if algorithm == "library" else None,
        )
        for size in us_by_size
        for algorithm in ("auto", "library")
    ]
    file = RunFile.create(
        folder,
        Run(
            run_id=f"2026-11-20T06-15-00Z-allreduce-{name}",
            benchmark="allreduce",
            version="0.1.0",
            argv=[],
            seed=1,
            software_id="b",
            environment={},
            world={"size": len(ranks), "ranks": ranks},
            cases=cases,
            **{"machine_id": "a"} | words,
        ),
    )
    for turn in range(12):
        for number, case in enumerate(cases):
            us = (
                us_by_size[case.size_bytes]
                * (2 if case.library else 1)
                * (1 + spread * (turn - 5.5) / 5.5)
            )
            file.append(
                Block(
                    case=number,
                    block=turn,
                    round=turn,
                    n=5,
                    time_us=us,
                    total_us=us,
                    link_rtt_ns=SLOW_NS,
                    n_wrong=0,
                )
            )
    return file.finish({}, End(status="complete", measuring_s=1.0, elapsed_s=2.0)).path


@pytest.mark.parametrize(
    ("us", "tokens_per_s", "times"),
    [(8, "30.7", "1.92"), (33, "27.4", "1.71"), (47.3, "25.8", "1.61")],
)
def test_two_r9700_for_one_chat(tmp_path, us, tokens_per_s, times):
    """An engineer with two cards must get the right answer and the time at which the answer flips."""
    run = write(tmp_path, {16384: us, 131072: 2 * us, LARGE: 600})
    text, words = answer("--model", "llama-3.1-70b", *R9700, "--run", run)
    assert re.search(rf"TP 2 +[\d.]+ +{tokens_per_s}", text)
    assert re.search(r"PP 2 +62\.[56]", text)
    assert re.search(rf"Decode, latency of 1 stream: TP 2, 3\d\.\d ms, {times}x PP 2\.", words)
    assert re.match(
        rf"llama-3\.1-70b on 2 x r9700, a token of 1 stream: TP 2, 3\d\.\d ms, {times}x PP 2\.\n",
        text,
    )
    assert "an all-reduce of 16 KiB takes 195 us" in words or "takes 196 us" in words
    assert "160 all-reduces (2 a layer) of 16,384 B: 2.62 MB" in words
    assert "41.6 us by bytes alone at 63.0 GB/s" in words
    assert f"160 x {us:.1f} us" in words or f"160 x {us:.2f} us" in words
    assert "2 replicas: does not fit" in words
    assert "Prefill, throughput of many: PP 2" in words
    assert "ASSUMED" not in words
    assert "CPU cores" not in words


def test_the_recommendation_turns_at_the_flip(tmp_path):
    """`advise` must not recommend TP over a link on which TP loses."""
    for us, wins in ((190, "TP 2"), (205, "PP 2")):
        run = write(tmp_path / wins, {16384: us, 131072: us, LARGE: 5000})
        _, words = answer("--model", "llama-3.1-70b", *R9700, "--run", run)
        close = (
            "as good" in words.partition("Decode, latency")[2].partition("Decode, throughput")[0]
        )
        assert f"Decode, latency of 1 stream: {wins}, " in words
        assert close
        assert f"here it takes {us} us" in words


def test_the_interval_reaches_tokens_and_margin(tmp_path):
    """A noisy run must not give intervals as narrow as a quiet run's."""
    text, words = answer(
        "--model",
        "llama-3.1-70b",
        *R9700,
        "--run",
        write(tmp_path, {16384: 33, LARGE: 600}, spread=0.2),
    )
    match = re.search(r"TP 2 +[\d.]+ +27\.4 \[([\d.]+) ([\d.]+)\]", text)
    assert match
    assert float(match[1]) < 27.4 < float(match[2])
    assert re.search(r"1\.71x \[1\.\d\d 1\.\d\d\] PP 2", words)
    assert re.search(r"here it takes 33\.0 us \[\d\d\.\d \d\d\.\d\]", words)


def test_a_27b_model_fits_on_one_card(tmp_path):
    """`advise` must recommend a bridge if TP 2 wins, and replicas if they win."""
    options = ("--model", "qwen3.5-27b", "--weights", "27GB", "--gpu", "h100-nvl", "--context", "0")
    for us, wins in ((10, "TP 2"), (40, "2 replicas")):
        run = write(tmp_path / wins, {10240: us, 131072: us, LARGE: LARGE / 250e3}, ranks=NVL)
        text, words = answer(*options, "--run", run)
        assert re.search(r"2 replicas +6\.92 ", text)
        assert f"Decode, latency of 1 stream: {wins}" in words
        assert "takes 27.0 us" in words
        assert "DOWN" not in words
    _, words = answer(*options[:-1], "512", "--run", run)
    assert "as many streams as fit: 2 replicas with" in words


def test_an_nvlink_that_is_down_is_reported(tmp_path):
    """A user must notice a paid but badly seated bridge."""
    options = ("--model", "qwen3.5-27b", "--weights", "fp8", "--gpu", "h100-nvl")
    _, words = answer(
        *options, "--run", write(tmp_path, {16384: 12, LARGE: LARGE / 21e3}, ranks=NVL)
    )
    assert "nvlink4-bridge has 300 GB/s one way, and 32 MiB reached 21.0: the link is DOWN" in words
    _, words = answer(*options, "--link", "pcie5x16")
    assert "ASSUMED, not measured: pcie5x16, 63.0 GB/s one way (126 both ways" in words


@pytest.mark.parametrize(
    ("link", "band", "speedups"),
    [
        ("pcie5x16", r"36\.3 us \[7\.46 54\.4\]", (1.6, 1.8)),
        ("nvlink4", r"11\.8 us \[6\.01 29\.0\]", (1.85, 1.9)),
    ],
)
def test_without_a_run_the_band_of_published_latencies_is_shown(link, band, speedups):
    """PCIe and NVLink must not look alike, and the gain from a second card must be what people report for its link."""
    text, words = answer("--model", "llama-3.1-70b", *R9700, "--link", link)
    assert f"ASSUMED, not measured: {link}" in words
    assert re.search(rf"160 x {band}", words)
    assert "brackets: best to worst" in words
    (speed,) = re.findall(r"^TP 2 +[\d.]+ +([\d.]+) \[", text, re.MULTILINE)
    assert speedups[0] <= float(speed) * 62.5e-3 <= speedups[1]
    assert "reach both sides" not in words


def test_latencies_on_both_sides_of_the_break_even_time_are_reported():
    """A buyer must not take the typical latency for this machine's if another published latency turns the answer."""
    options = ("--model", "qwen3-32b", "--weights", "q4", "--gpu", "rtxpro6000", "--context", "0")
    assert (
        "The known errors of these times reach both sides: measure before you decide."
        in answer(*options)[1]
    )


def test_times_of_other_hardware_are_named(tmp_path):
    """Figures of CPU cores or of another card must not pass for this card's."""
    run = write(tmp_path / "cpu", {16384: 2, LARGE: 600}, ranks=CPUS)
    assert (
        "ranks on CPU cores: this is arithmetic"
        in answer("--model", "llama-3.1-70b", *R9700, "--run", run)[1]
    )
    run = write(tmp_path / "nvl", {16384: 2, LARGE: 600}, ranks=NVL)
    assert (
        "from NVIDIA H100 NVL, not from r9700"
        in answer("--model", "llama-3.1-70b", *R9700, "--run", run)[1]
    )


def test_a_model_that_does_not_fit_is_reported():
    """Otherwise memory would run out at the first long conversation."""
    text, words = answer(
        "--model",
        "llama-3-70b",
        "--weights",
        "140GB",
        "--gpu",
        "a100-40gb",
        "--gpus",
        "4",
        "--batch",
        "64",
        "--context",
        "4096",
    )
    assert re.search(r"weights +140 +70\.0 +35\.0 +17\.5", text)
    assert re.search(r"KV cache, 64 x 4096 tokens +85\.9 +42\.9 +21\.5 +10\.7", text)
    assert (
        "RECOMMENDATION 64 streams do not fit on 4 x a100-40gb, 2 do: ask for --batch 1 --slots 2"
        in words
    )
    _, words = answer("--model", "llama-3.1-70b", "--gpu", "rtx4090", "--gpus", "1")
    assert "RECOMMENDATION Nothing fits on 1 x rtx4090" in words
    text, _ = answer("--model", "llama-3.1-70b", "--gpu", "r9700")
    assert re.search(r"1 x h100 +\d", text)
    assert re.search(r"CPU offload +\d", text)


def test_the_advice_for_eight_gpus_depends_on_their_links():
    """`advise` computes the split and uses no rule of thumb."""
    text, _ = answer(
        "--model", "llama-3.1-70b", "--weights", "fp16", "--gpu", "h100", "--gpus", "8"
    )
    lines = re.findall(r"^(.*, (?:decode|prompt))  +(.*)$", text, re.MULTILINE)
    rows = {name: cells.split() for name, cells in lines}
    # 141.1 GB over 8 x 3350 GB/s and 160 x (11.765 + 1.75 x 16384 / 450e3) us, 80 x 4096 x 1,024 B of cache.
    decode = 141.105 / 26.8 + 4096 * 327680 / 26.8e9 + 0.160 * (11.765 + 1.75 * 16384 / 450e3)
    assert float(rows["NVLink or the like, decode"][3]) == pytest.approx(decode, rel=2e-3)
    assert [row[-1] for row in rows.values()] == ["8", "8", "4", "4", "2", "2"]
    assert rows["NVLink or the like, prompt"][-2:] == ["8", "8"]
    prompt = (2 * 70.5524e9 * 2048 + 2 * 2048**2 * 8192 * 80) / 989e9 / 2 + 0.160 * (
        54.18 + 33_554_432 / 24e3
    )
    assert float(rows["PCIe, across sockets, prompt"][1]) == pytest.approx(prompt, rel=2e-3)
    assert rows["PCIe, across sockets, prompt"][-2:] == ["2", "2"]


def test_a_mixture_of_experts_is_also_split_by_experts():
    """`advise` must consider expert parallelism and its skew."""
    options = (
        "--model",
        "mixtral-8x7b",
        "--weights",
        "fp16",
        "--gpu",
        "a100-80gb",
        "--gpus",
        "4",
        "--slots",
        "4",
    )
    rates = [
        float(line.split()[-3])
        for skew in ("1", "2")
        for line in answer(*options, "--skew", skew)[0].splitlines()
        if line.startswith("EP 4")
    ]
    assert rates[0] > 1.2 * rates[1]
    assert "--skew 5 is not from 1 (even) to 4" in refusal(*options, "--skew", "5")
    _, words = answer(*options, "--prompt", "1024", "--skew", "1.5")
    assert (
        "a rank sends 3.15 MB of a chunk of 1024 tokens to other ranks in each layer, 2.92 if"
        in words
    )
    assert "times the skew of 1.5" in words


def link_run(folder, gb_s, **words):
    """Write a run of bench.link with memory copies of `gb_s`, reads plus writes."""
    case = CaseHeader(
        collective="link",
        size_bytes=16 << 20,
        count=1,
        datatype="float32",
        redop="none",
        algorithm="local_copy",
        shape={"src": 0, "dst": 0},
    )
    file = RunFile.create(
        folder,
        Run(
            run_id="2026-11-20T06-15-00Z-link-1a2b3c",
            benchmark="link",
            version="0.1.0",
            argv=[],
            seed=1,
            software_id="b",
            environment={},
            world={"size": 2, "ranks": CPUS},
            cases=[case],
            **{"machine_id": "a"} | words,
        ),
    )
    us = 2 * (16 << 20) / gb_s / 1e3
    file.append(LinkBlock(size_bytes=16 << 20, round=0, memory_us=us, link_rtt_ns=SLOW_NS))
    # A copy alone is twice as fast.
    file.append(Block(case=0, block=0, round=0, n=5, time_us=us / 2, link_rtt_ns=SLOW_NS))
    return file.finish({}, End(status="complete", measuring_s=1.0, elapsed_s=2.0)).path


def test_validation_compares_a_step_with_the_sum_of_its_parts(tmp_path):
    """Users need a measured figure for the advisor's error."""
    # 192 columns x 4096 x 2 B in 32 layers are 50.3 MB: 2.517 ms at 20 GB/s, plus 64 all-reduces of 20 us.
    reduces = write(tmp_path / "a", {32768: 20}, ranks=CPUS, datatype="float32")
    step = (
        Made(tmp_path, benchmark="decode", shape=STEP)
        .run(
            {
                "compute": always(2600.0),
                "tensor_parallel": always(4000.0),
                "tensor_parallel_library": always(5000.0),
                "pipeline_parallel": always(5300.0),
            }
        )
        .path
    )
    options = ("--validate", step, "--run", reduces, "--run", link_run(tmp_path, 20))
    text, words = answer(*options)
    assert re.search(r"compute +2\.60 +2\.52 +-3\.2% +- +-", text)
    assert re.search(r"tensor +4\.00 +3\.80 +-5\.1% +3\.88 +-3\.0%", text)
    assert re.search(r"tensor, library +5\.00 +5\.08 +\+1\.5% +5\.16 +\+3\.2%", text)
    assert re.search(r"pipeline +5\.30 +5\.07 +-4\.3% +5\.24 +-1\.1%", text)
    assert "The worst error from the link is 5.1%: misses the aim, 5%" in words
    one_chat = Made(tmp_path / "c", benchmark="decode", shape=STEP | {"slots": 1})
    step_of_one = one_chat.run(
        {"compute": always(2600.0), "pipeline_parallel": always(2600.0)}
    ).path
    text, _ = answer("--validate", step_of_one, *options[2:])
    assert re.search(
        r"pipeline +2\.60 +2\.56 +-1\.7% +5\.24", text
    )  # a single busy stage has the memory to itself
    assert "and one of bench.link" in refusal("--validate", step, "--run", reduces)
    nothing = (
        Made(tmp_path / "e", benchmark="decode", shape=STEP).run({"compute": always(None)}).path
    )
    assert "has no measured step" in refusal("--validate", nothing, *options[2:])
    assert "not of decode" in refusal("--validate", reduces, "--run", reduces)
    halves = write(tmp_path / "d", {32768: 20}, ranks=CPUS)
    assert "no chained all-reduce of 32768 B in float32" in refusal(
        "--validate", step, "--run", halves, *options[4:]
    )
    elsewhere = link_run(tmp_path / "b", 20, machine_id="z")
    assert "of another machine" in refusal("--validate", step, "--run", reduces, "--run", elsewhere)


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ((), "needs --gpu, and either --model or --config"),
        (("--model", "llama-3.1-70b"), "needs --gpu"),
        (
            ("--model", "llama-3.1-70b", "--config", "x", "--gpu", "r9700"),
            "either --model or --config",
        ),
        (
            ("--model", "llama-70b", "--gpu", "r9700"),
            "unknown model 'llama-70b'; did you mean llama-3",
        ),
        (("--model", "llama-3.1-70b", "--gpu", "r9900"), "unknown GPU 'r9900'; did you mean r9700"),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--link", "pci5x16"),
            "unknown link 'pci5x16'; did you mean pcie",
        ),
        (("--model", "llama-3.1-70b", "--gpu", "r9700", "--weights", "q5"), "unknown weights 'q5'"),
        (("--model", "llama-3.1-70b", "--gpu", "r9700", "--weights", "0GB"), "has no weights"),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--context", "-1"),
            "--context: '-1' is not a whole number",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--context", "4k"),
            "--context: '4k' is not a whole number",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--prompt", "0"),
            "--prompt: '0' is not a whole number",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--gpus", "65"),
            "--gpus: '65' is not a whole number from 1 to 64",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--skew", "nan"),
            "--skew nan is not from 1 (even) to 2",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--skew", "0.5"),
            "--skew 0.5 is not from 1 (even) to 2",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--skew", "x"),
            "--skew: invalid float value: 'x'",
        ),
        (
            ("--model", "llama-3.1-70b", "--gpu", "r9700", "--run", "missing.jsonl"),
            "missing.jsonl cannot be read",
        ),
        (("--config", "missing.json", "--gpu", "r9700"), "missing.json cannot be read"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, refused):
    """A typing error must end neither in a traceback nor in figures for other arguments."""
    assert refused in refusal(*arguments)


def test_unsuitable_runs_are_refused(tmp_path):
    """Advice must not use a run of another collective, other ranks, other machines, or wrong sums."""
    options = ("--model", "llama-3.1-70b", "--gpu", "r9700")
    good = write(tmp_path / "a", {16384: 33})
    cases = [
        (
            (write(tmp_path / "b", {16384: 33}, collective="all_gather"),),
            "has no case of all_reduce",
        ),
        ((good, write(tmp_path / "c", {16384: 33}, machine_id="z")), "of several machines"),
        ((link_run(tmp_path / "d", 20),), "has no case of all_reduce"),
    ]
    for runs, refused in cases:
        assert refused in refusal(*options, *(word for run in runs for word in ("--run", run)))
    assert "a run of 2 ranks, not of 4 (--gpus)" in refusal(*options, "--gpus", "4", "--run", good)
    lines = [json.loads(line) for line in Path(good).read_text().splitlines()]
    for line in lines:
        if line["kind"] == "case":
            line |= {"status": "wrong", "n_wrong": 3}
    Path(good).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "has wrong results" in refusal(*options, "--run", good)


def test_several_launches_give_one_figure(tmp_path):
    """A single unlucky launch must not decide the advice."""
    runs = [write(tmp_path, {16384: us, LARGE: 600}, name=f"n{us}") for us in (30, 31, 33, 36, 60)]
    _, words = answer(
        "--model", "llama-3.1-70b", *R9700, *(word for run in runs for word in ("--run", run))
    )
    assert "measured: auto, float16, 5 launches" in words
    assert "160 x 33.0 us [30.0 60.0]" in words
    lines = runs[0].read_bytes().splitlines(keepends=True)
    runs[0].write_bytes(b"".join(line for line in lines if b'"kind":"end"' not in line))
    assert (
        "INCOMPLETE: the run was cut off"
        in answer("--model", "llama-3.1-70b", *R9700, "--run", runs[0])[1]
    )


def test_without_a_chain_single_calls_are_named(tmp_path):
    """Times of single calls must not pass for times of the dependent calls in a decode step."""
    run = write(tmp_path, {16384: 33, LARGE: 600}, chained=False)
    _, words = answer("--model", "llama-3.1-70b", *R9700, "--run", run)
    assert "No chain of dependent calls was measured at 16 KiB" in words


def test_the_fit_gives_the_time_of_a_size_that_was_not_measured(tmp_path):
    """Three chats at once must have their own figure, not the figure of one chat."""
    run = write(
        tmp_path,
        {size: 5 + size / 10e3 for size in (16384, 32768, 65536, 131072, 262144, 1 << 20, LARGE)},
    )
    _, words = answer("--model", "llama-3.1-70b", *R9700, "--batch", "3", "--run", run)
    match = re.search(r"160 x ([\d.]+) us.*? by the fit", words)
    assert match
    assert float(match[1]) == pytest.approx(5 + 49152 / 10e3, rel=0.01)


def test_a_model_on_disk_gives_the_same_advice_as_its_specs(tmp_path):
    """A user must be able to ask about a model that specs.toml lacks."""
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps(
            {
                "num_hidden_layers": 80,
                "hidden_size": 8192,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "intermediate_size": 28672,
                "vocab_size": 128256,
            }
        )
    )
    by_name, _ = answer("--model", "llama-3.1-70b", "--gpu", "r9700")
    assert (
        answer("--config", path, "--gpu", "r9700")[1].split()
        == by_name.replace("llama-3.1-70b", "mine").split()
    )
    path.write_text('{"hidden_size": 8192}')
    assert "missing required field `num_hidden_layers`" in refusal(
        "--config", path, "--gpu", "r9700"
    )


def printed(folder, *rows, status="complete", name="abc", gpu=None, hosts=1, suspect=False):
    """Write an imported log of all-reduces over two ranks: (size in bytes, microseconds, type)."""
    run = ImportedRun(
        run_id=f"import-{name}-1",
        benchmark="rccl-tests all_reduce",
        statistic="mean over iterations",
        world={"size": 2, "hosts": hosts, "ranks": [{"rank": 0, "gpu": gpu}] if gpu else []},
        imported_from=ImportedFrom(
            file="two-hosts.log", format="rccl-tests", first_line=1, last_line=9
        ),
    )
    cases = [
        ImportedCase(
            case=number,
            collective="all_reduce",
            size_bytes=size,
            datatype=datatype,
            time_us=ImportedSummary(mean=us),
            suspect=suspect and not number,
        )
        for number, (size, us, datatype) in enumerate(rows)
    ]
    return write_imported(
        folder, run, cases, End(status=status, reason="the log ends before the test does")
    )[0]


def test_an_imported_log_gives_marked_advice(tmp_path):
    """A user with RDMA between two hosts has only a log of rccl-tests; here two R9700s take 47.3 us."""
    path = printed(tmp_path, (16384, 90.0, "int8"), (16384, 47.3, "float16"))
    _, words = answer("--model", "llama-3.1-70b", *R9700, "--run", path)
    assert "38.8 25.8" in words
    assert "1.61x PP 2" in words
    assert "imported from two-hosts.log" in words
    assert "never judged" in words
    assert "name it alone" in refusal(
        "--model", "llama-3.1-70b", *R9700, "--run", path, write(tmp_path, {16384: 8.0})
    )
    assert "2 ranks, not of 4" in refusal(
        "--model", "llama-3.1-70b", "--gpu", "r9700", "--gpus", 4, "--run", path
    )
    cut = printed(tmp_path, (16384, 47.3, "float16"), status="incomplete", name="cut")
    _, words = answer("--model", "llama-3.1-70b", *R9700, "--run", cut)
    assert "INCOMPLETE: the log ends before the test does." in words
    failed = printed(tmp_path, (16384, 47.3, "float16"), status="failed", name="failed")
    assert "its times say nothing" in refusal("--model", "llama-3.1-70b", *R9700, "--run", failed)


@pytest.mark.parametrize(
    ("hosts", "place"), [(1, None), (2, "on 2 hosts"), (None, "perhaps on several hosts")]
)
def test_a_log_over_a_network_is_not_held_against_a_slot(tmp_path, hosts, place):
    """Two PCs with one R9700 each reached 3.5 GB/s over RoCE, which says nothing about PCIe within one PC."""
    rows = (16384, 47.3, None), (LARGE, LARGE / 3.5e3, None)
    path = printed(tmp_path, *rows, gpu="AMD Radeon AI PRO R9700", hosts=hosts)
    _, words = answer("--model", "llama-3.1-70b", *R9700, "--run", path)
    assert ("DOWN" in words) == ("by bytes alone at 63.0 GB/s" in words) == (place is None)
    assert place is None or f"The ranks are {place}: the times include their network" in words
    small = printed(tmp_path, (16384, 47.3, None), hosts=hosts, name="small")
    prompt_ms = float(
        re.findall(
            r"^TP 2 .* (\S+) +\S+$",
            answer("--model", "llama-3.1-70b", *R9700, "--run", small)[0],
            re.MULTILINE,
        )[0]
    )
    assert (prompt_ms > 5_000) == (
        place is not None
    )  # 2,048 times the bytes take as many times as long


def test_suspect_figures_of_a_log_are_left_out_and_counted(tmp_path):
    """Advice must not use 0.2 us that no machine has."""
    path = printed(tmp_path, (16384, 0.2, None), (16384, 47.3, None), suspect=True)
    _, words = answer("--model", "llama-3.1-70b", *R9700, "--run", path)
    assert "160 x 47.3 us" in words
    assert "Suspect figures of the log, left out: 1." in words


def test_the_link_gives_the_time_of_larger_sizes_and_the_output_marks_it(tmp_path):
    """Latency taken for bandwidth would make a prompt ten times as slow: 33 us at 16 KiB become 67 ms at 32 MiB."""
    text, words = answer(
        "--model", "llama-3.1-70b", *R9700, "--run", printed(tmp_path, (16384, 33.0, None))
    )
    assert "Nothing above 16 KiB was measured" in words
    by_link, _ = answer("--model", "llama-3.1-70b", *R9700)
    prompt_ms = [
        float(re.findall(r"^TP 2 .* (\S+) +\S+$", output, re.MULTILINE)[0])
        for output in (text, by_link)
    ]
    assert prompt_ms[0] == pytest.approx(prompt_ms[1], rel=0.02)


def test_two_cards_beside_one_larger_card(tmp_path):
    """Two R9700s or one card of 48 GB: the question of most buyers, for one chat, for many, and for the money."""
    run = write(tmp_path, {16384: 33, 131072: 66, LARGE: 600})
    options = ("--model", "llama-3.1-70b", *R9700[:-1], "4096", "--run", run, "--versus")
    text, words = answer(*options, "w7900", "--prices", "2600", "3500")
    # One W7900 reads 40 GB and 1.34 GB of cache at 864 GB/s; two R9700s half of it each at 640, and 160 x 33 us.
    one, two = 864 / 41.342, 1e3 / (41.342 / 1.28 + 160 * 0.033)
    rows = re.findall(
        r"^ +([\d.]+) +([\d.]+)\ntokens/s of 1 stream +TP 2 +one GPU +([\d.]+)x", text, re.MULTILINE
    )
    assert [float(figure) for figure in rows[0]] == pytest.approx([two, one, two / one], rel=3e-3)
    assert (
        f"tokens/s of 1 stream, for the same money: 2 x r9700, {two / one * 35 / 26:.2f}x 1 x w7900."
        in words
    )
    assert re.search(r"tokens/s of 8 streams +TP 2 +does not fit +-", text)
    assert "tokens/s of 8 streams: does not fit on 1 x w7900." in words
    assert re.search(r"tokens/s of many +TP 2, \d+ streams +one GPU, \d streams? +[\d.]+x", text)
    assert "ASSUMED" not in words
    text, words = answer(*options, "a6000:2")
    assert "Its all-reduce: ASSUMED, not measured: nvlink3-bridge" in words
    assert "for the same money" not in words
    rival = re.search(r"W by their data sheets +600 +600 +1\.00x", text)
    assert rival
    assert "unknown GPU 'w7800'; did you mean w7900" in refusal(*options, "w7800")
    assert "N is from 1 to 64" in refusal(*options, "w7900:65")
    assert "--prices needs --versus" in refusal(*options[:-1], "--prices", "1", "2")
    assert "'free' is no price" in refusal(*options, "w7900", "--prices", "1", "free")


def test_a_bridge_joins_two_cards_and_no_more():
    """Four cards in a box with bridges use PCIe between the pairs."""
    options = ("--model", "llama-3.1-70b", "--gpu", "rtx3090")
    assert "nvlink3-bridge" in answer(*options, "--gpus", 2)[1]
    assert "ASSUMED, not measured: pcie4x16" in answer(*options, "--gpus", 4)[1]
    _, words = answer("--model", "llama-3.1-70b", "--gpu", "r9700", "--gpus", 8)
    assert "ms if joined by nvlink4, pcie5x16, sockets" in words


def test_eight_gpus_give_no_split_if_the_heads_do_not_divide_by_eight(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "num_hidden_layers": 32,
                "hidden_size": 1536,
                "num_attention_heads": 12,
                "num_key_value_heads": 2,
                "intermediate_size": 8192,
                "vocab_size": 32000,
            }
        )
    )
    text, words = answer("--config", config, "--weights", "fp16", "--gpu", "h100", "--gpus", 8)
    assert "no split" in words
    for line in re.findall(r", (?:decode|prompt)  .*", text):
        assert line.split()[5] == "-"
        assert line.split()[6] != "8"
