"""`auto` and the tuning table: which choice a case takes, and which table is refused."""

import os
from dataclasses import replace

import pytest

from bench.harness import tuned
from bench.harness.head import Machine
from bench.harness.session import MEASURED, program_digest
from collectives.auto_table import check, lines_of, written
from collectives.choice import shipped_rows
from collectives.operation import ChoiceRow
from collectives.registry import ALGORITHMS
from tests.bench.launches import launch
from wiretax.record.result import ResultError

MACHINE = Machine({}, [], None, "a1b2c3", "d4e5f6")
HEAD = tuned.Head("a1b2c3", "d4e5f6", "2026-tune", "1.0 (a)")
WHERE = {"variant": "copied", "memory": "mapped", "ranks": 2, "hosts": 1}
ROW = {"algorithm": "ring", "size_bytes": (16384, 16384), "where": WHERE}


# -- the table of a run


def loaded(path):
    return tuned.load(path, tuned.read(path, MACHINE)[1])


def text(head=HEAD, **row):
    """A table with one row, in the words of the file."""
    return "\n".join([*lines_of(vars(head)), written([ChoiceRow("all_reduce", **ROW | row)])])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            text(replace(HEAD, machine_id="0" * 12)),
            "was made on another machine or with other software (000000000000, ",
        ),
        (text(algorithm="two_shot+fast"), "bench.tune: 'fast' is not one of nt, ntr"),
        (text(algorithm="two_shot_int8"), "bench.tune: auto does not choose two_shot_int8"),
        (
            text(where=WHERE | {"weather": "fine"}),
            "bench.tune: Object contains unknown field `weather`",
        ),
        (
            text(where=WHERE | {"ranks": ["two"]}),
            "bench.tune: Expected `array` of length >= 2 - at `$.ranks`",
        ),
        ("deep = " + "[" * 100_000, "is not a table of bench.tune: "),
        ("k = 1\n" * 200_000, "its 1 MB are more than the 1 MB that are read"),
        (text(size_bytes=[16384, 1]), "bench.tune: sizes from 16384 to 1 B"),
    ],
)
def test_a_table_from_another_machine_or_a_damaged_table_is_refused(tmp_path, content, sentence):
    """Otherwise the run would measure another machine's best choice as this machine's."""
    table = tmp_path / "table.toml"
    table.write_text(content)
    with pytest.raises(ResultError) as refusal:
        loaded(table)
    assert sentence in str(refusal.value)


def test_a_table_moves_no_cursor_and_one_that_is_a_pipe_is_refused(tmp_path):
    """Every run's notes name the run that made its table. At a pipe the ranks would wait for a
    writer until the watchdog ends them."""
    table = tmp_path / "hostile.toml"
    table.write_text(text(replace(HEAD, run_id="\x1b[2J")))
    used = "auto uses the table that bench.tune made in ?[2J"
    assert tuned.find(str(table), MACHINE)[1].startswith(used)
    os.mkfifo(tmp_path / "table.toml")
    with pytest.raises(ResultError, match="it is not an ordinary file"):
        loaded(tmp_path / "table.toml")


def test_this_machines_table_is_used_only_by_the_code_that_made_it(tmp_path, monkeypatch):
    """A table of another checkout was used silently: it chose up to 1.35 times slower than the
    best."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    own, path = program_digest(*MEASURED), tuned.path_of(None, MACHINE)
    other = "0.1.0 (0000000)"
    assert tuned.find(None, MACHINE) == ([], "")

    def found(name, program, **row):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(replace(HEAD, program=program), **row))
        rows, sentence = tuned.find(name, MACHINE)
        return [row.algorithm for row in rows], sentence

    assert found(None, own)[0] == ["ring"]
    names, sentence = found(None, other)
    assert (names, sentence.startswith("auto uses its defaults, not the table ")) == ([], True)
    assert found(str(path), other)[0] == ["ring"]
    # An older version knew algorithms that are gone.
    assert found(None, other, algorithm="three_shot")[0] == []


def test_the_suites_own_tables_hold_what_a_row_may_hold():
    rows = shipped_rows()
    assert rows
    check(rows, ALGORITHMS)
    assert all(row.runs for row in rows), "a row without a run that supports it"


def test_a_run_with_a_refused_table_prints_one_sentence_and_measures_nothing(tmp_path):
    done = launch(tmp_path / "out", "--sizes 16K --tuned", tmp_path / "table.toml")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("bench.allreduce: --tuned: rank 0: ")
    assert "table.toml cannot be read: No such file or directory" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
