"""Kernels under the sanitizers of the host's compiler, with ranks as threads of one process; each sanitizer must detect
a planted error.

The sanitizers find a store one element beyond a buffer, and a read that is not ordered after the peer's store. Both
give right results for years, until the memory layout changes or a processor orders less.
"""

import json

import pytest

from tests.kernels.broken_kernels import tree
from tests.kernels.sanitizers import COMPLAINTS, FLAGS, RUNTIMES, runtime, start
from tests.launch import few

# Items that differ with three ranks: a rank then has two neighbours, or no partner.
OF_THREE = ("all_reduce ring", "all_reduce one_shot", "all_gather ring", "sendrecv", "link")
RUNS = dict(few({"2 ranks": (2, ()), "3 ranks": (3, OF_THREE)}.items(), 1))


@pytest.fixture(scope="module")
def clean_runs():
    """Both sanitizers run at once, because most of the time goes into compiling."""
    started = {}
    for kind, run in [(kind, run) for kind in FLAGS for run in RUNS if runtime("g++", kind)]:
        ranks, items = RUNS[run]
        started[kind, run] = start(kind, ranks, ranks, *items)
    return {key: (*process.communicate(), process.returncode) for key, process in started.items()}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", FLAGS)
def test_every_kernel_that_waits_for_a_peer_is_clean(clean_runs, kind, run):
    if (kind, run) not in clean_runs:
        pytest.skip(f"system tool absent: {RUNTIMES['g++'][kind]} of g++")
    printed, complaints, status = clean_runs[kind, run]
    assert not any(complaint in complaints for complaint in COMPLAINTS), complaints
    assert status == 0, complaints
    report = json.loads(printed)
    assert (report["wrong"], report["timed_out"]) == ({}, False)
    assert report["items"] > (60 if run == "2 ranks" else 20)


ONE_KERNEL = "all_reduce one_shot_push copied"


def test_threadsanitizer_finds_no_race_in_one_whole_kernel():
    """The control of the next test. One kernel takes seconds, and shows races in the code that all kernels share."""
    if not runtime("g++", "thread"):
        pytest.skip(f"system tool absent: {RUNTIMES['g++']['thread']} of g++")
    process = start("thread", 2, 1, ONE_KERNEL)
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints


@pytest.mark.parametrize(
    "patch",
    few(
        [
            "without the acquire",
            "without the wait",
            "without the epoch flip",
            "without the release",
        ],
        2,
    ),
)
def test_threadsanitizer_finds_a_race_in_broken_kernels(tmp_path, patch):
    finds("thread", "ThreadSanitizer: data race", tree=tree(tmp_path / "tree", patch))


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        pytest.param("short", "ERROR: AddressSanitizer", id="an element beyond a buffer"),
        pytest.param(
            "misaligned", "runtime error: load of misaligned address", id="between two elements"
        ),
    ],
)
def test_addresssanitizer_finds_an_access_outside_a_buffer(word, complaint):
    finds("address", complaint, word)


def finds(kind, complaint, *words, **options):
    """Assert that the sanitizer complains about a one-shot kernel."""
    if not runtime("g++", kind):
        pytest.skip(f"system tool absent: {RUNTIMES['g++'][kind]} of g++")
    for seed in range(1, 9):  # chance decides if the ranks drift apart enough to show a race
        process = start(kind, 2, seed, *words, ONE_KERNEL, **options)
        _, complaints = process.communicate()
        if process.returncode:
            break
    assert process.returncode != 0
    assert complaint in complaints
    assert "one_shot" in complaints
