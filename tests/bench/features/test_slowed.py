"""Kernels slowed on purpose show that a comparison detects a slowdown: real launches, slowed and ordinary.

One rank measures how much slower the kernels are. A single rank waits for no peer, so neither the link nor other work
on the machine affects it; its kernels are slowed in the same code.
"""

import json
from statistics import median

import pytest

from bench.features import FEATURES
from bench.harness.command import sweep_parser
from collectives.collective import COLLECTIVES
from reports.store.result import read
from tests.launch import count, mpirun

ONE_RANK = ("--mode", "both", "-n", "40", "--max-time", "20")
SENTENCE = "Slowed on purpose: our kernels take 50 % longer than they need."


def launched(folder, ranks, *options):
    """A finished run and its process with the printed text."""
    done = mpirun(ranks, "-m", "bench.allreduce", "--sizes", "32K", "--lean", "--out", str(folder), *options)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.jsonl")
    return read(path), done


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Launches of one rank, alternately slowed and ordinary."""
    folder = tmp_path_factory.mktemp("slowed")
    return [
        (
            launched(folder / f"slowed-{pair}", 1, *ONE_RANK, "--slowed-percent", "50"),
            launched(folder / f"ordinary-{pair}", 1, *ONE_RANK),
        )
        for pair in range(count(12))
    ]


@pytest.mark.parametrize("quantity", ["total_us", "time_us", "consume_us", "chain_only_us"])
def test_slowed_kernels_take_longer_by_the_requested_percentage(pairs, quantity):
    """Otherwise nothing would show that the gate detects 3 %.

    Times are relative to the library, which is not slowed, in the same launch; other effects of a launch act on both.
    """

    def against_the_library(result):
        medians = {
            (case.algorithm, case.size_bytes, case.mode): getattr(case, quantity).median
            for case in result.cases
            if getattr(case, quantity)
        }
        return {key: us / medians["library", key[1], key[2]] for key, us in medians.items() if key[0] != "library"}

    ratios: dict[str, list[float]] = {}
    for (slowed, _), (ordinary, _) in pairs:
        assert {(case.status, case.n_wrong) for case in slowed.cases + ordinary.cases} == {("ok", 0)}
        a, b = against_the_library(slowed), against_the_library(ordinary)
        assert a.keys() == b.keys()
        for key in a:
            ratios.setdefault(key[0], []).append(a[key] / b[key])
    medians = {algorithm: median(of_cases) for algorithm, of_cases in ratios.items()}
    assert len(medians) == 9
    # A launch of LL takes 1.0 to 1.4 us here by itself, so two pairs of launches differ by that much.
    assert all(1.2 < ratio < 3 for ratio in medians.values()), medians


def test_only_a_slowed_run_says_that_it_is_slowed(pairs):
    """Otherwise a reader would take a slowed run for an ordinary one."""
    for (result, done), percent in zip(pairs[0], (50, None), strict=True):
        printed = done.stdout.replace("\n", " ")
        assert (SENTENCE in result.run.notes, SENTENCE in printed) == (bool(percent), bool(percent))
        assert result.run.world.get("slowed_percent") == percent
        assert done.stderr == ""


def test_slowed_ranks_have_right_results_and_machine_readable_output_comes_with_the_warning(tmp_path):
    options = ["--mode", "isolated", "-n", "12", "--slowed-percent", "50", "--format", "csv"]
    result, done = launched(tmp_path, 2, *options, "-J", str(tmp_path / "report.json"))
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
    assert SENTENCE in done.stderr
    assert "Slowed" not in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["results"]


def test_the_help_does_not_show_the_flag():
    parser = sweep_parser("allreduce", COLLECTIVES["all_reduce"], "", FEATURES)
    assert "slowed" not in parser.format_help()
    assert parser.parse_args(["--slowed-percent", "3"]).slowed_percent == 3
