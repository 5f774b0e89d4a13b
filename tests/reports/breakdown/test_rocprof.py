"""Tests the reader of rocprofv3's JSON. The files are built from its published schema, with all
fields that it requires; no file of a real run was at hand."""

import json

import pytest

from reports.__main__ import main
from reports.breakdown.kernel_names import Names
from reports.breakdown.rocprof import read_rocprof
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

CPU, GPUS = 10, (20, 21)
SYMBOLS = {
    1: "Cijk_Alik_Bljk_BBS_BH_MT64x32x256",
    2: "void vllm::cross_device_reduce_1stage<__hip_bfloat16, 2>(vllm::RankData*)",
}
START_NS = 8_819_330_200_067_564  # more than a double of us can hold in all its digits
XYZ = {
    "x": 1,
    "y": 1,
    "z": 1,
}


def agent(handle, kind, name):
    agent = {
        "size": 304,
        "id": {"handle": handle},
        "type": kind,
        "capability": {},
    }
    return agent | {"product_name": name}


def symbol(number, name):
    names = ("kernel_name", "formatted_kernel_name", "demangled_kernel_name")
    rest = ("size", "code_object_id", "kernel_object", "kernarg_segment_size")
    return dict.fromkeys(names, name) | dict.fromkeys(rest, 1) | {"kernel_id": number}


def record(start_us, lasts_us, **fields):
    times = {
        "start_timestamp": START_NS + round(1000 * start_us),
        "end_timestamp": START_NS + round(1000 * (start_us + lasts_us)),
    }
    ids = {"correlation_id": {"internal": 1, "external": 0}, "thread_id": 69}
    return (
        {
            "size": 184,
            "kind": 11,
            "operation": 1,
        }
        | ids
        | times
        | fields
    )


def dispatch(kernel, start_us, lasts_us, gpu=GPUS[0], **fields):
    info = {
        "size": 64,
        "agent_id": {"handle": gpu},
        "queue_id": {"handle": 2},
        "kernel_id": kernel,
        "dispatch_id": 1,
        "workgroup_size": XYZ,
        "grid_size": XYZ,
    }
    return record(start_us, lasts_us, dispatch_info=info, **fields)


def copy(start_us, lasts_us, source, target):
    ends = {"src_agent_id": {"handle": source}, "dst_agent_id": {"handle": target}}
    return record(start_us, lasts_us, bytes=4096, **ends)


def write(path, dispatches, copies=(), processes=1):
    process = {
        "metadata": {
            "pid": 1,
            "init_time": 0,
            "fini_time": 1,
        },
        "agents": [
            agent(CPU, 1, "AMD EPYC 9575F"),
            *(agent(handle, 2, "AMD Radeon AI PRO R9700") for handle in GPUS),
        ],
        "counters": [],
        "strings": {
            "callback_records": [],
            "buffer_records": [],
            "marker_api": [],
        },
        "code_objects": [],
        "kernel_symbols": [{"kernel_id": 0}, *(symbol(*each) for each in SYMBOLS.items())],
        "callback_records": {"counter_collection": []},
        "buffer_records": {"kernel_dispatch": [*dispatches], "memory_copy": [*copies]},
    }
    path.write_text(json.dumps({"rocprofiler-sdk-tool": [process] * processes}))
    return path


def test_kernels_and_copies_become_a_timeline(tmp_path):
    """In order of time, in us, each by its own stream."""
    trace = write(
        tmp_path / "1_results.json",
        [dispatch(2, 40.5, 20), dispatch(1, 0, 40.125, stream_id={"handle": 3})],
        [copy(70, 5, CPU, GPUS[0]), copy(80, 5, *GPUS), copy(90, 5, GPUS[0], CPU)],
    )
    [timeline] = read_rocprof(trace, Names())
    assert [timeline.texts[name] for name in timeline.name] == [
        *SYMBOLS.values(),
        "Memcpy HtoD",
        "Memcpy PtoP",
        "Memcpy DtoH",
    ]
    assert timeline.starts_us.tolist() == [0, 40.5, 70, 80, 90]
    assert timeline.ends_us.tolist() == [40.125, 60.5, 75, 85, 95]
    assert timeline.is_call.tolist() == [False, True, False, False, False]
    assert timeline.size_bytes.tolist() == [0, 0, 4096, 4096, 4096]
    assert timeline.stream.tolist() == [0, 1, 2, 2, 2]
    assert (timeline.device, timeline.rank) == ("AMD Radeon AI PRO R9700", None)


def test_each_gpu_of_a_process_is_a_rank(tmp_path, capsys):
    """As llama.cpp has them: one process, and one file, for all GPUs."""
    steps = [
        each
        for step in range(0, 1000, 100)
        for gpu, late_us in zip(GPUS, (0, 10), strict=True)
        for each in (
            dispatch(1, step, 40 + late_us, gpu),
            dispatch(2, step + 40 + late_us, 30 - late_us, gpu),
        )
    ]
    trace = write(tmp_path / "1_results.json", steps)
    assert [each.rank for each in read_rocprof(trace, Names())] == [0, 1]
    assert main(["breakdown", str(trace), "--json"]) == 0
    [call] = json.loads(capsys.readouterr().out)["calls"]
    assert (call["transport_us"], call["waiting_us"]) == (20, [10, 0])


def test_a_record_that_ends_before_it_begins_is_told(tmp_path, capsys):
    trace = write(tmp_path / "1_results.json", [dispatch(1, 0, 40), dispatch(1, 50, -1)])
    assert main(["breakdown", str(trace)]) == 0
    assert "1 kernels or copies end before they begin" in capsys.readouterr().out


def broken(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-30], "is no whole trace of rocprofv3"),
        (lambda text: broken(text, '"handle": 20', '"handle": "\\u001b"'), "Expected `int`"),
        (lambda text: broken(text, "start_timestamp", "begin"), "`start_timestamp`"),
        (lambda text: broken(text, f"{START_NS}", "NaN"), "is no whole trace"),
        (lambda text: broken(text, f"{START_NS}", "1e400"), "is no whole trace"),
        (lambda text: broken(text, f"{START_NS}", f"{1 << 63}"), "is no whole trace"),
        (lambda text: '{"rocprofiler-sdk-tool":' + "[" * 100_000, "is no whole trace"),
        (lambda text: '{"rocprofiler-sdk-tool": []}', "has 0 processes"),
    ],
)
def test_a_file_that_is_no_such_trace_is_refused_in_a_sentence(tmp_path, change, reason, capsys):
    trace = write(tmp_path / "1_results.json", [dispatch(1, 0, 40)])
    trace.write_text(change(trace.read_text()))
    assert main(["breakdown", str(trace)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("dispatches", "processes", "reason"),
    [
        ([], 1, "has no kernels"),
        ([dispatch(1, 0, -1)], 1, "every kernel ends before it begins"),
        ([dispatch(1, 0, 1)], 2, "has 2 processes"),
    ],
)
def test_a_trace_without_a_gpu_of_one_process_is_refused(tmp_path, dispatches, processes, reason):
    trace = write(tmp_path / "1_results.json", dispatches, processes=processes)
    with pytest.raises(ResultError, match=reason):
        read_rocprof(trace, Names())
