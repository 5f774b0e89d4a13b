"""Campaigns and gates that judge a percentile of each launch's steps."""

import shlex
import sys

import msgspec
import pytest

from reports.__main__ import main as reports
from tests.bench.campaigns.test_gate import judged, said, side
from wiretax.record.manifest import MANIFEST, read_manifest

__all__ = ["side"]

PAIRS = 8  # of launches of 400 steps

# Prints the steps of one case, of which a share takes five times as long: one rank of its
# all-reduce is late.
STEPS = """
import json, random, sys
name, share, seed = sys.argv[1:]
draw = random.Random(f"{name} {seed}")
times_us = [draw.gauss(10, 0.3) * (5 if draw.random() < float(share) else 1) for _ in range(400)]
line = {"collective": "all_reduce", "size_bytes": 16384, "time_us": times_us, "ranks": 2}
print(json.dumps(line | {"n": 1, "n_wrong": 0}))
"""


def late(tmp_path, name, share):
    """The command of a side on which this share of calls has a late rank."""
    path = tmp_path / "late.py"
    path.write_text(STEPS)
    return shlex.join([sys.executable, str(path), name, str(share), "{seed}"])


@pytest.fixture(scope="module")
def by_medians(tmp_path_factory):
    """The folder of a gate of medians, of a base and of a head whose rank is late in one call of a
    hundred."""
    folder = tmp_path_factory.mktemp("late")
    sides = late(folder, "base", 0), late(folder, "head", 0.01)
    assert judged(folder / "gate", *sides, pairs=PAIRS) == 0
    return folder / "gate"


def test_a_late_rank_passes_with_a_warning_by_default(by_medians):
    """Its median is that of the base."""
    summary, junit, page = said(by_medians)
    for text in (summary, junit, page):
        assert "tails: more slow steps, over 2" in text
    assert "<failure" not in junit


def test_a_late_rank_fails_the_gate_of_the_p99(tmp_path, capsys):
    folder = tmp_path / "gate"
    sides = late(tmp_path, "base", 0), late(tmp_path, "head", 0.01)
    assert judged(folder, *sides, "--quantile", "99", pairs=PAIRS) == 1
    assert all("P99 SLOWER" in text for text in said(folder))
    # The folder is judged later as the gate judged it.
    words = ["regress", "--baseline", folder / "base", "--current", folder / "head"]
    assert reports(list(map(str, words))) == 1
    assert "P99 SLOWER" in capsys.readouterr().out


def test_two_sides_that_are_late_alike_pass(tmp_path):
    folder = tmp_path / "gate"
    both = [late(tmp_path, name, 0.01) for name in ("base", "head")]
    assert judged(folder, *both, "--quantile", "99", pairs=PAIRS) == 0
    assert all("P99" in text for text in said(folder))


def test_a_gate_whose_launches_have_too_few_steps_ends_after_its_pilots(tmp_path, side):
    """Six steps have no P99: hours of pairs would decide nothing, and nothing may pass."""
    folder = tmp_path / "gate"
    assert judged(folder, side(), side(), "--quantile", "99") == 5
    assert all("P99" in text for text in said(folder))
    manifest = read_manifest(folder)
    assert manifest.campaign.quantile == 0.99
    assert {launch.stage for launch in manifest.launches} == {"pilot"}


def test_manifests_of_older_versions_judge_medians(by_medians, tmp_path):
    older = msgspec.json.decode((by_medians / MANIFEST).read_text().splitlines()[0])
    assert older.pop("quantile") is None
    (tmp_path / MANIFEST).write_bytes(msgspec.json.encode(older) + b"\n")
    assert read_manifest(tmp_path).campaign.quantile is None
