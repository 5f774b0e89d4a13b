"""Rows of the tables of published figures from the archive of a survey."""

import pytest

from reports.advice.archive_rows import read_sent, rows_of
from reports.advice.nearest import question_of_run
from reports.advice.reduce_times import read_launches, spans_of
from reports.references import published
from tests.reports.synthetic_archive import OTHER, SIZES, files_of, packed, write_archive
from tests.reports.synthetic_run import disturb, rewrite, rewrite_cases, rewrite_head
from wiretax.record.archive import read_contents, unpacked
from wiretax.record.result import read

pytestmark = pytest.mark.unit


@pytest.fixture
def sent(tmp_path):
    """The rows of a synthetic archive whose all-reduces a function changes, and what is said."""

    def rows(change=lambda path: None, **fields):
        made = files_of(machine_id=OTHER, **fields)
        for name in made:
            if "allreduce" in name:
                path = tmp_path / "run.jsonl"
                path.write_bytes(made[name])
                change(path)
                made[name] = path.read_bytes()
        return rows_of(read_sent(packed(tmp_path / "survey.tar.gz", made)))

    return rows


def of(rows, size=SIZES[0], mode="graph", kind="library"):
    """The row of a call."""
    (row,) = (row for row in rows if (row.size_bytes, row.mode, row.kind) == (size, mode, kind))
    return row


def test_the_synthetic_archive_is_of_two_cards_that_reach_each_other(tmp_path):
    """Tests of all that reads archives believe this of it."""
    path = write_archive(tmp_path / "survey.tar.gz")
    runs = [step.run or "" for step in read_contents(unpacked(path)).steps]
    question = question_of_run(read(path / runs[-1]))
    assert len(runs) == 6
    assert (str(question), question.fabric, question.sockets) == ("2x R9700", "PCIe 5 x16", 1)
    assert {call.transport for call in question.own} == {"p2p"}
    found = {(call.kind, call.mode, call.size_bytes) for call in question.own}
    small = {(kind, mode, SIZES[0]) for kind in ("library", "tuned") for mode in ("eager", "graph")}
    assert found == small | {(kind, "eager", SIZES[1]) for kind in ("library", "tuned")}


def test_a_row_is_what_procure_reads_of_the_launches(tmp_path):
    """One arithmetic: its figure and its interval."""
    path = write_archive(tmp_path / "survey.tar.gz")
    spans = spans_of(read_launches([path / "results/allreduce"], 2), "time_us")
    rows, notes = rows_of(read_sent(path))
    assert notes == []
    for size, mode in zip(SIZES, ("graph", "eager"), strict=True):
        row = of(rows, size, mode, "tuned")
        found = row.time_us, row.time_low_us, row.time_high_us
        span = spans[size]
        assert found == pytest.approx((span.value, span.low, span.high), rel=1e-3)


def test_a_row_has_the_words_with_which_expect_asks(sent):
    """Otherwise an owner's own row would not answer the owner's next run."""
    rows, _ = sent()
    for row in rows:
        assert (row.gpu, row.gpus, row.hosts) == ("R9700", 2, 1)
        assert (row.fabric, row.transport, row.collective) == ("PCIe 5 x16", "p2p", "all_reduce")


def test_calls_through_host_memory_are_rows_of_host_memory(sent):
    def staged(path):
        pairs = {"0 -> 1": ["SHM/direct/direct"], "1 -> 0": ["SHM/direct/direct"]}
        rewrite_head(path, world__library={"transports": {"plain": pairs}})
        rewrite_cases(path, lambda case: case.update(memory="host_staged"))

    rows, _ = sent(staged)
    assert {row.transport for row in rows} == {"host memory"}
    assert {row.machine for row in rows} == {
        f"2x R9700, PCIe 5 x16, no peers, one socket (EPYC 9354), {OTHER}"
    }


def test_a_size_of_too_few_launches_gives_no_row(sent):
    def without_the_large(path):
        if b"1a2b34" in path.read_bytes():
            large = [4, 5]  # cases
            rewrite(
                path,
                lambda line: (
                    line["kind"] == "case"
                    and line["case"] in large
                    and line.update(status="not measured", time_us=None)
                ),
            )

    rows, notes = sent(without_the_large)
    assert {row.size_bytes for row in rows} == {SIZES[0]}
    assert notes == ["2 calls of fewer than 5 launches: left out."]


def test_a_protocol_that_wiretax_set_is_no_call_of_the_library_as_it_is(sent):
    """On gfx12 RCCL may hang in LL: until it is repaired Wiretax lets it take Simple."""
    rows, _ = sent(
        lambda path: rewrite_head(path, world__library__set_by_wiretax={"NCCL_PROTO": "Simple"})
    )
    assert of(rows).variant == "NCCL_PROTO=Simple"
    assert of(rows, kind="tuned").variant == "one_shot_push"


def test_the_sockets_of_a_row_are_known(sent, monkeypatch):
    """`expect` keeps cards on one socket apart from those on two."""
    paths = ["PCIe 5 x16", "PCIe, across sockets"]
    link = {"gpu.links": {"value": paths, "status": "ok"}}
    rows, _ = sent(lambda path: rewrite_head(path, environment=link))
    assert ", two sockets," in rows[0].machine  # without a CPU's name
    monkeypatch.setattr(published, "contributed", lambda: rows)
    published.sockets.cache_clear()
    assert rows[0].sockets == 2
    published.sockets.cache_clear()


def test_a_row_says_that_launches_were_slowed_down(sent):
    """Cards that are too hot, or a host that is shared, are no faster: nor are their rows."""
    gpu = {"rank": 0, "bus_id": "0000:03:00.0", "start": {}, "end": {}}
    hot = gpu | {"looks": 9, "throttled_looks": {"thermal": 4}}

    def slow(line):
        if line["kind"] == "end":
            line["gpus"] = [hot]

    rows, _ = sent(lambda path: rewrite(path, slow) if b"1a2b34" in path.read_bytes() else None)
    assert {row.note.rpartition(", ")[2] for row in rows} == {"1 throttled or without their CPUs"}
    rows, _ = sent(disturb)
    assert of(rows).note.endswith("5 throttled or without their CPUs")


@pytest.mark.parametrize(
    ("gpu", "links", "fabric"),
    [
        ("AMD Instinct MI300X", ["PCIe 5 x16", "xGMI"], "xGMI"),
        ("NVIDIA H100 80GB HBM3", ["NVLink x18", "PCIe 5 x16"], "NVLink 4"),
        ("NVIDIA H100 80GB HBM3", ["NVLink x18", "PCIe, same switch"], "mixed"),
        ("AMD Radeon AI PRO R9700", ["PCIe 4 x4", "PCIe 5 x16", "PCIe, same switch"], "PCIe 4 x4"),
    ],
)
def test_a_row_has_the_fabric_that_joins_its_cards(sent, gpu, links, fabric):
    """Between cards in unlike slots the slower one counts."""

    def change(path):
        rewrite_head(path, environment={"gpu.links": {"value": links, "status": "ok"}})
        rewrite(
            path,
            lambda line: (
                line["kind"] == "run" and [rank.update(gpu=gpu) for rank in line["world"]["ranks"]]
            ),
        )

    rows, _ = sent(change)
    assert {row.fabric for row in rows} == {fabric}
    assert f", {fabric}, peers" in rows[0].machine
