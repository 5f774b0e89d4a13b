"""`bench.link`: its measurements on real ranks, and its report on a pair of ranks that differs from the others."""

import csv
import io
import json
import os
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from bench.link import matchings, parts
from reports.store.result import read
from reports.store.schema import Block, CaseHeader, End, Run
from reports.store.writing import RunFile
from reports.tables.plot import plot
from reports.tables.show import text
from tests import fake_gpu
from tests.fake_gpu import fake_nccl
from tests.launch import mpirun
from tests.reports.synthetic_run import without_fsync

pytestmark = pytest.mark.alone

QUICK = ("-e", "256K", "-f", "16", "--max-time", "60")
# bench.link, limited to 4 iterations of each case instead of by time, so that it also completes on a slow machine.
COUNTED = """
from dataclasses import replace
from functools import partial
import bench.link as link
from bench.harness.run import measure
from bench.harness.session import start
bind, (options, sizes) = link.bind, link.parse()
{}
start(replace(options, iterations=4),
      lambda session: measure(session, partial(link.prepare, sizes)))
"""


def run_link(tmp_path, ranks, *options, **variables):
    done = mpirun(ranks, *options, "--out", str(tmp_path), timeout_s=90, **variables)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_pair_is_measured_and_checked_and_show_prints_the_same(tmp_path, ranks):
    """Without this, a broken pair could be left out or left unchecked."""
    printed = run_link(tmp_path, ranks, "-c", COUNTED.format(""), *QUICK, *["--lean"] * (ranks > 2))
    (path,) = tmp_path.glob("*.jsonl")
    result = read(path)
    assert result.complete
    if ranks == 2:
        assert path.with_suffix(".png").stat().st_size > 10_000
    pairs = ranks * (ranks - 1)
    counted = {
        name: sum(case.algorithm == name for case in result.cases) for name in parts([range(ranks)])
    }
    assert not any(counted.pop(name) for name in [*counted] if name.endswith("library"))
    assert counted == {
        "push": 2 * pairs,
        "pull": 2 * pairs,
        "engine_push": 0,
        "both_directions": pairs,
        "local_copy": 2 * ranks,
        "disjoint_pairs": 0,
        "host_copy_beside": pairs,
        "ping_pong": pairs // 2,
        "launch": ranks,
    }
    for case in result.cases:
        assert case.status == "ok", case
        assert case.n_wrong == (None if case.algorithm in ("ping_pong", "launch") else 0)
    assert "push, 256 KiB: row stores into column" in printed
    assert max(map(len, printed.split("run: ")[0].splitlines())) <= 80
    assert ("they take turns" in printed) == (ranks > 2)
    assert printed.startswith(text(result))


def test_one_rank_measures_its_local_copy_and_its_launch(tmp_path):
    options = (*QUICK, "--max-time", "3", "--format", "csv", "--lean", "--out", str(tmp_path))
    rows = list(csv.DictReader(io.StringIO(mpirun(1, "-m", "bench.link", *options).stdout)))
    assert {row["algorithm"] for row in rows} == {"local_copy", "launch"}
    assert {row["status"] for row in rows} == {"ok"}


def test_data_that_a_kernel_does_not_move_is_reported_as_wrong(tmp_path):
    """Otherwise a link that drops data would look fast. In this test a push ends one pack early."""
    ends_early = (
        "link.bind = lambda of, part, count: bind(of, part, count - (part.algorithm == 'push'))"
    )
    options = ("-e", "16K", "--max-time", "60", "--lean", "--out", str(tmp_path))
    done = mpirun(2, "-c", COUNTED.format(ends_early), *options)
    assert done.returncode == 1
    assert re.search(r"WRONG RESULTS: push 16 KiB", done.stdout)
    assert {
        case.algorithm
        for case in read(next(tmp_path.glob("*.jsonl"))).cases
        if case.status == "wrong"
    } == {"push"}


def test_between_hosts_the_library_moves_the_data(tmp_path):
    """A variable makes MPICH see a host for each rank. Stamps of different hosts are not compared."""
    printed = run_link(
        tmp_path,
        2,
        "-c",
        COUNTED.format(""),
        "-e",
        "16K",
        "--max-time",
        "80",
        "--lean",
        MPIR_CVAR_NUM_CLIQUES="2",
    )
    result = read(next(tmp_path.glob("*.jsonl")))
    shapes = {(case.algorithm, *case.shape.values()) for case in result.cases}
    assert shapes == {
        *((name, rank, rank) for name in ("local_copy", "launch") for rank in (0, 1)),
        ("send_library", 0, 1),
        ("send_library", 1, 0),
        ("both_directions_library", 0, 1),
        ("ping_pong_library", 0, 1),
    }
    for case in result.cases:
        is_checked = case.algorithm not in ("ping_pong_library", "launch")
        assert (case.status, case.n_wrong) == ("ok", 0 if is_checked else None), case
        assert ("MPICH" in (case.library or "")) == case.algorithm.endswith("library")
    assert not result.run.clock_shared
    assert all(
        block.arrival_skew_us is None
        for block in result.blocks
        if result.cases[block.case].algorithm == "both_directions_library"
    )
    assert [rank["host"] for rank in result.run.world["ranks"]] == [0, 1]
    words = " ".join(printed.split())
    assert (
        "message, 16 KiB: row sends to column; diagonal: local copy; between hosts MPICH" in words
    )
    assert re.search(
        r"Between hosts an element takes \S+ us one way \(rank0-rank1\) by MPICH", words
    ), words


def test_a_message_that_ends_early_is_reported_as_wrong(tmp_path):
    ends_early = (
        "message = link.Message\n"
        "link.Message = lambda sent, peer, at, size: message(sent, peer, at, size - 4 * (size > 4))"
    )
    done = mpirun(
        2,
        "-c",
        COUNTED.format(ends_early),
        "-e",
        "16K",
        "--max-time",
        "60",
        "--lean",
        "--out",
        str(tmp_path),
        MPIR_CVAR_NUM_CLIQUES="2",
    )
    assert done.returncode == 1
    assert re.search(r"WRONG RESULTS: send library 16 KiB", done.stdout)


def test_pairs_are_mapped_within_a_host_and_the_librarys_between_hosts():
    """With many ranks only the ranks at one place of their hosts exchange messages, as the time does not suffice."""
    measured = parts([(0, 2), (1, 3)])
    assert {part.pairs[0] for part in measured["push"]} == {(0, 2), (2, 0), (1, 3), (3, 1)}
    assert {part.pairs[0] for part in measured["send_library"]} == {
        (a, b) for a in range(4) for b in range(4) if a % 2 != b % 2
    }
    assert next(part.pairs for part in measured["both_directions_library"]) == ((0, 1), (1, 0))
    large = parts([range(8), range(8, 16)])
    assert {part.pairs[0] for part in large["send_library"]} == {
        pair for rank in range(8) for pair in ((rank, rank + 8), (rank + 8, rank))
    }
    assert {pair for part in large["disjoint_pairs"] for pair in part.pairs} == {
        part.pairs[0] for part in large["push"] if part.pairs[0][0] < part.pairs[0][1]
    }


def test_the_flag_is_as_fast_as_in_a_minimal_loop():
    """Otherwise the reported latency floor would be the overhead of our loop. The test compares quartiles, because on a
    shared machine either loop can lose its core."""
    done = mpirun(2, "tests/ranks/link_ranks.py", "200")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    ours_ns, bare_ns = (np.percentile(report[name], 25) for name in ("ours_ns", "bare_ns"))
    assert 1 / 3 < ours_ns / bare_ns < 1.5, (ours_ns, bare_ns)


@pytest.mark.parametrize(
    ("cpus", "ranks", "most_us"), [({0, 1}, 4, 0.7), ({0, 1}, 8, 0.7), ({0}, 2, 500)]
)
def test_ranks_that_share_cores_still_measure_the_link_and_not_the_scheduler(
    tmp_path, cpus, ranks, most_us
):
    """A mean over 100 round trips of four ranks on two cores took 0.3 to 17 us, and of two ranks on one core, if one
    does not yield, 4600 us. A flag takes 0.1 to 0.6 us."""
    allowed = os.sched_getaffinity(0)
    if not cpus <= allowed:
        pytest.skip("one core")
    os.sched_setaffinity(0, cpus)
    try:
        options = (
            "--sizes",
            "64K",
            "--algorithm",
            "two_shot",
            "--mode",
            "isolated",
            "-n",
            "9",
            "--lean",
        )
        done = mpirun(ranks, "-m", "bench.allreduce", *options, "--out", str(tmp_path))
    finally:
        os.sched_setaffinity(0, allowed)
    assert done.returncode == 0, done.stderr[-2000:]
    [path] = tmp_path.glob("*.jsonl")
    result = read(str(path))
    assert [rank["cpus"] for rank in result.run.world["ranks"]] == [
        [rank % len(cpus)] for rank in range(ranks)
    ]
    trips_us = [trip / 1e3 for block in result.blocks for trip in block.link_rtt_ns or ()]
    assert len(trips_us) > 20
    assert np.percentile(trips_us, 75) < most_us, trips_us


@pytest.mark.parametrize("ranks", range(2, 9))
def test_disjoint_pairs_are_disjoint_and_complete(ranks):
    sets = matchings(range(ranks))
    assert all(len({rank for pair in pairs for rank in pair}) == 2 * len(pairs) for pairs in sets)
    assert {pair for pairs in sets for pair in pairs} == (
        set(combinations(range(ranks), 2)) if ranks > 3 else set()
    )


@without_fsync
def made_up(folder, ranks, gb_s, blocks=12, one_way_us=2.0):
    """A synthetic run on GPUs in which pair (src, dst) pushes and pulls at `gb_s(src, dst)`, written through the real
    store."""
    shapes = [("push", pair.shape) for pair in parts([range(ranks)])["push"]] + [
        ("pull", pair.shape) for pair in parts([range(ranks)])["pull"]
    ]
    size = 64 << 20
    cases = [
        CaseHeader(
            collective="link",
            algorithm=name,
            shape=shape,
            size_bytes=size,
            count=size // 4,
            datatype="float32",
            redop="none",
        )
        for name, shape in shapes
    ]
    cases += [
        CaseHeader(
            collective="link",
            algorithm="ping_pong",
            shape=part.shape,
            size_bytes=0,
            count=0,
            datatype="float32",
            redop="none",
        )
        for part in parts([range(ranks)])["ping_pong"]
    ]
    run = Run(
        run_id=f"2026-11-20T06-15-00Z-link-{ranks}",
        benchmark="link",
        version="0.1.0",
        argv=[],
        seed=0,
        machine_id="a",
        software_id="b",
        environment={},
        clock_shared=False,
        cases=cases,
        world={
            "size": ranks,
            "hosts": 1,
            "ranks": [
                {
                    "rank": r,
                    "device": "cuda",
                    "arch": "sm_90",
                    "gpu": "NVIDIA H200",
                    "cpus": [r],
                    "pci_bus_id": f"0000:{r:02x}:00.0",
                }
                for r in range(ranks)
            ],
        },
    )
    file, rng = RunFile.create(folder, run), np.random.default_rng(1)
    for turn in range(blocks):
        for number, case in enumerate(cases):
            time_us = (
                size / gb_s(case.shape["src"], case.shape["dst"]) / 1e3
                if case.size_bytes
                else one_way_us
            )
            file.append(
                Block(
                    case=number,
                    block=turn,
                    round=turn,
                    n=5,
                    time_us=time_us * rng.normal(1, 0.01),
                    n_wrong=0,
                    link_rtt_ns=(4000.0, 4050.0),
                )
            )
    return file.finish({}, End(status="complete", measuring_s=1.0, elapsed_s=2.0))


def test_a_degraded_pair_is_named(tmp_path):
    """In a matrix of 56 figures, a reader would miss the one card in an x4 slot."""
    result = made_up(tmp_path, 4, lambda src, dst: 25.0 / (5.1 if {src, dst} == {0, 1} else 1))
    words = " ".join(text(result).split())
    assert re.search(
        r"GPU[01]-GPU[01] is 5\.[012]x slower than GPU\d-GPU\d by push, 64 MiB", words
    ), words
    assert "to GPU1 is" not in words


def test_a_pair_that_is_slow_in_one_direction_is_named(tmp_path):
    result = made_up(tmp_path, 2, lambda src, dst: 12.0 if (src, dst) == (1, 0) else 24.0)
    words = " ".join(text(result).split())
    assert re.search(
        r"GPU1 to GPU0 is 2\.0x slower than GPU0 to GPU1 by (push|pull), 64 MiB\.", words
    ), words


def over_hosts(folder, gb_s, message_us=20.0):
    """The same on two hosts, each with two GPUs at the same PCI addresses; messages at `gb_s(src, dst)`."""
    nodes = [(0, 1), (2, 3)]
    shown = [
        part
        for name in ("push", "pull", "ping_pong", "send_library", "ping_pong_library")
        for part in parts(nodes)[name]
    ]
    cases = []
    for part in shown:
        size = {"ping_pong": 0, "ping_pong_library": 4}.get(part.algorithm, 64 << 20)
        cases.append(
            CaseHeader(
                collective="link",
                algorithm=part.algorithm,
                shape=part.shape,
                size_bytes=size,
                count=size // 4,
                datatype="float32",
                redop="none",
                library="NCCL 2.28.3" if part.is_far else None,
            )
        )
    run = Run(
        run_id="2026-11-20T06-15-00Z-link-hosts",
        benchmark="link",
        version="0.1.0",
        argv=[],
        seed=0,
        machine_id="a",
        software_id="b",
        environment={},
        clock_shared=False,
        cases=cases,
        world={
            "size": 4,
            "hosts": 2,
            "ranks": [
                {
                    "rank": r,
                    "host": r // 2,
                    "node": "ab"[r // 2],
                    "device": "cuda",
                    "arch": "sm_90",
                    "gpu": "NVIDIA H200",
                    "cpus": [r],
                    "pci_bus_id": f"0000:{r % 2:02x}:00.0",
                }
                for r in range(4)
            ],
        },
    )
    file, rng = RunFile.create(folder, run), np.random.default_rng(1)
    for turn in range(12):
        for number, case in enumerate(cases):
            rate = gb_s(*case.shape.values()) if case.library else 200.0
            time_us = {0: 2.0, 4: message_us}.get(case.size_bytes, case.size_bytes / rate / 1e3)
            file.append(
                Block(
                    case=number,
                    block=turn,
                    round=turn,
                    n=5,
                    time_us=time_us * rng.normal(1, 0.01),
                    n_wrong=0,
                )
            )
    return file.finish({}, End(status="complete", measuring_s=1.0, elapsed_s=2.0))


def test_a_slow_pair_of_hosts_is_named_and_a_network_is_not_held_against_a_link(tmp_path):
    """Transfers between hosts are slower by design: the report compares them with each other, in the same matrix."""
    printed = text(over_hosts(tmp_path / "even", lambda src, dst: 20.0))
    words = " ".join(printed.split())
    assert "4 ranks on 2 hosts (a: 0 1, b: 2 3)" in words
    assert "No pair is more than 1.25x slower than another." in words, words
    assert re.search(r"64 MiB between hosts take 10\.\dx as long as within one", words), words
    assert re.search(
        r"Between hosts an element takes \d+\.\d us one way \(GPU\d-GPU\d, the nearest\)", words
    ), words
    (row,) = [line.split() for line in printed.splitlines() if re.match(r" +0 +- +20", line)][:1]
    assert float(row[2]) == pytest.approx(200, rel=0.02)
    assert float(row[3]) == pytest.approx(20, rel=0.02)
    slow = over_hosts(tmp_path / "slow", lambda src, dst: 5.0 if (src, dst) == (1, 2) else 20.0)
    words = " ".join(text(slow).split())
    assert re.search(r"GPU1-GPU2 is 4\.\dx slower than GPU\d-GPU\d by message, 64 MiB", words), (
        words
    )
    assert re.search(r"GPU1 to GPU2 is 4\.\dx slower than GPU2 to GPU1 by message", words), words
    plot(slow, tmp_path / "hosts.png")


def test_similar_pairs_are_not_reported(tmp_path):
    """With too few blocks the report makes no claim, however far apart the medians are."""
    words = text(made_up(tmp_path, 4, lambda src, dst: 24.0 + src / 10))
    assert "No pair is more than 1.25x slower than another." in words
    few = text(made_up(tmp_path / "few", 4, lambda src, dst: 24.0 / (1 + 4 * (src == 2)), blocks=3))
    assert "x slower" not in few
    assert "too few blocks" in few


@pytest.mark.parametrize("ranks", [2, 8])
def test_the_table_fits_and_the_plot_is_drawn(tmp_path, ranks):
    result = made_up(tmp_path, ranks, lambda src, dst: 25.0 + 100 * (src + dst))
    assert max(map(len, text(result).splitlines())) <= 80
    plot(result, tmp_path / "link.png")
    assert (tmp_path / "link.png").stat().st_size > 10_000


def test_link_runs_between_simulated_gpus(tmp_path):
    """The same kernels, built from their GPU sources, run on threads; the check reports data that they do not move."""
    environment: dict[str, Any] = fake_gpu.environment(vendor="hip", count=2) | {
        "FAKE_NCCL_BINDING": "none"
    }
    options = ("--device", "hip", "-e", "16K", "--max-time", "60", "--lean")
    printed = run_link(tmp_path, 2, "-c", COUNTED.format(""), *options, **environment)
    (path,) = tmp_path.glob("*.jsonl")
    cases = read(path).cases
    assert {case.status for case in cases} == {"ok"}
    assert {tuple(case.shape.values()) for case in cases if case.algorithm == "engine_push"} == {
        (0, 1),
        (1, 0),
    }
    assert "push by copy engine, 16 KiB: row copies into column" in printed
    assert "(GPU0-GPU1)" in printed


def test_between_hosts_of_simulated_gpus_nccl_moves_the_data(tmp_path):
    """The stand-in for NCCL refuses two ranks on one GPU, which both hosts call GPU 0, unless a variable allows it."""
    environment: dict[str, Any] = fake_nccl.environment("cuda", count=2) | {
        "MPIR_CVAR_NUM_CLIQUES": "2",
        "NCCL_MULTI_RANK_GPU_ENABLE": "1",
    }
    options = ("--device", "cuda", "-e", "16K", "--max-time", "60", "--lean", "--quiet")
    printed = run_link(tmp_path, 2, "-c", COUNTED.format(""), *options, **environment)
    cases = read(next(tmp_path.glob("*.jsonl"))).cases
    assert {case.status for case in cases} == {"ok"}
    far = [case for case in cases if case.library]
    assert {case.algorithm for case in far} == {
        "send_library",
        "both_directions_library",
        "ping_pong_library",
    }
    assert {case.n_wrong for case in far if case.algorithm != "ping_pong_library"} == {0}
    assert "(GPU0-GPU1) by NCCL" in " ".join(printed.split())


def test_the_copies_of_a_huge_message_leave_room_in_the_stream(tmp_path):
    """A stream that is full blocks the host behind the closed gate. A GPU with 16 GiB messages did; here slabs are
    small instead."""
    program = """
import runpy
import bench.harness.suite as suite
import collectives.allreduce_copy_engine as copies
copies.HALF_BYTES = 512
make = suite.link_parts
def link_parts(*arguments):
    made = make(*arguments)
    assert made["engine_us"].scale == (1 << 20) / (250 * 1024), made["engine_us"].scale
    return made
suite.link_parts = link_parts
runpy.run_module("bench.allreduce", run_name="__main__")
"""
    options = [
        "-b",
        "1M",
        "-e",
        "1M",
        "--algorithm",
        "two_shot_push",
        "--mode",
        "isolated",
        "--max-time",
        "10",
    ]
    done = mpirun(
        2, "-c", program, "--out", str(tmp_path), *options, timeout_s=90, **fake_gpu.environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = read(next(tmp_path.glob("*.jsonl")))
    assert result.link_blocks
    assert all(block.engine_us for block in result.link_blocks)
