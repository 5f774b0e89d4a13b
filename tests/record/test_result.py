"""Writing and reading run files: complete, cut off or damaged."""

import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.tables.export import as_csv
from reports.tables.table import render
from tests.launch import count
from tests.reports.synthetic_benchmarks import write_benchmark
from tests.reports.synthetic_run import rewrite, rewrite_cases, rewrite_head, write_run
from wiretax.record.frame import case_rows
from wiretax.record.result import ResultError, read
from wiretax.record.writing import RunFile, write_named

pytestmark = pytest.mark.unit

SMALL = {
    "sizes": [16384],
    "algorithms": ["library", "auto"],
    "modes": ["isolated"],
    "n": 5,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), **SMALL, n_blocks=6).path.read_bytes()


def test_a_run_is_read_as_written(tmp_path):
    written = write_run(tmp_path, **SMALL)
    result = read(written.path)
    for part in ("run", "cases", "blocks", "link_blocks", "end"):
        assert getattr(result, part) == getattr(written, part)
    assert result.complete
    kinds = [json.loads(line)["kind"] for line in written.path.read_text().splitlines()]
    assert (kinds[0], kinds[-3:]) == ("run", ["case", "case", "end"])


def test_a_run_cut_anywhere_in_its_last_lines_reads_as_incomplete_with_its_cases(tmp_path, stored):
    path = tmp_path / "cut.jsonl"
    *_, last_block, case, other_case, end = stored.splitlines(keepends=True)
    whole = len(stored) - len(end)
    start = whole - len(last_block + case + other_case)
    for length in [*range(start, whole, 397), *range(whole - 3, len(stored), 11), len(stored) - 1]:
        path.write_bytes(stored[:length])
        result = read(path)
        assert [case.status for case in result.cases] == ["ok", "ok"]
        # A last line that lacks only its newline is complete.
        assert result.complete == (length == len(stored) - 1)
    for length in (0, 100):  # in its first line
        path.write_bytes(stored[:length])
        with pytest.raises(ResultError, match=r"cut\.jsonl"):
            read(path)


@settings(max_examples=count(150), deadline=None)
@given(st.data())
def test_damage_is_refused_with_a_sentence_or_shown_without_a_crash(tmp_path_factory, stored, data):
    at = data.draw(st.integers(0, len(stored) - 1))
    damaged = stored[:at] + bytes([data.draw(st.integers(0, 255))]) + stored[at + 1 :]
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    path.write_bytes(damaged)
    refusal = str(path)
    try:
        result = read(path)
        assert all([render(result), as_csv(case_rows(result))])
    except ResultError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("allreduce", {"size_bytes": -16384}),
        ("alltoall", {"shape": {}}),
        ("allreduce", {"shape": {"arrival_skew_us": "soon"}}),
        ("link", {"shape": {"src": 10**9, "dst": 0}}),
    ],
)
def test_cases_that_no_report_can_show_are_refused(name, damage, tmp_path):
    write_benchmark(tmp_path, name)
    path = tmp_path / "run.jsonl"
    assert read(path).complete
    rewrite_cases(path, lambda case: case.update(damage))
    words = r"run\.jsonl(, line 1: not a `run` line| is not a run file) of schema 1 \("
    with pytest.raises(ResultError, match=words):
        read(path)


def test_a_file_of_many_lines_or_without_cases_or_of_a_newer_schema_is_refused(tmp_path, stored):
    """190 MB of newlines took 40 s and 1.7 GB."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\n" * 1_000_001)
    with pytest.raises(ResultError, match="has more than the 1,000,000 lines that are read"):
        read(path)
    for head, words in (
        ({"cases": []}, "it has no case, or no rank"),
        ({"schema": 2}, r"run\.jsonl, line 1: schema 2 is newer than this program's 1"),
        ({"notes": ["n"] * 101}, "<= 100"),
    ):
        path.write_bytes(stored)
        rewrite_head(path, **head)
        with pytest.raises(ResultError, match=words):
            read(path)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b'"time_us":', b'"time_us":NaN,"was":', "line 2"),
        (b'"round":0', b'"round":"first"', "line 2"),
        (b'"round":0', b'"schema":2,"round":0', "line 2: schema 2 is newer"),
        (
            b'"total_us":{"median":',
            b'"total_us":{"median":5e-324,"was":',
            "line [0-9]+: not a `case` line .* .`total_us`",
        ),
    ],
)
def test_damage_before_the_last_lines_names_the_file_and_the_line(
    tmp_path, stored, old, new, place
):
    path = tmp_path / "bad.jsonl"
    head, rest = stored.split(b"\n", 1)
    first_block = rest.index(b'{"kind":"block"')
    path.write_bytes(head + b"\n" + rest[first_block:].replace(old, new, 1))
    with pytest.raises(ResultError, match=rf"bad\.jsonl, {place}"):
        read(path)


def test_a_line_that_stands_twice_is_refused(tmp_path, stored):
    """A table of case x round would count the last of both alone."""
    path, lines = tmp_path / "run.jsonl", stored.splitlines(keepends=True)
    block = next(line for line in lines if line.startswith(b'{"kind":"block"'))
    path.write_bytes(stored.replace(block, block * 2))
    with pytest.raises(ResultError, match=r"run\.jsonl: a case has two blocks in one round"):
        read(path)


def test_unknown_fields_and_unknown_lines_of_a_later_version_are_skipped(tmp_path, stored):
    path = tmp_path / "run.jsonl"
    path.write_bytes(stored)
    now = read(path)
    path.write_bytes(stored.replace(b"\n", b'\n{"kind":"weather","sky":"blue"}\n', 1))

    def change(line):
        for record in (line, *line.get("cases", []), line.get("time_us")):
            if isinstance(record, dict):
                record["later"] = {"a": [1]}

    later = read(rewrite(path, change))
    for part in ("run", "cases", "blocks", "end"):
        assert getattr(later, part) == getattr(now, part)


def test_a_run_never_overwrites_another_and_an_unwritable_folder_is_one_sentence(tmp_path):
    run = write_run(tmp_path, **SMALL).run
    with pytest.raises(ResultError, match="File exists"):
        RunFile.create(tmp_path, run)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        RunFile.create(tmp_path / "file" / "results", run)


def test_samples_are_not_written_through_another_users_link(tmp_path):
    (tmp_path / "elsewhere").write_text("theirs")
    run = write_run(tmp_path / "first", **SMALL).run
    (tmp_path / f"{run.run_id}.npz").symlink_to(tmp_path / "elsewhere")
    write_run(tmp_path, **SMALL, keeps_samples=True)
    assert (tmp_path / "elsewhere").read_text() == "theirs"


def test_samples_are_all_iterations_of_each_case(tmp_path):
    fields = SMALL | {"algorithms": ["library"], "n": 9}
    result = write_run(tmp_path, **fields, n_blocks=30, keeps_samples=True)
    samples = np.load(result.path.with_suffix(".npz"))["0"]
    _, n = np.unique(samples[samples[:, 1] == 1, 0], return_counts=True)
    assert (samples.shape[1], n.tolist()) == (5, [9] * 30)


def test_the_flight_record_names_the_first_rank_that_stopped(tmp_path):
    path = write_run(tmp_path, **SMALL, finish=False).path
    flight = path.with_suffix(".flight")
    flight.mkdir()
    line = {"name": "rank 1", "text": "case 1 (auto 16384 B isolated)", "block": 3, "step": "store"}
    line["counters"] = ["phase", "epoch", "calls"]
    numbers = b"".join(number.to_bytes(8, "little") for number in (2, 2**32 - 1, 0))
    page = json.dumps(line).encode().ljust(2048, b"\0") + numbers.ljust(2048, b"\0")
    (flight / "rank-0").write_bytes(b'{"rank":0,"case":1,"blo')
    (flight / "ended").write_text('{"rank": 1, "why": "was killed", "by": "watcher"}')
    place = "case 1 (auto 16384 B isolated), block 3, step store, barrier, epoch 4294967295"
    for content, stopped in (
        (page, f"rank 1 was killed: {place}"),
        (page[:2056], "rank 1 was killed"),  # cut in the middle of its numbers
        (page + b"\0", "rank 1 was killed"),  # not a page of a flight record
    ):
        (flight / "rank-1").write_bytes(content)
        assert f"stopped first: {stopped}\n" in render(read(path))


def test_a_block_is_on_disk_before_the_next_is_measured(tmp_path, monkeypatch):
    """After this, a power cut loses neither the content nor the name."""
    synced, sync = list[os.stat_result](), os.fsync

    def counted(fd):
        sync(fd)
        synced.append(os.fstat(fd))

    model = write_run(tmp_path / "model", **SMALL, n_blocks=1)
    monkeypatch.setattr(os, "fsync", counted)
    file = RunFile.create(tmp_path, model.run)
    assert tmp_path.stat().st_ino in {about.st_ino for about in synced}
    head_bytes = file.path.stat().st_size
    file.append(model.blocks[0])
    assert synced[-1].st_size == file.path.stat().st_size > head_bytes


def test_a_file_the_user_named_is_written_through_a_link_and_keeps_its_mode(tmp_path):
    path, link = tmp_path / "kept" / "a.json", tmp_path / "latest.json"
    path.parent.mkdir()
    link.symlink_to(path)
    write_named(link, b"first")  # the link had no target yet
    path.chmod(0o640)
    write_named(link, b"second")
    assert link.is_symlink()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"second", 0o640)
    assert sorted(tmp_path.rglob("*")) == [path.parent, path, link]
