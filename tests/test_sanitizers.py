"""Kernels under the sanitizers of the host's compiler, ranks as threads of one process; and that each sanitizer looks.

A user would miss a store one element beyond a buffer, and a read that nothing orders after the peer's store: both give
right results for years, until memory lies otherwise or a processor orders less.
"""

import json

import pytest

from tests.sanitizers import COMPLAINTS, FLAGS, RUNTIMES, runtime, start

# Of three ranks what differs from two: who is neither left nor right, and who has no partner.
OF_THREE = ("all_reduce ring", "all_reduce one_shot", "all_gather ring", "sendrecv", "link")
RUNS = {"2 ranks": (2, ()), "3 ranks": (3, OF_THREE)}


@pytest.fixture(scope="module")
def clean_runs():
    """Both sanitizers at once: most of the time goes into compiling."""
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
    said, complaints, status = clean_runs[kind, run]
    assert not any(complaint in complaints for complaint in COMPLAINTS), complaints
    assert status == 0, complaints
    found = json.loads(said)
    assert (found["wrong"], found["timed_out"]) == ({}, False)
    assert found["items"] > (60 if run == "2 ranks" else 20)


@pytest.mark.parametrize(
    ("kind", "word", "complaint"),
    [
        pytest.param("thread", "WITHOUT_WAIT=1", "ThreadSanitizer: data race", id="wait"),
        pytest.param("thread", "WITHOUT_EPOCH_FLIP=1", "ThreadSanitizer: data race", id="epoch flip"),
        pytest.param("thread", "__ATOMIC_RELEASE=__ATOMIC_RELAXED", "ThreadSanitizer: data race", id="release"),
        pytest.param("thread", "__ATOMIC_ACQUIRE=__ATOMIC_RELAXED", "ThreadSanitizer: data race", id="acquire"),
        pytest.param("address", "short", "ERROR: AddressSanitizer", id="an element beyond a buffer"),
        pytest.param("address", "misaligned", "runtime error: load of misaligned address", id="between two elements"),
    ],
)
def test_a_sanitizer_finds_what_is_planted(kind, word, complaint):
    if not runtime("g++", kind):
        pytest.skip(f"system tool absent: {RUNTIMES['g++'][kind]} of g++")
    for seed in range(1, 9):  # chance decides whether ranks drift so far apart that a race is seen
        process = start(kind, 2, seed, word, "all_reduce one_shot_push copied")
        _, complaints = process.communicate()
        if process.returncode:
            break
    assert process.returncode != 0
    assert complaint in complaints
    assert "one_shot" in complaints
