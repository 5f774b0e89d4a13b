"""The probe of peer memory within one launch: it accepts coherent memory, and finds stale data in
every access."""

import json
import re

import pytest

from collectives.probe import MEMORY_ACCESSES
from tests.fake_gpu import environment
from tests.kernels.broken_kernels import HIP, Patch, apply, tree
from tests.launch import ROOT, few, printed

STORES = ", ".join(MEMORY_ACCESSES[:-1])  # all but the packets
RELEASE = Patch(HIP, '  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "");\n', "")
# Packets that never arrive are awaited for a second.
HASTY = """
from collectives import probe
probe.PROBE_NS = 10**9
from tests.ranks import memory_ranks
"""
PACKET = Patch(
    HIP,
    'asm volatile(STORE_16_BYTES_SYSTEM ::"v"(p), "v"(four) : "memory");',
    "*(four_words*)p = four;",
)
ACQUIRE = Patch(HIP, '__builtin_amdgcn_fence(__ATOMIC_ACQUIRE, ""); }', "}")


PROGRAM = "-m", "tests.ranks.memory_ranks"


def probed(*words, folder=ROOT, program=PROGRAM, **variables):
    return json.loads(printed(2, *program, *words, tree=folder, **variables))


def on_a_fake_gpu(folder=ROOT, program=PROGRAM, **faults):
    return probed("hip", folder=folder, program=program, **environment(vendor="hip", **faults))


@pytest.mark.parametrize(
    ("names", "accesses"),
    [
        (("without the wait", "a rank that starts late"), STORES),
        (("without the fence before the flag", "delayed streaming stores"), "a streamed pack"),
    ],
)
def test_cpu_memory_passes_and_a_broken_build_does_not(names, accesses, tmp_path):
    """A late rank in the first build, and delayed streaming stores in the second, make stale data
    certain: otherwise the ranks' speed would decide which accesses see them."""
    if names[0] == "without the wait":
        assert probed()["sharing"] == "memfd"
    reason = probed(folder=tree(tmp_path / "tree", *names, breaks_probe=True))["reason"]
    assert "within one launch rank " in reason
    assert reason.endswith(f"by accesses of {accesses}"), reason


@pytest.mark.parametrize(
    ("faults", "sharing", "refusal"),
    few(
        [
            (
                {"cached": 3},
                "mapped fine_grained",
                f"mapped uncached: within one launch .* by accesses of {STORES}$",
            ),
            (
                {"cached": "31pu"},
                "host_staged",
                "mapped uncached, mapped fine_grained, mapped vmm uncached, mapped vmm: within one",
            ),
        ],
        2,
    ),
    ids=str,
)
def test_the_probe_decides_which_memory_is_used_on_a_fake_gpu(faults, sharing, refusal):
    """`cached` memory is not what was requested from the driver, which says nothing."""
    report = on_a_fake_gpu(**faults)
    assert report["sharing"] == report["types"]["behaved"] == sharing
    assert report["types"]["requested"] == "mapped uncached"
    assert report["types"]["hdp_flush"] == "none"  # test_device_gpu.py has memory with a flush
    assert re.search(refusal, "; ".join(report["refusals"]))


READS = "reads of peers' memory: within one launch rank . read old or wrong data"
# The second mode is refused: as by a driver, or for want of memory.
REFUSED = """
from collectives import connect
from collectives.communicator import Refusal
share = connect.share
def refusing(communicator, device, sharing, *rest):
    if sharing.endswith("fine_grained"):
        refusal = Refusal("refused")
        refusal.lacks_memory = LACKS
        raise refusal
    return share(communicator, device, sharing, *rest)
connect.share = refusing
from tests.ranks import memory_ranks
"""
# It passes, and then its speed cannot be measured.
UNTIMED = """
from collectives import connect
from collectives.communicator import Refusal
wire_speed = connect.wire_speed
def refusing(peers):
    if peers.sharing.endswith("fine_grained"):
        raise Refusal("refused")
    return wire_speed(peers)
connect.wire_speed = refusing
from tests.ranks import memory_ranks
"""


@pytest.mark.parametrize(
    ("cached", "program", "sharing", "refusals"),
    [
        (3, PROGRAM, "mapped fine_grained", [f"mapped uncached: {READS}"]),
        (31, PROGRAM, "mapped uncached", [f"mapped fine_grained: {READS}", READS]),
        *few(
            [
                (3, ("-c", program), "mapped uncached", ["mapped fine_grained: refused", READS])
                for program in (
                    UNTIMED,
                    REFUSED.replace("LACKS", "True"),
                    REFUSED.replace("LACKS", "False"),
                )
            ],
            2,
        ),
    ],
)
def test_memory_with_reads_wins_else_the_first_that_shows_stores(
    cached, program, sharing, refusals
):
    """Later memory that shows no reads either, or that cannot be had, is no reason to leave it."""
    report = on_a_fake_gpu(program=program, cached=cached, coherent="pushes")
    assert report["sharing"] == report["types"]["behaved"] == sharing
    assert len(report["refusals"]) == len(refusals)
    assert all(map(re.match, refusals, report["refusals"])), report["refusals"]
    assert bool(report["no_reads"]) == (sharing == "mapped uncached")
    assert report["no_registered"] is None  # own memory shows what peers have stored


def test_memory_that_is_really_uncached_needs_no_write_back_on_a_fake_gpu():
    report = on_a_fake_gpu()
    assert report["sharing"] == "mapped uncached"
    assert not report["writes_back"]
    assert [report[name] for name in ("no_packets", "no_reads", "no_registered")] == [None] * 3


@pytest.mark.parametrize(
    "patch",
    [RELEASE, ACQUIRE],
    ids=["release", "acquire"],
)
def test_a_build_without_a_part_of_the_protocol_is_found_on_a_fake_gpu(patch, tmp_path):
    """This memory is right only for kernels that fence: its cache writes back and forgets at
    fences."""
    apply(tree(tmp_path / "tree", breaks_probe=True), [patch])
    report = on_a_fake_gpu(folder=tmp_path / "tree", cached=3, coherent="fence")
    found = r"mapped uncached: (reads of peers' memory: )?within one launch rank "
    assert re.match(found, report["refusals"][0])


def test_memory_in_which_packets_stay_away_serves_all_that_have_flags(tmp_path):
    """RCCL's packets hang in host memory on gfx12: without its flags nothing would run there."""
    apply(tree(tmp_path / "tree", breaks_probe=True), [PACKET])
    report = on_a_fake_gpu(tmp_path / "tree", ("-c", HASTY), cached=3, coherent="fence")
    assert (report["sharing"], report["refusals"]) == ("mapped uncached", [])
    assert report["writes_back"]  # the memory has a cache, whatever was requested
    assert re.match("within one launch a packet from rank . never", report["no_packets"])


@pytest.mark.parametrize(
    ("coherent", "where"),
    [("synchronisation", "from one launch to the next"), ("graph", "in a captured graph")],
)
def test_ordinary_memory_that_launches_leave_stale_registers_no_buffers(coherent, where):
    """Between launches an AMD GPU's L2 keeps lines of a peer, which the host's wait invalidates. A
    probe that waits after each launch passes on both of these GPUs."""
    report = on_a_fake_gpu(cached=0, coherent=coherent)
    assert report["sharing"] == "mapped uncached"
    assert re.fullmatch(
        f"in ordinary memory, {where}, rank . read old or wrong data after the flag of rank ., by "
        f"accesses of {STORES}",
        report["no_registered"],
    )
    assert report["refusals"] == [f"registered buffers: {report['no_registered']}"]


def test_without_graphs_ordinary_memory_is_probed_in_a_stream_alone():
    report = on_a_fake_gpu(cached=0, coherent="graph", fail="streamBeginCapture")
    assert report["no_registered"] is None
