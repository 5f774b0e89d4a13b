"""NCCL and RCCL as baselines: discovery, setup, tuning and failures.

Real ranks run on a GPU in software, over a library with NCCL's C interface that reduces for real and fails on request.
"""

import json
import re

import pytest

from collectives.library import gpu as library_gpu
from collectives.library.gpu import (
    chooses_endless_ll,
    cure_for_staging,
    has_endless_ll,
    reason_against_float8,
)
from tests.fake_gpu import fake_nccl
from tests.launch import FULL, few, mpirun

pytestmark = pytest.mark.alone

ONE, EVERY = ["float32 sum out"], ["plain", "registered", "tuned"]
OWN_BUFFERS = "NCCL 2.32.3 works on buffers from ncclMemAlloc, and our algorithms on buffers that all ranks map."


REQUESTED = ("collective", "variants", "graph", "share", "own_memory", "repeat")


def on_fake_gpus(
    device="cuda", ranks=2, cases=ONE, counts=(1000,), own=None, **faults
) -> list[dict]:
    """The report of each rank; `own` are environment variables of the user. Tuning NCCL takes seconds, so only tests
    that request it do."""
    request = {"device": device, "cases": cases, "counts": counts}
    request |= {name: faults.pop(name) for name in REQUESTED if name in faults}
    if device == "cuda":
        request.setdefault("variants", ["plain", "registered"])
    return [report for (report,) in each_on_fake_gpus(device, ranks, [request], own, **faults)]


def each_on_fake_gpus(device, ranks, requests, own=None, **faults) -> list[list[dict]]:
    """The reports of each rank for each request, one after the other in one launch."""
    settings = fake_nccl.environment(device, **faults) | (own or {})
    done = mpirun(
        ranks, "tests/ranks/library_ranks.py", json.dumps(requests), timeout_s=100, **settings
    )
    assert done.returncode == 0, done.stderr
    by_rank: dict = {}
    for line in done.stdout.splitlines():
        by_rank |= json.loads(line)  # fails if the library printed anything
    report = [by_rank[str(rank)] for rank in range(ranks)]
    report[0][0]["stderr"] = done.stderr
    return report


TYPES = ("float32", "float16", "bfloat16", "float64", "int32", "int64", "int8")
CASES = [f"{kind} {op} out" for kind in TYPES for op in ("sum", "prod", "max", "min")]


@pytest.mark.parametrize(
    ("device", "graph"), few([("cuda", True), ("hip", False), ("cuda", False)], 2)
)
def test_every_type_and_op_is_right_in_every_variant_on_a_fake_gpu(device, graph):
    """Tuning calls each setting 60 times, so few cases are tuned."""
    cases = [*CASES, "float16 avg out", "bfloat16 avg in", "float32 sum in", "int32 min in"][
        :: 1 if device == "cuda" else 5
    ]
    first, common = (
        "graph" if graph else "plain",
        {"device": device, "counts": (1, 1031), "graph": graph},
    )
    untuned = [first, *["registered"] * (device == "cuda")]
    requests = [
        common | {"cases": cases, "variants": untuned},
        common | {"cases": cases[::14] if device == "cuda" else cases, "variants": ["tuned"]},
    ]
    for reports in each_on_fake_gpus(device, 2, requests):
        for report, request in zip(reports, requests, strict=True):
            assert report["variants"] == [*untuned, "tuned"]
            assert len(report["results"]) == 2 * len(request["variants"]) * len(request["cases"])
            assert set(map(tuple, report["results"].values())) == {(0, 0)}
            assert report["environment"]
        # Each has its own communicator.
        assert set(reports[1]["head"]["transports"]) == {"plain", *library_gpu.TUNINGS[device]}
        windows = {label for label, number in reports[1]["windows"].items() if number}
        assert windows == ({"registered"} if device == "cuda" else set())


MOVED = [f"{kind} none out" for kind in TYPES]
PLACES = {
    "all_gather": [*MOVED, "float16 none in", "int64 none in"],
    "reduce_scatter": [*CASES[::3], "bfloat16 avg out", "float16 sum in", "float64 max in"],
    "alltoall": MOVED,
    "sendrecv": MOVED,
}


@pytest.mark.parametrize(
    ("device", "graph", "ranks"), few([("cuda", True, 3), ("hip", False, 2)], 1)
)
def test_every_collective_is_right_in_every_variant_on_a_fake_gpu(device, graph, ranks):
    """A comparison needs a baseline that moves the same data to the same place."""
    stride = 1 if FULL else 3
    cases = {name: every[::stride] for name, every in PLACES.items()}
    variants = ["graph" if graph else "plain", "registered" if device == "cuda" else "tuned"]
    requests = [
        {
            "device": device,
            "graph": graph,
            "collective": name,
            "cases": cases[name],
            "counts": (0, 1, 1031),
            "variants": variants,
        }
        for name in PLACES
    ]
    for each in each_on_fake_gpus(device, ranks, requests, gpu={"count": ranks}):
        for number, (collective, report) in enumerate(zip(PLACES, each, strict=True)):
            shapes = 2 if collective == "sendrecv" else 1
            assert len(report["results"]) == 2 * 3 * shapes * len(cases[collective])
            assert set(map(tuple, report["results"].values())) == {(0,) * ranks}
            assert report["environment"]
            if device == "cuda":
                windows = 2 * (number + 1)
                assert {label for label, n in report["windows"].items() if n} == {"registered"}
                assert report["windows"]["registered"] == windows
            # RCCL would be slow in uncached memory, which slabs have on HIP.
            assert report["memory"] == ("ncclMemAlloc" if device == "cuda" else "hipMalloc")
            if collective == "alltoall":
                assert report["calls"] == {"cuda": "ncclAlltoAll", "hip": "ncclAllToAll"}[device]


CALLS = {
    "all_gather": "ncclAllGather",
    "reduce_scatter": "ncclReduceScatter",
    "alltoall": "ncclAlltoAll",
    "sendrecv": "ncclSend and ncclRecv",
    "all_reduce": "ncclAllReduce",
}


@pytest.mark.parametrize("collective", few(CALLS, 1))
def test_a_large_message_is_whole_and_uses_the_librarys_own_function_on_a_fake_gpu(collective):
    case = ["float32 sum out" if "reduce" in collective else "float32 none out"]
    report = on_fake_gpus(
        ranks=3, cases=case, counts=(1_100_017,), collective=collective, gpu={"count": 3}
    )[0]
    assert len(report["head"]["transports"]["plain"]) == 3
    assert set(map(tuple, report["results"].values())) == {(0, 0, 0)}
    assert report["calls"] == CALLS[collective]


@pytest.mark.parametrize(("device", "graph"), few([("cuda", False), ("hip", True)], 1))
def test_a_library_without_an_all_to_all_uses_one_group_of_sends_on_a_fake_gpu(device, graph):
    """nccl-tests does the same. Without a group, every rank would send first and wait forever."""
    for report in on_fake_gpus(
        device, 3, MOVED[::2], (1, 1031, 70_001), collective="alltoall", graph=graph, has_alltoall=False,
        version=22703, gpu={"count": 3},
    ):  # fmt: skip
        assert set(map(tuple, report["results"].values())) == {(0, 0, 0)}
        assert report["calls"] == "ncclSend and ncclRecv"


@pytest.mark.parametrize(
    ("collective", "fails", "named"),
    few(
        [
            ("all_gather", "ncclAllGather:rank1", "rank 1: ncclAllGather"),
            ("reduce_scatter", "ncclReduceScatter:rank0", "rank 0: ncclReduceScatter"),
            ("alltoall", "ncclAlltoAll:rank1", "rank 1: ncclAlltoAll"),
            ("sendrecv", "ncclRecv:rank1", "rank 1: ncclRecv"),
            ("grouped alltoall", "ncclSend:rank1", "rank 1: ncclSend"),
        ],
        2,
    ),
)
def test_the_failed_function_is_named_on_a_fake_gpu(collective, fails, named):
    case = ["float32 sum out" if collective == "reduce_scatter" else "float32 none out"]
    faults = {"has_alltoall": False} if collective.startswith("grouped") else {}
    for report in on_fake_gpus(
        cases=case, variants=["plain"], collective=collective.split()[-1], fail=fails, **faults
    ):
        sentence = f"{named} of NCCL 2.32.3 fails: unhandled cuda error: Cuda failure 'unspecified launch failure'"
        assert set(report["results"].values()) == {sentence}


@pytest.mark.alone
@pytest.mark.parametrize("collective", few(["sendrecv", "all_gather"], 1))
def test_a_collective_that_hangs_is_given_up_on_a_fake_gpu(collective):
    faults = {
        "stands_still": "default",
        "own": {"FIRST_CALL_S": "1"},
        "variants": ["plain", "tuned"],
    }
    for report in on_fake_gpus(cases=["float32 none out"], collective=collective, **faults):
        late = f"plain: {CALLS[collective]} of NCCL 2.32.3 did not end in 1 s."
        assert all(late in reason_text for reason_text in report["results"].values()), report[
            "results"
        ]


@pytest.mark.parametrize(
    ("binding", "name"),
    few(
        [
            ("cupy", "cupy.cuda.nccl"),
            ("cupy,none", None),
            ("nccl4py", "nccl4py 0.6.0"),
            ("none", None),
        ],
        2,
    ),
)
def test_the_library_depends_on_the_installed_binding_on_a_fake_gpu(binding, name):
    for report in on_fake_gpus(binding=binding):
        if name:
            assert report["head"]["binding"] == name
            assert report["name"] == report["head"]["library"] == "NCCL 2.32.3"
            assert list(report["results"].values()) == [[0, 0], [0, 0]]
        else:
            prefix = "rank 1: " if "," in binding else ""
            reason = (
                f"{prefix}NCCL is not installed: pip install nccl4py nvidia-nccl-cu13 (or -cu12)"
            )
            assert set(report["results"].values()) == {reason}
            assert report["name"] == "NCCL"
            assert report["head"]["notes"] == [f"The GPUs' own library is not measured: {reason}."]


def test_an_old_library_is_refused_and_a_library_without_windows_is_measured_on_a_fake_gpu():
    report = on_fake_gpus(version=2804)[0]
    assert set(report["results"].values()) == {"NCCL 2.8.4 is older than 2.10.0"}
    report = on_fake_gpus(cases=["bfloat16 avg out"], version=21005, variants=EVERY)[0]
    assert report["results"] == {
        "plain bfloat16 avg out 1000": [0, 0],
        "registered bfloat16 avg out 1000": "NCCL 2.10.5 has no symmetric windows; 2.27 has",
        "tuned bfloat16 avg out 1000": [0, 0],
    }
    assert (
        "CTAs=4 is out: NCCL 2.10.5 has no setting for them; 2.17 has." in report["head"]["notes"]
    )


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"no_windows": 1}, "NCCL 2.32.3 makes no symmetric windows between these GPUs"),
        ({"own_memory": False}, "only buffers from NCCL's allocator make symmetric windows"),
    ],
)
def test_without_windows_the_plain_variant_still_runs_on_a_fake_gpu(faults, reason):
    report = on_fake_gpus(variants=EVERY, **faults)[0]
    assert report["results"] == {
        "plain float32 sum out 1000": [0, 0],
        "registered float32 sum out 1000": reason,
        "tuned float32 sum out 1000": [0, 0],
    }
    assert "registered" not in report["head"]["transports"]


@pytest.mark.alone
@pytest.mark.parametrize("fastest", few(["CTAs=16", "NCCL_ALGO=Tree", "NCCL_PROTO=Simple"], 1))
def test_nccl_is_tuned_as_rccl_is_on_a_fake_gpu(fastest):
    """Ours is tuned by size. A baseline that is not would make ours look better than it is."""
    delays = "default:4000,LL:4000,Simple:4000,Ring:4000,Tree:4000,CTAs=4:4000,CTAs=16:4000,"
    name = fastest if fastest.startswith("CTAs") else fastest.partition("=")[2]
    for report in on_fake_gpus(
        delays_us=delays.replace(f"{name}:4000", f"{name}:0"), variants=["plain", "tuned"]
    ):
        assert report["chosen"] == {
            "plain float32 sum out 1000": None,
            "tuned float32 sum out 1000": fastest,
        }
        assert OWN_BUFFERS in report["head"]["notes"]
        assert report["environment"]


SLOW_DEFAULT = "default:3000,LL128:3000,LL:300,Simple:6000"


@pytest.mark.alone
def test_rccl_is_tuned_to_the_fastest_protocol_on_a_fake_gpu():
    own = {"NCCL_PROTO": "LL128", "NCCL_P2P_LEVEL": "SYS"}
    for report in on_fake_gpus("hip", delays_us=SLOW_DEFAULT, own=own, gpu={"arch": "gfx942"}):
        assert report["chosen"] == {
            "plain float32 sum out 1000": None,
            "tuned float32 sum out 1000": "NCCL_PROTO=LL",
        }
        assert set(report["head"]["transports"]) == {"plain", "NCCL_PROTO=LL", "NCCL_PROTO=Simple"}
        assert not any("NCCL_P2P_LEVEL" in note for note in report["head"]["notes"])
        assert report["environment"]


@pytest.mark.parametrize(
    ("faults", "why"),
    few(
        [
            ({"no_ll": 1}, "no algorithm/protocol available"),
            ({"caches_proto": 1}, "does not say that it read it"),
        ],
        1,
    ),
)
def test_a_setting_that_rccl_refuses_or_ignores_is_left_out_on_a_fake_gpu(faults, why):
    for report in on_fake_gpus("hip", delays_us=SLOW_DEFAULT, gpu={"arch": "gfx942"}, **faults):
        assert report["chosen"]["tuned float32 sum out 1000"] == "default"
        notes = " ".join(report["head"]["notes"])
        assert re.search(rf"NCCL_PROTO=LL is out: .*{why}", notes)
        assert "NCCL_P2P_LEVEL=SYS was not tried: RCCL reads it once a process" in notes
        assert "HSA_FORCE_FINE_GRAIN_PCIE=1 is not set" in notes
        assert "NCCL_PROTO=LL" not in report["head"]["transports"]


@pytest.mark.parametrize("way", few(["SHM/direct/direct", "NET/Socket/0"], 1))
def test_a_transport_through_the_host_is_not_called_a_baseline_on_a_fake_gpu(way):
    head = on_fake_gpus(way=way)[1]["head"]
    assert head["transports"]["plain"] == {"0 -> 1": [way], "1 -> 0": [way]}
    through_the_host = f"NCCL 2.32.3 went through host memory ({way}, ranks 0 -> 1): it is not a peer-to-peer baseline;"
    assert head["notes"] == [
        OWN_BUFFERS,
        f"{through_the_host} our kernels reach the peers: export NCCL_P2P_LEVEL=SYS.",
        f"NCCL 2.32.3, through nccl4py 0.6.0, uses {way}.",
    ]


def test_a_library_that_goes_through_the_host_gets_the_cure_that_fits(monkeypatch):
    assert "export NCCL_P2P_LEVEL=SYS" in cure_for_staging("mapped")
    assert "bench.doctor" in cure_for_staging("host_staged"), (
        "no setting of NCCL's gives peer access"
    )
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    assert cure_for_staging("mapped") == "unset NCCL_P2P_DISABLE"


def test_the_users_debug_settings_still_print_on_a_fake_gpu(tmp_path):
    quiet = on_fake_gpus()[0]
    assert "NCCL INFO" not in quiet["stderr"]
    loud = on_fake_gpus(own={"NCCL_DEBUG": "INFO"})[0]
    assert "via P2P/CUMEM" in loud["stderr"]
    assert loud["head"]["transports"] == quiet["head"]["transports"]
    own = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(tmp_path / "said.%p")}
    to_file = on_fake_gpus(own=own)[0]
    assert "via P2P/CUMEM" in (tmp_path / "said.%p").read_text()  # only the real library expands %p
    assert to_file["head"]["notes"] == [
        OWN_BUFFERS,
        "The transport of NCCL 2.32.3 is unknown (plain, registered): NCCL_DEBUG_FILE is set, and only a log "
        "file of this program is read: unset NCCL_DEBUG_FILE.",
    ]


@pytest.mark.parametrize(
    ("faults", "sentence"),
    few(
        [
            (
                {"fail": "ncclCommInitRank:rank1"},
                "rank 1: ncclCommInitRank of NCCL 2.32.3 fails: unhandled system error: Error while creating shared memory "
                "segment <set> (size 9637888)",
            ),
            (
                {"fail": "ncclAllReduce:rank1"},
                "rank 1: ncclAllReduce of NCCL 2.32.3 fails: unhandled cuda error: Cuda failure 'unspecified launch "
                "failure'",
            ),
            (
                {"fail": "ncclGetUniqueId:rank0"},
                "rank 0: ncclGetUniqueId of NCCL 2.32.3 fails: unhandled system error: Bootstrap : no socket interface "
                "found",
            ),
        ],
        1,
    ),
)
def test_a_library_that_fails_on_one_rank_is_unsupported_on_all_ranks_on_a_fake_gpu(
    faults, sentence
):
    """Wiretax still measures its own algorithms."""
    for report in on_fake_gpus(variants=["plain"], **faults):
        assert report["results"] == {"plain float32 sum out 1000": sentence}


@pytest.mark.alone
def test_a_library_that_hangs_is_aborted_and_unsupported_on_a_fake_gpu():
    """On two R9700s RCCL's default protocol hangs; NCCL hangs if the driver claims peers that do not work."""
    for report in on_fake_gpus("hip", stands_still="default", own={"FIRST_CALL_S": "1"}):
        late = "plain: ncclAllReduce of RCCL 2.32.3 did not end in 1 s."
        case = "float32 sum out 1000"
        assert report["results"] == {f"plain {case}": f"rank 0: {late}", f"tuned {case}": [0, 0]}
        assert report["chosen"][f"tuned {case}"] in library_gpu.TUNINGS["hip"]
        assert late in report["head"]["notes"]


def test_a_protocol_that_hangs_on_a_card_is_not_tried_there_on_a_fake_gpu():
    for report in on_fake_gpus("hip", stands_still="LL", version=22707):
        assert any("LL never ends on gfx12" in note for note in report["head"]["notes"])
        assert any(
            "may never end: export NCCL_PROTO=Simple" in note for note in report["head"]["notes"]
        )


def test_an_rccl_whose_ll_may_hang_is_known_by_its_version(monkeypatch):
    monkeypatch.delenv("NCCL_PROTO", raising=False)
    versions = 22703, 22707, 23004, 23007
    assert [has_endless_ll("gfx1201", version) for version in versions] == [True, True, True, False]
    assert [chooses_endless_ll("gfx1200", version) for version in versions] == [
        False,
        True,
        True,
        False,
    ]
    assert not chooses_endless_ll("gfx1100", 22707)
    monkeypatch.setenv("NCCL_PROTO", "Simple")
    assert not chooses_endless_ll("gfx1201", 22707)


def test_a_peer_lost_during_a_run_is_reported_without_its_address_on_a_fake_gpu():
    report = on_fake_gpus(variants=["plain"], repeat=5, lost_after=5)[0]
    assert report["failure"] == (
        "ncclAllReduce of NCCL 2.32.3 fails: remote process exited or there was a network error: NET/Socket : peer "
        "<set> has closed the connection"
    )


@pytest.mark.parametrize("allowed", ["", "1"])
def test_ranks_that_share_a_gpu_on_a_fake_gpu(allowed):
    """NCCL 2.30 and later allow this if the user sets NCCL_MULTI_RANK_GPU_ENABLE."""
    own = {"NCCL_MULTI_RANK_GPU_ENABLE": allowed} if allowed else {}
    report = on_fake_gpus(share=True, own=own, gpu={"count": 1})[0]
    if allowed:
        assert set(map(tuple, report["results"].values())) == {(0, 0)}
    else:
        assert all(
            text.startswith("NCCL 2.32.3 wants one GPU a rank, and 2 ranks share one")
            for text in report["results"].values()
        )
    assert report["environment"]


def test_fp8_is_reduced_where_the_library_has_the_codes_of_ocp():
    assert reason_against_float8("NCCL", 22304, "sm_90") == "NCCL has no fp8; 2.24 has"
    assert (
        reason_against_float8("NCCL", 22400, "sm_89")
        == "NCCL reduces fp8 from sm_90 on, and this is sm_89"
    )
    assert "gfx942" in (reason_against_float8("RCCL", 22707, "gfx942") or "")
    assert not any(
        reason_against_float8("", 22707, arch) for arch in ("sm_90", "sm_120", "gfx950", "gfx1201")
    )
