"""Archives of surveys: what comes out is what went in, and nothing else is written."""

import hashlib
import io
import tarfile

import msgspec
import pytest

from wiretax.record.archive import CONTENTS, Contents, read_contents, unpacked
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit


def contents(files):
    return msgspec.json.encode(
        Contents(
            made="2026-11-30T12:00:00Z",
            version="0.1.0",
            command="python -m bench.survey --quick -n 2",
            status=0,
            vendor="hip",
            ranks=2,
            shares_gpus=False,
            steps=[],
            files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        )
    )


def packed(path, files):
    """An archive with these files below one folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"survey/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_an_archive_gives_its_files_with_their_hashes(tmp_path):
    files = {"results/allreduce/a.jsonl": b"{}", "index.html": b"page"}
    path = packed(tmp_path / "s.tar.gz", files | {CONTENTS: contents(files)})
    with unpacked(path) as folder:
        assert read_contents(folder).files.keys() == files.keys()
        assert (folder / "index.html").read_bytes() == b"page"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"index.html": b"Page"}, "index.html was changed"),
        ({"more.json": b"{}"}, "do not have the same files: more.json"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_named(tmp_path, changed, sentence):
    files = {"index.html": b"page"}
    path = packed(tmp_path / "s.tar.gz", files | {CONTENTS: contents(files)} | changed)
    with unpacked(path) as folder, pytest.raises(ResultError, match=sentence):
        read_contents(folder)
