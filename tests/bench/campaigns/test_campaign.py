"""Tests campaigns with real launches: the launches that a campaign makes, stores and leaves running.

The launches are as short as possible. The tests check which launches were made, not their measured times.
"""

import fcntl
import os
import pty
import re
import shlex
import signal
import time

import msgspec
import pandas as pd
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.campaign import run_campaign
from bench.campaigns import launches, stages
from bench.campaigns.launches import OpenCampaign
from bench.campaigns.options import parse, parse_variant
from reports.store.manifest import LOCK, MANIFEST, End, Launch, Stage, read_manifest
from reports.store.result import read
from reports.store.writing import write_whole
from reports.verdicts import comparison
from tests.bench.campaigns.test_campaign_command import BENCH, QUICK, named
from tests.bench.test_cli import watched
from tests.launch import few
from tests.reports.synthetic_run import write_run


def started(folder, *options, **more):
    """Starts a campaign in `folder`, as `watched` does."""
    return watched("-m", "bench.campaign", "--out", str(folder), *options, **more)


def run(folder, *options, timeout_s=120, **more):
    """Exit status, standard output and standard error of a campaign."""
    with started(folder, *options, **more) as process:
        out, err = process.communicate(timeout=timeout_s)
    assert "Traceback" not in out + err, err
    return process.returncode, out, err


def made(folder, *stages, status="finished"):
    """(stage, pair, variant) of the launches with this status, in order."""
    return [
        (launch.stage, launch.pair, launch.variant)
        for launch in read_manifest(folder).launches
        if launch.status == status and launch.stage in (stages or ("pilot", "first", "fresh"))
    ]


def until(condition, timeout_s=60):
    for _ in range(timeout_s * 20):
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"the condition is still false after {timeout_s} s")


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return shlex.quote(str(path))


# -- the order


@settings(deadline=None)
@given(names=st.integers(2, 6), rounds=st.integers(1, 60), seed=st.integers(0, 1000))
def test_a_machine_that_drifts_favours_no_variant(names, rounds, seed):
    """A variant that always ran first would pay for the cold machine and look slower."""
    names = [f"v{number}" for number in range(names)]
    drawn = stages.orders(names, rounds, str(seed))
    assert drawn == stages.orders(names, rounds, str(seed))
    assert [sorted(order) for order in drawn] == [names] * rounds
    whole = drawn[: rounds // 2 * 2]
    for name in names:
        assert sum(order.index(name) for order in whole) * 2 == len(whole) * (
            len(names) - 1
        )  # the mean place
        before = sum(order.index(names[0]) < order.index(name) for order in whole)
        assert before * 2 == (len(whole) if name != names[0] else 0)


def test_the_order_is_drawn_from_the_seed():
    """Without the seed, every campaign would have the same order and the same bias from that order."""
    assert len({str(stages.orders(["a", "b", "c"], 10, str(seed))) for seed in range(20)}) > 10


# -- a campaign


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    status, out, err = run("/dev/null/c", *named(a=QUICK, b=QUICK))
    assert (status, out, err) == (2, "", "bench.campaign: /dev/null/c: Not a directory\n")


def test_a_launch_that_refuses_its_command_line_or_the_machine_ends_the_campaign(tmp_path):
    """The campaign must not retry such a launch three times, and must print the launch's own message."""
    status, out, err = run(tmp_path / "c", *named(a=f"{QUICK} --sizes 2", b=QUICK))
    assert (status, out) == (2, "")
    assert re.fullmatch(
        r"bench\.campaign: variant a: bench\.allreduce: 2 B hold no float32[^\n]*\n", err
    )
    status, out, err = run(tmp_path / "d", *named(a=f"{QUICK} --device hip", b=QUICK))
    assert (status, out) == (3, "")
    assert re.fullmatch(r"bench\.campaign: variant a: [^\n]+\n", err)
    assert made(tmp_path / "d", status="died") == [("pilot", 0, "a")]


def test_a_launch_that_stores_no_run_ends_the_campaign(tmp_path):
    """A launch without a stored run can never be compared, so the campaign must not retry it three times."""
    quiet = script(tmp_path / "quiet", "exit 0")
    status, out, err = run(tmp_path / "c", *named(a=f"{quiet} {QUICK}", b=QUICK))
    assert (status, out, err) == (2, "", "bench.campaign: variant a: it stored no run\n")
    assert len(made(tmp_path / "c", status="died")) == 1


def test_a_budget_that_no_launch_fits_is_refused(tmp_path):
    status, _, err = run(tmp_path / "c", *named(a=QUICK, b=QUICK), "--budget", "60s")
    assert status == 2
    assert re.fullmatch(r"bench\.campaign: --budget: 59 launches need at least 4 min\n", err)
    assert not (tmp_path / "c").exists()


def test_a_campaign_from_its_pilot_to_its_table(tmp_path):
    """The pairs are complete, variables reach the ranks, and no token or host name stands in the manifest."""
    folder = tmp_path / "c"
    tree = f"MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM=recursive_doubling API_TOKEN=s3cret {QUICK}"
    options = [
        *named(plain=f"mpirun -n 1 -genv PASSWORD hunter2 {BENCH}", tree=tree),
        "--pairs",
        "1",
        "--fresh",
        "2",
        "--seed",
        "5",
    ]
    status, out, err = run(folder, *options)
    assert status == 0, err
    assert re.search(
        r"^1 pairs of all sizes, [\d.]+ s per launch: \d+ (s|min); with 2 fresh pairs of the sizes in "
        r"doubt at most \d+ (s|min)\n",
        err,
    )
    assert (
        "\n1 pairs of all sizes and 2 fresh pairs are too few to see any difference, or no two pilots"
        in err
    )
    assert f"\ncampaign: {folder} (7 launches)\n" in out

    manifest = read_manifest(folder)
    assert manifest.foreign == []
    assert manifest.end == End(status="complete")
    assert [stage.stage for stage in manifest.stages] == ["first", "fresh"]
    assert manifest.stages[0].visible_effect is None
    assert made(folder, "pilot") == [
        ("pilot", 0, name) for name in ("plain", "tree", "plain", "plain")
    ]
    assert sorted(made(folder, "first")) == [
        ("first", 1, name) for name in ("control", "plain", "tree")
    ]
    for launch in manifest.launches:
        result = read(folder / str(launch.run))
        assert result.complete
        assert result.run.seed == 5 + launch.pair
        assert all(case.samples is None for case in result.cases)
        variable = result.run.environment.get("env.MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", {}).get(
            "value"
        )
        assert variable == ("recursive_doubling" if launch.variant == "tree" else None)

    text = (folder / MANIFEST).read_text()
    for secret in (
        "s3cret",
        "hunter2",
        "API_TOKEN",
        "PASSWORD",
        str(tmp_path),
        os.uname().nodename + '"',
    ):
        assert secret not in text
    assert manifest.campaign.variants[1].environment == {
        "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": "recursive_doubling"
    }

    again, out_again, err_again = run(folder, *options)
    assert (again, err_again) == (0, f"{folder} holds this campaign, finished\n")
    assert out_again.splitlines()[:-1] == out.splitlines()[:-1]
    status, _, err = run(folder, *options, "--pairs", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert "holds another campaign" in err
    with (folder / LOCK).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, _, err = run(folder, *options)
    assert (status, err) == (2, f"bench.campaign: a campaign is running in {folder}\n")


def test_a_killed_campaign_continues_where_it_stopped(tmp_path):
    """The campaign repeats no finished pair, leaves no rank of the dead campaign running, and repeats a half pair as a
    whole.

    The test kills the campaign in the second launch of its second pair and cuts off a line of the manifest.
    """
    folder = tmp_path / "c"
    options = [*named(a=QUICK, b=QUICK), "--pairs", "2", "--no-control"]
    with started(folder, *options) as process:
        until(lambda: (folder / MANIFEST).exists() and len(made(folder)) == 7)
        until(lambda: len(list(folder.glob("*/*.jsonl"))) == 8)
        process.kill()
        process.wait()
    launches_before = made(folder)
    with (folder / MANIFEST).open("ab") as manifest:
        manifest.write(b'{"kind":"laun')

    status, _, err = run(folder, *options)
    assert status == 0, err
    assert f"continuing in {folder} after 7 launches" in err
    manifest = read_manifest(folder)
    assert manifest.foreign == []
    assert made(folder)[:6] == launches_before[:6]
    assert sorted(made(folder, "first")) == [
        ("first", pair, name) for pair in (1, 2) for name in "ab"
    ]
    assert sorted(made(folder, status="orphaned")) == [("first", 2, "a"), ("first", 2, "b")]
    assert len(manifest.launches) == 4 + 4 + 2


# Kills this process when the first line of a file should reach the disk.
KILLED_AT_FSYNC = """
import os, signal, sys
from bench.campaigns.launches import OpenCampaign
from bench.campaigns.options import parse
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
OpenCampaign(parse(sys.argv[1:]))
"""


def test_a_campaign_killed_while_it_creates_its_manifest_starts_anew(tmp_path):
    """Otherwise a reader would meet an empty manifest, and the same command could never run in this folder."""
    argv = ["--out", str(tmp_path), *named(a=QUICK, b=QUICK)]
    with watched("-c", KILLED_AT_FSYNC, *argv) as process:
        assert process.wait(60) == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {LOCK, f"{MANIFEST}.{process.pid}.part"}
    options = parse(argv)
    campaign = OpenCampaign(options)
    manifest = read_manifest(tmp_path)
    assert (manifest.campaign, manifest.launches, manifest.foreign) == (options.head, [], [])
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, *left}
    campaign.record(End(status="complete"))
    campaign.lock.close()
    assert OpenCampaign(options).manifest.end


@pytest.mark.parametrize(
    "left", ["", '{"kind":"camp', '{"kind":"campaign","schema":1,"campaign_id":"c-1"']
)
def test_a_manifest_without_a_complete_head_is_started_anew(tmp_path, left):
    """Former versions created the manifest before its head. Runs that lie in the folder stay."""
    (tmp_path / MANIFEST).write_text(left)
    run_before = write_run(tmp_path / "a").path
    content = run_before.read_bytes()
    options = parse(["--out", str(tmp_path), *named(a=QUICK, b=QUICK)])
    OpenCampaign(options)
    manifest = read_manifest(tmp_path)
    assert (manifest.campaign, manifest.launches, manifest.foreign) == (
        options.head,
        [],
        [run_before],
    )
    assert run_before.read_bytes() == content


def test_a_campaign_that_creates_its_manifest_keeps_others_out(tmp_path, monkeypatch):
    """Otherwise the second of two campaigns that start at once would replace the manifest of the first."""
    options = parse(["--out", str(tmp_path), *named(a=QUICK, b=QUICK)])

    def start_another(path, content):
        with pytest.raises(launches.Stop, match="a campaign is running"):
            OpenCampaign(options)
        write_whole(path, content)

    monkeypatch.setattr(launches, "write_whole", start_another)
    campaign = OpenCampaign(options)
    assert campaign.manifest.campaign == read_manifest(tmp_path).campaign == options.head


@pytest.mark.parametrize("ending", few([signal.SIGINT, signal.SIGTERM], 1))
def test_an_interrupted_campaign_keeps_its_launches(tmp_path, ending):
    """An interrupted campaign must leave no ranks running on the machine."""
    folder = tmp_path / "c"
    with started(
        folder, *named(a=QUICK.replace("-n 20", "-n 0").replace("-n 1", "-n 2"), b=QUICK)
    ) as process:
        until(lambda: list(folder.glob("a/*.jsonl")))
        process.send_signal(ending)
        process.send_signal(ending)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        130,
        "bench.campaign: interrupted; finished launches are kept, and the same command continues\n",
    )
    manifest = read_manifest(folder)
    (run_file,) = manifest.foreign
    assert manifest.launches == []
    assert '"kind":"end","status":"incomplete","reason":"interrupted"' in run_file.read_text()


def test_a_launch_that_dies_is_recorded_and_retried_until_its_pair_is_lost(tmp_path):
    """One crash must neither end an hour's campaign nor go unrecorded. A variant without a pair is not compared."""
    dies = '1|3|4|5) echo "no luck" >&2; kill -9 $$'
    calls = tmp_path / "calls"
    flaky = script(
        tmp_path / "flaky", f'echo x >>{calls}\ncase $(wc -l <{calls}) in {dies};; esac\nexec "$@"'
    )
    folder = tmp_path / "c"
    status, out, err = run(
        folder, *named(a=QUICK, b=f"{flaky} {QUICK}"), "--pairs", "1", "--no-control"
    )
    assert (status, out) == (1, "")
    assert err.count("b, attempt 1: no luck\n") == 2
    assert err.endswith(
        "bench.campaign: variant b: none of its launches after the pilot finished\n"
    )
    died = [launch for launch in read_manifest(folder).launches if launch.status == "died"]
    assert [
        (launch.stage, launch.attempt, launch.exit, launch.reason, launch.run) for launch in died
    ] == [
        (stage, attempt, -9, "no luck", None)
        for stage, attempt in (("pilot", 1), ("first", 1), ("first", 2), ("first", 3))
    ]
    assert made(folder, "pilot") == [("pilot", 0, name) for name in "abaa"]
    assert made(folder, "first") == [("first", 1, "a")]


def test_a_variant_that_always_dies_ends_the_campaign(tmp_path):
    broken = script(tmp_path / "broken", 'echo "libmpi: not here" >&2; exit 9')
    status, out, err = run(tmp_path / "c", *named(a=f"{broken} {QUICK}", b=QUICK))
    assert (status, out) == (1, "")
    assert err.endswith(
        "bench.campaign: variant a cannot run: it died 3 times, the last time with: libmpi: not here\n"
    )
    assert made(tmp_path / "c", status="died") == [("pilot", 0, "a")] * 3


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [("wait; sleep 300", (-9, "took longer than 0 s")), ("echo farewell >&2", (0, "farewell"))],
)
def test_a_launch_that_hangs_is_killed_with_all_its_processes(tmp_path, monkeypatch, ends, outcome):
    """A hung launch would block the campaign until morning, and its processes would hold the cores of later
    launches."""
    still = script(
        tmp_path / "still", f"trap '' INT TERM; sleep 300 & echo $! >{tmp_path}/pid; {ends}"
    )
    monkeypatch.setattr(launches, "ENDINGS", [(number, 0.2) for number, _ in launches.ENDINGS])
    assert launches.run_to_end(shlex.split(still), None, os.environ, 0.5) == outcome
    pid = int((tmp_path / "pid").read_text())
    until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        5,
    )


@pytest.mark.parametrize(
    ("before", "after"), [("wiretax: time ran out\n", ""), ("", "\nwiretax: time ran out")]
)
def test_the_sentence_of_a_launch_is_our_own_although_open_mpi_adds_lines(before, after):
    """The reason was "Exit code:    3"."""
    banner = """--------------------------------------------------------------------------
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-host-7@1,1]
   Exit code:    3
--------------------------------------------------------------------------"""
    command = ["sh", "-c", 'echo "$0" >&2; exit 3', before + banner + after]
    assert launches.run_to_end(command, None, os.environ) == (3, "wiretax: time ran out")


def test_wrong_results_are_stored_and_a_reason_names_no_place(tmp_path, monkeypatch):
    """A variant with wrong results must be reported as wrong, not launched three times until its pairs are lost."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    path = write_run(tmp_path).path
    assert launches.reason_against(0, "", path) is None
    assert launches.reason_against(1, "", path) is None
    assert launches.reason_against(9, "killed", path) == "killed"
    assert launches.reason_against(0, "no run", None) == "no run"
    message = f"bench.x: node {os.uname().nodename} at 10.0.0.7 lost /home/ann/x, ann@there said MPI 5.0.2"
    assert (
        launches.reason_against(3, message, path)
        == "bench.x: node <set> at <set> lost <set> <set> said MPI 5.0.2"
    )
    path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b'{"kind":"end"')])
    assert launches.reason_against(0, "cut", path) == "cut"


def test_stages_end_when_no_size_is_undecided_over_faked_launches(monkeypatch, tmp_path):
    """Without the checks, decided sizes would cost four times the time. The campaign must skip no check."""
    rounds, ambiguous = [], {10: 3, 20: 0, 40: 0}
    monkeypatch.setattr(
        stages, "run_rounds", lambda campaign, stage, pairs, *_: rounds.append(pairs.stop - 1)
    )
    monkeypatch.setattr(
        comparison,
        "cells_of",
        lambda folder: pd.DataFrame({"verdict": ["SAME"] + ["AMBIGUOUS"] * ambiguous[rounds[-1]]}),
    )
    options = parse([*named(a=QUICK, b=QUICK), "--grow", "--out", str(tmp_path / "c")])
    campaign = OpenCampaign(options)
    stages.run_stages(campaign)
    assert rounds == [10, 20]
    # A launch of pair 21 means that the second check found an undecided size, so the campaign runs the third round.
    campaign.record(
        Launch(
            stage="first",
            pair=21,
            place=0,
            variant="a",
            attempt=1,
            status="finished",
            elapsed_s=1.0,
        )
    )
    rounds.clear()
    stages.run_stages(campaign)
    assert rounds == [10, 20, 40]


def test_confirmation_uses_fresh_launches_over_faked_launches(monkeypatch, tmp_path):
    """The pairs that raised a suspicion must not confirm it, and only the suspected sizes are measured again."""
    rounds = []
    monkeypatch.setattr(stages, "run_rounds", lambda campaign, *arguments: rounds.append(arguments))
    cells = pd.DataFrame({"size_bytes": [65536, 16384, 32768], "is_suspect": [True, True, False]})
    pairs = iter([6, 3, 9])
    monkeypatch.setattr(comparison, "cells_of", lambda folder: cells.assign(pairs=next(pairs)))
    campaign = OpenCampaign(
        parse([*named(a=QUICK, b=QUICK, c=QUICK), "--out", str(tmp_path / "c")])
    )
    campaign.record(Stage(stage="first"))
    made = Launch(
        stage="first", pair=1, place=0, variant="", attempt=1, status="finished", elapsed_s=1.0
    )
    for name in campaign.options.variants:
        campaign.record(msgspec.structs.replace(made, variant=name))
    stages.run_stages(campaign)
    # Extra pairs replace pairs that share no state of the link; the extra pairs at most double the number.
    assert rounds == [
        ("first", range(1, 11)),
        ("first", range(11, 15)),
        ("first", range(15, 21)),
        ("fresh", range(21, 46)),
    ]
    assert campaign.manifest.stages[-1].sizes == [16384, 65536]
    monkeypatch.setattr(comparison, "cells_of", None)  # the manifest now holds the suspected sizes
    stages.run_stages(campaign)
    assert rounds[4:] == [rounds[0], rounds[3]]


def test_a_fresh_launch_measures_only_the_sizes_in_doubt(tmp_path):
    """The sizes in doubt override the sizes of the variant's command; the command's seed stays."""
    variant = parse_variant(f"a={QUICK} --seed 77")
    command = launches.command_line(variant, tmp_path / "a", 3, 9.0, [32768, 131072])
    assert command.index("9.0") < command.index(
        "20"
    )  # the command has two time limits; the later one counts
    assert launches.run_to_end(command, None, variant.environment(None)) == (
        0,
        "exit status 0 without a message",
    )
    (path,) = (tmp_path / "a").glob("*.jsonl")
    result = read(path)
    assert {case.size_bytes for case in result.cases} == {32768, 131072}
    assert result.run.seed == 77


def test_a_pause_before_each_change_of_variant(tmp_path):
    """Without the pause, the old driver would be measured under the new driver's name. The end of input interrupts."""
    seed = next(
        seed
        for seed in range(99)
        if stages.orders(["a", "b"], 10, f"{seed} first 1")[0] == ["b", "a"]
    )
    options = [*named(a=QUICK, b=QUICK), "--pause", "--no-control", "--seed", str(seed)]
    ours, theirs = pty.openpty()
    os.write(ours, b"\n\n\n\x04")  # the end of the file answers the fourth question
    status, _, err = run(tmp_path / "c", *options, stdin=theirs)
    assert status == 130
    assert re.findall(r"next: (\w+); press Enter", err) == ["a", "b", "a", "b"]
    assert made(tmp_path / "c") == [("pilot", 0, name) for name in "abaa"]
    assert re.search(
        r"^In \d+ \w+ this machine decides [\d.]+% \(80 %; half of the sizes: [\d.]+%\), [\d.]+% with "
        r"twice the pairs in \d+ \w+\.$",
        err,
        re.M,
    )
    assert (read_manifest(tmp_path / "c").stages[0].visible_effect or 0) > 0


def test_a_pilot_that_hangs_is_ended_when_the_budget_is_spent(tmp_path, monkeypatch):
    """Without this limit, a CI pipeline would wait silently for its own time-out."""
    limits = []

    def stands_still(command, at, variables, limit_s=None):
        limits.append(limit_s)
        return -9, f"took longer than {limit_s:.0f} s"

    monkeypatch.setattr(launches, "run_to_end", stands_still)
    for budget, limit_s in (([], 3600), (["--budget", "5m"], 300)):
        argv = ["--out", str(tmp_path / f"c{limit_s}"), *named(a=QUICK, b=QUICK), *budget]
        with pytest.raises(
            launches.Stop, match=f"variant a cannot run: .*took longer than {limit_s} s"
        ):
            run_campaign(parse(argv))
    assert set(limits) == {3600, 300}


def test_a_folder_with_a_file_that_is_no_manifest_stays_unchanged(tmp_path):
    (tmp_path / MANIFEST).write_text("mine")
    status, _, err = run(tmp_path, *named(a=QUICK, b=QUICK))
    assert (status, err) == (
        2,
        f"bench.campaign: {tmp_path / MANIFEST} is not the manifest of a campaign\n",
    )
    assert (tmp_path / MANIFEST).read_text() == "mine"
