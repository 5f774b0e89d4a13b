"""The kernels are clean under AddressSanitizer with UBSan and under ThreadSanitizer, which must
detect a planted error.

The sanitizers find a store one element beyond a buffer, and a read that is not ordered after the
peer's store. Both give right results for years, until the memory layout changes or a processor
orders less.
"""

import json

import pytest

from tests.kernels.broken_kernels import tree
from tests.kernels.sanitizers import COMPLAINTS, FLAGS, RUNTIMES, runtime, start
from tests.launch import SLOW_TEST, few

ONE_KERNEL = "all_reduce one_shot_push copied"


def sanitized(kind, ranks, seed, *words, **options):
    """The report, the complaints and the exit status of a run under a sanitizer."""
    compiler = options.get("compiler", "g++")
    if not runtime(compiler, kind):
        pytest.skip(f"system tool absent: {RUNTIMES[compiler][kind]} of {compiler}")
    process = start(kind, ranks, seed, *words, **options)
    report, complaints = process.communicate()
    return report, complaints, process.returncode


@SLOW_TEST
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("compiler", RUNTIMES)
def test_every_kernel_that_waits_for_a_peer_is_clean(compiler, kind, seed):
    """Each seed draws other types, operations, counts, alignments and orders of launches; six seeds
    give every kernel file every type."""
    printed, complaints, status = sanitized(kind, 2 + seed % 2, seed, compiler=compiler)
    assert not any(complaint in complaints for complaint in COMPLAINTS), complaints
    assert status == 0, complaints
    report = json.loads(printed)
    assert (report["wrong"], report["timed_out"]) == ({}, False)
    assert report["items"] > 60


@pytest.mark.parametrize("kind", FLAGS)
def test_a_sanitizer_finds_nothing_in_one_whole_kernel(kind):
    """The control of the tests below. One kernel takes seconds, and shows races in the code that
    all kernels share."""
    _, complaints, status = sanitized(kind, 2, 1, ONE_KERNEL)
    assert status == 0, complaints


@pytest.mark.parametrize("kind", few(FLAGS, 1))
def test_a_sanitizer_finds_nothing_in_the_probes_of_the_link_and_of_memory(kind):
    report, complaints, status = sanitized(kind, 2, 1, "link")
    assert status == 0, complaints
    assert json.loads(report) == {"items": 10, "launches": 60, "wrong": {}, "timed_out": False}


def finds(kind, complaint, *words, **options):
    """Asserts that the sanitizer complains about a one-shot kernel."""
    for seed in range(1, 9):  # chance decides if the ranks drift apart enough to show a race
        _, complaints, status = sanitized(kind, 2, seed, *words, ONE_KERNEL, **options)
        if status:
            break
    assert status != 0
    assert complaint in complaints
    assert "one_shot" in complaints


@pytest.mark.parametrize("patch", few(["without the acquire", "without the release"], 1))
def test_threadsanitizer_finds_a_race_in_broken_kernels(tmp_path, patch):
    finds("thread", "ThreadSanitizer: data race", tree=tree(tmp_path / "tree", patch))


@pytest.mark.parametrize(
    ("word", "complaint"),
    few(
        [
            ("short", "ERROR: AddressSanitizer"),
            ("misaligned", "runtime error: load of misaligned address"),
        ],
        1,
    ),
)
def test_addresssanitizer_finds_an_access_outside_a_buffer(word, complaint):
    """An element beyond a buffer, or between two elements."""
    finds("address", complaint, word)
