"""Archives of surveys: what comes out is what went in, and nothing else is taken."""

import gzip
import tarfile
from functools import partial

import msgspec
import pytest

from tests.reports.synthetic_archive import listed, packed
from wiretax.common.untrusted import printable
from wiretax.record import archive
from wiretax.record.archive import CONTENTS, StepRecord, read_contents, unpacked
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

PAGE = "survey/index.html"
# Names of tests hold these bytes: with the time in them, two workers of pytest collect other tests.
squeezed = partial(gzip.compress, mtime=0)


def test_an_archive_gives_the_files_that_a_survey_packed(tmp_path):
    files = {"results/allreduce/20261130T120000-1a2b3c4d.jsonl": b"{}", "index.html": b"page"}
    found = unpacked(packed(tmp_path / "s.tar.gz", files))
    assert read_contents(found).files.keys() == files.keys()
    assert {name: found[name] for name in files} == files


def test_a_file_with_another_ending_is_no_archive(tmp_path):
    """Paths into it would not lead into an archive."""
    path = packed(tmp_path / "s.zip", {"index.html": b"page"})
    with pytest.raises(ResultError, match=r"its name ends in none of \.tar\.gz, \.tgz"):
        unpacked(path)


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
        read_contents(files | {CONTENTS: listed(files)} | changed)


def member(name, data=b"page", kind=tarfile.REGTYPE, size=None):
    """A file of a tar archive as its bytes; its header may claim another size."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data) if size is None else size, kind
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def extended(path):
    """A file before which a record of pax stands, with another path."""
    info = tarfile.TarInfo(PAGE)
    info.pax_headers = {"path": path}
    return info.tobuf(tarfile.PAX_FORMAT)


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
        (extended("../../evil.html"), "is no regular file"),
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


def of_step(**changes):
    """`survey.json` of one step and its run, with these changes of the step."""
    step = StepRecord(
        name="allreduce",
        launch=1,
        command="python -m bench.allreduce",
        status="done",
        sentence="4.9 us",
        elapsed_s=3.5,
        run="a.jsonl",
    )
    return listed({"a.jsonl": b"page"}, steps=[msgspec.structs.replace(step, **changes)])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (of_step(run="../../secret.jsonl"), "names a run that is not in the archive: ../../sec"),
        (of_step(run="/etc/a.jsonl"), "names a run that is not in the archive: /etc/a.jsonl"),
        (of_step(run="./a.jsonl"), "names a run that is not in the archive"),
        (of_step(run="index.html"), "damaged: Expected `str` matching regex"),
        (of_step(elapsed_s=-1.0), "damaged: Expected `float` >= 0"),
        (of_step(elapsed_s=1e308), "damaged: Expected `float` < 1"),
        (of_step(run="\x1b.jsonl"), r"is not in the archive: \?.jsonl"),
        (of_step(status="\x1bdone"), "Invalid enum value"),
        (of_step(launch=0), "Expected `int` >= 1"),
        (listed({"\x1b.html": b""}), r"do not have the same files: \?.html"),
        (listed({"a.jsonl": b"", "../a.html": b""}), "not have the same files: ../a.html"),
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
    text = of_step(sentence="4.9 us\x1b[2J")
    [step] = read_contents({"a.jsonl": b"page", CONTENTS: text}).steps
    assert step.sentence == "4.9 us?[2J"
