"""`bench.link`: its measurements on real ranks, and its report on a pair of ranks that differs from
the others."""

import json
import os
import re
from itertools import combinations

import numpy as np
import pytest

from bench.link import MEASUREMENTS
from bench.links.parts import Part
from bench.links.rank_pairs import between_hosts, both_ways, matchings, within_hosts
from reports.tables.show import text
from tests import fake_gpu
from tests.bench.launches import launch, run, stored
from tests.bench.synthetic_link import made_up
from tests.launch import printed

# bench.link, limited to an iteration of each case instead of by time, so that it also completes on
# a slow machine.
COUNTED = """
from dataclasses import replace
from functools import partial
import bench.link as link
from bench.harness.run import measure
from bench.harness.session import start
from bench.links import messages, submissions, transfers
options, sizes = link.parse()
{}
start(replace(options, iterations=1),
      lambda session: measure(session, partial(link.prepare, sizes)))
"""
LINK = COUNTED.format("")
SMALL = "-e 16K --max-time 80"
ALONE = {kind.key for kind in MEASUREMENTS if isinstance(kind, Part)}
TWO_HOSTS = {"MPIR_CVAR_NUM_CLIQUES": "2"}  # MPICH sees a host for each rank


def words(text):
    return " ".join(text.split())


# -- real ranks


def test_every_pair_is_measured_and_checked_and_show_prints_the_same(tmp_path):
    """Without this, a broken pair could be left out or left unchecked."""
    sizes, ranks, pairs = 2, 3, 6
    printed, result = run(tmp_path, "--max-time 80 -e 256K -f 16", program=LINK, ranks=ranks)
    assert result.complete
    counted = {
        kind.key: sum(case.algorithm == kind.key for case in result.cases) for kind in MEASUREMENTS
    }
    assert {name: count for name, count in counted.items() if count} == {
        "push": sizes * pairs,
        "pull": sizes * pairs,
        "both_directions": sizes * pairs // 2,
        "local_copy": sizes * ranks,
        "ping_pong": pairs // 2,
        "submit_wait": ranks,
        **dict.fromkeys(ALONE - {"graph_kernel"}, pairs),  # a CPU has no graphs
    }
    for case in result.cases:
        assert case.status == "ok", case
        unchecked = "ping_pong", "submit_wait", *ALONE
        assert case.n_wrong == (None if case.algorithm in unchecked else 0)
    assert printed.startswith(text(result))
    assert "an iteration without a collective takes at most" in words(printed)


@pytest.mark.parametrize(
    ("ends_early", "wrong", "variables"),
    [
        (
            """
class Shorter(transfers.Push):
    def step(self, link, pairs, size_bytes):
        made = super().step(link, pairs, size_bytes)
        made.argument.ranks.count -= 1
        return made

link.MEASUREMENTS = Shorter(), *link.MEASUREMENTS[1:]
""",
            "push",
            {},
        ),
        (
            """
message = messages.Message

def shorter(is_sent, peer, address, size_bytes):
    if size_bytes > 4:
        size_bytes -= 4
    return message(is_sent, peer, address, size_bytes)

messages.Message = shorter
""",
            "send_library",
            TWO_HOSTS,
        ),
    ],
)
def test_data_that_does_not_arrive_is_reported_as_wrong(tmp_path, ends_early, wrong, variables):
    """Otherwise a link that drops data would look fast. Here a push ends one pack early, a message
    one element."""
    done = launch(tmp_path, SMALL, program=COUNTED.format(ends_early), **variables)
    assert done.returncode == 1
    assert re.search(rf"\n{wrong} 16 KiB isolated .*%", done.stdout)  # in the table of wrong cases
    named = {case.algorithm for case in stored(tmp_path).cases if case.status == "wrong"}
    assert wrong in named
    assert wrong != "push" or named == {"push"}


def test_between_hosts_the_library_moves_the_data(tmp_path):
    """Stamps of different hosts are not compared."""
    printed, result = run(tmp_path, SMALL, program=LINK, **TWO_HOSTS)
    shapes = {(case.algorithm, *case.shape.values()) for case in result.cases}
    assert shapes == {
        *((name, rank, rank) for name in ("local_copy", "submit_wait") for rank in (0, 1)),
        ("send_library", 0, 1),
        ("send_library", 1, 0),
        ("both_directions_library", 0, 1),
        ("ping_pong_library", 0, 1),
    }
    assert {(case.status, case.n_wrong or 0) for case in result.cases} == {("ok", 0)}
    assert not result.run.clock_shared
    assert re.search("message by MPICH .*, 16 KiB: row sends to column", words(printed))


@pytest.mark.alone
def test_the_flag_is_as_fast_as_in_a_minimal_loop():
    """Otherwise the reported latency floor would be the overhead of our loop. The test compares
    quartiles, because on a shared machine either loop can lose its core."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    report = json.loads(printed(2, "-m", "tests.ranks.flag_ranks", "200"))
    ours_ns, bare_ns = (np.percentile(report[name], 25) for name in ("ours_ns", "bare_ns"))
    assert 1 / 3 < ours_ns / bare_ns < 1.5, (ours_ns, bare_ns)


# -- which pairs are measured


@pytest.mark.parametrize("ranks", range(2, 9))
def test_disjoint_pairs_are_disjoint_and_complete(ranks):
    sets = matchings(range(ranks))
    assert all(len({rank for pair in pairs for rank in pair}) == 2 * len(pairs) for pairs in sets)
    complete = set(combinations(range(ranks), 2)) if ranks > 3 else set()
    assert {pair for pairs in sets for pair in pairs} == complete


def test_with_many_ranks_only_counterparts_of_two_hosts_exchange_messages():
    """All pairs of hundreds of ranks would take hours."""
    few, many = [range(4), range(4, 8)], [range(8), range(8, 16)]
    assert len(between_hosts(few)) == 2 * 4 * 4
    counterparts = [((rank, rank + 8),) for rank in range(8)]
    assert between_hosts(many)[:8] == counterparts
    assert len(between_hosts(many)) == 2 * 8
    assert both_ways(between_hosts(many)) == [
        ((low, high), (high, low)) for [(low, high)] in counterparts
    ]
    assert len(within_hosts(many)) == 2 * 8 * 7


# -- the report


def test_a_degraded_pair_is_named(tmp_path):
    """In a matrix of 56 figures, a reader would miss the one card in an x4 slot."""
    result = made_up(tmp_path, 4, lambda src, dst: 25.0 / (5.1 if {src, dst} == {0, 1} else 1))
    printed = words(text(result))
    sentence = r"rank [01] to rank [01] is 5\.[012]x slower than rank \d to rank \d by push, 64 MiB"
    assert re.search(sentence, printed), printed


def test_a_slow_pair_of_hosts_is_named_and_a_network_is_not_held_against_a_link(tmp_path):
    """Transfers between hosts are slower by design: the report compares them with each other."""

    def over_hosts(name, gb_s):
        rates = lambda src, dst: 200.0 if src // 2 == dst // 2 else gb_s(src, dst)  # noqa: E731
        return made_up(tmp_path / name, 4, rates, hosts=2)

    even = words(text(over_hosts("even", lambda src, dst: 20.0)))
    assert "No pair is more than 1.25x slower than another." in even
    slow = over_hosts("slow", lambda src, dst: 5.0 if (src, dst) == (1, 2) else 20.0)
    sentence = r"rank 1 to rank 2 is 4\.\dx slower than rank \d to rank \d by send_library, 64 MiB"
    assert re.search(sentence, words(text(slow))), text(slow)


def test_similar_pairs_are_not_reported(tmp_path):
    """With too few blocks the report makes no claim, however far apart the medians are."""
    printed = text(made_up(tmp_path, 8, lambda src, dst: 24.0 + src / 10))
    assert "No pair is more than 1.25x slower than another." in printed
    slow = lambda src, dst: 24.0 / (1 + 4 * (src == 2))  # noqa: E731
    printed = text(made_up(tmp_path / "few", 4, slow, blocks=3))
    assert "x slower" not in printed
    assert "too few blocks" in printed


def test_the_cost_of_a_launch_and_its_wait_is_told_for_a_token(tmp_path):
    """An article takes 33 us for one of them, and so 5.3 ms for the 160 of a 70B model's token."""
    printed = words(text(made_up(tmp_path, 2, lambda src, dst: 24.0)))
    said = re.search(
        r"take at most (\S+) \[\S+ \S+\] us, from a graph (\S+) \[\S+ \S+\] us; 160 of them, one "
        r"for each all-reduce of a token of a 70B model, (\S+) ms, from graphs (\S+) ms\.",
        printed,
    )
    assert said, printed
    assert [*map(float, said.groups())] == pytest.approx([33.0, 20.0, 5.28, 3.2], rel=0.02)


# -- simulated GPUs


def test_link_runs_between_simulated_gpus(tmp_path):
    """The same kernels, built from their GPU sources, run on threads; the check reports data that
    they do not move."""
    variables = fake_gpu.environment(vendor="hip", count=2) | {"FAKE_NCCL_BINDING": "none"}
    printed, result = run(tmp_path, SMALL, "--device hip", program=LINK, **variables)
    assert {case.status for case in result.cases} == {"ok"}
    engine = [case for case in result.cases if case.algorithm == "engine_push"]
    assert {tuple(case.shape.values()) for case in engine} == {(0, 1), (1, 0)}
    assert "push by copy engine, 16 KiB: row copies into column" in printed
    assert "flag, the floor of any collective, ns one way" in printed
    assert re.search(
        r"wait for its end take at most \S+ .*us, from a graph \S+ .*us;", words(printed)
    )


LATE = """
from bench.harness.iteration import come_late
submissions.nothing = lambda world: come_late(world, 3_000_000)
"""


def test_a_launch_is_timed_until_it_has_ended(tmp_path):
    """An engine that waits for its launch gets it no earlier: here the kernel takes 3 ms."""
    variables = fake_gpu.environment(count=1) | {"FAKE_NCCL_BINDING": "none"}
    program = COUNTED.format(LATE)
    _, result = run(tmp_path, SMALL, "--device cuda", program=program, ranks=1, **variables)
    submitted = [case for case in result.cases if case.algorithm.startswith("submit_wait")]
    assert {case.algorithm for case in submitted} == {"submit_wait", "submit_wait_graph"}
    for case in submitted:
        assert case.shape == {"src": 0, "dst": 0}
        assert case.time_us.median >= 3000
