"""What `reports bits` may not call the same: a gate would pass what it has not looked at."""

import json

import pytest

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


def without_elements(record, ring):
    for size in ring["sizes"]:
        for each in size["compared"].values():
            each |= {"elements": 0, "differ": 0}


def failed(record, ring):
    ring |= {"sizes": ring["sizes"][:1], "reason": "RuntimeError: the sum is lost"}


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda record, ring: record["rows"].pop(), "ring (float32): only the baseline has 1 KiB"),
        (lambda record, ring: ring["sizes"].pop(), "ring (float32): only the baseline has 2 KiB"),
        (failed, "ring (float32) failed: RuntimeError: the sum is lost"),
        (without_elements, "ring (float32): not compared, or with another outcome: run, size"),
        (
            lambda record, ring: ring["thresholds"][0].update(size_bytes=1600),
            "ring (float32): not compared, or with another outcome: threshold",
        ),
    ],
)
def test_what_the_baseline_has_and_the_record_has_not_is_not_the_same(
    baseline, edited, report, edit, sentence
):
    assert report(edited(), "--baseline", baseline) == (0, "SAME: 2 checks passed")
    status, said = report(edited(edit), "--baseline", baseline)
    assert (status, said.startswith("CHANGED: "), sentence in said) == (1, True, True), said


def test_what_the_baseline_lacks_is_named(baseline, edited, report):
    """Also in JSON: nobody compared it."""

    def longer(record, ring):
        ring["sizes"].append(ring["sizes"][1] | {"size_bytes": 4096})
        record["rows"].append(record["rows"][0] | {"algorithm": "auto"})
        record["machine_id"] = "f0f0f0"

    notes = "the baseline lacks rows or sizes of ring, auto", "the baseline is of machine a1b2c3"
    words = edited(longer), "--baseline", baseline
    assert report(*words) == (0, f"SAME: 2 checks passed {' '.join(notes)}")
    assert json.loads(report(*words, "--json")[1])["notes"] == [*notes]


def test_another_number_of_ranks_is_not_comparable(baseline, edited, report):
    other = edited(lambda record, ring: record.update(ranks=8))
    status, said = report(other, "--baseline", baseline)
    assert (status, f"not comparable: ranks: 3 in {baseline}, 8" in said) == (4, True)
    assert report(baseline, other)[0] == 4


def test_a_record_is_no_baseline_of_itself(baseline, edited, report, tmp_path):
    """An earlier one of the same folder is."""
    first, _ = edited(run_id="2026-11-28-a"), edited(run_id="2026-11-28-b")
    status, said = report(first, "--baseline", first)
    assert (status, "is the record and the baseline" in said) == (2, True)
    assert report(first.parent, "--baseline", first.parent) == (0, "SAME: 2 checks passed")


def test_what_is_no_digest_and_an_empty_folder_are_refused(edited, report, tmp_path):
    path = edited(lambda record, ring: ring["sizes"][0].update(digest="\x01"))
    status, said = report(path)
    assert (status, "is not a record of bench.bits" in said) == (2, True)
    (tmp_path / "empty").mkdir()
    status, said = report(tmp_path / "empty")
    assert (status, "bench.bits" in said) == (2, True)


def test_a_record_with_a_size_twice_is_refused(baseline, edited, report):
    def twice(record, ring):
        ring["sizes"].insert(0, ring["sizes"][0] | {"digest": "0123456789abcdef"})

    status, said = report(baseline, "--baseline", edited(twice))
    assert (status, said.endswith(": a row has a size twice")) == (2, True)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("run", without_elements),
        ("graph", lambda record, ring: None),
    ],
)
def test_what_a_row_has_not_compared_it_lacks(edited, report, name, edit):
    assert report(edited(), "--require", "run") == (0, "SAME: 2 checks passed")
    assert "2 of 2 sizes, 31 % 2 ULP, at 1 KiB" in report(edited(), "--require", "size")[1]
    status, said = report(edited(edit), "--require", name)
    assert (status, said.startswith("CHANGED: "), "ring (float32) " in said) == (1, True, True)


def test_a_row_of_joined_records_that_lacks_something_is_judged(baseline, edited, report):
    """Though another record has the same row, which lacks nothing."""
    lacking = edited(without_elements)
    assert report(baseline, lacking, "--require", "run")[0] == 1
    other = edited(run_id="2026-11-26-a")
    assert report(other, lacking, "--baseline", baseline)[0] == 1


def test_a_record_with_a_failed_row_is_shown_as_such(edited, report, tmp_path):
    page = tmp_path / "page.html"
    status, said = report(edited(failed), "--html", page)
    assert (status, "ring: RuntimeError: the sum is lost" in said) == (1, True)
    text = page.read_text()
    assert "ring (float32) failed: RuntimeError: the sum is lost" in text
    assert "Changed: ring." in text
    assert "graph: from a graph (not compared)" in text


def test_another_version_is_the_same_row(edited, report):
    def of(library):
        fields = {"algorithm": "library", "library": library}
        return edited(lambda record, ring: ring.update(fields), f"r{library}")

    words = of("Open MPI 6"), "--baseline", of("Open MPI 5.0.11")
    assert report(*words) == (0, "SAME: 2 checks passed")


def test_a_record_with_a_failed_row_is_no_baseline(baseline, edited, report):
    """Of a folder an earlier one is."""
    broken = edited(failed)
    status, said = report(baseline, "--baseline", broken)
    assert (status, "no record of bench.bits without a failed row" in said) == (2, True)
    edited(run_id="2026-11-26-a")
    assert report(baseline, "--baseline", broken.parent) == (0, "SAME: 2 checks passed")


def accept(reports, store, current, reason):
    status, out, err = reports(
        "accept", "--baseline", store, "--current", current, "--reason", reason
    )
    assert (out + err).count("\n") == 1
    return status, out + err


def test_the_accepted_record_is_the_baseline_until_another_is_accepted(
    baseline, edited, report, reports, tmp_path
):
    """A newer record in the same folder does not move it, and the verdict says why it moved."""

    def other_bits(record, ring):
        ring["sizes"][1]["digest"] = "0123"

    store, newer = tmp_path / "store", edited(other_bits)
    status, said = accept(reports, store, baseline, "order of the ranks")
    assert (status, "are now the baseline in " in said) == (0, True)
    (store / newer.name).write_bytes(newer.read_bytes())
    status, said = report(newer, "--baseline", store)
    assert (status, said.startswith("CHANGED: 1 of 2 checks failed")) == (1, True)
    assert "the baseline was accepted: order of the ranks" in said
    assert accept(reports, store, newer, "a new ring")[0] == 0
    assert len([*(store / "bits").iterdir()]) == 1
    status, said = report(baseline, "--baseline", store)
    assert (status, "the baseline was accepted: a new ring" in said) == (1, True)
    # It is not in place of a record with other ranks.
    accept(reports, store, edited(lambda record, ring: record.update(ranks=5)), "five")
    assert report(baseline, "--baseline", store) == (status, said)


@pytest.mark.parametrize("is_dangling", [False, True])
def test_accept_refuses_a_link_in_place_of_the_folder(baseline, reports, tmp_path, is_dangling):
    """A store may come from elsewhere, and lead there."""
    elsewhere, store = tmp_path / "elsewhere", tmp_path / "store"
    store.mkdir()
    if not is_dangling:
        elsewhere.mkdir()
    (store / "bits").symlink_to(elsewhere)
    status, said = accept(reports, store, baseline, "first")
    assert (status, f"{store / 'bits'} is no folder of its own: " in said) == (2, True)
    assert not elsewhere.exists() or not [*elsewhere.iterdir()]
    (store / "bits").unlink()
    assert accept(reports, store, baseline, "first")[0] == 0


def test_accept_refuses_bits_that_cannot_be_a_baseline(edited, baseline, reports, tmp_path):
    store = tmp_path / "store"
    assert accept(reports, store, edited(failed), "first") == (
        5,
        "reports: ring failed: RuntimeError: the sum is lost\n",
    )
    assert accept(reports, store, baseline, " ")[0] == 2
    status, said = accept(reports, store, tmp_path / "none.bits.json", "first")
    assert (status, "none.bits.json" in said) == (2, True)
    assert not store.exists()
