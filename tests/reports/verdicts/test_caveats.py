"""What a comparison says of its sides before anybody believes it, in every form of its output."""

import re
import shutil

import pytest

from tests.reports.synthetic_campaign import write_launches
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_run import rewrite, rewrite_head

pytestmark = pytest.mark.unit


def compared(sides, reports):
    """The text of `compare`, in a line."""
    status, out, _ = reports("compare", *sides)
    assert status == 0
    return " ".join(out.split())


def write_side(folder, *checks):
    """A launch for each of these numbers of wrong elements, None if nothing was checked."""
    for number, n_wrong in enumerate(checks):
        row = {"us": 5 + number / 100 + len(folder.name) / 1000, "n_wrong": n_wrong}
        write_log(folder, row, name=f"{folder.name}{number}", date=f"2026-11-20T06-1{number}-00Z")
    return folder


@pytest.mark.parametrize(("is_head", "n_checks"), [(False, 0), (True, 5)])
def test_a_side_that_checks_nothing_beside_one_that_does_is_told(
    is_head, n_checks, tmp_path, reports
):
    """Its wrong results would pass."""
    lazy = write_side(tmp_path / "lazy", *[0] * n_checks, *[None] * (6 - n_checks))
    sides = lazy, write_side(tmp_path / "careful", *[0] * 6)
    sides = sides[::-1] if is_head else sides
    sentence = "lazy has launches without a check of 1 case"
    assert sentence in compared(sides, reports)
    page = tmp_path / "a.html"
    said = reports("regress", "--baseline", sides[0], "--current", sides[1], "--html", page)
    assert sentence in " ".join(page.read_text().split())
    unusable = rf"UNUSABLE: .*{sentence}, and .*careful has none \(exit status 5\)"
    told = re.search(unusable, " ".join(said[1].split())) is not None
    assert (said[0] == 5, told) == (is_head, is_head)
    write_side(lazy, *[0] * 6)
    assert "without a check" not in compared(sides, reports)


@pytest.mark.parametrize("places", [("base", "new"), ("new", "new")])
def test_one_run_under_several_ids_is_told(places, tmp_path, reports):
    """Copies agree with each other."""
    for seed, name in enumerate(("base", "new")):
        write_launches(tmp_path / name, 6, seed=seed, sizes=[16384])
    sides = tmp_path / "base", tmp_path / "new"
    source, target = (tmp_path / place for place in places)
    copied = max(source.glob("*.jsonl"))
    copy = target / "2026-11-20T07-00-00Z-allreduce-copied.jsonl"
    shutil.copy(copied, copy)
    rewrite_head(copy, run_id=copy.stem)
    sentence = f"{copied.stem}, {copy.stem} have the same times in each block: "
    assert sentence in compared(sides, reports)
    copy.unlink()
    assert "the same times" not in compared(sides, reports)


def test_launches_with_a_throttled_gpu_are_told_by_side(tmp_path, reports):
    """The card, not the code, may have made one side slower."""
    for seed, name in enumerate(("base", "new")):
        write_launches(tmp_path / name, 6, seed=seed, sizes=[16384])
    sides = tmp_path / "base", tmp_path / "new"
    assert "A GPU was throttled" not in compared(sides, reports)
    gpu = {"rank": 0, "bus_id": "0000:03:00.0", "start": {}, "end": {}}

    def slow_down(line):
        if line["kind"] == "end":
            line["gpus"] = [gpu | {"throttled_s": {"Thermal": 0.5}}]

    for run in sorted(sides[1].glob("*.jsonl"))[:2]:
        rewrite(run, slow_down)
    sentence = "A GPU was throttled during 2 of 6 launches of "
    assert f"{sentence}{tmp_path.name}/new." in compared(sides, reports)
