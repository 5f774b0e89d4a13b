"""Campaigns and gates that judge a percentile of each launch's steps."""

import msgspec

from tests.bench.campaigns.test_gate import judged, said, side
from wiretax.record.manifest import MANIFEST, read_manifest

__all__ = ["side"]


def test_a_gate_whose_launches_have_too_few_steps_ends_after_its_pilots(tmp_path, side):
    """Six steps have no P99: hours of pairs would decide nothing, and nothing may pass."""
    folder = tmp_path / "gate"
    assert judged(folder, side(), side(), "--quantile", "99") == 5
    assert all("P99" in text for text in said(folder))
    manifest = read_manifest(folder)
    assert manifest.campaign.quantile == 0.99
    assert {launch.stage for launch in manifest.launches} == {"pilot"}


def test_manifests_of_older_versions_judge_medians(tmp_path, side):
    folder = tmp_path / "gate"
    assert judged(folder, side(), side(1.1)) == 1
    head, *rest = (folder / MANIFEST).read_text().splitlines()
    older = msgspec.json.decode(head)
    assert older.pop("quantile") is None
    (folder / MANIFEST).write_text("\n".join([msgspec.json.encode(older).decode(), *rest, ""]))
    assert read_manifest(folder).campaign.quantile is None
