"""`expect`: the nearest published figures within one transport, said so, and a run's place among
their machines."""

import re
import subprocess
import sys
from typing import Any

import pytest
from msgspec.structs import replace

from reports.advice import expect, nearest
from reports.advice.expect_chart import charts_of, panels, spreads
from reports.references import published as published_tables
from reports.references.published import PublishedCall, select
from reports.tables.beside_published import by_way, own_calls, summary
from tests.launch import ROOT
from tests.reports.synthetic_run import mark_wrong, ranks_of, rewrite_cases, rewrite_head, write_run
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


def published(**fields):
    """A row of two cards at 16 KiB."""
    row: dict[str, Any] = {
        "machine": "a",
        "gpu": "R9700",
        "gpus": 2,
        "hosts": 1,
        "fabric": "PCIe 4 x8",
        "transport": "p2p",
        "mode": "eager",
        "kind": "library",
        "library": "rccl",
        "collective": "all_reduce",
        "size_bytes": 16384,
        "time_us": 20.0,
        "grade": "table",
        "source": "a/b#1",
    }
    return PublishedCall(**row | fields)


def test_the_same_cards_come_with_their_range_and_their_sources(reports):
    status, text, error = reports("expect", "--gpu", "r9700", "--gpus", 2, "--size", "32M")
    assert (status, error) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    for place in ("2x R9700, PCIe 4", "2x R9700, PCIe 5"):  # the rest is folded
        assert place in text
    assert "kurtronshausen/r9700-serving@01d6c619 BENCHMARKS.md" in text
    told = " ".join(text.split())
    assert "Tuned at 32 MiB: none is known; half to twice as many of these cards, 4 cards," in told
    lossy = told.partition("Lossy at 32 MiB: none is known")[2]
    assert "16.9 to 27.3 GB/s (1 machine, 5 rows)" in lossy


def test_the_text_ends_with_what_to_type_next(reports, tmp_path):
    _, text, _ = reports("expect", "--gpu", "r9700", "--gpus", "2")
    command = "mpirun -n 2 python -m bench.allreduce --out results"
    assert text.endswith(f"beside these:\n{command}\npython -m reports expect results\n")
    _, text, _ = reports("expect", gpu_run(tmp_path, at_gb_s(5.0)))
    assert text.endswith("limits this machine:\nmpirun -n 2 python -m bench.link\n")


def test_peer_access_and_host_memory_are_two_ranges():
    """Two R9700s through host memory (PCIe 5 x8) beat two with peers (PCIe 4 x8): one range over
    both said that peers reach 12.8 GB/s."""
    question = nearest.question_of("r9700", 2, 1)
    answer = nearest.answer_to(question, 32 << 20, "library")
    told = [*expect.known(answer)]
    assert len(told) == 2
    for way, low, high in (("peer access over PCIe 4 x8", 10.5, 10.7), ("host memory", 11, 13)):
        [line] = [line for line in told if f"through {way}" in line]
        transport = "p2p" if "peer" in way else "host memory"
        rows = select(answer.figures, transport={transport})
        assert all(low < row.gb_s < high for row in rows)
        assert f"(1 machine, {len(rows)} rows)" in line, "11 rows are two machines"


def test_lanes_are_other_fabrics_for_bandwidth_only():
    lanes = "Arc Pro B70", "PCIe 5 x8", "PCIe 5 x16"
    rows = [published(gpu=lanes[0], fabric=fabric, size_bytes=32 << 20) for fabric in lanes[1:]]
    assert {*by_way(rows)} == {f"through peer access over {fabric}" for fabric in lanes[1:]}
    assert {*by_way([replace(row, size_bytes=16384) for row in rows])} == {
        "through peer access over PCIe 5"
    }


def test_a_machine_that_prints_much_votes_once():
    """Nine rows of a slow machine do not outvote two fast machines."""
    loud = [published(machine="loud", time_us=100.0 + each) for each in range(9)]
    rows = [*loud, published(machine="a", time_us=10), published(machine="b", time_us=11)]
    assert nearest.usual_us(rows) == 11
    assert summary(rows) == "10.0 to 108 us, median 11.0 (3 machines, 11 rows)"


def test_an_eight_card_collapse_says_nothing_of_two_cards(reports):
    """One-shot between two sockets takes 334 ms at 32 MiB."""
    command = ("expect", "--gpu", "rtxpro6000", "--gpus", 2, "--size", "32M")
    text = " ".join(reports(*command)[1].split())
    assert "Tuned at 32 MiB: none is known; half to twice as many of these cards, 4 cards" in text
    assert "17.5 GB/s (1 machine, 1 row)" in text
    assert "0.18" not in text
    asked = nearest.question_of("rtxpro6000", 2, 1)
    wide = [rows for differs, rows in asked.levels(32 << 20) if differs.startswith("another")]
    assert any(row.sockets == 2 for row in wide[0]), "what is far comes last, and is not lost"


def test_cards_on_more_sockets_are_not_near():
    """Of four cards a two-socket machine of eight is near by number only."""
    question = nearest.question_of("rtxpro6000", 4, 1)
    levels = dict(question.levels(32 << 20))
    near = levels["half to twice as many of these cards"]
    assert {row.sockets for row in near} == {1, None}
    assert {8, 4, 2} == {row.gpus for row in near}
    question.sockets = 2
    assert {
        row.sockets
        for row in dict(question.levels(32 << 20))["half to twice as many of these cards"]
    } == {2, None}


def test_history_is_shown_as_such_and_not_counted(reports):
    command = ("expect", "--gpu", "r9700", "--gpus", 2, "--size", "1M")
    told = " ".join(reports(*command)[1].split())
    assert (
        "History: Library at 1 MiB, eager, through peer access over PCIe 4 x8: 6.30 to 7.55 GB/s "
        "until ROCm/rocm-systems#8666 (1 machine, 4 rows); it is in no median." in told
    )
    answer = nearest.answer_to(nearest.question_of("r9700", 2, 1), 1 << 20, "library")
    assert not any(row.is_history for row in answer.figures)
    assert len(answer.history) == 4
    assert "p2p, history" in " ".join(expect.place_of(answer.history[0]).split())


@pytest.mark.parametrize("name", ["rx9070xt", "AMD Radeon RX 9070 XT"])
def test_a_card_of_the_same_chip_stands_in_and_says_so(reports, name):
    status, text, _ = reports("expect", "--gpu", name, "--gpus", 2, "--size", "32M")
    assert status == 0
    told = " ".join(text.split())
    assert "Library at 32 MiB: none is known; cards with the same chip, eager, through" in told
    assert told.startswith(
        "No row of the RX 9070 XT is published: these are of the R9700, the same chip (Navi 48) "
        "with twice the memory."
    )
    assert "2x R9700, PCIe 5" in text


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "16K --gpu r9700 --gpus 2",
            "half to twice as many of these cards, 4 cards, graph, through peer access over "
            "PCIe 3: 73.0 us",
        ),
        (
            "16K --gpu a6000 --gpus 4",
            "Library at 16 KiB: none is known; other cards over the same fabric, ",
        ),
        (
            "16K --gpu b70 --gpus 2",
            "Library at 16 KiB, eager, through host memory over PCIe 3: ",
        ),
        (
            "16K --gpu r9700 --gpus 2 --hosts 2",
            "History: Library at 16 KiB, eager, through the network: 47.3 us until "
            "ROCm/rocm-systems#7183 (1 machine, 1 row)",
        ),
        ("3M --gpu r9700", "nobody measured that size, this is at 4 MiB"),
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
        ("--gpu r9700,rtx5090", "--gpu takes one card, not r9700,rtx5090\n"),
        ("--gpu 32GB,640GB/s,191TFLOPS", "191TFLOPS; advise takes a card by its figures\n"),
        ("--gpu h99\x1b[2J", "unknown GPU 'h99?[2J'"),
        ("--gpu none", "unknown GPU 'none'"),  # what the table says where no card took part
        ("--gpu rx9070grf", "unknown GPU 'rx9070grf': did you mean rx9070gre?"),
        ("nowhere.jsonl --gpus 4", "expect needs either a RUN, or --gpu with --gpus"),
        ("--gpu r9700 --size 16Q", "'16Q' is no number such as 2, 16K or 32M"),
        (
            "--gpu l40s --gpus 3",
            "nobody has published all_reduce of 3x l40s, or of cards near them, from half to twice "
            "of 16 KiB or 32 MiB\n",
        ),
        ("--gpu r9700 --size 900G", "twice of 900 GiB; of these cards from 8 B to 512 MiB\n"),
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
        (
            "# all_reduce_perf\n",
            "library at 32 MiB, eager: 9.10 GB/s, slower than 1 of 1 machine of 2 cards through "
            "host memory over PCIe 5 x8",
        ),
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
    for way in ("host memory over PCIe 5 x8", "peer access over PCIe 4 x8"):
        assert f"eager: 5.20 GB/s, slower than 1 of 1 machine of 2 cards through {way}" in text
    assert "What usually explains that: no peer access" in text
    assert "ACS" in text
    answer = nearest.answer_to(nearest.question_of_run(read(slow)), 32 << 20, "library")
    answer.figures = [replace(row, gpus=4) for row in answer.figures]
    assert not [*expect.places(answer)], "a time of four cards says nothing of two"
    good = gpu_run(tmp_path / "good", at_gb_s(12.85))
    text = " ".join(reports("expect", good, "--size", "32M")[1].split())
    assert "slower than 0 of 1 machine" in text
    assert "explains" not in text


def with_ways(run, *ways, **facts):
    """The run, whose library's log named these transports."""
    pairs = {pair: [*ways] for pair in ("0 -> 1", "1 -> 0")}
    rewrite_head(run, world__library={"transports": {"plain": pairs}}, **facts)
    return run


def through_host_memory(folder, us):
    run = with_ways(gpu_run(folder, us), "SHM/direct/direct")
    rewrite_cases(run, lambda case: case.update(memory="host_staged"))
    rewrite_head(run, memory={"requested": "mapped", "behaved": "host_staged"})
    return run


def test_a_run_without_peers_is_told_first_and_stands_beside_its_like(reports, tmp_path):
    run = through_host_memory(tmp_path, at_gb_s(10.6))
    status, text, _ = reports("expect", run, "--size", "32M")
    told = " ".join(text.split())
    assert status == 0
    assert told.startswith(
        "NO PEER ACCESS: MPICH and Wiretax's kernels went through host memory in this run"
    )
    assert "With peer access a library is published at 32 MiB with 10.6 GB/s (1 machine," in told
    assert "slower than 1 of 1 machine of 2 cards through host memory over PCIe 5 x8" in told
    figures = told.partition("busbw")[2].partition("[1]")[0]
    assert "host memory" in figures
    assert "p2p" not in figures
    page = tmp_path / "page.html"
    reports("expect", run, "--html", page)
    banner = page.read_text().partition("<section")[0]
    assert '<header class="banner worse">' in banner
    assert "<b>No peer access</b>" in banner


def test_a_run_with_peers_stands_beside_peers_alone(reports, tmp_path):
    run = with_ways(gpu_run(tmp_path, at_gb_s(10.6)), "P2P/IPC")
    told = " ".join(reports("expect", run, "--size", "32M")[1].split())
    assert "NO PEER ACCESS" not in told
    assert "of 1 machine of 2 cards through peer access over PCIe 4 x8" in told
    assert "host memory" not in told


def test_a_run_of_a_twin_card_is_beside_no_equal_machine(tmp_path):
    """`qualify` rejects by equal machines alone: an RX 9070 XT is no R9700."""
    run = gpu_run(tmp_path, at_gb_s(1.0))
    rewrite_head(run, world__ranks=ranks_of("AMD Radeon RX 9070 XT"))
    question = nearest.question_of_run(read(run))
    answer = nearest.answer_to(question, 32 << 20, "library")
    assert answer.figures
    assert answer.differs == "cards with the same chip"
    assert question.notices[0].startswith("No row of the RX 9070 XT is published")


def test_who_asked_for_host_memory_is_not_told_of_a_failure(tmp_path):
    run = through_host_memory(tmp_path, at_gb_s(9.1))
    rewrite_head(run, memory={"requested": "host_staged", "behaved": "host_staged"})
    [told] = nearest.question_of_run(read(run)).notices
    assert told.startswith("NO PEER ACCESS: MPICH went through host memory")


@pytest.mark.parametrize("library", [None, 7, {"transports": {"plain": ["SHM"]}}, {"file": "x"}])
def test_a_head_that_says_nothing_of_transports_leaves_them_open(tmp_path, library):
    run = gpu_run(tmp_path, at_gb_s(9.1))
    rewrite_head(run, world__library=library)
    own = own_calls(read(run))
    assert {call.transport for call in select(own, kind={"library"})} == {"unknown"}
    assert {call.transport for call in select(own, kind={"tuned"})} == {"p2p"}


@pytest.mark.parametrize(
    ("links", "fabric", "sockets"),
    [
        (["PCIe 4 x16", "PCIe 3 x4", "PCIe, same root complex"], "PCIe 3 x4", 1),
        (["PCIe 5 x8", "PCIe 4 x16", "PCIe, across sockets"], "PCIe 5 x8", 2),
        (["NVLink x4", "PCIe 5 x16"], "unknown", None),
        (["PCIe, two root complexes, sockets unknown"], "unknown", None),
        ([], "unknown", None),
    ],
)
def test_the_narrowest_slot_and_the_sockets_of_a_run_count(tmp_path, links, fabric, sockets):
    run = gpu_run(tmp_path, at_gb_s(9.1))
    rewrite_head(run, environment={"gpu.links": {"value": links, "source": "", "status": "ok"}})
    result = read(run)
    assert {call.fabric for call in own_calls(result)} == {fabric}
    assert nearest.question_of_run(result).sockets == sockets


def test_lanes_of_a_run_choose_the_rows_of_long_messages(tmp_path):
    run = with_ways(gpu_run(tmp_path, at_gb_s(9.1)), "P2P/IPC")
    rewrite_head(run, environment={"gpu.links": {"value": ["PCIe 4 x16"], "status": "ok"}})
    answer = nearest.answer_to(nearest.question_of_run(read(run)), 32 << 20, "library")
    assert answer.differs == "these cards over another fabric", "x8 is not x16"
    rewrite_head(run, environment={"gpu.links": {"value": ["PCIe 4 x8"], "status": "ok"}})
    answer = nearest.answer_to(nearest.question_of_run(read(run)), 32 << 20, "library")
    assert answer.differs == ""


def test_the_chart_has_four_groups_and_the_asked_size(reports, tmp_path):
    run = gpu_run(tmp_path / "runs", at_gb_s(9.1))
    picture, page = tmp_path / "run.svg", tmp_path / "run.html"
    command = ("expect", run, "--size", "32M", "--plot", picture, "--html", page)
    assert reports(*command)[0] == 0
    svg, html = picture.read_text(), page.read_text()
    for text in ("library, host", "library, p2p", "this run", "32 MiB"):
        assert text in svg
        assert text in html
    for panel in panels(nearest.question_of_run(read(run)), SIZES):
        assert len(panel.lines) <= 4
        assert len({line.role for line in panel.lines}) == len(panel.lines)
    assert "kurtronshausen/r9700-serving@01d6c619 BENCHMARKS.md" in html
    headline = re.findall("<h1>(.*?)</h1>", html)[0]
    assert headline.count(": ") <= 1
    assert len(headline) < 120
    assert ". " not in headline


def test_a_size_that_nobody_measured_is_in_the_chart_too():
    sizes = [3 << 10, 100 << 20]
    charts = charts_of(panels(nearest.question_of("r9700", 4, 1), sizes))
    for chart, size, unit in zip(charts, sizes, ["us", "GB/s"], strict=True):
        assert chart.unit == unit
        assert size in chart.x
        assert [step["at"][0] for step in chart.steps] == [size]


def test_what_is_drawn_is_near_the_asked_size(tmp_path):
    """Four R9700s through host memory are published at 8 and 16 bytes alone."""
    question = nearest.question_of_run(read(through_host_memory(tmp_path, at_gb_s(9.1))))
    [panel] = panels(question, [16384])
    sizes = {each.size_bytes for line in panel.lines for each in line.cases}
    assert panel.differs == "other cards over the same fabric"
    assert min(sizes) > 1024


def test_a_band_is_the_least_and_the_most_and_its_line_the_machines_median():
    rows = [published(machine=name, time_us=us) for name, us in (("a", 1), ("a", 3), ("b", 10))]
    [spread] = spreads(rows)
    assert spread.figures == (6.0, 1.0, 10.0)


def test_a_gpu_run_names_the_published_figure_under_its_table(reports, tmp_path):
    run = with_ways(gpu_run(tmp_path / "two", at_gb_s(9.1)), "P2P/IPC")
    text = " ".join(reports("show", run)[1].split())
    assert (
        "Published for 2x R9700: RCCL 32 MiB 10.6 GB/s (1 machine, 4 rows) through peer access "
        "over PCIe 4 x8. Yours: 9.10 GB/s." in text
    )
    shared = gpu_run(tmp_path / "shared", at_gb_s(9.1), pci_bus_id="0000:01:00.0")
    assert "Published for" not in reports("show", shared)[1]


def test_a_kernel_of_nccl_tests_is_not_published_as_the_library(tmp_path):
    result = read(gpu_run(tmp_path, at_gb_s(9.1)))
    assert {call.kind for call in own_calls(result)} == {"library", "tuned"}
    for case in result.cases:
        case.chosen = f"{DEVICE_KERNEL} 2 (-D)" if case.algorithm == "library" else None
    assert {call.kind for call in own_calls(result)} == {"tuned"}


def test_a_damaged_table_ends_in_one_sentence(reports, tmp_path, monkeypatch):
    content = (published_tables.FOLDER / "calls.csv").read_text()
    lines = content.splitlines(keepends=True)
    (tmp_path / "calls.csv").write_text(lines[0] + lines[1].replace(",eager,", ",sideways,"))
    monkeypatch.setattr(published_tables, "FOLDER", tmp_path)
    for cached in (published_tables.calls, published_tables.cards):
        monkeypatch.setattr(published_tables, cached.__name__, cached.__wrapped__)
    status, text, error = reports("expect", "--gpu", "r9700")
    assert (status, text) == (2, "")
    assert "calls.csv, line 2: Invalid enum value 'sideways'" in error
    assert error.count("\n") == 1


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
