"""Faults built into the kernels, each in one launch of many. The checks detect and locate wrong
elements; a lost or stale flag ends the run with a sentence that names the epochs."""

import re

import pytest

from tests.bench.launches import launch, stored
from tests.kernels.broken_kernels import CPU, Patch, apply, tree
from tests.launch import few

FLAGS = "one_shot_push,one_shot_pull,two_shot,two_shot_push,ring"
PACKETS, SENTINEL = "one_shot_ll", "one_shot_sentinel"
ALGORITHMS = f"{FLAGS},{PACKETS},{SENTINEL}"
CHECKED = "-c 1 -w 0 --timeout 1"
BITS = r"\(0x[0-9a-f]{8}\)"
LOCATION = (
    rf"block \d+: rank [01] got \S+ {BITS} at offset (\d+), element (\d+); \S+ {BITS} expected"
)


def located(done, folder):
    """The algorithms with wrong elements, which the run's sentence and its report locate."""
    assert done.returncode == 1
    match = re.fullmatch(rf"wiretax: case (\d+) \((\w+) (\d+) B \w+\), {LOCATION}\n", done.stderr)
    assert match, done.stderr
    assert int(match[4]) == 4 * int(match[5]) < int(match[3])
    wrong = [case for case in stored(folder).cases if case.status == "wrong"]
    sentence = rf"\d+ of \d+ elements were wrong, first in {LOCATION}"
    assert all(re.fullmatch(sentence, case.reason or "") for case in wrong)
    assert {case.bus_bw_gb_s for case in wrong} == {None}, "a wrong case must not win the table"
    assert "WRONG RESULTS in " in done.stdout
    assert "wrong results, the worst first\n" in done.stdout
    return {case.algorithm for case in wrong}


def test_a_flipped_bit_is_located_in_every_algorithm(tmp_path):
    """A wrong element stays wrong in a chain, so one check covers all 160 launches, among which are
    always 80 from one multiple of 80 to the next: one of these is struck."""
    out, broken = tmp_path / "out", tree(tmp_path / "tree", "flip_bit")
    often = "LAUNCHES_PER_FAULT = "
    apply(broken, [Patch("kernels/include/faults.h", f"{often}1000", f"{often}80")])
    options = f"--sizes 4K,8204 --mode chained -n 2 --algorithm {ALGORITHMS}"
    assert located(launch(out, CHECKED, options, tree=broken), out) == {*ALGORITHMS.split(",")}


def test_a_missing_push_is_located(tmp_path):
    """Without the push, a rank reads the data of an earlier iteration."""
    broken = tree(tmp_path / "tree", "skip_push")
    options = f"--sizes 1K,2060 --mode isolated -n 3 -c 40 --algorithm {FLAGS}"
    for attempt in range(8):  # the fault may strike a step without a push
        out = tmp_path / str(attempt)
        done = launch(out, CHECKED, options, tree=broken)
        if done.returncode:
            break
    assert located(done, out)


def test_a_nan_that_max_keeps_is_located(tmp_path):
    """NCCL and RCCL ignore NaN. A comparison alone would keep the first rank's, and no other's."""
    out, broken = tmp_path / "out", tree(tmp_path / "tree")
    apply(broken, [Patch(CPU, "return a == a ? best : b;", "return best;")])
    options = f"-o max --sizes 4K --mode isolated -n 3 --algorithm {ALGORITHMS}"
    assert located(launch(out, CHECKED, options, tree=broken), out) == {*ALGORITHMS.split(",")}


@pytest.mark.parametrize(
    ("fault", "algorithms"),
    few(
        [
            ("drop_flag", FLAGS),
            ("stale_epoch", PACKETS),
            ("stale_epoch", FLAGS),
        ],
        2,
    ),
)
def test_a_lost_or_stale_flag_ends_the_run_and_names_the_epochs(tmp_path, fault, algorithms):
    broken = tree(tmp_path / "tree", fault)
    options = f"-b 1K -e 16K --mode isolated -n 6000 --algorithm {algorithms}"
    done = launch(tmp_path / "out", CHECKED, options, tree=broken)
    assert done.returncode == 1
    match = re.fullmatch(
        r"wiretax: rank [01] did not (?:go on|answer) for 1 s and held the others up: .*block 0: "
        r"epoch (\d+) step (\d+) seen, epoch (\d+) step (\d+) wanted by "
        r"rank ([01]) from rank ([01])\n",
        done.stderr,
    )
    assert match, done.stderr
    assert (int(match[1]), int(match[2])) < (int(match[3]), int(match[4]))
    assert match[5] != match[6]
