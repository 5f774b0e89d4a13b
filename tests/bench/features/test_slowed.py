"""Kernels slowed on purpose show that a comparison detects a slowdown: real launches, slowed and ordinary.

One rank measures how much slower the kernels are. A single rank waits for no peer, so neither the link nor other work
on the machine affects it; its kernels are slowed in the same code.
"""

import json

import pytest

from bench.features import FEATURES
from bench.harness.command import sweep_parser
from collectives.collective import COLLECTIVES
from reports.store.result import read
from tests.launch import count, mpirun

pytestmark = pytest.mark.alone

ONE_RANK = ("--mode", "both", "-n", "100", "--max-time", "20")
SENTENCE = "Slowed on purpose: our kernels take 50 % longer than they need."


def launched(folder, ranks, *options):
    """A finished run and its process with the printed text."""
    done = mpirun(
        ranks, "-m", "bench.allreduce", "--sizes", "32K", "--lean", "--out", str(folder), *options
    )
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
        for pair in range(count(36))
    ]


@pytest.mark.parametrize("quantity", ["total_us", "time_us", "consume_us", "chain_only_us"])
def test_slowed_kernels_take_longer_by_the_requested_percentage(pairs, quantity):
    """Otherwise nothing would show that the gate detects 3 %.

    The least of the launches counts. A launch of LL takes 1.2 us, in some launches 1.4: what disturbs only adds time.
    """

    def times(result):
        assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
        return {
            (case.algorithm, case.variant, case.mode): getattr(case, quantity).median
            for case in result.cases
            if getattr(case, quantity)
        }

    launches = [(times(slowed), times(ordinary)) for (slowed, _), (ordinary, _) in pairs]
    assert all(
        slowed.keys() == ordinary.keys() == launches[0][0].keys() for slowed, ordinary in launches
    )
    ratios = {
        key: min(slowed[key] for slowed, _ in launches)
        / min(ordinary[key] for _, ordinary in launches)
        for key in launches[0][0]
    }
    ours = {key: ratio for key, ratio in ratios.items() if key[0] != "library"}
    assert len({algorithm for algorithm, _, _ in ours}) == 9
    assert all(1.2 < ratio < 2 for ratio in ours.values()), ours
    assert all(ratios[key] < 1.2 for key in ratios.keys() - ours.keys())


def test_only_a_slowed_run_says_that_it_is_slowed(pairs):
    """Otherwise a reader would take a slowed run for an ordinary one."""
    for (result, done), percent in zip(pairs[0], (50, None), strict=True):
        printed = done.stdout.replace("\n", " ")
        assert (SENTENCE in result.run.notes, SENTENCE in printed) == (bool(percent), bool(percent))
        assert result.run.world.get("slowed_percent") == percent
        assert done.stderr == ""


def test_slowed_ranks_have_right_results_and_machine_readable_output_comes_with_the_warning(
    tmp_path,
):
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
