"""Tests campaigns with real launches: the launches that a campaign makes, stores and leaves
running.

The launches are as short as possible. The tests check which launches were made, not their measured
times.
"""

import io
import os
import shlex
import signal
import time
from types import SimpleNamespace

import psutil
import pytest

from bench.campaign import main, run_campaign
from bench.campaigns import launch_guard, launches, processes
from bench.campaigns.campaign_options import Stop
from tests.bench.campaigns.test_campaign_command import BENCH, QUICK, TIMED, named
from tests.bench.faulty_runs import blocks_in, wait_for
from tests.bench.launches import marked, watched
from wiretax.record.manifest import MANIFEST, CampaignEnd, read_manifest
from wiretax.record.result import read


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
        if launch.status == status and launch.stage in (stages or ("pilot", "first"))
    ]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return shlex.quote(str(path))


# -- a campaign


def test_a_launch_that_cannot_succeed_ends_the_campaign(tmp_path, refused):
    """The campaign must not retry a launch that refuses its command line or the machine, and must
    print the launch's own message."""
    variants = named(a=f"{QUICK} --sizes 2", b=QUICK)
    status, message = refused(main, "--out", tmp_path / "c", *variants)
    assert status == 2
    assert message.startswith("variant a: bench.allreduce: 2 B hold no float32")
    assert not list(tmp_path.iterdir())  # the same command, mended, needs no other folder


def test_a_launch_that_dies_names_the_time_that_it_got(tmp_path, refused):
    """`give it more --max-time` was said of an option that nobody had typed."""
    broken = f"{script(tmp_path / 'mpirun', 'echo time ran out; exit 1')} -n 1 {BENCH}"
    options = "--out", tmp_path / "c", "--budget", "64s", "--pairs", "6", "--quiet"
    status, message = refused(main, *options, *named(a=broken, b=broken))
    assert status == 1
    died = "died 3 times (each launch got --max-time 4.0 from --budget), the last time with: "
    assert died in message


TREE = "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished campaign: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("finished") / "c"
    variants = named(
        plain=f"mpirun -n 1 -genv PASSWORD hunter2 {BENCH}",
        tree=f"{TREE}=recursive_doubling API_TOKEN=s3cret {QUICK}",
    )
    options = [*variants, "--pairs", "1", "--seed", "5"]
    status, out, err = run(folder, *options, WIRETAX_QUIET="")
    assert status == 0, err
    return folder, out, err


def test_a_campaign_from_its_pilot_to_its_table(finished):
    """The pairs are complete, and variables reach the ranks."""
    folder, out, err = finished
    assert "] 1 pairs decide none of 3 cells: it takes 8" in err
    assert f"\ncampaign: {folder} (6 launches)\n" in out

    manifest = read_manifest(folder)
    assert manifest.foreign == []
    assert manifest.end == CampaignEnd(status="complete")
    pilots = ("plain", "tree", "plain", "plain")
    assert made(folder, "pilot") == [("pilot", 0, name) for name in pilots]
    pair = [("first", 1, name) for name in ("plain", "tree")]
    assert sorted(made(folder, "first")) == pair
    for launch in manifest.launches:
        result = read(folder / str(launch.run))
        assert result.complete
        assert result.run.seed == 5 + launch.pair
        variable = result.run.environment.get(f"env.{TREE}", {}).get("value")
        assert variable == ("recursive_doubling" if launch.variant == "tree" else None)
    assert manifest.campaign.variants[1].environment == {TREE: "recursive_doubling"}


def test_no_secret_and_no_place_stands_in_the_manifest(finished):
    folder = finished[0]
    text = (folder / MANIFEST).read_text()
    secrets = "s3cret", "hunter2", "API_TOKEN", "PASSWORD", str(folder), f'{os.uname().nodename}"'
    assert [secret for secret in secrets if secret in text] == []


def test_an_interrupted_campaign_keeps_its_launches(tmp_path):
    """An interrupted campaign must leave no ranks running on the machine. The second signal ends
    its wait for the rank, which still stores the end of its run: alone, it waits for no peer whose
    core another program has."""
    folder = tmp_path / "c"
    with started(folder, *named(a=QUICK.replace("-n 20", "-n 0"), b=QUICK)) as process:
        wait_for(lambda: blocks_in(folder / "a"))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        130,
        "bench.campaign: interrupted; finished launches are kept\n",
    )
    manifest = read_manifest(folder)
    (run_file,) = manifest.foreign
    assert manifest.launches == []
    end = '"kind":"end","status":"incomplete","reason":"interrupted"'
    wait_for(lambda: end in run_file.read_text(), 20)


def test_a_launch_that_dies_is_recorded_and_retried_until_its_pair_is_lost(tmp_path):
    """One crash must neither end an hour's campaign nor go unrecorded. A variant without a pair is
    not compared."""
    dies = '1|3|4|5) echo "no luck" >&2; kill -9 $$'
    calls, program = tmp_path / "calls", f"echo '{TIMED}'"
    flaky = script(
        tmp_path / "flaky", f'echo x >>{calls}\ncase $(wc -l <{calls}) in {dies};; esac\nexec "$@"'
    )
    folder = tmp_path / "c"
    status, out, err = run(folder, *named(a=program, b=f"{flaky} {program}"), "--pairs", "1")
    assert (status, out) == (1, "")
    assert err.count("b, attempt 1: killed by SIGKILL: no luck\n") == 2
    assert err.endswith(
        "bench.campaign: variant b: none of its launches after the pilot finished\n"
    )
    died = [launch for launch in read_manifest(folder).launches if launch.status == "died"]
    assert [
        (launch.stage, launch.attempt, launch.exit, launch.reason, launch.run) for launch in died
    ] == [
        (stage, attempt, 137, "killed by SIGKILL: no luck", None)
        for stage, attempt in (("pilot", 1), ("first", 1), ("first", 2), ("first", 3))
    ]
    assert made(folder, "first") == [("first", 1, "a")]


@pytest.mark.parametrize(
    ("ends", "limit_s", "outcome"),
    [
        ("wait; sleep 300", 0.5, (137, "took longer than 0 s")),
        ("echo farewell >&2", 60, (0, "farewell")),
    ],
)
def test_a_launch_that_hangs_is_killed_with_all_its_processes(
    tmp_path, monkeypatch, ends, limit_s, outcome
):
    """A hung launch would block the campaign until morning, and its processes would hold the cores
    of later launches."""
    still = script(
        tmp_path / "still", f"trap '' INT TERM; sleep 300 & echo $! >{tmp_path}/pid; {ends}"
    )
    monkeypatch.setattr(processes, "ENDINGS", [(number, 0.2) for number, _ in processes.ENDINGS])
    assert processes.run_to_end(shlex.split(still), None, os.environ, limit_s) == outcome
    pid = int((tmp_path / "pid").read_text())
    wait_for(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
        5,
    )


STOPPED = [
    # The command is stopped on, and ended; it stops its guard alone, or all of its group.
    ("kill -STOP $PPID; sleep 61", 0.5),
    ("kill -STOP 0; sleep 61", 0.5),
    ("kill -STOP $$", 0.5),
    ("setsid sleep 61 & kill -STOP $PPID", 0.5),
    ("setsid sleep 61 & trap '' INT TERM; while :; do kill -STOP $PPID; done", 0.5),
    ("trap '' TERM; setsid sleep 61 & kill -KILL $PPID; sleep 61", None),
]


@pytest.mark.parametrize(("command", "limit_s"), STOPPED)
def test_a_command_that_stops_or_kills_its_guard_is_ended_with_it(command, limit_s, monkeypatch):
    """A gate waited for ever: the stopped guard could not see that its time was over."""
    monkeypatch.setattr(processes, "ENDINGS", ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1)))
    for name in ("RESULTS_S", "MOST_S"):
        monkeypatch.setattr(launch_guard, name, 0.3)
    started_s = time.monotonic()
    with marked() as environment:
        status, _ = processes.run_to_end(["sh", "-c", command], None, environment, limit_s)
    assert status
    assert time.monotonic() - started_s < 50, "it waited for its sleep"


def test_the_last_lines_are_found_in_time_that_grows_with_the_output_alone():
    """A MiB of MPICH's hint took 90 s: each line was the beginning of a search to the end."""

    def spent_s(n_lines):
        file = io.StringIO(f"{ADVICE.splitlines()[1]}\n" * n_lines)
        started_s = time.process_time()
        processes.last_lines(file)
        return time.process_time() - started_s

    short_s, long_s = (min(spent_s(n) for _ in range(3)) for n in (1000, 4000))
    assert long_s < 9 * short_s, "four times the lines"


BANNER = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
==================================================================================="""
SIGNALLED = "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Aborted (signal 6)"
ADVICE = """
This typically refers to a problem with your application.
Please see the FAQ page for debugging suggestions
"""


@pytest.mark.parametrize(
    ("said", "ending", "reason"),
    [
        ("row", "kill -ABRT $$", "killed by SIGABRT: row"),
        ("row", "exit 134", "killed by SIGABRT: row"),
        ("", "exit 7", "it printed nothing (exit status 7)"),
        (f"row{BANNER}", "exit 3", "row (exit status 3)"),
        (f"row{BANNER}\n{SIGNALLED}{ADVICE}", "exit 6", f"{SIGNALLED} (exit status 6)"),
    ],
)
def test_a_reason_says_how_a_launch_died_below_its_own_last_line(tmp_path, said, ending, reason):
    (tmp_path / "said").write_text(said)
    words = ["sh", "-c", f"cat {tmp_path}/said >&2; {ending}"]
    status, last_line = processes.run_to_end(words, None, os.environ)
    assert launches.failure_of(status, last_line, None) == reason


def test_a_reason_names_no_place():
    message = f"bench.x: node {os.uname().nodename} at 10.0.0.7 lost /home/ann/x, a@b said MPI 5"
    reason = launches.failure_of(3, message, None)
    assert reason == "bench.x: node <set> at <set> lost <set> <set> said MPI 5 (exit status 3)"


def test_a_pilot_that_hangs_is_ended_when_the_budget_is_spent(tmp_path, monkeypatch):
    """Without this limit, a CI pipeline would wait silently for its own time-out."""
    limits_s = []

    def stands_still(command, at, variables, limit_s, log):
        limits_s.append(limit_s)
        return 137, f"took longer than {limit_s:.0f} s"

    monkeypatch.setattr(launches, "run_to_end", stands_still)
    monkeypatch.setattr(launches, "time", SimpleNamespace(monotonic=lambda: sum(limits_s)))
    argv = ["--out", str(tmp_path / "c"), *named(a=QUICK, b=QUICK), "--budget", "5m"]
    with pytest.raises(Stop, match="--budget: variant a has not ended in 300 s: it hang"):
        run_campaign(argv)
    assert limits_s == [300]


def test_a_folder_or_file_that_is_there_already_stays_unchanged(tmp_path, refused):
    (tmp_path / MANIFEST).write_text("mine")
    for path in (tmp_path, tmp_path / MANIFEST):
        sentence = f"{path} is there already: remove it, or name a new folder: --out {path}-2"
        assert refused(main, "--out", path, *named(a=QUICK, b=QUICK)) == (2, sentence)
    assert (tmp_path / MANIFEST).read_text() == "mine"
