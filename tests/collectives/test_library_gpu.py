"""NCCL and RCCL as baselines: discovery, setup, tuning and failures.

Real ranks run on a GPU in software, over a library with NCCL's C interface that reduces for real
and fails on request.
"""

import json
import math
import struct
from typing import Any

import pytest

from collectives.library import gpu_library as library_gpu
from collectives.library import nccl
from collectives.library.gpu_library import reduces_float8
from collectives.library.nccl import has_endless_ll
from tests.fake_gpu import fake_nccl
from tests.launch import FULL, few, printed

ONE = ["float32 sum out"]
KEY = "float32 sum out 1000"
HASTY = {"TUNING_CALLS": "1"}  # where any setting may win
RIGHT = [None, None]
OWN_BUFFERS = (
    "NCCL 2.32.3 works on buffers from ncclMemAlloc, and our algorithms on buffers that all ranks "
    "map."
)


def each_on_fake_gpus(requests, device="cuda", ranks=2, own=None, **faults) -> list[list[dict]]:
    """The reports of each rank for each request, one after the other in one launch; `own` are
    environment variables of the user."""
    settings = fake_nccl.environment(device, **faults) | (own or {})
    requests = [{"device": device, "counts": (1000,), "cases": ONE} | each for each in requests]
    program = "tests/ranks/library_ranks.py", json.dumps(requests)
    by_rank: dict = {}
    for line in printed(ranks, *program, **settings).splitlines():
        by_rank |= json.loads(line)  # fails if the library printed anything
    return [by_rank[str(rank)] for rank in range(ranks)]


def on_fake_gpus(device="cuda", request=None, own=None, **faults) -> list[dict]:
    """The report of each of two ranks. Tuning NCCL takes seconds, so only tests that request it
    do."""
    variants = ["plain", "registered"] if device == "cuda" else ["plain", "tuned"]
    request = {"variants": variants} | (request or {})
    reports = each_on_fake_gpus([request], device, own=own, **faults)
    return [report for (report,) in reports]


def outcomes(report):
    """What the cases ended with: the error of each rank or RIGHT, or why they cannot run."""
    return {
        outcome if isinstance(outcome, str) else tuple(outcome)
        for outcome in report["results"].values()
    }


TYPES = ("float32", "float16", "bfloat16", "float64", "int32", "int64", "int8")
CASES = [f"{kind} {op} out" for kind in TYPES for op in ("sum", "prod", "max", "min")]
MOVED = [f"{kind} none out" for kind in TYPES]
PLACES = {
    "all_gather": [*MOVED, "float16 none in", "int64 none in"],
    "reduce_scatter": [*CASES[::3], "bfloat16 avg out", "float16 sum in", "float64 max in"],
    "alltoall": MOVED,
    "sendrecv": MOVED,
}


@pytest.mark.parametrize(("device", "graph"), [("cuda", True), ("hip", False)])
def test_every_type_and_op_is_right_in_every_variant_on_a_fake_gpu(device, graph):
    """Tuning calls each setting, so few cases are tuned. Without the full count each type
    and each operation has its turn."""
    is_cuda = device == "cuda"
    stride = 7 if not is_cuda else 1 if FULL else 3
    more = "float16 avg out", "bfloat16 avg in", "float32 sum in", "int32 min in"
    untuned = ["graph" if graph else "plain", "registered"]
    common = {"counts": (1, 1031), "graph": graph}
    requests = [
        common | {"cases": [*CASES[::stride], *more], "variants": untuned},
        common | {"cases": [*CASES[::28], more[0]], "counts": (1031,), "variants": ["tuned"]},
    ]
    for reports in each_on_fake_gpus(requests, device, own=HASTY):
        for report, request in zip(reports, requests, strict=True):
            assert report["variants"] == [*untuned, "tuned"]  # of an all-reduce
            results = (len(request[name]) for name in ("counts", "variants", "cases"))
            assert len(report["results"]) == math.prod(results)
            assert outcomes(report) == {(None, None)}
        # Each has its own communicator, but for what the library runs by itself: RING SIMPLE.
        by_itself = {"NCCL_PROTO=Simple", "NCCL_ALGO=Ring"}
        made = {*reports[1]["head"]["transports"]}
        assert made >= {"plain", *library_gpu.TUNINGS[device]} - by_itself
        assert not made & by_itself
        assert reports[1]["windows"]["registered"] > 0


@pytest.mark.parametrize(("device", "ranks"), few([("hip", 2), ("cuda", 3)], 1))
def test_every_collective_is_right_in_every_variant_on_a_fake_gpu(device, ranks):
    """A comparison needs a baseline that moves the same data to the same place. As above, few cases
    are tuned."""
    stride, is_cuda = 1 if FULL else 3, device == "cuda"
    untuned = {"variants": ["graph", "registered"], "counts": (0, 1, 1031)}
    requests: list[dict[str, Any]] = [
        {"graph": True, "collective": name, "cases": cases} | settings
        for name in PLACES
        for cases, settings in (
            (PLACES[name][::stride], untuned),
            (PLACES[name][:1], {"variants": ["tuned"], "counts": (1031,)}),
        )
        if settings is untuned or (not is_cuda and (FULL or name in ("all_gather", "sendrecv")))
    ]
    for reports in each_on_fake_gpus(requests, device, ranks, HASTY, gpu={"count": ranks}):
        for request, report in zip(requests, reports, strict=True):
            results = (len(request[name]) for name in ("counts", "variants", "cases"))
            assert len(report["results"]) >= math.prod(results)
            assert outcomes(report) == {(None,) * ranks}
            assert report["memory"] == "ncclMemAlloc"


MEMORY = "Error while creating shared memory segment <set> (size 9637888)"
LAUNCH = "unhandled cuda error: Cuda failure 'unspecified launch failure'"
NO_SOCKET = "unhandled system error: Bootstrap : no socket interface found"


@pytest.mark.parametrize(
    ("collective", "fails", "why"),
    few(
        [
            ("all_reduce", "ncclCommInitRankConfig:rank1", f"unhandled system error: {MEMORY}"),
            ("all_gather", "ncclAllGather:rank1", LAUNCH),
            ("all_reduce", "ncclGetUniqueId:rank0", NO_SOCKET),
        ],
        2,
    ),
)
def test_a_function_that_fails_on_one_rank_is_named_by_all_on_a_fake_gpu(collective, fails, why):
    """Wiretax still measures its own algorithms."""
    case = ["float32 sum out" if "reduce" in collective else "float32 none out"]
    request = {"cases": case, "variants": ["plain"], "collective": collective}
    function, _, rank = fails.partition(":rank")
    for report in on_fake_gpus(request=request, fail=fails):
        assert outcomes(report) == {f"rank {rank}: {function} of NCCL 2.32.3 fails: {why}"}


@pytest.mark.parametrize(
    ("binding", "is_found"),
    [("cupy", True), ("cupy,none", False)],
)
def test_the_library_depends_on_the_installed_binding_on_a_fake_gpu(binding, is_found):
    install = "NCCL is not installed: pip install nccl4py nvidia-nccl-cu13 (or -cu12)"
    reason = f"rank 1: {install}"
    for report in on_fake_gpus(request={"repeat": 5}, binding=binding):
        if is_found:
            # In timed calls a line for each would slow rank 0 down, and fill its memory.
            assert report["log_bytes"] == 0
            assert report["head"]["library"] == "NCCL 2.32.3"
            assert outcomes(report) == {(None, None)}
        else:
            assert outcomes(report) == {reason}
            assert report["head"]["notes"] == [f"The GPUs' own library is not measured: {reason}."]


def test_an_old_library_is_refused_on_a_fake_gpu():
    assert outcomes(on_fake_gpus(version=21803)[0]) == {"NCCL 2.18.3 is older than 2.19.0"}


@pytest.mark.parametrize("version", few([22603, 21903], 1))
def test_nccl_of_older_containers_is_a_baseline_on_a_fake_gpu(version):
    """It lacks all-to-all, windows, the end of a log and a part of the configuration."""
    name = f"NCCL {nccl.release(version)}"
    requests: list[dict[str, Any]] = [
        {"variants": ["plain", "registered", "tuned"]},
        {"variants": ["plain"], "collective": "alltoall", "cases": ["float32 none out"]},
    ]
    for summed, moved in each_on_fake_gpus(requests, own=HASTY, version=version):
        assert summed["results"] == {
            f"plain {KEY}": RIGHT,
            f"registered {KEY}": f"{name} has no symmetric windows: NCCL has them since 2.27.0",
            f"tuned {KEY}": RIGHT,
        }
        # Nobody can end its log, so it does not say what it ran.
        assert summed["chosen"][f"plain {KEY}"] is None
        assert {*summed["head"]["transports"]} > {"plain", "NCCL_PROTO=LL", "NCCL_ALGO=Tree"}
        assert any("CTAs=4" in label for label in summed["head"]["transports"])
        assert (summed["head"]["library"], outcomes(moved)) == (name, {(None, None)})


def test_the_configuration_of_each_version_has_its_size():
    """By nccl.h of 2.19 to 2.26, and of 2.27."""
    for version, size in ((21903, 48), (22603, 48), (22703, 72), (23203, 72)):
        config = nccl.configuration("4", None, version)
        assert len(config) == size
        assert struct.unpack_from("NII4i", config) == (
            size,
            0xCAFEBEEF,
            21700 if size == 48 else 22700,
            nccl.UNDEFINED,
            nccl.UNDEFINED,
            4,
            4,
        )


def test_without_windows_the_other_variants_still_run_on_a_fake_gpu():
    report = on_fake_gpus(no_windows=1)[0]
    reason = "NCCL 2.32.3 makes no symmetric windows between these GPUs"
    assert report["results"] == {f"plain {KEY}": RIGHT, f"registered {KEY}": reason}
    assert "registered" not in report["head"]["transports"]


@pytest.mark.parametrize(
    ("faults", "own", "chosen", "reason"),
    [
        ({}, {}, "copy engines", None),
        ({"no_copy_engines": 1}, {}, "a kernel: AllGather_LD, 4 channels", None),
        ({"version": 22703}, {}, None, "NCCL 2.27.3 has no zero-CTA policy; 2.28 has"),
        ({"no_windows": 1}, {}, None, "NCCL 2.32.3 makes no symmetric windows between these GPUs"),
        ({}, {"NCCL_DEBUG": "WARN"}, "copy engines", None),
    ],
    ids=["engines", "kernel", "old", "windows", "log"],
)
def test_the_zero_cta_policy_moves_data_and_says_what_moved_it_on_a_fake_gpu(
    faults, own, chosen, reason
):
    """A kernel beside a matrix product takes blocks from it; copy engines take none. Windows of
    another communicator do not serve this one."""
    case = "float32 none out"
    names = ["plain", "registered", "zero_cta"]
    request = {"collective": "all_gather", "cases": [case], "variants": names}
    report = on_fake_gpus(request=request, own=own, **faults)[0]
    key = f"zero_cta {case} 1000"
    assert report["results"][key] == (reason or RIGHT)
    assert report["results"][f"plain {case} 1000"] == RIGHT
    assert report["chosen"].get(key) == chosen
    assert (report["windows"].get(library_gpu.ZERO_CTA, 0) > 0) == (reason is None)
    assert not (report["chosen"].get(f"registered {case} 1000") or "").startswith("copy")
    notes = [note for note in report["head"]["notes"] if "zero-CTA policy" in note]
    assert len(notes) == (chosen or "").startswith("a kernel")


def test_nccl_has_the_zero_cta_policy_where_copy_engines_can_move_all_on_a_fake_gpu():
    """They add nothing, and NCCL sends and receives by kernels."""
    requests: list[dict[str, Any]] = [
        {"collective": name, "cases": [], "variants": None}
        for name in ("all_gather", "alltoall", "sendrecv", "reduce_scatter", "all_reduce")
    ]
    [reports, _] = each_on_fake_gpus(requests)
    has = ["zero_cta" in report["variants"] for report in reports]
    assert has == [True, True, False, False, False]


def tuned(choice, *words, **how):
    """The reports of a launch with this choice; another program may make one of three choose by
    its own delays."""
    for _ in range(3):
        reports = on_fake_gpus(*words, **how)
        if all(report["chosen"][f"tuned {KEY}"] == choice for report in reports):
            break
    return reports


@pytest.mark.alone
def test_nccl_is_tuned_as_rccl_is_on_a_fake_gpu():
    """Ours is tuned by size. A baseline that is not would make ours look better than it is."""
    others = "default", "LL", "Simple", "Ring"
    delays = ",".join([*(f"{each}:7000" for each in others), "Tree:2000,CTAs16:-2000,"])
    choice = "NCCL_ALGO=Tree CTAs=16: TREE SIMPLE, 16 channels"
    request = {"variants": ["plain", "tuned"]}
    for report in tuned(choice, request=request, delays_us=delays):
        assert report["chosen"] == {
            f"plain {KEY}": "RING SIMPLE, 2 channels",
            f"tuned {KEY}": choice,
        }
        assert OWN_BUFFERS in report["head"]["notes"]


@pytest.mark.parametrize(
    ("vendor", "own", "faults"),
    [
        ("cuda", {"NCCL_DEBUG": "WARN"}, {}),
        ("hip", {}, {"fail": "rcclGetAlgoInfo"}),
    ],
)
def test_a_library_that_does_not_say_what_it_runs_is_measured_on_a_fake_gpu(vendor, own, faults):
    request = {"variants": ["plain"]}
    report = on_fake_gpus(vendor, request, own, **faults)[0]
    assert report["results"] == {f"plain {KEY}": RIGHT}
    assert report["chosen"] == {f"plain {KEY}": None}
    assert report["head"]["transports"]["plain"]


@pytest.mark.alone
def test_a_library_that_hangs_is_aborted_and_unsupported_on_a_fake_gpu():
    """On two R9700s RCCL's default protocol hangs; NCCL hangs if the driver claims peers that do
    not work."""
    for report in on_fake_gpus("hip", own={"FIRST_CALL_S": "1"}, stands_still="default"):
        late = "plain: ncclAllReduce of RCCL 2.32.3 did not end in 1 s."
        assert report["results"] == {f"plain {KEY}": f"rank 0: {late}", f"tuned {KEY}": RIGHT}
        setting, _, ran = report["chosen"][f"tuned {KEY}"].partition(": ")
        assert setting.split()[0] in library_gpu.TUNINGS["hip"]
        assert ran
        assert late in report["head"]["notes"]


NO_WINDOWS = (
    "makes no symmetric windows between these GPUs: it needs peer access, and NCCL_CUMEM_ENABLE=1 "
    "in the environment"
)


@pytest.mark.parametrize(
    ("version", "no_windows", "reason"),
    [
        (23007, "", None),
        (23007, "1", f"RCCL 2.30.7 {NO_WINDOWS}"),
        (23007, "said", f"RCCL 2.30.7 {NO_WINDOWS}"),
        (23203, "said", f"RCCL 2.32.3 {NO_WINDOWS}"),
        (22707, "", "RCCL 2.27.7 has no symmetric windows: RCCL has them since 2.30.7"),
    ],
    ids=["windows", "null", "of other calls", "in other words", "old"],
)
def test_rccl_has_symmetric_windows_or_says_why_not_on_a_fake_gpu(version, no_windows, reason):
    """Where they are not symmetric, RCCL makes some that only other calls use."""
    request = {"variants": ["plain", "registered"], "counts": (1031,), "graph": True}
    for report in on_fake_gpus("hip", request, version=version, no_windows=no_windows):
        assert report["results"] == {
            "plain float32 sum out 1031": RIGHT,
            "registered float32 sum out 1031": reason or RIGHT,
        }
        assert (report["windows"].get("registered", 0) > 0) == (reason is None)
        # A communicator is made only where it could have windows.
        assert ("registered" in report["windows"]) == (not reason or no_windows == "1")
        # RCCL would be slow in uncached memory, which slabs have on HIP.
        assert report["memory"] == ("hipMalloc" if version < 23007 else "ncclMemAlloc")


@pytest.mark.parametrize("own", [{}, {"NCCL_PROTO": "LL,Simple"}], ids=["unset", "of the user"])
def test_rccl_begins_with_simple_where_its_ll_may_never_end_on_a_fake_gpu(own):
    """RCCL 2.27.7 chooses LL on gfx12 by itself, whatever a communicator read, and hung each run
    for 20 s. That it does not is no default, so the head says it."""
    request = {"variants": ["plain", "tuned"]}
    hasty = {"FIRST_CALL_S": "1"} | HASTY | own
    hangs = {"version": 22707, "chooses": "LL", "stands_still": "LL"}
    for report in on_fake_gpus("hip", request, hasty, **hangs):
        assert report["results"] == {f"plain {KEY}": RIGHT, f"tuned {KEY}": RIGHT}
        head = report["head"]
        assert head["set_by_wiretax"] == ({} if own else {"NCCL_PROTO": "Simple"})
        said = [note for note in head["notes"] if note.startswith("Wiretax set NCCL_PROTO=Simple")]
        assert len(said) == (not own)
        if not own:  # Simple is what it runs, so nobody makes another communicator for it
            labels = ["plain", *(f"plain {each}" for each in library_gpu.CTAS)]
            assert [*report["windows"]] == labels


def test_a_label_that_its_channels_do_not_follow_is_refused_on_a_fake_gpu():
    """Two archived runs searched over 1 to 32 blocks while NCCL had 32 in all communicators: the
    labels named no setting. A configuration file of NCCL's is in no environment."""
    request = {"variants": ["tuned"]}
    # Windows, which are searched among no numbers of blocks, could win.
    for report in on_fake_gpus(request=request, own=HASTY, conf_max_ctas=1, no_windows=1):
        notes = report["head"]["notes"]
        refused = [note for note in notes if "CTAs=4 is out: " in note]
        assert refused[0].endswith("NCCL 2.32.3 has 1 channel all the same.")
        assert not {"plain CTAs=4", "plain CTAs=16"} & {*report["head"]["channels"]}
        assert "CTAs=4" not in report["chosen"][f"tuned {KEY}"]
        assert report["head"]["set_by_file"] == {"NCCL_MAX_CTAS": "1"}


@pytest.mark.alone
def test_a_protocol_that_one_size_does_not_follow_is_tried_at_the_next_on_a_fake_gpu():
    """RCCL takes LL for short messages whatever a communicator read, and asks it about others."""
    request = {"variants": ["tuned"], "counts": (100, 1000)}
    delays = "default:7000,LL:7000,Ring:7000,Tree:7000,Simple:0,"
    choice = "NCCL_PROTO=Simple: RING SIMPLE, 2 channels"
    for report in tuned(choice, request=request, chooses="LL:1000", delays_us=delays):
        assert report["chosen"][f"tuned {KEY}"] == choice
        assert "NCCL_PROTO=Simple" not in report["chosen"][f"tuned {ONE[0]} 100"]
        runs = "NCCL 2.32.3 runs RING LL, 2 channels all the same"
        assert f"NCCL_PROTO=Simple is left out where {runs}." in report["head"]["notes"]


@pytest.mark.parametrize("name", ["NCCL_MAX_CTAS", "NCCL_MIN_CTAS"])
def test_a_variable_beside_the_search_that_it_voids_is_an_error_on_a_fake_gpu(name):
    untied: dict[str, Any] = {"variants": ["plain", "registered"]}
    [report] = on_fake_gpus(request=untied, own={name: "32"})[:1]
    assert outcomes(report) == {(None, None)}
    [report] = on_fake_gpus(request={"variants": ["tuned"]}, own={name: "32"})[:1]
    assert report["error"].startswith(f"{name}=32 is set, and outweighs the numbers of blocks")


def test_a_policy_of_the_user_outweighs_the_zero_cta_policy_on_a_fake_gpu():
    case = "float32 none out"
    request = {"collective": "all_gather", "cases": [case], "variants": ["plain", "zero_cta"]}
    for policy, outcome in (
        ("EFFICIENCY", "NCCL_CTA_POLICY=EFFICIENCY is set, and outweighs the zero-CTA policy"),
        ("2", RIGHT),
    ):
        report = on_fake_gpus(request=request, own={"NCCL_CTA_POLICY": policy})[0]
        assert report["results"][f"zero_cta {case} 1000"] == outcome


SHM_COPIES = "NCCL_SHM_USE_CUDA_MEMCPY"


@pytest.mark.parametrize(
    ("version", "own", "way", "said"),
    [
        (22903, {}, "SHM/direct/direct", "`make libraries GPU=cuda13` measures both"),
        (22903, {SHM_COPIES: "1"}, "SHM/CE/direct", None),
        (23203, {}, "SHM/direct", "says how to compare with an older one"),
        (23203, {SHM_COPIES: "1"}, "SHM/direct", "has no copy engines at work, although"),
    ],
    ids=["kernels", "copy engines", "new", "not read"],
)
def test_the_other_way_through_the_host_is_said_where_nccl_has_it_on_a_fake_gpu(
    version, own, way, said
):
    """NCCL had the variable until 2.30.4, and reads it once in a process."""
    faults = {"version": version, "way": "SHM/direct/direct" if version < 23007 else "SHM/direct"}
    report = on_fake_gpus(request={"variants": ["plain"]}, own=own, **faults)[0]
    assert report["head"]["transports"]["plain"] == {"0 -> 1": [way], "1 -> 0": [way]}
    notes = [note for note in report["head"]["notes"] if SHM_COPIES in note]
    assert [said in note for note in notes] == ([True] if said else [])


def test_an_rccl_whose_ll_may_hang_is_known_by_its_version():
    versions = 22703, 22707, 23004, 23007
    archs = "gfx1100", "gfx1201"  # unlike GPUs: each rank must decide as the others
    assert [has_endless_ll(archs, each) for each in versions] == [True, True, True, False]
    assert not has_endless_ll(["gfx1100"], 22707)


def test_a_peer_lost_during_a_run_is_reported_without_its_address_on_a_fake_gpu():
    request = {"variants": ["plain"], "repeat": 5}
    assert on_fake_gpus(request=request, lost_after=5)[0]["failure"] == (
        "ncclAllReduce of NCCL 2.32.3 fails: remote process exited or there was a network error: "
        "NET/Socket : peer <set> has closed the connection"
    )


@pytest.mark.parametrize("allowed", ["", "1"])
def test_ranks_that_share_a_gpu_on_a_fake_gpu(allowed):
    """NCCL 2.30 and later allow this if the user sets NCCL_MULTI_RANK_GPU_ENABLE."""
    own = {"NCCL_MULTI_RANK_GPU_ENABLE": allowed} if allowed else {}
    report = on_fake_gpus(request={"share": True}, own=own, gpu={"count": 1})[0]
    refused = "NCCL 2.32.3 needs one GPU a rank, and 2 ranks share one"
    assert all(
        outcome == (None, None) if allowed else outcome.startswith(refused)
        for outcome in outcomes(report)
    )


def test_fp8_is_reduced_where_the_library_has_the_codes_of_ocp():
    assert not any(reduces_float8(arch, 22703) for arch in ("sm_89", "gfx942", "gfx1100"))
    assert all(reduces_float8(arch, 22400) for arch in ("sm_90", "sm_120", "gfx950", "gfx1201"))
    assert not reduces_float8("sm_90", 22304)
