"""Tests `reports card`: a picture to share. The picture's description holds its text for screen
readers."""

import re

import numpy as np
import pytest
from PIL import Image

from reports.__main__ import main
from reports.store.case import find_states
from reports.store.schema import End
from reports.tables.rows import default_rows
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_run import mark_wrong, write_run
from tests.reports.synthetic_together import layer, steps


def drawn(path):
    """The text of a card. Check that the card has the standard size for sharing and that no text
    reaches the edges."""
    card = path.with_name("card.png")
    assert main(["card", str(path), str(card)]) == 0
    with Image.open(card) as picture:
        assert picture.size == (1200, 630)
        pixels = np.asarray(picture.convert("L"))
        edges = [pixels[:12], pixels[-12:], pixels[:, :12], pixels[:, -12:]]
        assert min(edge.min() for edge in edges) > 250, "something is cut off"
        assert pixels.min() < 50
        return picture.info["Description"]


def test_the_answer_and_the_command_match_the_table(tmp_path):
    """A shared picture must not claim a result that the run did not measure."""
    result = write_run(tmp_path, n_blocks=14)
    words = drawn(result.path).splitlines()
    row = default_rows(result, ("isolated", None), find_states(result.blocks))[0]
    ratio, low, high = row.ratio or (0, 0, 0)
    assert words[0] == "allreduce: 2 ranks on AMD EPYC 9B45, cores 0 1"
    assert re.match(r"allreduce: 16 KiB 4\.\d us \(1\.7\dx MPICH\), 32 MiB 7\.\d GB/s", words[1])
    times = f"{ratio:.2f}x as fast as MPICH 5.0.2 at 16 KiB [{low:.2f} {high:.2f}]"
    assert words[2] == f"ours {times}"
    assert re.fullmatch(r"busbw 7\.\d\d GB/s at 32 MiB, \d\d% of the bound\.", words[3])
    assert words[5] == "mpirun -n 2 python -m bench.allreduce --seed 7"
    assert re.match("Wiretax 0.1.0, 2026-11-20 06:15 UTC; ", words[6])


def test_an_incomplete_or_wrong_run_is_marked_first(tmp_path):
    """Otherwise a run with wrong sums would give the fastest card."""
    cut = write_run(tmp_path / "cut", n_blocks=4, finish=False).path
    assert drawn(cut).splitlines()[1] == "INCOMPLETE: the run was cut off."
    wrong = write_run(tmp_path / "wrong", n_blocks=4).path
    mark_wrong(wrong, 1)
    lines = drawn(wrong).splitlines()
    assert lines[1].startswith("WRONG RESULTS: auto 16 KiB isolated")
    assert "as fast as" not in "".join(lines)


def test_other_kinds_of_runs_have_their_words(tmp_path):
    """A vendor's figure must not look measured."""
    assert "PP/TP" in drawn(steps(tmp_path / "step", 10.0, 12.0, 20.0).path)
    assert "fused exposes 4.00" in drawn(layer(tmp_path / "layer").path)
    end = End(status="failed", reason="it hung")
    ranks = [{"rank": 0, "gpu": "NVIDIA H200"}]
    description = drawn(write_log(tmp_path, {"us": 33.0}, end=end, ranks=ranks))
    assert description.splitlines()[1] == "FAILED: it hung."
    for words in ("16 KiB 33 us", "Imported: shown, never judged.", "NVIDIA H200"):
        assert words in description


def test_special_characters_are_drawn_literally_and_stay_inside(tmp_path):
    """A name with dollars must not become a formula, and a long name must not push the answer off
    the picture."""
    path = write_run(tmp_path, n_blocks=2).path
    strange = r"$\\frac{1}{0}$ <script> \u001b[31m " + "x" * 400
    text = path.read_text()
    for name in ("AMD EPYC 9B45", "MPICH 5.0.2", "--seed"):
        text = text.replace(name, strange)
    path.write_text(text)
    description = drawn(path)
    assert "<script> ?[31m" in description
    assert r"$\frac{1}{0}$" in description


@pytest.mark.parametrize(
    ("run", "picture"),
    [
        ("log.txt", "a.png"),
        (".", "a.png"),
        ("run.jsonl", "a.svg"),
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
