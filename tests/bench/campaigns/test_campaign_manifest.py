"""Reading the manifest of a campaign, complete or damaged."""

import pytest

from wiretax.record.manifest import MANIFEST, Campaign, Launch, VariantRecord, read_manifest
from wiretax.record.result import ResultError
from wiretax.record.writing import to_line

pytestmark = pytest.mark.unit

HEAD = Campaign(
    campaign_id="c",
    version="0.1.0",
    seed=0,
    pairs=10,
    margin=0.01,
    variants=[VariantRecord(name="a", argv=["mpirun"]), VariantRecord(name="b", argv=[])],
)


def launch(pair, variant, run):
    return Launch(
        stage="first",
        pair=pair,
        place=0,
        variant=variant,
        attempt=1,
        status="finished",
        exit=0,
        elapsed_s=1.5,
        run=run,
    )


def write(folder, *records, tail=b""):
    for name in ("a/1.jsonl", "b/2.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("a run\n")
    (folder / MANIFEST).write_bytes(b"".join(to_line(record) for record in records) + tail)
    return folder


def test_unknown_fields_and_unknown_lines_are_skipped(tmp_path):
    more = (
        to_line(launch(1, "a", "a/1.jsonl"))[:-2]
        + b',"mood":"good"}\n{"kind":"remark","text":"x"}\n'
    )
    manifest = read_manifest(write(tmp_path, HEAD, tail=more))
    assert manifest.launches == [launch(1, "a", "a/1.jsonl")]


LAUNCH = launch(1, "a", None)
FIRST = "a manifest has one `campaign` line, its first"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (b"", "campaign.jsonl is empty, not a manifest"),
        (to_line(HEAD) * 2, f"line 2: {FIRST}"),
        (to_line(HEAD) + to_line(launch(1, "a", "a/9.jsonl")), "the run a/9.jsonl is not there"),
        (
            to_line(HEAD) + to_line(LAUNCH).replace(b"finished", b"unsure"),
            "line 2: not a `launch` line of schema 1",
        ),
    ],
)
def test_a_damaged_manifest_is_refused_by_file_and_line(tmp_path, lines, sentence):
    """Otherwise a verdict would use only a part of the launches."""
    write(tmp_path, tail=lines)
    with pytest.raises(ResultError, match=r"campaign\.jsonl") as refused:
        read_manifest(tmp_path)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_foreign_runs_are_named(tmp_path):
    """Otherwise one would count as a launch."""
    write(tmp_path, HEAD, launch(1, "a", "a/1.jsonl"))
    others = "a/1.png a/1.flight/rank-0 a/1.npz b/notes.txt"
    for name in f"{others} stray.jsonl".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in read_manifest(tmp_path).foreign]
    assert sorted(found) == ["b/2.jsonl", "stray.jsonl"]
