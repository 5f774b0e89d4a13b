"""What a comparison says of its sides before anybody believes it, in every form of its output."""

import shutil

import pytest

from reports.__main__ import main
from tests.reports.synthetic_campaign import write_launches
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_run import rewrite_head

pytestmark = pytest.mark.unit


def said(baseline, current, tmp_path, capsys):
    """The texts of `compare`, and of every form of `regress`, each in one line."""
    sides = [str(baseline), str(current)]
    assert main(["compare", *sides]) == 0
    assert main(["compare", "--json", *sides]) == 0
    sides = ["--baseline", sides[0], "--current", sides[1]]
    files = [tmp_path / name for name in ("a.xml", "a.md", "a.html")]
    options = "--junit", files[0], "--markdown", files[1], "--html", files[2]
    main(["regress", *sides, *map(str, options)])
    main(["regress", "--json", *sides])
    compared, rest = capsys.readouterr().out.split("{", 1)
    in_json, rest = rest.split("\n}\n", 1)
    text, gate_json = rest.split("\n{\n", 1)
    texts = [compared, in_json, text, gate_json, *(file.read_text() for file in files)]
    return [" ".join(each.replace("\\_", "_").split()) for each in texts]


def write_side(folder, *checks):
    """A launch for each of these numbers of wrong elements, None if nothing was checked."""
    for number, n_wrong in enumerate(checks):
        row = {"us": 5 + number / 100 + len(folder.name) / 1000, "n_wrong": n_wrong}
        write_log(folder, row, name=f"{folder.name}{number}", date=f"2026-11-20T06-1{number}-00Z")
    return folder


@pytest.mark.parametrize("is_head", [False, True])
@pytest.mark.parametrize("checks", [[None] * 6, [0, 0, 0, 0, 0, None]])
def test_a_side_that_checks_nothing_beside_one_that_does_is_told(is_head, checks, tmp_path, capsys):
    """Its wrong results would pass."""
    lazy, careful = (
        write_side(tmp_path / "lazy", *checks),
        write_side(tmp_path / "careful", *[0] * 6),
    )
    sides = (careful, lazy) if is_head else (lazy, careful)
    sentence = "lazy has launches without a check of 1 case"
    for text in said(*sides, tmp_path, capsys):
        assert sentence in text
    write_side(tmp_path / "lazy", *[0] * 6)
    assert not any("without a check" in text for text in said(*sides, tmp_path, capsys))


@pytest.mark.parametrize("places", [("base", "new"), ("new", "new"), ("base", "base")])
def test_one_run_under_several_ids_is_told(places, tmp_path, capsys):
    """Copies agree with each other."""
    for seed, name in enumerate(("base", "new")):
        write_launches(tmp_path / name, 6, seed=seed, sizes=[16384])
    source, target = (tmp_path / place for place in places)
    copied = max(source.glob("*.jsonl"))
    copy = target / "2026-11-20T07-00-00Z-allreduce-copied.jsonl"
    shutil.copy(copied, copy)
    rewrite_head(copy, run_id=copy.stem)
    names = f"{copied.stem}, {copy.stem}"
    for text in said(tmp_path / "base", tmp_path / "new", tmp_path, capsys):
        assert f"{names} have the same times in each block: " in text
    copy.unlink()
    texts = said(tmp_path / "base", tmp_path / "new", tmp_path, capsys)
    assert not any("the same times" in text for text in texts)
