"""A gate says before its pairs how many of them it takes: in a machine with rare events, six to ten
pairs of equal programs ended undecided nearly always, and only the end told it."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from reports.verdicts.verdict import evidence, pairs_despite_events, tolerated_events
from tests.launch import ROOT

# Prints timing lines that scatter by `spread`; the launches with these numbers take five times as
# long.
PROGRAM = """
import json, pathlib, random, sys, time
counter, spread, *slow = sys.argv[1:]
count = pathlib.Path(counter)
number = len(count.read_text()) if count.exists() else 0
count.open("a").write("x")
draw = random.Random(number)
launch = draw.gauss(1, float(spread)) * (5 if str(number) in slow else 1)
for size in (16384, 1048576):
    line = {"collective": "all_reduce", "size_bytes": size, "ranks": 2, "n_wrong": 0}
    print(json.dumps(line | {"time_us": [(5 + size / 1e4) * launch] * 6}))
"""


@pytest.mark.unit
@pytest.mark.parametrize("pairs", [6, 11, 12, 16, 17, 26, 27])
def test_an_interval_stands_so_many_events_and_no_more(pairs):
    ratios = np.random.default_rng(pairs).normal(0, 0.01, (1, pairs))
    most = tolerated_events(pairs)
    for n_events in (most, most + 1):
        slowed = ratios.copy()
        slowed[0, :n_events] += np.log(5)
        is_open = evidence(slowed).log_high[0] > 0.5
        assert is_open == (n_events > most)


@pytest.mark.unit
def test_more_events_and_more_cells_take_more_pairs():
    assert pairs_despite_events(0.0, 24) == 6
    assert pairs_despite_events(0.01, 24) == 12
    needed = [pairs_despite_events(0.03, cells) or 0 for cells in (24, 84)]
    assert 12 < needed[0] < needed[1]
    assert pairs_despite_events(0.4, 24) is None


def sentences(tmp_path, spread, *slow, pairs=6):
    """What a gate of this program beside itself says before its first pair."""
    program = tmp_path / "mine.py"
    program.write_text(PROGRAM)
    words = [[sys.executable, program, tmp_path / side, spread, *slow] for side in ("base", "head")]
    base, head = (shlex.join(map(str, command)) for command in words)
    sides = [f"--base={base}", f"--head={head}"]
    options = ["--pairs", str(pairs), "--min-effect", "3", "--out", str(tmp_path / "gate")]
    env = {name: value for name, value in os.environ.items() if name != "WIRETAX_QUIET"}
    command = [sys.executable, "-m", "bench.gate", *sides, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=env)
    before_pairs = done.stderr.partition("pair 1 of")[0]
    return " ".join(re.sub(r"\[gate .*?\]", "", before_pairs).split())


def test_few_pairs_are_told_before_the_first_launch(tmp_path):
    said = sentences(tmp_path, "0.002")
    assert "12 pairs tolerate one such launch (--pairs 12)" in said
    assert "in place of" not in said, "a quiet machine"


def test_pilots_with_an_event_or_much_noise_say_how_many_pairs_it_takes(tmp_path):
    said = sentences(tmp_path, "0.3", "2", pairs=12)
    assert "tolerate one such launch" not in said
    assert re.search(
        r"2 of 6 times of the pilots are over 1\.5 x their median: (that takes about \d+ pairs in "
        r"place of 12|not even 200 pairs)",
        said,
    )
    assert re.search(r"to exclude --min-effect 3: (that takes|not even)", said)
