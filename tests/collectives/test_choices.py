"""What `auto` chooses without a tuned table, and what a collective promises about itself."""

from collections.abc import Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from collectives import algorithms
from collectives.auto_table import parsed
from collectives.choice import ranked, shipped_rows
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.library.mpi import types_of
from collectives.operation import Algorithm, ChoiceRow, CollectiveCase, Unsupported
from collectives.peer_buffer import ProbeResult, WireSpeed
from collectives.registry import ALGORITHMS

pytestmark = pytest.mark.unit

ALL_REDUCE, FLOAT32 = COLLECTIVES["all_reduce"], DATATYPES["float32"]
KNOWN = ALGORITHMS["all_reduce"]
OURS = [each for each in KNOWN.values() if each.needs_peers]
SIZES = [1 << power for power in range(12, 28)]

ONE_H100 = WireSpeed(2400.0, 50.0, 40.0)  # over a wire, as docs/experiments/gpu.md found
# PCIe 5 x16 beside the memory of an R9700 (640 GB/s, so copies of half of that at most) and of an
# H200: the same wire.
BESIDE_SLOW = WireSpeed(3000.0, 50.0, 40.0, (260.0, 250.0), 25.0, 1.5)
BESIDE_FAST = BESIDE_SLOW._replace(own_gb_s=(1900.0, 1800.0))


def world(
    ranks: int = 2,
    is_cpu: bool = True,
    rows: Sequence[ChoiceRow] = (),
    round_trip_ns: float = 100.0,
    shown: ProbeResult | None = None,
    wire: WireSpeed = ONE_H100,
    memory: str = "mapped",
) -> Any:
    """Ranks of one host that map each other's memory. A GPU has 64 multiprocessors."""
    peers = SimpleNamespace(shown=shown or ProbeResult(), wire=wire)
    device = SimpleNamespace(
        is_cpu=is_cpu,
        l1_bytes=32 << 10,
        l2_bytes=1 << 20,
        most_chunk_bytes=8 << 20,
        blocks_for=lambda size_bytes: min(64, -(-size_bytes // (8 << 10))),
    )
    return SimpleNamespace(
        device=device,
        communicator=SimpleNamespace(hosts=1),
        ranks=ranks,
        **{"peers": peers, "mapped": peers, "node": None, "rows": rows},
        **{"other_memory": (), "memory": memory},
        oversubscribed=False,
        round_trip_ns=round_trip_ns,
    )


def all_reduce(size_bytes: int, **fields: Any) -> CollectiveCase:
    return CollectiveCase(ALL_REDUCE, size_bytes // 4, FLOAT32, "sum", 0, 0, **fields)


def row(algorithm: str, least: int, most: int, **where: Any) -> ChoiceRow:
    return ChoiceRow("all_reduce", algorithm, (least, most), where)


def first_choice(of: Any, case: CollectiveCase, shipped: Any = (), stable: bool = False) -> str:
    """What `auto` or `auto_stable` tries first."""
    return next(ranked(of, case, OURS, list(shipped), stable))[1].name


def by_model(of: Any, case: CollectiveCase, algorithms: Sequence[Algorithm]) -> Algorithm:
    """The first feasible choice without a table."""
    return next(each for _, each in ranked(of, case, algorithms, []) if not each.feasible(of, case))


def test_the_row_with_most_facts_decides_then_the_one_with_the_nearest_sizes():
    rows = [
        row("ring", 1 << 10, 1 << 20),
        row("two_shot+nt", 1 << 14, 1 << 14, variant="copied"),
        row("two_shot+64K", 1 << 18, 1 << 18, variant="copied"),
        row("two_shot_push", 1 << 10, 1 << 30, variant="copied", ranks=[3, 8]),
        row("one_shot_push", 1 << 10, 1 << 30, variant="copied", mode="chained", device="gpu"),
    ]
    assert first_choice(world(rows=rows), all_reduce(1 << 15)) == "two_shot+nt"
    assert first_choice(world(rows=rows), all_reduce(1 << 17)) == "two_shot+64K"
    assert first_choice(world(4, rows=rows), all_reduce(1 << 17)) == "two_shot_push"
    assert first_choice(world(rows=rows), all_reduce(1 << 15, variant="registered")) == "ring"


def test_auto_stable_takes_rows_of_its_own_and_of_sums_in_rank_order_alone():
    """The ring is this table's fastest, and adds each element in an order of its own."""
    where = {"variant": "copied", "ranks": 3}
    rows = [row("ring", 4096, 4096, **where), row("two_shot+nt", 4096, 4096, ranks=3)]
    for expected in ("two_shot+nt", "one_shot_push"):
        of = world(3, rows=rows)
        assert first_choice(of, all_reduce(4096)) == "ring"
        assert first_choice(of, all_reduce(4096), stable=True) == expected
        rows.append(row("one_shot_push", 4096, 4096, **where, stable=True))


def test_without_a_table_auto_sums_in_rank_order_on_one_host():
    for collective in ("all_reduce", "reduce_scatter"):
        of = [each for each in ALGORITHMS[collective].values() if each.needs_peers]
        modelled = [each for each in of if each.is_modelled and not each.is_lossy]
        assert modelled
        assert all(each.sums_in_rank_order for each in modelled)
    sums = [row for row in shipped_rows() if COLLECTIVES[row.collective].reduces]
    assert sums
    for row in sums:
        algorithm = parsed(row.algorithm, ALGORITHMS[row.collective])
        # Sums of two ranks have one order.
        assert algorithm.sums_in_rank_order or row.where["ranks"] == 2


def test_rows_of_the_user_come_before_the_suites_and_the_model_follows_both():
    tuned, shipped = row("ring", 4096, 4096), row("two_shot", 4096, 1 << 20)
    both = world(rows=[tuned])
    assert first_choice(both, all_reduce(4096), shipped=[shipped]) == "ring"
    assert first_choice(both, all_reduce(1 << 18), shipped=[shipped]) == "two_shot"
    far_away = all_reduce(1 << 25)  # more than eight times any size of the tables
    assert first_choice(both, far_away, shipped=[shipped]) == first_choice(world(), far_away)


def test_a_row_serves_one_state_of_the_link():
    near = row("ring", 4096, 4096, round_trip_ns=[80.0, 120.0])
    assert first_choice(world(rows=[near]), all_reduce(4096)) == "ring"
    assert first_choice(world(rows=[near], round_trip_ns=200.0), all_reduce(4096)) != "ring"


@pytest.mark.parametrize("is_cpu", [True, False])
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_model_needs_fewer_steps_for_short_messages_than_for_long_ones(is_cpu, ranks):
    """A short message pays for flags, a long one for bytes."""
    hops = []
    for size_bytes in (256, *SIZES):
        case = all_reduce(size_bytes)
        ours = [KNOWN[name] for name in ("one_shot_push", "one_shot_pull", "two_shot", "ring")]
        chosen = by_model(world(ranks, is_cpu, round_trip_ns=200.0), case, ours)
        traffic = chosen.traffic(ranks, case)
        assert traffic
        hops.append(traffic.hops)
    assert hops == sorted(hops)
    assert hops[0] == 1


def test_without_a_table_auto_has_a_feasible_choice_that_is_not_lossy():
    for ranks, size_bytes, variant in product((2, 3, 8), SIZES, ("copied", "registered")):
        case = all_reduce(size_bytes, variant=variant)
        for trip_ns in (70.0, 225.0, 760.0):
            assert not by_model(world(ranks, round_trip_ns=trip_ns), case, OURS).is_lossy


def test_auto_takes_the_memory_that_a_row_names():
    """A public all-reduce for four R9700s uses host memory up to 64 KiB, and peers' above."""
    where = {"memory": "mapped,host_staged", "device": "gpu"}
    short = ChoiceRow("all_reduce", "one_shot_push", (1024, 65536), where, (), "host_staged")
    long = ChoiceRow("all_reduce", "two_shot", (131072, 1 << 25), where, (), "mapped")
    host = world(is_cpu=False)
    host.memory = "host_staged"
    both = world(is_cpu=False, rows=[short, long])
    both.other_memory = (host,)
    over = {
        size_bytes: next(ranked(both, all_reduce(size_bytes), OURS, []))
        for size_bytes in (16384, 1 << 20)
    }
    assert over[16384] == (host, KNOWN["one_shot_push"])
    assert over[1 << 20] == (both, KNOWN["two_shot"])


def test_auto_takes_another_memory_from_measured_rows_alone():
    """Rows of peers' memory alone serve a run over both, where those over both are farther."""
    host = world(is_cpu=False, memory="host_staged", wire=BESIDE_SLOW._replace(round_trip_ns=1.0))
    both = {"memory": "mapped,host_staged", "device": "gpu"}
    rows = [
        ChoiceRow("all_reduce", "one_shot_push", (4096, 16384), both, (), "host_staged"),
        row("two_shot", 16384, 1 << 20, memory="mapped", device="gpu"),
        row("ring", 32768, 1 << 20, memory="host_staged", device="gpu"),
    ]
    for size_bytes, used, expected in (
        (16384, rows, (True, "one_shot_push")),
        (65536, rows, (False, "two_shot")),
        (65536, rows[:1], (True, "one_shot_push")),  # the nearest row, within 8x
        (16384, rows[2:], (False, "one_shot_ll")),
        (32768, rows[2:], (False, "one_shot_push")),  # the model has host memory for faster
        (1 << 20, rows[:1], (False, "one_shot_push")),
    ):
        of = world(is_cpu=False, wire=BESIDE_SLOW, rows=used)
        of.other_memory = (host,)
        over, algorithm = next(ranked(of, all_reduce(size_bytes), OURS, []))
        assert (over is host, algorithm.name) == expected, (size_bytes, used)


@pytest.mark.parametrize("name", ["one_shot_ll", "one_shot_sentinel"])
def test_packets_run_only_where_the_probe_saw_them(name):
    """Elsewhere they hang: as RCCL's in host memory on gfx12."""
    for reason in ("a packet never arrived", None):
        of = world(is_cpu=False, shown=ProbeResult(reason))
        refusal = KNOWN[name].feasible(of, all_reduce(16 << 10))
        assert refusal == (Unsupported(reason) if reason else None)
        assert not KNOWN["one_shot_push"].feasible(of, all_reduce(16 << 10))


@pytest.mark.parametrize("memory", ["mapped", "host_staged"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_without_a_time_for_reads_the_model_still_compares_what_pushes(ranks, memory):
    shown = ProbeResult(no_reads="a read showed old data")
    of = world(ranks, False, shown=shown, wire=ONE_H100._replace(read_gb_s=None))
    of.memory = memory
    for size_bytes in SIZES:
        assert by_model(of, all_reduce(size_bytes), OURS).pushes


def message(way: str) -> CollectiveCase:
    return CollectiveCase(
        COLLECTIVES["sendrecv"], 4 << 20, FLOAT32, "none", 0, 0, shape={"way": way}
    )


@pytest.mark.parametrize("name", ["library", "direct_pull"])
def test_the_bound_of_a_message_there_and_back_counts_both_hops(name):
    traffic = ALGORITHMS["sendrecv"][name].traffic
    one_way, ping_pong = (traffic(2, message(way)) for way in ("one_way", "ping_pong"))
    assert one_way
    assert ping_pong
    assert (ping_pong.stages, ping_pong.hops) == (2 * one_way.stages, one_way.hops + 1)


def test_a_collective_gives_its_least_bytes_and_its_reason_against_a_chain():
    least = {name: collective.least_bytes(300, 3) for name, collective in COLLECTIVES.items()}
    assert (least.pop("all_reduce"), least.pop("sendrecv")) == ((400, 300), (300, 0))
    assert set(least.values()) == {(600, 300)}

    def reason(collective: str, redop: str = "none", datatype: str = "float32", **shape: str):
        types = DATATYPES[datatype]
        return COLLECTIVES[collective].reason_against_chain(shape, redop, types) or ""

    assert reason("all_reduce", "sum") == reason("sendrecv", way="ping_pong") == ""
    assert reason("alltoall", way="round_trip") == ""
    assert "range" in reason("all_reduce", "prod")
    assert "rounds in float8_e5m2" in reason("all_reduce", "sum", "float8_e5m2")
    assert reason("alltoall", way="combine")


@pytest.mark.parametrize(
    ("collective", "pushes", "variant", "name"),
    [
        ("all_reduce", True, "copied", "one_shot_push"),
        ("all_gather", True, "copied", "direct_push"),
        ("all_gather", False, "registered", "direct_pull"),
        ("reduce_scatter", False, "copied", "direct_pull"),
        ("all_gather", True, "registered", None),
    ],
)
def test_what_needs_any_algorithm_gets_one_that_suits_every_case(collective, pushes, variant, name):
    """The ladder, the forms between hosts, and the overlap with a matmul name none."""
    found = algorithms.general(collective, pushes, variant)
    if name:
        assert isinstance(found, Algorithm)
        assert found.base == name
    else:
        assert found == Unsupported(
            "no all_gather that stores into peers' memory is here (registered)"
        )


def test_a_table_of_versions_gives_the_types_that_a_library_reduces():
    assert types_of("MPICH 5.0.2")["float16"] == "FLOAT16_T"
    assert "float16" not in types_of("MPICH 4.3.1")
    assert "bfloat16" not in types_of("MPICH 5.0.2")
    assert types_of("Open MPI of unknown version")["float32"] == "FLOAT"


def test_the_measured_wire_decides_between_gpus():
    """Four ranks at 1 MiB: a slow wire wants few bytes, a fast one few flags."""
    names = {}
    for wire in (WireSpeed(2000.0, 5.0, 5.0), WireSpeed(9000.0, 400.0, 400.0)):
        of = world(4, is_cpu=False, wire=wire)
        two = [KNOWN["one_shot_push"], KNOWN["two_shot_push"]]
        names[wire] = by_model(of, all_reduce(1 << 20), two).name
    assert list(names.values()) == ["two_shot_push", "one_shot_push"]


@pytest.mark.parametrize(
    ("size_kib", "wire", "expected"),
    [
        (1024, BESIDE_SLOW, "one_shot_push"),
        (2048, BESIDE_SLOW, "two_shot_push"),
        (4096, BESIDE_SLOW, "two_shot_push+2048K"),
        (16384, BESIDE_SLOW, "two_shot_push+4096K"),
        (4096, BESIDE_FAST, "one_shot_push"),
        (32768, BESIDE_FAST, "two_shot_push"),
    ],
)
def test_what_passes_through_the_own_memory_decides_between_two_gpus_over_pcie(
    size_kib, wire, expected
):
    """A one-shot sums only when all has arrived; chunks of a two-shot sum beside the wire."""
    for stable in (False, True):
        assert first_choice(world(2, False, wire=wire), all_reduce(size_kib << 10)) == expected
        case = all_reduce(size_kib << 10)
        assert first_choice(world(2, False, wire=wire), case, stable=stable) == expected


def test_a_wire_without_reads_or_figures_of_the_memory_leaves_pushes():
    blind = BESIDE_SLOW._replace(read_gb_s=None, both_gb_s=None, own_gb_s=())
    of = world(2, False, wire=blind, shown=ProbeResult(no_reads="no route"))
    for size_bytes in SIZES:
        assert by_model(of, all_reduce(size_bytes), OURS).pushes


def test_slow_stores_beside_fast_reads_make_auto_pull():
    """16 RTX PRO 6000: 52 GB/s of reads, 2.6 of stores (local-inference-lab/b12x pull 139)."""
    wire = BESIDE_SLOW._replace(store_gb_s=2.6, read_gb_s=52.0, both_gb_s=2.5)
    for size_bytes in (256 << 10, 4 << 20):
        assert not by_model(world(8, False, wire=wire), all_reduce(size_bytes), OURS).pushes


def test_a_chunk_has_work_for_the_whole_grid():
    of = world(2, False, wire=BESIDE_SLOW)
    of.device.blocks_for = lambda size_bytes: min(128, -(-size_bytes // (16 << 10)))
    names = {each.name for _, each in ranked(of, all_reduce(32 << 20), OURS, [])}
    chunks = {name for name in names if name.startswith("two_shot_push")}
    assert chunks == {"two_shot_push", "two_shot_push+2048K", "two_shot_push+4096K"}


def test_packets_lead_up_to_16_kib_between_gpus_and_where_the_probe_saw_them():
    """Of more ranks each stores to more peers: as many bytes as of two at 16 KiB, no more."""
    pair = [KNOWN["one_shot_push"], KNOWN["one_shot_ll"]]
    for ranks, size_bytes, reason, expected in (
        (2, 16 << 10, None, "one_shot_ll"),
        (2, 16 << 10, "a packet never arrived", "one_shot_push"),
        (2, 32 << 10, None, "one_shot_push"),
        (4, 4 << 10, None, "one_shot_ll"),
        (4, 8 << 10, None, "one_shot_push"),
        (8, 16 << 10, None, "one_shot_push"),
    ):
        of = world(ranks, is_cpu=False, shown=ProbeResult(reason))
        assert by_model(of, all_reduce(size_bytes), pair).name == expected
    of = world(is_cpu=False, memory="host_staged")
    assert by_model(of, all_reduce(4096), pair).name == "one_shot_push"
