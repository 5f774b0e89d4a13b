"""Launches of an archive that cannot be what they say, and noisy or short ones that can."""

import msgspec
import pytest

from tests.reports.forged_archive import add, edited, files, head, of
from tests.reports.synthetic_archive import OTHER, packed
from wiretax.record import archive

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("contributed")]
LAST, FIRST = "1a2b34", "1a2b30"
UNKNOWN_WAY: dict[str, object] = {"transports": {}}


def named(part, made):
    (path,) = (path for path in made if part in path)
    return path


def one_in_ms():
    """The last launch in another unit."""
    made, other = files(machine_id=OTHER), files(machine_id=OTHER, slower=1e-3)
    return made | {named(LAST, made): other[named(LAST, other)]}


def copied_with_other_times():
    """The first launch once more as the last one, 1 % slower."""
    made, other = files(machine_id=OTHER), files(machine_id=OTHER, slower=1.01)
    first = other[named(FIRST, other)]
    renamed = first.replace(b"06-16-00Z-allreduce-1a2b30", b"06-20-00Z-allreduce-1a2b34")
    return made | {named(LAST, made): renamed}


def single_calls_as_chains(line):
    for case in line.get("cases", [line] if line["kind"] == "case" else []):
        case["mode"] = "chained"


def faster_by_an_unknown_way():
    made, faster = edited(head(world__library=UNKNOWN_WAY)), files(machine_id=OTHER, slower=0.7)
    heads = {path: data.partition(b"\n")[0] for path, data in made.items() if "allreduce/" in path}
    blocks = {path: faster[path].partition(b"\n")[2] for path in heads}
    return made | {path: heads[path] + b"\n" + blocks[path] for path in heads}


@pytest.mark.parametrize(
    ("made", "fields", "reason"),
    [
        (one_in_ms, {}, "16 KiB by rccl, eager: 0.057 us are less than a flag takes one way"),
        (copied_with_other_times, {}, "the same round trips of flags: one is a copy"),
        (lambda: edited(of("block", n_wrong=None)), {}, "its figures are not those of its blocks"),
        (lambda: edited(single_calls_as_chains), {}, "the times of a block contradict each other"),
        (faster_by_an_unknown_way, {}, "63.5 GB/s are more than the 57.3 GB/s"),
        (
            lambda: edited(head(world__library={"library": "RCCL 2.20.0"})),
            {},
            "its cases are of another library than the run names",
        ),
        (
            lambda: files(machine_id=OTHER),
            {"made": "2999-01-01T00:00:00Z"},
            "it says that it was made on 2999-01-01: the machine's clock was wrong",
        ),
        (
            lambda: files(machine_id=OTHER),
            {"made": "2019-01-01T00:00:00Z"},
            "it says that it was made on 2019-01-01: the machine's clock was wrong",
        ),
    ],
)
def test_launches_that_contradict_themselves_are_refused(tmp_path, capsys, made, fields, reason):
    status, said, _ = add(capsys, packed(tmp_path / "survey.tar.gz", made(), **fields))
    assert status == 1
    assert [text for text in said["reasons"] if reason in text], said["reasons"]


def test_a_launch_that_was_cut_off_has_one_reason(tmp_path, capsys):
    """It has no time that its calls could have taken."""
    made = files(machine_id=OTHER)
    path = named(LAST, made)
    made = made | {path: b"\n".join(made[path].splitlines()[:-1]) + b"\n"}
    _, said, _ = add(capsys, packed(tmp_path / "survey.tar.gz", made))
    assert said["reasons"] == [f"{path}: it did not come to its end: it was cut off"]


def accepted(capsys, path):
    status, said, _ = add(capsys, path)
    assert (status, said["reasons"], len(said["rows"])) == (0, [], 6)


def test_a_noisy_block_is_no_forgery(tmp_path, capsys):
    """One of few calls was slow to read: the medians of a block have no common call."""
    made = dict(files(machine_id=OTHER))
    for path in [path for path in made if "allreduce/" in path]:
        lines = [msgspec.json.decode(line) for line in made[path].splitlines()]
        read = [line for line in lines if line["kind"] == "block" and line["consume_us"]]
        for case in {block["case"] for block in read}:
            # The shortest one: the median over blocks stays.
            own = [block for block in read if block["case"] == case]
            min(own, key=lambda block: block["time_us"])["time_us"] /= 4
        made[path] = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    accepted(capsys, packed(tmp_path / "survey.tar.gz", made))


def test_a_link_measured_with_short_messages_bounds_no_long_ones(tmp_path, capsys):
    """Time may run out before the long ones."""

    def shorten(line):
        for case in line.get("cases", [line] if line["kind"] == "case" else []):
            case["size_bytes"] = case["size_bytes"] and 1 << 20
            case["count"] = case["size_bytes"] // 4
            for name in ("alg_bw_gb_s", "bus_bw_gb_s"):
                case[name] = case.get(name) and case[name] / 64

    made = edited(shorten, where="link")
    accepted(capsys, packed(tmp_path / "survey.tar.gz", made))


def test_a_further_launch_without_time_takes_none_of_the_others(tmp_path, capsys):
    """It is no launch that was lucky or not."""
    made = dict(files(machine_id=OTHER, launches=6))
    path, reason = named("1a2b35", made), "time ran out before 6 of 6 cases were measured"
    lines = [msgspec.json.decode(line) for line in made[path].splitlines()]
    lines = [line for line in lines if line["kind"] in ("run", "case", "end")]
    for line in lines[1:-1]:
        figures = {name: None for name in line if name.endswith(("_us", "_gb_s", "n_wrong"))}
        line |= figures | {"status": "not measured", "n_steps": None, "slow_share": None}
    lines[-1] |= {"status": "incomplete", "reason": reason, "rtt_ns": None}
    made[path] = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    sent = archive.unpacked(packed(tmp_path / "survey.tar.gz", made))
    steps = archive.read_contents(sent).steps
    steps[-1].status = "failed"
    accepted(capsys, packed(tmp_path / "survey.tar.gz", made, steps=steps, status=3))


def test_a_card_that_others_used_is_noted(tmp_path, capsys):
    """Only the page of the survey said so, and no figure of its runs does."""
    remark = "GPU 0000:03:00.0 is in use: 97 % busy. Its times are not those of an idle one."
    made = files(machine_id=OTHER)
    path = packed(tmp_path / "survey.tar.gz", made, remarks=[remark, "MPS ran already."])
    _, said, _ = add(capsys, path)
    assert remark in said["notes"]
    assert "MPS ran already." not in said["notes"]
