"""The model of `auto` between GPUs, held against archived all-reduces, and the wire that it is fed
with, as ranks measure it on the software GPU."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from bench.tuning.search import candidates
from collectives.auto_table import parsed
from collectives.choice import ranked
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import ChoiceRow, CollectiveCase
from collectives.peer_buffer import WireSpeed
from collectives.probe import WIRE_BYTES
from collectives.registry import ALGORITHMS
from collectives.wire_cost import Moved, cost_us, rounds_of
from docs.experiments import model_regret
from tests import fake_gpu
from tests.kernels.broken_kernels import UNCHANGED, Patch, copy_kernels
from tests.launch import ROOT, printed
from tests.reports.archived import unpack
from wiretax.record.result import read

ARCHIVES = "h100", "h100-nccl", "h100-wire", "h100-decode", "h200", "h200-card"
COUNTED = re.compile(r"Z-(link|allreduce)-\w{6}\.jsonl$")
PAGE = ROOT / "docs/experiments/auto.md"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Any:
    """The runs of one card that its page takes."""
    folders = [unpack(tmp_path_factory.mktemp(name), name) for name in ARCHIVES]
    paths = sorted(chain.from_iterable(folder.glob("*.jsonl") for folder in folders))
    return [read(path) for path in paths if COUNTED.search(path.name)]


def all_reduce(size_bytes: int) -> CollectiveCase:
    return CollectiveCase(
        COLLECTIVES["all_reduce"], size_bytes // 4, DATATYPES["float32"], "sum", 0, 0
    )


def model_us(memory: str, wire: WireSpeed, name: str, size_bytes: int) -> float:
    algorithm = parsed(name, ALGORITHMS["all_reduce"])
    world = model_regret.world_over(memory, wire)
    return cost_us(world, algorithm, all_reduce(size_bytes), wire)


def rows_below(heading: str) -> list[str]:
    """The rows of the table of auto.md whose first heading this is."""
    table = PAGE.read_text().partition(f"| {heading} |")[2].partition("\n\n")[0]
    return table.splitlines()[2:]


def test_the_model_chooses_as_the_archived_figures_say(results):
    """Through host memory it took one-shot at all sizes, and up to 32 % longer."""
    found = model_regret.choices(results)
    rows = rows_below("memory, variant, mode")
    assert len(rows) == 6
    assert model_regret.rows_of(found) == rows
    for group, ways in found.items():
        by_model = [choice.ratio for choice, _ in ways]
        if group.memory == "host_staged":
            assert max(by_model) < 1.05
    large = [
        choice
        for choice, _ in found[model_regret.Group("host_staged", "copied", "chained")]
        if 4 << 20 <= choice.size_bytes <= 16 << 20
    ]
    assert {choice.name for choice in large} == {"two_shot_push+1024K"}
    assert len(large) >= 3


def test_the_page_has_the_times_of_the_model_through_host_memory(results):
    links = [each for each in results if "H200" in str(each.run.gpus)]
    links = [each for each in links if each.run.benchmark == "link"]
    (wire,) = [
        wire
        for (_, memory), wire in model_regret.wires_of(links).items()
        if memory == "host_staged"
    ]
    rows = rows_below("through host memory")
    assert len(rows) == 3
    for row in rows:
        name, *told = [cell.strip() for cell in row.strip("|").split("|")]
        times_us = [
            model_us("host_staged", wire, name, size << 20) for size in (1, 2, 4, 8, 16, 32)
        ]
        assert [f"{us:.0f}" for us in times_us] == told


@pytest.mark.unit
def test_the_page_has_the_times_of_the_model_over_pcie():
    wire = WireSpeed(3000.0, 50.0, 40.0, (), 25.0, 1.5)
    rows = iter(rows_below("copies in the own memory"))
    sizes = 1 << 20, 4 << 20, 16 << 20, 32 << 20
    chunks = "", "+1024K", "+2048K", "+4096K"
    for row in rows:
        beside = wire._replace(own_gb_s=(float(row.split()[1].replace(",", "")),))
        one = [f"{model_us('mapped', beside, 'one_shot_push', size):.0f}" for size in sizes]
        assert [cell.strip() for cell in row.strip("|").split("|")][1:] == one
        told = [cell.strip().split(",")[0] for cell in next(rows).strip("|").split("|")][1:]
        best = [
            min(model_us("mapped", beside, f"two_shot_push{chunk}", size) for chunk in chunks)
            for size in sizes
        ]
        assert [f"{us:.0f}" for us in best] == told


@pytest.mark.unit
def test_rounds_move_what_the_stages_do_and_overlap_chunks():
    stages = [Moved(8.0, 0.0, 0.0), Moved(8.0, 16.0, 0.0), Moved(0.0, 16.0, 4.0)]
    assert list(rounds_of(stages, 1)) == stages
    cut = list(rounds_of(stages, 4))
    assert len(cut) == 6
    assert cut[2] == cut[3] == Moved(4.0, 8.0, 1.0)
    for field in ("stored", "read", "near"):
        moved = [sum(getattr(each, field) for each in rounds) for rounds in (stages, cut)]
        assert moved[0] == moved[1]


@pytest.mark.unit
def test_a_round_takes_as_long_as_the_slower_of_the_wire_and_the_own_memory():
    wire = WireSpeed(0.0, 10.0, 5.0, (40.0, 20.0), 4.0)
    assert Moved(4e3, 2e3, 0.0).us(wire) == pytest.approx(2 / 4 + 2 / 10)
    assert Moved(4e3, 2e3, 0.0).us(wire._replace(both_gb_s=None)) == pytest.approx(4 / 10 + 2 / 5)
    assert Moved(4e3, 0.0, 100e3).us(wire) == pytest.approx(50 / 20)
    blind = wire._replace(read_gb_s=None, both_gb_s=None, own_gb_s=())
    assert Moved(4e3, 0.0, 100e3).us(blind) == pytest.approx(4 / 10)
    assert Moved(0.0, 1.0, 0.0).us(blind) == float("inf")


PROBE = "kernels/link_probe.cu"
SLOW_NS = 500_000_000
HOLD = f"for (const u64 since = clock_ns(); clock_ns() - since < {SLOW_NS}ull;) continue;"
BOUNCE = "launch.ping_pong((int)partner, 2 + done, trips, PATIENCE);"
STORE = "copy(Slab{to}, a.send, n);"
SLOW_FLAG = Patch(PROBE, BOUNCE, f"if (a.rank + partner == 2) {{ {HOLD} }} {BOUNCE}")
SLOW_STORES = Patch(
    PROBE,
    STORE,
    f"if (n && a.rank == 0 && to < launch.half_of(2) + a.half_bytes "
    f"&& to >= launch.half_of(2) && thread() == 0) {{ {HOLD} }} {STORE}",
)


def measured(folder: Path, ranks: int, *patches: Patch, **faults: object) -> WireSpeed:
    """What `wire_speed` finds between the software GPU's ranks, with these patches."""
    copy_kernels(folder, patches)
    for name in UNCHANGED:
        (folder / name).symlink_to(ROOT / name)
    how = fake_gpu.environment(**{"count": ranks, **faults})
    said = printed(ranks, "-m", "tests.ranks.wire_ranks", "cuda", tree=folder, **how)
    return WireSpeed(*json.loads(said))


def test_the_slowest_pair_counts_whichever_it_is_on_a_fake_gpu(tmp_path):
    """Ranks 0 and 2 never met in pairs of neighbours, nor does 2 follow 0."""
    wire = measured(tmp_path, 3, SLOW_FLAG, SLOW_STORES)
    assert wire.round_trip_ns >= SLOW_NS / 25  # flags in a row
    assert wire.store_gb_s < WIRE_BYTES / SLOW_NS
    assert wire.read_gb_s is not None
    assert wire.read_gb_s > wire.store_gb_s
    assert wire.both_gb_s
    assert len(wire.own_gb_s) == 3


def test_reads_that_are_not_routed_are_not_timed_on_a_fake_gpu(tmp_path):
    wire = measured(tmp_path, 2, cached=0, coherent="pushes")
    assert wire.read_gb_s is None
    assert wire.both_gb_s is None
    assert wire.store_gb_s > 0


def test_a_lone_rank_has_a_wire_without_flags_on_a_fake_gpu(tmp_path):
    wire = measured(tmp_path, 1)
    assert wire.round_trip_ns == 0
    assert min(wire.store_gb_s, wire.read_gb_s or 0, *wire.own_gb_s) > 0


@pytest.mark.unit
def test_multimem_carries_what_a_link_does_and_waits_for_a_measured_row():
    """A link carries (1 + 1/n) S bytes each way, in place of 2 (n-1)/n S (nccl-tests pull 239); the
    order of a sum is the switch's, and without a row `auto` promises that of the ranks."""
    wire = WireSpeed(2000.0, 400.0, 400.0, (1800.0,), 200.0, 1.0)
    faster = {}
    for ranks in (2, 8):
        world = model_regret.world_over("mapped", wire)
        world.ranks = ranks
        by_switch, by_push = (
            cost_us(world, ALGORITHMS["all_reduce"][name], all_reduce(8 << 20), wire)
            for name in ("two_shot_multimem", "two_shot_push")
        )
        faster[ranks] = by_switch < by_push
        ours = [each for each in ALGORITHMS["all_reduce"].values() if each.needs_peers]
        by_model = {each.base for _, each in ranked(world, all_reduce(8 << 20), ours, [])}
        assert not [name for name in by_model if "multimem" in name]
        world.other_memory = ()
        tried = {each.name for each in candidates(world, 8 << 20)}
        assert {"two_shot_multimem", "two_shot_multimem+1024K"} <= tried
    assert faster == {2: False, 8: True}
    row = ChoiceRow("all_reduce", "two_shot_multimem", (8 << 20, 8 << 20), {"memory": "mapped"})
    world.rows = [row]
    assert next(ranked(world, all_reduce(8 << 20), ours, []))[1].base == "two_shot_multimem"
