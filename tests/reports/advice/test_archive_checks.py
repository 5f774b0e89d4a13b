"""Forged and wrong archives of surveys: each is refused with its reason, and gives the tables
nothing."""

import io
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.reports.forged_archive import add, edited, files, head, of, ranks
from tests.reports.synthetic_archive import OTHER, SYNTHETIC, packed
from wiretax.record import archive

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("contributed")]


def halved_figures(line):
    if line["kind"] == "case":
        for name in ("time_us", "total_us"):
            line[name]["median"] /= 2
        line["bus_bw_gb_s"] *= 2


def halved_blocks(line):
    """Whoever changes blocks and cases, and no steps."""
    halved_figures(line)
    if line["kind"] == "block":
        for name in ("time_us", "total_us", "mean_us", "consume_us", "chain_only_us"):
            line[name] = line[name] and line[name] / 2


def shorter_alone(line):
    """The time alone, without the reading of the result, which the steps do not tell."""
    if line["kind"] == "block" and line["consume_us"]:
        line["time_us"] /= 4
        line["mean_us"] /= 4


def without_steps(line):
    if line["kind"] == "block":
        line["steps"] = None


def wrong(line):
    """Whoever writes `ok` beside it: the block says otherwise."""
    if line["kind"] == "block" and line["block"] == 1:
        line["n_wrong"] = 12


def on_cpus(line):
    if line["kind"] == "run":
        line["world"]["ranks"] = [{"rank": rank, "device": "cpu"} for rank in range(2)]


LAST, FIRST = "1a2b34", "1a2b30"
TIED = {"env.NCCL_PROTO": {"value": "Simple", "source": "environment variable", "status": "ok"}}
YESTERDAY = "2026-11-19T06-20-00Z-allreduce-1a2b34"


def of_yesterday(path):
    return path.replace("2026-11-20T06-20-00Z-allreduce-1a2b34", YESTERDAY)


def copied():
    """The first launch once more, under the name of the last one."""
    own = edited(lambda line: None)
    (last,), (first,) = ([path for path in own if text in path] for text in (LAST, FIRST))
    return own | {
        last: own[first].replace(b"06-16-00Z-allreduce-1a2b30", b"06-20-00Z-allreduce-1a2b34")
    }


FORGED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "edited figures": (
        lambda: edited(halved_figures),
        {},
        "1a2b30.jsonl: its figures are not those of its blocks",
    ),
    "edited blocks": (
        lambda: edited(halved_blocks, only=LAST),
        {},
        "1a2b34.jsonl: the time of a block is not the median of its steps",
    ),
    "edited times alone": (
        lambda: edited(shorter_alone),
        {},
        "the times of a block contradict each other",
    ),
    "steps removed": (
        lambda: edited(without_steps),
        {},
        "the times of a block contradict each other, or lack their steps",
    ),
    "a wrong result": (
        lambda: edited(wrong, only=LAST),
        {},
        "is wrong in 1 of 5 launches of its all-reduces",
    ),
    "a wrong result of the link": (
        lambda: edited(of("block", n_wrong=3), where="link"),
        {},
        "launches of its other runs",
    ),
    "one launch": (
        lambda: files(machine_id=OTHER, launches=1),
        {},
        "no all-reduce of NCCL, RCCL or auto has 5 launches",
    ),
    "a launch that was cut off": (
        lambda: edited(of("end", status="incomplete", reason="interrupted"), only=LAST),
        {},
        "1a2b34.jsonl: it did not come to its end: interrupted",
    ),
    "NCCL tied": (
        lambda: edited(head(environment=TIED)),
        {},
        "NCCL_PROTO changed what the library does by itself",
    ),
    "NCCL tied by its file": (
        lambda: edited(head(world__library={"set_by_file": {"NCCL_MAX_CTAS": "1"}})),
        {},
        "NCCL_MAX_CTAS changed what the library does by itself",
    ),
    "times in ms": (
        lambda: files(machine_id=OTHER, slower=1e-3),
        {},
        "16 KiB by rccl, eager: 0.055 us are less than a flag takes one way",
    ),
    "times in ns": (
        lambda: files(machine_id=OTHER, slower=1e3),
        {},
        "its times are too long, or in another unit",
    ),
    "faster than the link": (
        lambda: files(machine_id=OTHER, slower=0.7),
        {},
        "32 MiB by rccl, eager: 63.5 GB/s are more than the 57.3 GB/s that its link can carry",
    ),
    "two cards claimed, one used": (
        lambda: edited(ranks(pci_bus_id="0000:03:00.0"), where=""),
        {},
        "its ranks shared a GPU",
    ),
    "memory of one card": (
        lambda: edited(head(memory={"behaved": "same_device"})),
        {},
        "its ranks shared a GPU",
    ),
    "a survey of one card": (
        lambda: files(machine_id=OTHER),
        {"shares_gpus": True},
        "its ranks shared a GPU: no time of it measures a wire",
    ),
    "four cards claimed": (
        lambda: files(machine_id=OTHER),
        {"ranks": 4},
        "it does not name 4 GPUs by their bus ids, a card for each rank",
    ),
    "a survey of CPUs": (
        lambda: edited(on_cpus, where=""),
        {"vendor": ""},
        "it was measured on CPUs",
    ),
    "the software GPU": (
        lambda: edited(ranks(gpu="software GPU"), where=""),
        {},
        "'software GPU' is no card of reports/advice/specs.toml",
    ),
    "the software GPU by a card's name": (
        lambda: edited(ranks(memory_bytes=4 << 30), where=""),
        {},
        "has 4.00 GiB, and no data sheet in specs.toml is of such a card",
    ),
    "a synthetic archive": (
        lambda: files(machine_id=SYNTHETIC),
        {},
        "it is synthetic",
    ),
    "a machine with a name": (
        lambda: files(machine_id="alices-pc"),
        {},
        "the id of its machine is not what Wiretax writes",
    ),
    "launches of two machines": (
        lambda: edited(head(machine_id="0a0b0c0d0e0f"), only=LAST),
        {},
        "its runs are of several machines",
    ),
    "launches of two libraries": (
        lambda: edited(head(software_id="0a0b0c0d0e0f"), only=LAST),
        {},
        "its all-reduces ran with several versions of software",
    ),
    "a run of another date": (
        lambda: edited(head(run_id=YESTERDAY), only=LAST, name=of_yesterday),
        {},
        f"the run {YESTERDAY} began outside of the survey",
    ),
    "two runs of one name": (
        lambda: edited(head(run_id="2026-11-20T06-16-00Z-allreduce-1a2b30"), only=LAST),
        {},
        "two of its runs have one run_id",
    ),
    "one launch twice": (copied, {}, "two of its launches have the same times: one is a copy"),
    "a run of no step": (
        lambda: files(machine_id=OTHER),
        {"steps": []},
        "is a run of no step",
    ),
    "a name with markup": (
        lambda: edited(ranks(gpu="AMD Radeon AI PRO R9700 <img src=x>"), where=""),
        {},
        "the name of its GPU has characters that no driver's name has",
    ),
    "a name with control characters": (
        lambda: edited(ranks(gpu="AMD Radeon AI PRO R9700\x1b[31m"), where=""),
        {},
        "the name of its GPU has characters that no driver's name has",
    ),
    "a driver that is a link": (
        lambda: edited(ranks(driver="see www.example.com"), where=""),
        {},
        "a name in its runs has markup",
    ),
    "a version that is a formula": (
        lambda: edited(head(version="=A1+1"), where=""),
        {},
        "a name in its runs has markup",
    ),
    "a newer version": (
        lambda: files(machine_id=OTHER),
        {"version": "99.0.0"},
        "Wiretax 99.0.0 made it, which is newer than",
    ),
    "a survey with a wrong result": (
        lambda: files(machine_id=OTHER),
        {"status": 1},
        "its survey ended with exit status 1: a result was wrong",
    ),
    "a survey without a time": (
        lambda: files(machine_id=OTHER),
        {"made": "now"},
        "survey.json does not say in UTC when the survey was made",
    ),
    "a schema of tomorrow": (
        lambda: files(machine_id=OTHER),
        {"schema": 2},
        "survey.json is damaged",
    ),
    "hashes of other files": (
        lambda: files(machine_id=OTHER),
        {"files": {}},
        "survey.json and the archive do not have the same files",
    ),
    "a damaged run": (
        lambda: edited(of("block", case=99), only=LAST),
        {},
        "1a2b34.jsonl: a block belongs to a case that was not planned",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_archive_is_refused_with_its_reason(tmp_path, capsys, contributed, name):
    made, fields, reason = FORGED[name]
    path, before = packed(tmp_path / "survey.tar.gz", made(), **fields), contributed.read_bytes()
    status, said, _ = add(capsys, path)
    assert status == 1
    assert [text for text in said["reasons"] if reason in text], said["reasons"]
    assert not [text for text in said["reasons"] if str(tmp_path) in text or "/tmp" in text]
    assert (said["is_accepted"], said["is_written"]) == (False, False)
    assert contributed.read_bytes() == before


def test_launches_that_time_ended_count(tmp_path, capsys):
    """Each step of a survey has a limit, at which the last cases may have no block."""
    reason = "time ran out before 3 of 9 cases were measured"
    made = edited(of("end", status="incomplete", reason=reason))
    status, said, _ = add(capsys, packed(tmp_path / "survey.tar.gz", made))
    assert (status, said["reasons"], len(said["rows"])) == (0, [], 6)


def test_a_launch_that_failed_is_told(tmp_path, capsys):
    """The others would be the lucky ones. One that time left out says nothing about them."""
    made = files(machine_id=OTHER)
    path = packed(tmp_path / "survey.tar.gz", made)
    steps = archive.read_contents(archive.unpacked(path)).steps
    steps[-1].status, steps[-1].sentence = "failed", "a rank ended"
    path = packed(tmp_path / "survey.tar.gz", made, steps=steps, status=3)
    status, said, _ = add(capsys, path)
    assert status == 1
    assert "launch 5 of the step allreduce is failed: a rank ended" in said["reasons"]
    steps[-1].status = "not run"
    path = packed(tmp_path / "survey.tar.gz", made, steps=steps, status=3)
    assert add(capsys, path)[0] == 0


def linked(path):
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo("survey/survey.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)


def escaping(path):
    with tarfile.open(path, "w:gz") as file:
        file.addfile(tarfile.TarInfo("survey/../../escaped.json"), io.BytesIO())


def endless(path):
    packed(path, {"logs/bomb.txt": b"0" * 1_000_000})


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (linked, "survey.json is no regular file"),
        (escaping, "lies outside the archive's folder"),
        (endless, "unpacks to more than the 0 MB that are read"),
        (lambda path: path.write_text("an archive"), "is no archive"),
        (lambda path: None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_archive_is_one_sentence(
    tmp_path, capsys, monkeypatch, contributed, write, complaint
):
    monkeypatch.setattr(archive, "MOST_BYTES", 100_000)
    before = contributed.read_bytes()
    write(path := tmp_path / "survey.tar.gz")
    status, said, complained = add(capsys, path)
    assert (status, said) == (2, {})
    assert complaint in complained
    assert complained.count("\n") == 1
    assert contributed.read_bytes() == before
    assert not [*tmp_path.rglob("escaped.json")]


STEP = {"launch": 1, "command": "", "status": "done", "sentence": "", "elapsed_s": 1.0}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (head(environment={"gpu.links": {"value": "PCIe 6 x7"}}), {}),
        (head(world__ranks=[]), {}),
        (head(world__size=10**6), {}),
        (ranks(driver={"a": 1}, gpu="x" * 10_000), {}),
        (ranks(host={"a": 1}), {}),
        (ranks(memory_bytes=10**40), {}),
        (of("run", imported_from="nccl-tests"), {}),
        (of("block", n=0), {}),
        (of("block", time_us=0.0, total_us=0.0), {}),
        (of("end", elapsed_s=None), {}),
        (of("case", time_us=None), {}),
        (dict, {"made": "0001-01-01T00:00:00Z"}),
        (dict, {"made": "2026-11-20T06:22:00"}),
        (dict, {"steps": [STEP | {"name": "allreduce\x1b[31m", "run": "results/none.jsonl"}]}),
        (dict, {"version": "\x1b[31m" + "9" * 5000}),
    ],
)
def test_what_nobody_writes_is_refused_without_a_traceback(tmp_path, capsys, change, fields):
    path = packed(tmp_path / "survey.tar.gz", edited(change), **fields)
    status, said, complained = add(capsys, path)
    assert (status, complained) == (1, "")
    assert said["reasons"]
    assert not [text for text in said["reasons"] if len(text) > 500 or "\x1b" in text]


@pytest.mark.parametrize(
    "changes",
    [
        {"memory__requested": [["mapped"]]},
        {"environment": {"cpu.model": {"value": {"EPYC": ["www.example.com"]}}}},
        {"world__library": [1, 2]},
        {"world__library": {"library": ["RCCL"]}},
        {"method": {"graph": [1]}},
    ],
)
def test_what_no_row_needs_may_have_any_form(tmp_path, capsys, changes):
    path = packed(tmp_path / "survey.tar.gz", edited(head(**changes)))
    status, said, complained = add(capsys, path)
    assert (status, complained) == (0, "")
    assert not [row for row in said["rows"] if "example" in row["machine"]]
