"""Kernels slowed on purpose, which show that a comparison sees what it claims to see: real launches with and without.

How much slower is judged with one rank: it waits for nobody, so that neither the link nor other work on the machine
decides, and its kernels are slowed where those of many are.
"""

import json
from statistics import median

import pytest

from bench.features import FEATURES
from bench.harness.command import sweep_parser
from collectives.collective import COLLECTIVES
from reports.store.result import read
from tests.launch import mpirun

ONE_RANK = ("--mode", "both", "-n", "40", "--max-time", "20")
SENTENCE = "Slowed on purpose: our kernels take 50 % longer than they need."


def launched(folder, ranks, *options):
    """A finished run, and what it printed in one line."""
    options = ("--sizes", "32K,64K", "--lean", "--out", str(folder), *options)
    done = mpirun(ranks, "-m", "bench.allreduce", *options)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = folder.glob("*.jsonl")
    return read(path), done.stdout.replace("\n", " ")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Launches of one rank, slowed and ordinary in turn."""
    folder = tmp_path_factory.mktemp("slowed")
    return [
        (
            launched(folder / f"slowed-{pair}", 1, *ONE_RANK, "--slowed-percent", "50")[0],
            launched(folder / f"ordinary-{pair}", 1, *ONE_RANK)[0],
        )
        for pair in range(3)
    ]


@pytest.mark.parametrize("quantity", ["total_us", "time_us", "consume_us", "chain_only_us"])
def test_our_kernels_take_about_so_much_longer_than_the_library_of_the_same_launch(pairs, quantity):
    """A gate could not be shown to see 3 %, or would be shown to see something else.

    Against the library, which nothing slows: whatever else the machine does in a launch it does to both.
    """

    def against_the_library(result):
        medians = {
            (case.algorithm, case.size_bytes, case.mode): getattr(case, quantity).median
            for case in result.cases
            if getattr(case, quantity)
        }
        return {key: us / medians["library", key[1], key[2]] for key, us in medians.items() if key[0] != "library"}

    ratios: dict[str, list[float]] = {}
    for slowed, ordinary in pairs:
        assert {(case.status, case.n_wrong) for case in slowed.cases + ordinary.cases} == {("ok", 0)}
        a, b = against_the_library(slowed), against_the_library(ordinary)
        assert a.keys() == b.keys()
        for key in a:
            ratios.setdefault(key[0], []).append(a[key] / b[key])
    medians = {algorithm: median(of_cases) for algorithm, of_cases in ratios.items()}
    assert len(medians) == 6
    assert all(1.25 < ratio < 2 for ratio in medians.values()), medians


@pytest.mark.parametrize("slowed", [True, False])
def test_results_of_slowed_ranks_are_right_and_the_run_says_what_it_is(tmp_path, slowed):
    """A slowed run would be taken for an ordinary one."""
    result, printed = launched(
        tmp_path, 2, "--mode", "isolated", "-n", "24", *(["--slowed-percent", "50"] if slowed else [])
    )
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
    assert (SENTENCE in result.run.notes, SENTENCE in printed) == (slowed, slowed)
    assert result.run.world.get("slowed_percent") == (50 if slowed else None)


def test_what_other_programs_parse_comes_with_the_warning(tmp_path):
    options = ["--sizes", "16K", "--algorithm", "ring", "-n", "12", "--slowed-percent", "3", "--lean", "--out",
               str(tmp_path)]
    done = mpirun(2, "-m", "bench.allreduce", *options, "--format", "csv", "-J", str(tmp_path / "report.json"))
    assert done.returncode == 0
    assert "Slowed on purpose: our kernels take 3 % longer" in done.stderr
    assert "Slowed" not in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["results"]


def test_the_flag_is_not_offered_to_users():
    parser = sweep_parser("allreduce", COLLECTIVES["all_reduce"], "", FEATURES)
    assert "slowed" not in parser.format_help()
    assert parser.parse_args(["--slowed-percent", "3"]).slowed_percent == 3
