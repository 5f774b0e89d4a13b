"""`expect`: the nearest published figures, said so, and a run's place among them."""

import subprocess
import sys

import pytest
from msgspec.structs import replace

from reports.advice import expect
from reports.tables.beside_published import own_calls
from tests.launch import ROOT
from tests.reports.synthetic_run import mark_wrong, ranks_of, rewrite_head, write_run
from wiretax.record.case import DEVICE_KERNEL
from wiretax.record.result import read

SIZES = [16384, 1 << 20, 32 << 20]


def gpu_run(folder, us, **facts):
    """A run of GPUs whose library takes `us` at each size."""
    run = write_run(
        folder,
        sizes=SIZES,
        algorithms=("library", "two_shot"),
        modes=("isolated",),
        n_blocks=4,
        n=4,
        us=lambda case, _: us(case.size_bytes),
    ).path
    rewrite_head(run, world__ranks=ranks_of("AMD Radeon AI PRO R9700", **facts))
    return run


def at_gb_s(gb_s):
    return lambda size: max(20.0, size / gb_s / 1e3)


def test_the_same_cards_come_with_their_range_and_their_sources(reports):
    status, text, error = reports("expect", "--gpu", "r9700", "--gpus", 2, "--size", "32M")
    assert (status, error) == (0, "")
    assert "Library at 32 MiB, eager: 10.6 to 12.8 GB/s (figures: 11)." in text
    assert max(map(len, text.splitlines())) <= 80
    for place in ("2x R9700, PCIe 4", "2x R9700, PCIe 5"):  # the rest is folded
        assert place in text
    assert "kurtronshausen/r9700-serving@01d6c619 BENCHMARKS.md" in text
    assert "valid until ROCm/rocm-systems#8666" in " ".join(text.split())
    assert "Tuned at 32 MiB, graph: none is known; another number of these cards:" in text
    lossy = text.partition("Lossy at 32 MiB, graph")[2]
    assert "16.9 to 27.3 GB/s" in " ".join(lossy.split())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("16K --gpu r9700 --gpus 2", "another number of these cards: 73.0 us"),
        (
            "16K --gpu w7900 --gpus 2",
            "none is known; other cards over the same fabric: 39.0 to 81.0 us",
        ),
        ("16K --gpu l40s --gpus 3", "Library at 16 KiB: none is known, nor of the nearest cards"),
        (
            "16K --gpu r9700 --gpus 2 --hosts 2",
            "Library at 16 KiB, eager: 47.3 us (figures: 1).",
        ),
        ("3M --gpu r9700", "nobody measured that size, this is at 2 MiB, 4 MiB"),
    ],
)
def test_the_nearest_are_named_as_such(reports, line, sentence):
    status, text, _ = reports("expect", "--size", *line.split())
    assert status == 0
    assert sentence in " ".join(text.split())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("--gpu radeon-9999", "unknown GPU 'radeon-9999'"),
        ("--gpu r9700,rtx5090", "--gpu takes one card, not r9700,rtx5090"),
        ("--gpu h99\x1b[2J", "unknown GPU 'h99?[2J'"),
        ("--gpu none", "unknown GPU 'none'"),  # what the table says where no card took part
        ("nowhere.jsonl --gpus 4", "expect needs either a RUN, or --gpu with --gpus"),
        ("--gpu r9700 --size 16Q", "'16Q' is no number such as 2, 16K or 32M"),
        ("--gpu l40s --gpus 3 --plot a.svg", "nothing is published near 3x l40s"),
        ("nowhere.jsonl", "nowhere.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_answered_takes_one_sentence(
    reports, tmp_path, monkeypatch, line, complaint
):
    monkeypatch.chdir(tmp_path)
    status, text, error = reports("expect", *line.split())
    assert (status, text) == (2, "")
    assert complaint in error
    assert error.count("\n") == 1


def test_a_run_that_cannot_stand_beside_others_is_refused(reports, tmp_path):
    wrong = gpu_run(tmp_path / "wrong", at_gb_s(9.1))
    mark_wrong(wrong, 0)
    cpus = write_run(tmp_path / "cpus", sizes=SIZES, n_blocks=2, n=2).path
    for run, complaint in (
        (wrong, "has wrong results"),
        (cpus, "has no time of a collective of GPUs of one model, one a rank"),
    ):
        status, text, error = reports("expect", run)
        assert (status, text) == (2, "")
        assert complaint in error
        assert error.count("\n") == 1


LOG = """# nThread 1 nGpus 2 minBytes 16384 maxBytes 33554432 step: 2(factor) iters: 20
#   Rank  0 Pid 11 on box device  0 [0x01] AMD Radeon AI PRO R9700
#   Rank  1 Pid 11 on box device  1 [0x02] AMD Radeon AI PRO R9700
#       size    count   type  redop    time   algbw   busbw  error
    33554432  8388608  float    sum  3687.0    9.10    9.10    N/A
# Avg bus bandwidth    : 9.1
"""


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        ("# all_reduce_perf\n", "library at 32 MiB, eager: 9.10 GB/s, slower than 11 of 11"),
        (
            "",
            "if its log names none: expect --gpu NAME",
        ),  # the log does not say which collective ran
    ],
)
def test_a_log_of_nccl_tests_gets_its_place_too(reports, tmp_path, first, answer):
    (tmp_path / "a.log").write_text(first + LOG)
    reports("import", tmp_path / "a.log", "--out", tmp_path / "runs")
    _, text, error = reports("expect", tmp_path / "runs")
    assert answer in " ".join((text + error).split())
    assert "unknown, unknown" not in text  # the fabric and the transport of a log


def test_a_slow_run_gets_its_place_and_the_usual_causes(reports, tmp_path):
    slow = gpu_run(tmp_path / "slow", at_gb_s(5.2))
    text = " ".join(reports("expect", slow, "--size", "32M")[1].split())
    assert "This run's library at 32 MiB, eager: 5.20 GB/s, slower than 11 of 11" in text
    assert "What usually explains that: no peer access" in text
    assert "ACS" in text
    answer = expect.answer_to(expect.question_of_run(read(slow)), 32 << 20, "library")
    answer.figures = [replace(row, gpus=4) for row in answer.figures]
    assert not [*expect.places(answer)], "a time of four cards says nothing of two"
    good = gpu_run(tmp_path / "good", at_gb_s(12.85))
    text = " ".join(reports("expect", good, "--size", "32M")[1].split())
    assert "slower than 0 of 11" in text
    assert "explains" not in text


def test_the_picture_and_the_page_name_each_series(reports, tmp_path):
    run = gpu_run(tmp_path / "runs", at_gb_s(9.1))
    picture, page = tmp_path / "run.svg", tmp_path / "run.html"
    status, _, _ = reports("expect", run, "--size", "32M", "--plot", picture, "--html", page)
    assert status == 0
    svg, html = picture.read_text(), page.read_text()
    for name in ("kurtronshausen: rccl 4 channels, eager", "bkvargyas: r9k one-shot", "this run:"):
        assert name in svg
        assert name in html
    assert "kurtronshausen/r9700-serving@01d6c619 BENCHMARKS.md" in html


def test_a_gpu_run_names_the_published_figure_under_its_table(reports, tmp_path):
    run = gpu_run(tmp_path / "two", at_gb_s(9.1))
    text = " ".join(reports("show", run)[1].split())
    assert (
        "Published for 2x R9700 (PCIe 4 x8, PCIe 5 x8): RCCL 32 MiB 10.6 to 12.8 GB/s; yours 9.10"
        in text
    )
    shared = gpu_run(tmp_path / "shared", at_gb_s(9.1), pci_bus_id="0000:01:00.0")
    assert "Published for" not in reports("show", shared)[1]


def test_a_kernel_of_nccl_tests_is_not_published_as_the_library(tmp_path):
    result = read(gpu_run(tmp_path, at_gb_s(9.1)))
    assert {call.kind for call in own_calls(result)} == {"library", "tuned"}
    for case in result.cases:
        case.chosen = f"{DEVICE_KERNEL} 2 (-D)" if case.algorithm == "library" else None
    assert {call.kind for call in own_calls(result)} == {"tuned"}


HEAVY = """
import sys
from reports.__main__ import main
assert main(["expect", "--gpu", "h100", "--gpus", "8", "--size", "16K"]) == 0
heavy = {"pandas", "scipy", "matplotlib"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_an_answer_loads_nothing_heavy():
    """Each of these takes a large part of the second in which the answer comes."""
    subprocess.run([sys.executable, "-c", HEAVY], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
