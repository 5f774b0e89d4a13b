"""What a call takes alone: only from what may be compared, and it says from where."""

import argparse
import json
import re
from typing import Any

import numpy as np
import pytest

from reports.breakdown import from_traces
from reports.breakdown.alone import alone_of, baseline_of
from reports.breakdown.bill import CallBill
from reports.breakdown.kernel_names import Names
from reports.breakdown.timeline import Timeline
from reports.references import published as tables
from reports.references.published import PublishedCall
from tests.reports.breakdown.small_trace import write_trace
from tests.reports.synthetic_archive import write_archive
from tests.reports.synthetic_run import mark_wrong, run_id, write_run
from wiretax.record.case import size_of
from wiretax.record.result import ResultError

H100 = "NVIDIA H100 80GB HBM3"
US = {"library": 30.0, "auto": 10.0}  # of a chain of 16 KiB, with its link
SINGLE_US = 5.0  # that a single call takes longer


def a_run(folder, **fields):
    """All-reduces of 16 and 64 KiB, the larger four times as long."""
    facts: dict[str, Any] = {
        "sizes": [16384, 65536],
        "algorithms": ("library", "auto"),
        "modes": ("isolated", "chained"),
        "n_blocks": 5,
        "n": 5,
        "gpu": H100,
        "us": lambda case, _: (
            US[case.algorithm] * case.size_bytes / 16384 + SINGLE_US * (case.mode == "isolated")
        ),
    }
    return write_run(folder, **facts | fields).path


def look_up(run=None, device="", gpus=2, card=None, typed_bytes=None, **fields):
    """The time alone of a call with these fields, and the notes."""
    arguments = argparse.Namespace(
        run=run,
        gpu=card,
        size=typed_bytes,
    )
    facts: dict[str, Any] = {
        "collective": "all_reduce",
        "by": "NCCL or RCCL",
        "size_bytes": 16384,
    }
    call = CallBill(
        **facts | fields,
        n_calls=40,
        transport_us=(40.0, 39.0, 41.0),
    )
    baseline = baseline_of(arguments, {gpus}, device)
    return alone_of(call, gpus, baseline), baseline.notes


def refused(*words, **fields):
    """The sentence with which a look-up is refused."""
    with pytest.raises(ResultError) as error:
        look_up(*words, **fields)
    return str(error.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    ("fields", "us", "words"),
    [
        ({"by": "NCCL or RCCL"}, 30.0, "a chain, 1 launch"),
        ({"by": "NCCL", "is_graph": True}, 30.0, "a chain, 1 launch"),
        ({"by": "NCCL", "is_graph": False}, 35.0, "single calls, 1 launch"),
        ({"by": "Wiretax"}, 10.0, "auto, a chain, 1 launch"),
        ({"by": "MSCCL++"}, 10.0, "auto, not MSCCL++, a chain, 1 launch"),
        ({"size_bytes": 32768}, 60.0, "between 16 KiB and 64 KiB"),
    ],
)
def test_a_run_tells_what_the_engine_ran_in_its_mode(run, fields, us, words):
    found, notes = look_up(run, device=H100, **fields)
    assert found.us == (pytest.approx(us, abs=1.5), None, None)
    assert found.source.endswith(words)
    assert notes == []


@pytest.mark.parametrize("size_bytes", [8192, 131072])
def test_beyond_the_sizes_of_a_run_nothing_is_guessed(run, size_bytes):
    found, notes = look_up(run, size_bytes=size_bytes)
    assert found is None
    assert f"-b {size_bytes >> 10}K -e {size_bytes >> 10}K --out alone`." in notes[0]


def test_five_launches_have_an_interval(tmp_path):
    for night in range(5):
        a_run(
            tmp_path,
            seed=night,
            run_id=run_id(night),
            us=lambda _, block: block.time_us,
        )
    found, notes = look_up(tmp_path)
    middle_us, low_us, high_us = found.us
    assert low_us < middle_us < high_us
    assert "5 launches" in found.source
    assert notes == []


def test_a_survey_s_archive_is_a_run_too(tmp_path):
    path = write_archive(tmp_path / "survey.tar.gz", graph_us=40.0)
    assert look_up(path)[0].us[0] == pytest.approx(40, abs=4)


@pytest.mark.parametrize(
    ("fields", "device", "gpus", "said"),
    [
        ({"world_size": 4}, "", 2, "has all-reduces of 4 ranks, the traces of 2"),
        ({}, "AMD Instinct MI300X", 2, f"is of {H100}, the traces are of AMD Instinct MI300X"),
        ({"gpu": None}, H100, 2, f"is of CPU cores, the traces are of {H100}"),
        ({"finish": False}, "", 2, "has no run that counts; left out, incomplete: 1"),
    ],
)
def test_runs_that_may_not_be_compared_are_refused(fields, device, gpus, said, tmp_path):
    a_run(tmp_path, **fields)
    assert said in refused(tmp_path, device=device, gpus=gpus)


def test_wrong_sums_and_other_benchmarks_are_refused(tmp_path):
    mark_wrong(a_run(tmp_path / "wrong"), 0)
    assert "has wrong results" in refused(tmp_path / "wrong")
    (tmp_path / "empty").mkdir()
    assert "no run at" in refused(tmp_path / "empty")


def test_a_device_that_no_data_sheet_knows_is_told(run):
    found, notes = look_up(run, device="Radeon of tomorrow")
    assert found
    assert notes[0].endswith(f"is of {H100}, the traces name Radeon of tomorrow.")


def test_a_run_of_cpus_stands_beside_traces_of_a_cpu(tmp_path):
    found, notes = look_up(a_run(tmp_path, gpu=None), device="CPU")
    assert found
    assert notes == []


def test_a_run_of_cpus_beside_kernels_of_an_unnamed_gpu_is_told(tmp_path):
    """As traces of ROCm may be: a call in shared memory is ten times as fast."""
    _, notes = look_up(a_run(tmp_path, gpu=None), device="")
    assert notes[0].endswith("is of CPU cores, and no file names the GPU beside it.")


def test_why_a_run_has_no_time_of_a_call_is_said(run, tmp_path):
    assert "has 16 KiB to 64 KiB alone. " in look_up(run, size_bytes=8192)[1][0]
    short = a_run(tmp_path, n_blocks=4)
    assert "has none with 5 blocks in each launch: it was too short" in look_up(short)[1][0]


def row(machine="a", us=20.0, **fields):
    facts: dict[str, Any] = {
        "gpu": "H100",
        "gpus": 2,
        "hosts": 1,
        "fabric": "NVLink 4",
        "mode": "graph",
        "kind": "library",
        "library": "nccl",
        "collective": "all_reduce",
        "size_bytes": 16384,
        "grade": "table",
        "source": f"{machine}#1",
    }
    return PublishedCall(machine=machine, time_us=us, **facts | fields)


@pytest.fixture
def published(monkeypatch):
    """A function that replaces what is published."""

    def replace(*rows):
        for module in ("reports.advice.nearest", "reports.references.published"):
            monkeypatch.setattr(f"{module}.calls", lambda: rows)
        tables.cards.cache_clear()

    yield replace
    tables.cards.cache_clear()


def test_published_calls_of_these_cards_stand_for_it(published):
    published(
        row("a", 20.0),
        row("b", 24.0),
        row("c", 26.0),
        row("d", 99.0, gpus=4),
        row("e", 98.0, size_bytes=32768),
        row("f", 97.0, transport="host memory", fabric="PCIe 5 x16"),
        row("g", 60.0, mode="eager"),
        row("h", 5.0, kind="tuned", library="vllm"),
        row("i", 96.0, collective="all_gather"),
    )
    found, notes = look_up(device=H100, is_graph=True)
    assert found.us == (24.0, 20.0, 26.0)
    assert (
        found.source == "published of nccl over NVLink 4, graph, 3 machines, 3 rows (a#1, b#1, c#1)"
    )
    assert notes == []
    assert look_up(device=H100, is_graph=False)[0].us == (60.0, None, None)
    assert look_up(device=H100, by="vLLM")[0].us == (5.0, None, None)
    assert look_up(device=H100, gpus=4)[0].us == (99.0, None, None)
    assert look_up(device=H100, collective="all_gather")[0] is None


def test_short_calls_of_about_this_size_stand_for_it(published):
    published(row(size_bytes=8192), row("b", 90.0, size_bytes=65536))
    assert "at 8 KiB" in look_up(card="h100", size_bytes=10240)[0].source
    assert look_up(card="h100", size_bytes=98304)[0] is None


def test_what_nobody_published_is_to_be_measured():
    found, notes = look_up(card="h100", size_bytes=64 << 20)
    assert found is None
    assert notes[0].startswith("An all-reduce of 64 MiB alone: none is published of 2x h100. ")
    assert "-b 64M -e 64M --out alone`." in notes[0]


def test_an_unknown_card_is_refused_with_the_nearest_name():
    assert refused(card="h200x") == "unknown GPU 'h200x': did you mean h200?"


def test_a_size_that_the_traces_do_not_tell_is_asked_for(run):
    found, notes = look_up(run, size_bytes=0)
    assert found is None
    assert "--size BYTES" in notes[0]
    assert look_up(run, size_bytes=0, typed_bytes=16384)[0].us[0] == pytest.approx(30, abs=1.5)


def test_the_command_prints_the_time_alone_and_where_it_is_from(run, tmp_path, reports):
    traces = [write_trace(tmp_path / f"{rank}.json", rank, steps=30) for rank in range(2)]
    status, out, _ = reports("breakdown", *traces, "--run", run, "--size", "16K", "--json")
    assert status == 0
    [call] = json.loads(out)["calls"]
    assert call["alone_us"] == pytest.approx(30, abs=1.5)
    assert call["alone_source"].endswith("a chain, 1 launch")
    status, _, said = reports("breakdown", *traces, "--size", "0")
    assert (status, said) == (2, said)
    assert "'0' is no number such as" in said


@pytest.mark.parametrize(
    ("launches_us", "is_graph"),
    [
        (None, None),
        ([np.nan] * 4, None),
        ([5.0, 5.0, 5.0, 5.0], True),
        ([5.0, 6.0, 7.0, 8.0], False),
    ],
)
def test_calls_that_are_launched_with_other_work_are_from_a_graph(launches_us, is_graph):
    times = np.arange(4.0)
    launches = None if launches_us is None else np.array(launches_us)
    zeros = np.zeros(4, int)
    timeline = Timeline(
        "made",
        Names(),
        ["gemm"],
        zeros,
        times,
        times + 1,
        zeros,
        zeros,
        zeros,
        launches_us=launches,
    )
    assert from_traces.is_from_graph(timeline, np.array([1, 3])) is is_graph


@pytest.mark.parametrize("size_bytes", [100, 10240, 16384, 1 << 25, 181_193_932, 3 << 30])
def test_the_command_that_measures_a_call_has_its_size_as_the_option_takes_it(size_bytes):
    """Once it said `-b 172.8M`, which no option takes."""
    baseline = baseline_of(
        argparse.Namespace(
            run=None,
            gpu=None,
            size=size_bytes,
        ),
        {2},
    )
    call = CallBill("all_reduce", "NCCL", 0, 40, (9.0, None, None))
    assert not alone_of(call, 2, baseline)
    (typed,) = re.findall("-b ([0-9]+[KMG]?) -e", " ".join(baseline.notes))
    assert size_of(typed) == size_bytes
