"""Tests the search for the best settings of an MPI library, with real launches of MPICH and with
made-up costs."""

import re
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pandas as pd
import pytest

from bench import tune_library
from bench.campaigns.launches import Stop
from bench.campaigns.library_costs import choose, combinations_of, costs_of
from bench.campaigns.library_settings import DEFAULT, settings_for
from bench.campaigns.options import parse as parse_campaign
from bench.campaigns.options import parse_variant
from bench.harness.progress import Progress
from bench.machine.environment import VARIABLES
from bench.tune_library import main, search, with_setting
from reports.store.result import read
from tests.bench.faulty_runs import wait_for
from tests.bench.launches import watched
from tests.launch import ROOT
from tests.reports.synthetic_campaign import write_launch

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "sendrecv")
LIBRARIES = ("Intel MPI 2021.18.1", "Open MPI 5.0.11", "MPICH 5.0.2", "Cray MPICH 8.1")
ONE_RANK = "mpirun -n 1 python -m bench.allreduce -b 16K -e 16K"
TUNED, WORSE, BROKEN = "A=1", "A=2", "B=1"
TOO_SHORT = (
    "the time ended in round N of at least 3: settings with fewer than two launches do not count; "
    "give it more --max-time\n"
)


def costs_over_default(*cells_us):
    """The costs of settings `NAME=1` in each of these cells."""
    costs = pd.DataFrame(cells_us)
    costs = costs.div(costs.default, axis=0)
    return costs.rename(columns=lambda name: DEFAULT if name == "default" else f"{name}=1")


# -- the settings


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_run_and_a_campaign_record_every_variable_that_is_tried(library, collective):
    """Otherwise two runs in different settings would look equal."""
    settings = settings_for(library, collective)
    assert settings[0] == DEFAULT
    assert len(set(settings)) == len(settings) >= (3 if "Cray" in library else 10)
    words = [word.split("=", 1) for setting in settings for word in setting.split()]
    assert {name for name, _ in words if not name.startswith("--")} <= set(VARIABLES)


def test_a_setting_becomes_variables_and_options_of_the_command():
    variant = with_setting(parse_variant(f"a=X=1 {ONE_RANK}"), "Y=2=3 --mpi-thread-level=multiple")
    assert variant.variables == {"X": "1", "Y": "2=3"}
    assert variant.arguments[-1] == "--mpi-thread-level=multiple"


# -- the search


def test_a_setting_that_is_third_in_each_cell_is_combined():
    """I_MPI_SHM=bdw_avx2 was third at 1 MiB, so that no search combined it with
    I_MPI_ADJUST_ALLREDUCE=13."""
    costs = costs_over_default(
        {"default": 1.58, "HEAP": 1.0, "CMA": 1.03, "SHM": 1.06},
        {"default": 1.3, "ADJUST": 1.0, "HEAP": 1.1, "SHM": 1.2},
    )
    combinations = combinations_of(costs, [*costs])
    assert any({"ADJUST=1", "SHM=1"} <= {*each.split()} for each in combinations)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([{"default": 1.0, "A": 0.99}], [DEFAULT]),  # within 2 %: the default is simpler
        ([{"default": 1.0, "A": 0.9}], ["A=1"]),
        (
            [{"default": 2.0, "A": 1.0, "B": 3.0}, {"default": 2.0, "A": 3.0, "B": 1.0}],
            ["A=1", "B=1"],
        ),
    ],
)
def test_the_fewest_settings_within_2_percent_of_the_best_are_chosen(costs, expected):
    costs = costs_over_default(*costs)
    assert choose(costs, [*costs]) == expected


@pytest.fixture
def fake_library(tmp_path, monkeypatch):
    """Launches that write runs with made-up costs: a setting takes `factors` times the default's,
    or fails. The time is over after `most` launches, `stops` says which launches end with which
    Stop; `made` holds the setting and the sizes of each."""
    fake = SimpleNamespace(
        factors={DEFAULT: 1.0, TUNED: 0.5, WORSE: 2.0, BROKEN: None},
        made=[],
        most=None,
        n_blocks=8,
        stops={},
    )

    def launch(values, setting, sizes, launch_s):
        fake.made.append((setting, tuple(sizes)))
        number = len(fake.made)
        if number == fake.most:
            values.max_time_s = 0.0
        if stop := fake.stops.get(number):
            raise stop
        factor = fake.factors.get(setting, 1.5)
        if factor is None:
            raise Stop(1, "took longer than 5 s")
        result = write_launch(
            tmp_path,
            number,
            effect=lambda _: factor,
            algorithms=["library"],
            n_blocks=fake.n_blocks,
        )
        return read(result.path)

    monkeypatch.setattr(tune_library, "STARTED_S", time.monotonic())  # not since pytest started
    monkeypatch.setattr(tune_library, "launch_library", launch)
    monkeypatch.setattr(tune_library, "settings_for", lambda *_: list(fake.factors))
    return fake


VARIANT = parse_variant(f"a={ONE_RANK}")


def searched(fake, max_time_s=120.0, quiet=True, **changes):
    """The launches and the settings of a search over the fake library."""
    vars(fake).update(changes)
    values = SimpleNamespace(max_time_s=max_time_s, seed=0, variant=VARIANT, quiet=True)
    return search(cast(Any, values), Progress("tune_library", quiet=quiet))


def test_the_search_finds_the_best_setting_and_drops_one_that_fails(
    fake_library, monkeypatch, capsys
):
    monkeypatch.delenv("WIRETAX_QUIET")
    launches, active = searched(fake_library, max_time_s=2.0, quiet=False)
    assert set(launches) == {DEFAULT, TUNED, WORSE}
    assert active == [DEFAULT, TUNED]
    assert min(len(launches[setting]) for setting in active) > 3  # it used its time
    assert [setting for setting, _ in fake_library.made].count(BROKEN) == 1
    assert {sizes for _, sizes in fake_library.made} == {(), (16384, 65536)}
    assert "left out: B=1: took longer than 5 s\n" in capsys.readouterr().err
    costs = costs_of(launches)
    assert choose(costs, active) == [TUNED]
    text = tune_library.as_variants(VARIANT, costs, [TUNED, WORSE])
    cell = r"^# MPICH 5\.0\.2, 16 KiB, isolated, round trip 5\d\d ns"
    gain = r"(1\.9|2\.0)\dx as fast as the default: A=1$"
    assert re.search(f"{cell}: {gain}", text, re.MULTILINE)
    variants = msgspec.toml.decode(text)["variant"]
    assert [(each["name"], each["environment"]) for each in variants] == [
        ("a", {"A": "1"}),
        ("a-2", {"A": "2"}),
    ]


WRONG = Stop(1, "a result was wrong")


@pytest.mark.parametrize(
    ("changes", "status", "sentence", "most_launches"),
    [
        # It launched the default until the time was over.
        ({"factors": {DEFAULT: 1.0, BROKEN: None}}, 3, "every setting but the default failed", 4),
        # Open MPI's reduce-scatter has 3 blocks in 4 s.
        ({"n_blocks": 3}, 3, "launches of 4 s have only 3 blocks of a case, and 5 are", 3),
        # The default was only left out, although every ratio is over it.
        ({"stops": dict.fromkeys(range(6, 40), WRONG)}, 1, "a result was wrong", 9),
    ],
)
def test_a_search_that_cannot_give_an_answer_ends_at_once(
    fake_library, changes, status, sentence, most_launches
):
    with pytest.raises(Stop, match=sentence) as stop:
        searched(fake_library, **changes)
    assert stop.value.exit_status == status
    assert len(fake_library.made) <= most_launches


def test_a_setting_with_one_launch_is_not_chosen(fake_library, capsys):
    """The best of many single launches is mostly a lucky one."""
    factors = {DEFAULT: 1.0, TUNED: 0.5, "C=1": 0.8, WORSE: 2.0}
    launches, settings = searched(fake_library, factors=factors, most=6)
    assert settings == [DEFAULT]
    assert len(launches) > 1
    assert capsys.readouterr().err.startswith("the time ended in round ")


def test_times_are_compared_in_one_state_of_the_link(tmp_path):
    """A setting that ran while the link was slow would lose to the default otherwise."""

    def launch(number, factor, rounds):
        result = write_launch(
            tmp_path, number, effect=lambda _: factor, algorithms=["library"], fast_rounds=rounds
        )
        return read(result.path)

    fast, slow = range(40), ()
    launches = {
        DEFAULT: [launch(1, 1.0, fast), launch(2, 1.0, slow)],
        "A=1": [launch(3, 0.8, slow)],
        "B=1": [launch(4, 0.9, fast), launch(5, 1.2, slow)],
    }
    costs = costs_of(launches)
    trips_ns = [int(cell.split()[-2]) for cell in costs.index]
    assert trips_ns == pytest.approx([100, 100, 500, 500], rel=0.1)
    assert [*costs[DEFAULT]] == pytest.approx([1.0] * 4, rel=0.02)
    assert [*costs["A=1"]] == pytest.approx([0.8] * 4, rel=0.02)  # also in the fast state
    assert [*costs["B=1"]] == pytest.approx([0.9, 0.9, 1.2, 1.2], rel=0.02)
    del launches[DEFAULT][1]
    assert "A=1" not in costs_of(launches)


def test_a_search_that_is_too_short_says_that_settings_do_not_count(fake_library, capsys):
    searched(fake_library, max_time_s=0.0)
    assert capsys.readouterr().err == TOO_SHORT.replace("N", "1")


# -- the command


def started(folder, *options, **variables):
    """Starts a search in `folder`."""
    words = ["-m", "bench.tune_library", "--out", str(folder), *options]
    return watched(*words, **variables)


def test_a_real_search_prints_variants_that_a_campaign_runs(tmp_path, monkeypatch, capsys):
    """Two of MPICH's settings: all take half a minute."""
    two = [*settings_for("MPICH 5.0.2", "all_reduce")[:2], "MPIR_CVAR_POLLS_BEFORE_YIELD=10"]
    monkeypatch.setattr(tune_library, "settings_for", lambda library, collective: two)
    monkeypatch.setattr(tune_library, "STARTED_S", time.monotonic())
    command = f"{ONE_RANK} --mode isolated -n 100"
    words = "--variant", f"mpich={command}", "--max-time", "30", "--quiet", "--out", str(tmp_path)
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err in ("", *(TOO_SHORT.replace("N", str(number)) for number in (1, 2, 3)))
    (tmp_path / "peers.toml").write_text(out + out.replace('"mpich', '"again'))
    variants = parse_campaign(["--file", str(tmp_path / "peers.toml")]).head.variants
    assert variants[0].name == "mpich"
    assert len({*map(str, (variant.environment for variant in variants))}) <= 3
    assert len(list(tmp_path.glob("*.jsonl"))) > 3


# The exit status, the variant's command, and the sentence that refuses it.
BAD = f"""
2 | mpirun -n 1 python | argument --variant: variant a does not run
2 | nowhere -m bench.allreduce | nowhere: No such file or directory
2 | {ONE_RANK} -b 3 | 3 B hold no float32
2 | python -m bench.allreduce | this is one process, and a collective needs ranks
1 | {ONE_RANK} --help | it stored no run
1 | python -m bench.nothing | No module named bench.nothing
2 | python -m bench.doctor | bench.doctor: unrecognized arguments
1 | false -m bench.allreduce | exit status 1 without a message
"""


@pytest.mark.parametrize("row", BAD.strip().splitlines())
def test_a_command_that_cannot_run_is_refused_in_one_sentence(tmp_path, refused, row):
    status, command, sentence = row.split(" | ")
    ended, refusal = refused(main, "--variant", f"a={command}", "--out", tmp_path)
    assert ended == int(status)
    assert sentence in refusal


def test_a_search_under_mpirun_is_refused(tmp_path, refused, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    sentence = "the search starts mpirun itself: run it without mpirun"
    assert refused(main, "--variant", f"a={ONE_RANK}", "--out", tmp_path) == (2, sentence)


INTERRUPTED = "bench.tune_library: interrupted; the runs so far are kept\n"


def test_an_interrupted_search_leaves_nothing_running(tmp_path):
    with started(tmp_path, "--variant", f"a={ONE_RANK}", WIRETAX_QUIET="") as process:
        wait_for(lambda: list(tmp_path.glob("*.flight")))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.endswith(INTERRUPTED)


# -- make peers


def test_make_peers_tunes_ours_and_each_library_for_the_same_time(tmp_path):
    """A reader would not trust a comparison in which only ours was tuned."""
    peers = tmp_path / "peers"
    line = f"make -n peers BENCH=allreduce PEERS_OUT={peers} PEERS_TUNE_S=77"
    steps = subprocess.run(
        line.split(), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert len(re.findall(r"-m bench\.tune --max-time 77 ", steps)) == 3
    search = r"-m bench\.tune_library --max-time 77 .* --variant (\w+)=\".* -m bench\.(\w+) "
    libraries = [(name, "allreduce") for name in ("mpich", "openmpi", "impi")]
    assert re.findall(search, steps) == libraries
    assert f"-m bench.campaign --file {peers}.toml" in steps
    assert "IMB-MPI1" in steps
