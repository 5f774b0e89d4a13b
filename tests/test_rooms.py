"""Optional rooms of the core: everything else works without their files and registrations.

Each test deletes a room from a copy of the project and runs the copy.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.bench.launches import launch, run
from tests.launch import FULL, ROOT

LAYERS = ("bench", "collectives", "kernels", "reports")
SMALL = "-b 16K -e 16K -n 1 --mode isolated --max-time 60 --lean"


@dataclass(frozen=True)
class Room:
    """Its files and folders, the text of its registrations in other files, and an option that goes
    with it."""

    paths: Sequence[str]
    registrations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    option: str = ""


FEATURES = "bench/features/__init__.py"
ROOMS = {
    "arrival_skew": Room(
        ["bench/features/arrival_skew.py"],
        {
            FEATURES: [
                "from bench.features.arrival_skew import ArrivalSkew\n",
                "    ArrivalSkew,\n",
            ]
        },
        "--arrival-skew 5us",
    ),
    "slowed": Room(
        ["bench/features/slowed.py", "kernels/slowed.cu"],
        {FEATURES: ["from bench.features.slowed import Slowed\n", "    Slowed,\n"]},
        "--slowed-percent 3",
    ),
    "peers": Room(
        ["collectives/peers", "bench/features/peers.py", "reports/tables/peers.py"],
        {
            "bench/allreduce.py": ["from bench.features.peers import Peers\n", ", Peers"],
            "reports/tables/table.py": [
                "from reports.tables.peers import peer_tables\n",
                "                *peer_tables(part, view, rows, states),\n",
            ],
        },
        "--peer vllm",
    ),
    "soak": Room(
        ["bench/soak.py", "bench/features/soak.py", "bench/features/soak_options.py"],
        {FEATURES: ["from bench.features.soak_options import SoakOption\n", "    SoakOption,\n"]},
        "--soak 1s",
    ),
    "footprint": Room(
        [
            "bench/footprint.py",
            "bench/features/footprint.py",
            "bench/features/background.py",
            "kernels/gemm.cu",
        ]
    ),
    "quantised": Room(
        ["collectives/quantized.py", "kernels/allreduce_two_shot_quantized.cu"],
        {
            "collectives/algorithm.py": [
                '    "all_reduce": quantized.ALGORITHMS,\n',
                "quantized, ",
            ]
        },
    ),
}


def without(folder: Path, room: Room) -> Path:
    """A copy of the folders that the program needs, without a room. Each registration stands in its
    file once."""
    for layer in LAYERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / layer, folder / layer, ignore=ignored)
    for name in room.paths:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, pieces in room.registrations.items():
        text = (folder / name).read_text()
        for piece in pieces:
            assert text.count(piece) == 1, f"{name} has {piece!r} {text.count(piece)} times"
            text = text.replace(piece, "")
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", ROOMS)
def test_without_a_room_everything_else_works(tmp_path, name):
    room = ROOMS[name]
    tree, out = without(tmp_path / "tree", room), tmp_path / "results"
    _, result = run(out, SMALL, tree=tree)
    assert result.complete
    assert {(case.status, case.n_wrong) for case in result.cases} == {("ok", 0)}
    if room.option:
        done = launch(out, room.option, tree=tree, ranks=None)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"bench.allreduce: unrecognized arguments: {room.option}\n"
    if name == "quantised":
        listed = launch(out, "--list", tree=tree, ranks=None)
        assert (listed.returncode, listed.stderr) == (0, "")
        assert "two_shot " in listed.stdout
        assert "two_shot_int8" not in listed.stdout
        done = launch(out, "--algorithm two_shot_int8", tree=tree)
        assert done.returncode == 2
        assert "unknown algorithm 'two_shot_int8'" in done.stderr
    if name == "quantised" and FULL:
        soaked = launch(tmp_path, "--soak 1s -e 16K -d float -o sum", tree=tree)
        assert (soaked.returncode, soaked.stderr) == (0, "")
