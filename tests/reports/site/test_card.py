"""Tests `reports card`: a picture to share. The picture's description holds its text for screen readers."""

import re

import numpy as np
import pytest
from PIL import Image

from reports.__main__ import main
from reports.imports.imported import (
    ImportedCase,
    ImportedFrom,
    ImportedRun,
    ImportedSummary,
    write_imported,
)
from reports.store.case import COMPUTE, find_states
from reports.store.schema import End
from reports.tables.rows import default_rows
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_together import FUSED, THEN, Made, always, steps


def drawn(folder, path):
    """The text of a card. Check that the card has the standard size for sharing and that no text reaches the edges."""
    assert main(["card", str(path), str(folder / "card.png")]) == 0
    with Image.open(folder / "card.png") as picture:
        assert picture.size == (1200, 630)
        pixels = np.asarray(picture.convert("L"))
        edges = [pixels[:12], pixels[-12:], pixels[:, :12], pixels[:, -12:]]
        assert min(edge.min() for edge in edges) > 250, "something is cut off"
        assert pixels.min() < 50
        return picture.info["Description"]


def test_the_answer_and_the_command_match_the_table(tmp_path):
    """A shared picture must not claim a result that the run did not measure."""
    result = write_run(tmp_path, n_blocks=14)
    words = drawn(tmp_path, result.path).splitlines()
    row = default_rows(result, ("isolated", None), find_states(result.blocks))[0]
    assert row.ratio
    ratio, low, high = row.ratio
    assert re.fullmatch(
        r"allreduce: 16 KiB 4\.\d us \(1\.7\dx MPICH\), 32 MiB 7\.\d GB/s \(1\.4\dx\)", words.pop(1)
    )
    assert words[:2] == ["allreduce: 2 ranks on AMD EPYC 9B45, cores 0 1",
                         f"ours {ratio:.2f}x as fast as MPICH 5.0.2 at 16 KiB [{low:.2f} {high:.2f}]"]  # fmt: skip
    assert re.fullmatch(r"busbw 7\.\d\d GB/s at 32 MiB, \d\d% of the bound\.", words[2])
    assert re.match(r"A 70B 4-bit token at TP 2: 160 x .* flips at 194 us", words[3])
    assert words[4:] == ["mpirun -n 2 python -m bench.allreduce --seed 7",
                         "Wiretax 0.1.0, 2026-11-20 06:15 UTC; [ ]: 95 % interval, this launch"]  # fmt: skip
    assert sorted(path.suffix for path in tmp_path.glob("card*")) == [".png"]


def test_an_incomplete_or_wrong_run_is_marked_first(tmp_path):
    """Otherwise a run with wrong sums would give the fastest card."""

    def wrong(block):
        block.n_wrong = 3 if block.case == 1 else 0
        return block

    cut_off = drawn(
        tmp_path, write_run(tmp_path / "cut", n_blocks=4, finish=False).path
    ).splitlines()
    assert cut_off[1] == "INCOMPLETE: the run was cut off."
    assert re.fullmatch(
        r"ours .*, MPICH 5\.0\.2 .* us at 16 KiB: no clear difference \(too few blocks\)",
        cut_off[3],
    )
    lines = drawn(tmp_path, write_run(tmp_path / "wrong", change=wrong).path).splitlines()
    assert lines[1].startswith("WRONG RESULTS: auto 16 KiB isolated")
    assert "as fast as" not in "".join(lines)


@pytest.mark.parametrize("algorithms", [("library",), ("auto",)])
def test_the_card_shows_only_measured_algorithms(tmp_path, algorithms):
    description = drawn(
        tmp_path, write_run(tmp_path, sizes=[4096], algorithms=algorithms, modes=["isolated"]).path
    )
    name = {"library": "MPICH 5.0.2", "auto": "ours"}[algorithms[0]]
    assert re.search(f"{name} .* us at 4 KiB", description)
    assert "as fast as" not in description


def test_steps_and_fused_products_have_their_verdicts(tmp_path):
    assert "PP/TP" in drawn(tmp_path, steps(tmp_path / "step", 10.0, 12.0, 20.0).path)
    layer = Made(tmp_path / "layer").run(
        {COMPUTE: always(10.0), FUSED: always(11.0), THEN: always(15.0)}
    )
    assert "fused exposes 4.00" in drawn(tmp_path, layer.path)


def test_an_imported_log_is_marked_as_one(tmp_path):
    """A vendor's figure must not look measured."""
    run = ImportedRun(run_id="import-abc-1", benchmark="nccl-tests all_reduce", statistic="mean over iterations",
                      world={"size": 2, "ranks": [{"rank": 0, "gpu": "NVIDIA H200"}]},
                      imported_from=ImportedFrom(file="log", format="nccl-tests", first_line=1, last_line=9),
                      )  # fmt: skip
    case = ImportedCase(
        case=0, collective="all_reduce", size_bytes=16384, time_us=ImportedSummary(mean=33.0)
    )
    path, _ = write_imported(tmp_path, run, [case], End(status="failed", reason="it hung"))
    description = drawn(tmp_path, path)
    assert description.splitlines()[1] == "FAILED: it hung."
    assert "nccl-tests all_reduce: 16 KiB 33 us" in description
    assert "Imported: shown, never judged." in description
    assert "NVIDIA H200" in description


def test_special_characters_are_drawn_literally_and_stay_inside(tmp_path):
    """A name with dollars must not become a formula, and a long name must not push the answer off the picture."""
    path = write_run(tmp_path, n_blocks=2).path
    strange = r"$\\frac{1}{0}$ <script> \u001b[31m " + "x" * 400
    path.write_text(path.read_text().replace("AMD EPYC 9B45", strange).replace("MPICH 5.0.2", strange)
                    .replace('["--seed","7"]', f'["{strange}"]'))  # fmt: skip
    description = drawn(tmp_path, path)
    assert "<script> ?[31m" in description
    assert r"$\frac{1}{0}$" in description


def test_a_bad_run_or_picture_path_is_refused_in_one_sentence(tmp_path, capsys):
    path = write_run(tmp_path, n_blocks=2).path
    (tmp_path / "log.txt").write_text("hello\n")
    (tmp_path / "b.png").mkdir()
    for run, picture in ((tmp_path / "log.txt", "a.png"), (tmp_path, "a.png"), (tmp_path / "gone", "a.png"),
                         (path, "a.svg"), (path, "no/folder/a.png"), (path, "b.png")):  # fmt: skip
        assert main(["card", str(run), str(tmp_path / picture)]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert not [*tmp_path.glob("a.*"), *tmp_path.glob("*.part")]
