"""Reading the manifest of a campaign, complete or damaged."""

from threading import Event, Thread

import pytest
from msgspec.structs import replace

from reports.store.manifest import MANIFEST, Campaign, End, Launch, Stage, Variant, read_manifest
from reports.store.result import ResultError
from reports.store.writing import to_line

pytestmark = pytest.mark.unit

HEAD = Campaign(
    campaign_id="c",
    plan="1a2b",
    version="0.1.0",
    seed=0,
    design="two-stage",
    pairs=10,
    fresh=25,
    margin=0.01,
    control=True,
    variants=[Variant(name="a", argv=["mpirun"]), Variant(name="b", argv=[])],
)


def launch(pair, variant, run, status="finished"):
    return Launch(
        stage="first",
        pair=pair,
        place=0,
        variant=variant,
        attempt=1,
        status=status,
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


def test_a_complete_manifest_is_read_back_unchanged(tmp_path):
    records = [
        HEAD,
        launch(1, "a", "a/1.jsonl"),
        Stage(stage="fresh", sizes=[16384]),
        launch(1, "b", "b/2.jsonl", "died"),
        End(status="complete"),
    ]
    manifest = read_manifest(write(tmp_path, *records))
    first, second = manifest.launches
    assert [manifest.campaign, first, *manifest.stages, second, manifest.end] == records
    assert manifest.foreign == []


def test_an_orphaned_launch_no_longer_counts(tmp_path):
    """Otherwise the old halves of a repeated pair would be paired with the new ones."""
    manifest = read_manifest(
        write(
            tmp_path,
            HEAD,
            launch(1, "a", "a/1.jsonl"),
            launch(1, "b", "b/2.jsonl"),
            launch(1, "a", "a/1.jsonl", "orphaned"),
        )
    )
    assert [(launch.variant, launch.status) for launch in manifest.launches] == [
        ("b", "finished"),
        ("a", "orphaned"),
    ]


@pytest.mark.parametrize("tail", [b'{"kind":"launch","sta', to_line(End(status="complete"))[:-2]])
def test_a_last_line_that_was_cut_off_is_dropped(tmp_path, tail):
    """Otherwise a killed campaign could neither be read nor continued."""
    manifest = read_manifest(write(tmp_path, HEAD, launch(1, "a", "a/1.jsonl"), tail=tail))
    assert (len(manifest.launches), manifest.end) == (1, None)


def test_unknown_fields_and_unknown_lines_are_skipped(tmp_path):
    more = (
        to_line(launch(1, "a", "a/1.jsonl"))[:-2]
        + b',"mood":"good"}\n{"kind":"remark","text":"x"}\n'
    )
    manifest = read_manifest(write(tmp_path, HEAD, tail=more))
    assert manifest.launches == [launch(1, "a", "a/1.jsonl")]


LAUNCH, END = launch(1, "a", None), End(status="complete")
FIRST = "a manifest has one `campaign` line, its first"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (b"", "campaign.jsonl is empty, not a manifest"),
        (b"no json\n", "line 1: not a line of a manifest"),
        (b"[1, 2]\n", f"line 1: {FIRST}"),
        (to_line(END), f"line 1: {FIRST}"),
        (to_line(HEAD) * 2, f"line 2: {FIRST}"),
        (to_line(HEAD) + b"\x80\n" + to_line(END), "line 2: not a line of a manifest"),
        (
            to_line(HEAD).replace(b'"schema":1', b'"schema":2'),
            "line 1: schema 2 is newer than this program's 1",
        ),
        (to_line(HEAD) + to_line(launch(1, "a", "a/9.jsonl")), "the run a/9.jsonl is not there"),
        (
            to_line(HEAD).replace(b'"margin":0.01', b'"margin":1e308'),
            "line 1: not a `campaign` line of schema 1",
        ),
        (to_line(replace(HEAD, variants=[])), "line 1: not a `campaign` line of schema 1"),
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


def test_a_missing_manifest_is_reported(tmp_path):
    with pytest.raises(ResultError, match=r"campaign\.jsonl cannot be read: No such file"):
        read_manifest(tmp_path)


def test_foreign_files_are_named(tmp_path):
    """Otherwise a foreign run would count as a launch, or a picture as an error."""
    write(tmp_path, HEAD, launch(1, "a", "a/1.jsonl"))
    ours = "a/1.png a/1.flight/rank-0 a/1.samples/case-0000.npy summary.md junit.xml status"
    foreign = "b/notes.txt stray.jsonl"
    for name in f"{ours} worktrees/a/x.jsonl {foreign}".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in read_manifest(tmp_path).foreign]
    assert found == ["b/2.jsonl", *foreign.split()]


def test_a_run_that_ends_meanwhile_is_no_error(tmp_path):
    """The benchmark that runs removes folders and files beside its run while reports read the
    campaign."""
    write(tmp_path, HEAD, launch(1, "a", "a/1.jsonl"))
    (tmp_path / "b" / "2.jsonl").unlink()
    ended = Event()

    def runs():
        number = 0
        while not ended.is_set():
            flight = tmp_path / "a" / f"{(number := number + 1)}.flight"
            flight.mkdir()
            (flight / "rank-0").touch()
            (flight / "rank-0").unlink()
            flight.rmdir()

    thread = Thread(target=runs)
    thread.start()
    try:
        assert all(read_manifest(tmp_path).foreign == [] for _ in range(200))
    finally:
        ended.set()
        thread.join()
