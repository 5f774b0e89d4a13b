"""What `reports bits` may not call the same: a gate would pass what it has not looked at."""

import json

import pytest

from reports.__main__ import main
from reports.store.bits import RowBits, SizeBits
from reports.tables.bits import groups_of
from tests.reports.synthetic_bits import write_bits

pytestmark = pytest.mark.unit


@pytest.fixture
def baseline(tmp_path):
    """A record of `two_shot` and `ring` at two sizes."""
    return write_bits(tmp_path / "old")


@pytest.fixture
def edited(baseline, tmp_path):
    """A function that writes the record of a later launch, after `edit` of its fields and of its
    ring."""

    def write(edit=lambda record, ring: None, run_id="2026-11-28T20-00-00Z-bits-4d5e6f"):
        record = json.loads(baseline.read_text()) | {"run_id": run_id}
        edit(record, record["rows"][1])
        path = tmp_path / "new" / f"{run_id}.bits.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))
        return path

    return write


@pytest.fixture
def report(capsys):
    """A function that runs `reports bits`, and returns the status and what it prints, in a line."""

    def run(*words, command="bits"):
        status = main([command, *map(str, words)])
        return status, " ".join("".join(capsys.readouterr()).split())

    return run


@pytest.mark.parametrize("digest", ["", "\x01"])
def test_what_is_no_digest_is_refused(edited, report, digest):
    path = edited(lambda record, ring: ring["sizes"][0].update(digest=digest))
    status, said = report(path)
    assert (status, "is not a record of bench.bits" in said) == (2, True)


@pytest.mark.parametrize("of", ["rows", "sizes"])
def test_a_record_with_a_row_or_a_size_twice_is_refused(baseline, edited, report, of):
    def twice(record, ring):
        other = ring["sizes"][0] | {"digest": "0123456789abcdef"}
        own, extra = (record, ring | {"sizes": [other]}) if of == "rows" else (ring, other)
        own[of].insert(0, extra)

    status, said = report(baseline, "--baseline", edited(twice))
    assert (status, said.endswith(": a row has a size twice")) == (2, True)


def test_same_in_every_row_means_every_row(edited, report):
    def some(record, ring):
        del ring["sizes"][0]["compared"]["run"], ring["sizes"][1]["compared"]["run"]

    assert "same in every row: run " in report(edited())[1]
    assert "same in every row: run (compared in 1 of 2) " in report(edited(some))[1]


def row(name, digests, datatype="float32", compared=None):
    sizes = [
        SizeBits(size_bytes=size, digest=digest, parts=[], compared=compared or {})
        for size, digest in digests.items()
    ]
    return RowBits(algorithm=name, variant="plain", datatype=datatype, sizes=sizes)


def letters(rows):
    return {each.name: letter for letter, own in groups_of(rows) for each in own}


def test_letters_go_on_after_z():
    names = [f"x{number}" for number in range(26 * 27 + 1)]
    found = letters([row(name, {64: name}) for name in names])
    assert (found["x25"], found["x26"], found["x27"], found["x701"]) == ("Z", "AA", "AB", "ZZ")
    assert len({*found.values()}) == len(names)


def test_rows_with_one_letter_have_compared_bits():
    """Each with each other, of one datatype."""
    rows = [
        row("a", {64: "d", 128: "d"}),
        row("b", {128: "d", 256: "d"}),
        row("c", {256: "d"}),
        row("half", {64: "d", 128: "d"}, datatype="float16"),
    ]
    assert letters(rows) == {"a": "A", "b": "A", "c": "B", "half": "C"}


@pytest.mark.parametrize(
    ("algorithm", "versions"),
    [
        ("library", ("MPICH 5.0.2", "MPICH 9.0.0rc1")),
        ("library", ("Open MPI 5.0.11", "Open MPI 6")),
        ("mine", ("mine 1a2b3c4", "mine f00ba47")),
    ],
)
def test_another_version_is_the_same_row(baseline, edited, report, algorithm, versions):
    old, new = (
        edited(lambda record, ring, of=of: ring.update(algorithm=algorithm, library=of), f"r{of}")
        for of in versions
    )
    assert report(new, "--baseline", old) == (0, "SAME: 2 checks passed")
