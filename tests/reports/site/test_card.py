"""Tests `reports card`: a picture to share. The picture's description holds its text for screen
readers."""

import re

import numpy as np
import pytest
from PIL import Image

from reports.__main__ import main
from reports.tables.show import headline_of
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_run import mark_wrong, write_run
from tests.reports.synthetic_together import steps


def drawn(path):
    """The text of a card, which has the standard size for sharing."""
    card = path.with_name("card.png")
    assert main(["card", str(path), str(card)]) == 0
    with Image.open(card) as picture:
        assert picture.size == (1200, 630)
        assert np.asarray(picture.convert("L")).min() < 50
        return picture.info["Description"]


def test_the_answer_and_the_command_match_the_table(tmp_path):
    """A shared picture must not claim a result that the run did not measure."""
    result = write_run(tmp_path, n_blocks=14)
    words = drawn(result.path).splitlines()
    assert words[1] == headline_of(result)
    assert re.fullmatch(r"ours \d\.\d\dx as fast as MPICH 5\.0\.2 at 16 KiB \[.*\]", words[2])
    assert words[5] == "mpirun -n 2 python -m bench.allreduce --seed 7"


def test_an_incomplete_or_wrong_run_is_marked_first(tmp_path):
    """Otherwise a run with wrong sums would give the fastest card."""
    cut = write_run(tmp_path / "cut", n_blocks=4, finish=False).path
    assert drawn(cut).splitlines()[1] == "INCOMPLETE: the run was cut off."
    wrong = write_run(tmp_path / "wrong", n_blocks=4).path
    mark_wrong(wrong, 1)
    lines = drawn(wrong).splitlines()
    assert lines[1].startswith("WRONG RESULTS: auto 16 KiB isolated")
    assert "as fast as" not in "".join(lines)


def test_a_log_is_not_shown_as_measured_and_its_names_stay_text(tmp_path):
    """A name with dollars must not become a formula, and a long name must not push the answer off
    the picture."""
    gpu = "$\\frac{1}{0}$ <script> \x1b[31m " + "x" * 400
    log = write_log(tmp_path, {"us": 33.0}, ranks=[{"rank": 0, "gpu": gpu}])
    description = drawn(log)
    for words in ("16 KiB 33 us", "Imported: shown, never judged.", "<script> ?[31m"):
        assert words in description
    assert "PP/TP" in drawn(steps(tmp_path / "step", 10.0, 12.0, 20.0).path)


@pytest.mark.parametrize(
    ("run", "picture"),
    [
        ("log.txt", "a.png"),
        ("run.jsonl", "no/folder/a.png"),
    ],
)
def test_a_bad_run_or_picture_path_is_refused_in_one_sentence(tmp_path, capsys, run, picture):
    write_run(tmp_path, sizes=[16384], n_blocks=2, run_id="run")
    (tmp_path / "log.txt").write_text("hello\n")
    assert main(["card", str(tmp_path / run), str(tmp_path / picture)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert not [*tmp_path.glob("a.*"), *tmp_path.glob("*.part")]
