"""The command `import` on logs that are damaged, cut off, hostile or say what cannot be."""

from pathlib import Path

import pytest

from reports import import_mpi, logged
from reports.import_logs import find_tests
from reports.result import ResultError
from tests.test_import import imported, put
from tests.test_import_formats import BOTH, WHOLE, halves, only


@pytest.mark.parametrize("line", ["A-1", "[1", "A", "_", "1,", "[1,0][", "A1.", " ", "\x1b[", "> ", "a_1 |"])
def test_a_long_line_takes_time_with_its_length_alone(line):
    """A hostile log of a few megabytes would keep the importer busy for hours: this test would not come to its end."""
    text = line * 60_000
    logged.LABELS.match(text)
    logged.MESSAGE.search(text)
    import_mpi.COLUMN.findall(f"Size {text}")
    noise = f"# OSU MPI Latency Test v7.1\nSize {text}\nNCCL version{text}\nMPI_{text}:\n"
    assert halves(find_tests(Path("log"), (WHOLE + noise).encode())[0]) == BOTH


@pytest.mark.parametrize("kept", [
    lambda text: text.encode() + bytes(4000), lambda text: text.encode("utf-16") + bytes(4000),
    lambda text: text.encode("utf-16-le"), lambda text: text.encode("utf-16-be") + bytes(4000)])
def test_what_a_crash_and_another_system_leave(kept):
    """The log of a machine that went down, or one written by Windows, would be refused whole."""
    (test,) = find_tests(Path("log"), kept(WHOLE))
    assert (halves(test), test.unread) == (BOTH, [])


@pytest.mark.parametrize("content", [bytes(5000), b"# a\0b\n" * 9, WHOLE.encode() + b"\0\0x"])
def test_what_is_binary_stays_refused(content):
    with pytest.raises(ResultError, match=r"is binary, not a log|is empty"):
        find_tests(Path("log"), content)


def test_a_damaged_import_is_repaired(tmp_path, capsys):
    """Who imports again after a full disk or a bad edit would keep the damaged figures."""
    log = put(tmp_path / "a.log", WHOLE)
    (path,) = imported(tmp_path / "out", log)
    whole = path.read_bytes()
    for damaged in (whole[:-40], b"", whole.replace(b"17.93", b"11.93"), whole.replace(b"a.log", b"a\\u001b[2J"),
                    whole + b"x"):
        path.write_bytes(damaged)
        capsys.readouterr()
        assert imported(tmp_path / "out", log) == [path]
        assert capsys.readouterr().out.endswith(f"{path} (written anew)\n")
        assert (path.read_bytes(), list(path.parent.iterdir())) == (whole, [path])


@pytest.mark.parametrize(("name", "datatype", "redop"), [
    ("Multi-Allreduce", "float32", "sum"), ("Iallreduce", "float32", "sum"), ("Ireduce_scatter_pure", "float32", "sum"),
    ("Accumulate", "float32", "sum"), ("Multi-Bcast", "uint8", None), ("Ibcast", "uint8", None)])
def test_what_imb_reduces(name, datatype, redop):
    """A reduction of floats would be shown as one of bytes."""
    (case,) = only("# Intel(R) MPI Benchmarks 2021.3, MPI-1 part\n# MPI_Datatype : MPI_BYTE\n"
                   "# MPI_Datatype for reductions : MPI_FLOAT\n# MPI_Op : MPI_SUM\n"
                   f"# Benchmarking {name}\n# #processes = 4\n"
                   "#bytes #repetitions t_ovrl[usec] t_pure[usec]\n4 1000 3.5 1.5\n").cases
    assert (case.datatype, case.redop) == (datatype, redop)
