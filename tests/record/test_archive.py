"""Archives of surveys: what comes out is what went in, and nothing else is taken."""

import gzip
import hashlib
import io
import tarfile
from functools import partial

import msgspec
import pytest

from bench.surveys.survey_archive import pack
from wiretax.common.untrusted import printable
from wiretax.record import archive
from wiretax.record.archive import CONTENTS, Contents, StepRecord, read_contents, unpacked
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

PAGE = "survey/index.html"
# Names of tests hold these bytes: with the time in them, two workers of pytest collect other tests.
squeezed = partial(gzip.compress, mtime=0)


def contents(files, steps=()):
    return msgspec.json.encode(
        Contents(
            made="2026-11-30T12:00:00Z",
            version="0.1.0",
            command="python -m bench.survey --quick -n 2",
            status=0,
            vendor="hip",
            ranks=2,
            shares_gpus=False,
            steps=list(steps),
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


def test_an_archive_gives_the_files_that_a_survey_packed(tmp_path):
    files = {"results/allreduce/20261130T120000-1a2b3c4d.jsonl": b"{}", "index.html": b"page"}
    path = tmp_path / "s.tar.gz"
    path.write_bytes(pack("survey-2026-11-30T12-00-00Z", files | {CONTENTS: contents(files)}))
    found = unpacked(path)
    assert read_contents(found).files.keys() == files.keys()
    assert {name: found[name] for name in files} == files


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"index.html": b"Page"}, "index.html was changed"),
        ({"more.json": b"{}"}, "do not have the same files: more.json"),
    ],
)
def test_a_file_that_is_not_the_listed_one_is_named(changed, sentence):
    files = {"index.html": b"page"}
    with pytest.raises(ResultError, match=sentence):
        read_contents(files | {CONTENTS: contents(files)} | changed)


def member(name, data=b"page", kind=tarfile.REGTYPE, size=None):
    """A file of a tar archive as its bytes; its header may claim another size."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data) if size is None else size, kind
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def extended(**records):
    """A file before which pax's records stand, such as another path."""
    info = tarfile.TarInfo(PAGE)
    info.size, info.pax_headers = 4, records
    return info.tobuf(tarfile.PAX_FORMAT) + b"page".ljust(tarfile.BLOCKSIZE, b"\0")


GOOD = member(PAGE)
END = bytes(2 * tarfile.BLOCKSIZE)


@pytest.mark.parametrize(
    ("tar", "sentence"),
    [
        (b"", "holds 0 folders"),
        (member(PAGE, size=2000), "a file ends early"),
        (b"\1" * 512, "invalid header"),
        (member(PAGE, size=1 << 40), "a file ends early"),
        (member(PAGE, size=-512), "a file ends early"),
        (member(PAGE, kind=tarfile.SYMTYPE, data=b""), "is no regular file"),
        (member(PAGE, kind=tarfile.LNKTYPE, data=b""), "is no regular file"),
        (member(PAGE, kind=tarfile.FIFOTYPE, data=b""), "is no regular file"),
        (member(PAGE, kind=tarfile.BLKTYPE, data=b""), "is no regular file"),
        (member("survey", kind=tarfile.DIRTYPE, data=b""), "is no regular file"),
        (member(PAGE, kind=tarfile.GNUTYPE_SPARSE), "is no regular file"),
        (member(PAGE, kind=tarfile.CONTTYPE), "is no regular file"),
        (member(PAGE, kind=tarfile.XGLTYPE), "is no regular file"),
        (extended(path="../../evil.html"), "is no regular file"),
        (member("survey/" + "a" * 200 + ".html"), "is no regular file"),  # GNU's long name
        (member("/survey/index.html"), "lies outside"),
        (member("survey/../index.html"), "lies outside"),
        (member("index.html"), "lies outside"),
        (member("survey/1/2/3/4/5/index.html"), "lies outside"),
        (member("./survey/index.html"), "a name that no survey gives"),
        (member("survey//index.html"), "a name that no survey gives"),
        (member("survey/\x1b[2J.html"), r"survey/\?\[2J.html has a name that no"),
        (member("survey/\u202elmth.html"), "a name that no survey gives"),
        (member("survey/index.sh"), "of no kind"),
        (GOOD + GOOD, "is there twice"),
        (GOOD + member("Survey/a.json"), "holds 2 folders"),
    ],
)
def test_a_hostile_tar_file_is_refused_in_a_sentence(tmp_path, tar, sentence):
    path = tmp_path / "s.tar.gz"
    path.write_bytes(squeezed(tar + END))
    with pytest.raises(ResultError, match=sentence) as refused:
        unpacked(path)
    assert printable(str(refused.value)) == str(refused.value)


WHOLE = squeezed(GOOD + END)


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        (b"", "its end is missing"),
        (WHOLE[:-9], "its end is missing"),
        (WHOLE[:-8] + bytes(8), "incorrect data check"),
        (b"PK" + WHOLE, "incorrect header check"),
        (WHOLE + b"more", "something follows its end"),
        (squeezed(b"") * 1000 + WHOLE, "something follows its end"),
        (WHOLE + bytes(100_000), "something follows its end"),
        (squeezed(bytes(3_000_000)), "unpacks to more than the 1 MB"),
        (squeezed(GOOD + b"\1" * 100), "truncated header"),
        (squeezed(GOOD + member("survey/a.json") + member("survey/b.json")), "the 2 files"),
    ],
)
def test_an_archive_that_is_damaged_or_too_large_is_refused(
    tmp_path, monkeypatch, packed, sentence
):
    monkeypatch.setattr(archive, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(archive, "MOST_FILES", 2)
    path = tmp_path / "s.tar.gz"
    path.write_bytes(packed)
    with pytest.raises(ResultError, match=sentence):
        unpacked(path)


def listed(**changes):
    """A step whose run is not in the archive, or another change of `survey.json`."""
    step = StepRecord(
        name="allreduce",
        launch=1,
        command="python -m bench.allreduce",
        status="done",
        sentence="4.9 us",
        elapsed_s=3.5,
        run="a.jsonl",
    )
    return contents({"a.jsonl": b"page"}, [msgspec.structs.replace(step, **changes)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (listed(run="../../secret.jsonl"), "names a run that is not in the archive: ../../sec"),
        (listed(run="/etc/a.jsonl"), "names a run that is not in the archive: /etc/a.jsonl"),
        (listed(run="./a.jsonl"), "names a run that is not in the archive"),
        (listed(run="index.html"), "damaged: Expected `str` matching regex"),
        (listed(elapsed_s=-1.0), "damaged: Expected `float` >= 0"),
        (listed(elapsed_s=1e308), "damaged: Expected `float` < 1"),
        (listed(run="\x1b.jsonl"), r"is not in the archive: \?.jsonl"),
        (listed(status="\x1bdone"), "Invalid enum value"),
        (listed(launch=0), "Expected `int` >= 1"),
        (contents({"\x1b.html": b""}), r"do not have the same files: \?.html"),
        (contents({"a.jsonl": b"", "../a.html": b""}), "not have the same files: ../a.html"),
        (b"[" * 100_000, "damaged"),
        (b'{"more":' * 100_000, "damaged"),
        (b'{"status": NaN}', "damaged"),
        (b"null", "damaged"),
        (b"\xff", "damaged"),
        (b" " * 2_000_001, "survey.json has more than the 2,000,000 bytes"),
    ],
)
def test_a_hostile_list_of_contents_is_refused_in_a_sentence(text, sentence):
    with pytest.raises(ResultError, match=sentence) as refused:
        read_contents({"a.jsonl": b"page", CONTENTS: text})
    assert printable(str(refused.value)) == str(refused.value)


def test_what_a_survey_says_is_printable():
    text = listed(sentence="4.9 us\x1b[2J")
    [step] = read_contents({"a.jsonl": b"page", CONTENTS: text}).steps
    assert step.sentence == "4.9 us?[2J"
