"""Reading traces of torch.profiler: real ones, all their forms, and damaged ones."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from reports.__main__ import main
from reports.breakdown import kineto_events, trace_json
from reports.breakdown.kernel_names import Names
from reports.breakdown.kineto import NoDeviceWork, read_kineto
from tests.reports.breakdown.small_trace import CALL, event

TRACES = Path(__file__).with_name("traces")
MIB = 1 << 20
TRIMONTHS_S = 7_889_238  # of Kineto's ChromeTraceBaseTime


def write(path, events, **head):
    path.write_text(json.dumps({**head, "traceEvents": events}))
    return path


def read(path):
    return read_kineto(path, Names())


def calls(timeline):
    """(duration, size, group) of each call."""
    durations = timeline.ends_us - timeline.starts_us
    return [
        (
            round(float(durations[i]), 3),
            int(timeline.size_bytes[i]),
            timeline.groups[timeline.group[i]],
        )
        for i in np.flatnonzero(timeline.is_call)
    ]


def call(ts=100.0, dur=20.0, name=CALL, **args):
    return event("kernel", name, ts, dur, stream=7, **args)


def launch(correlation, ts, dur=5.0, name="cudaLaunchKernel"):
    return {**event("cuda_runtime", name, ts, dur, correlation=correlation), "tid": 11}


def test_a_call_counts_from_the_end_of_the_kernel_that_launched_it_early(tmp_path):
    """As by FlashInfer's programmatic launches (PDL); what also ends before keeps its times."""
    events = [
        event("kernel", "gemm", 100, 30, stream=7),
        call(ts=124, dur=26),
        event("kernel", "inside", 140, 2, stream=7),
        event("kernel", "beside", 126, 9, stream=8),
    ]
    timeline = read(write(tmp_path / "a.json", events))
    texts = [timeline.texts[name] for name in timeline.name]
    spans = zip(texts, timeline.starts_us, timeline.ends_us, strict=True)
    assert [*spans] == [
        ("gemm", 100, 130),
        ("beside", 126, 135),
        (CALL, 130, 150),
        ("inside", 140, 142),
    ]
    assert "1 works begin while their stream runs another" in timeline.notes[0]


# Read off the files by eye.
def test_ten_calls_of_a_v100_whose_operators_have_no_shapes():
    timeline = read(TRACES / "v100-training.json.gz")
    lasts = [2965, 8, 453, 9, 452, 13, 458, 6, 453, 9]
    assert calls(timeline) == [(us, 0, "") for us in lasts]
    assert (timeline.rank, timeline.ranks, timeline.device) == (1, 2, "Tesla V100-SXM2-32GB")
    assert not timeline.notes


def test_ten_calls_of_an_a100_with_the_sizes_of_their_operators():
    timeline = read(TRACES / "a100-training.json.gz")
    sizes = {
        1859: 4 * 45310188,
        198: 4 * 267040,
        4417: 4 * 4432073,
    }
    lasts = [28, 33, 6801, 1859, 198, 4417, 11449, 1856, 2503, 18]
    assert calls(timeline) == [(us, sizes.get(us, 0), "") for us in lasts]
    assert (timeline.rank, timeline.ranks, timeline.device) == (3, 8, "NVIDIA A100-PG509-200")
    assert {each.name.partition("#")[0] for each in timeline.annotations} == {"ProfilerStep"}
    lead_us = timeline.starts_us - timeline.launches_us
    assert lead_us.min() > 0
    assert lead_us.max() < 30e3


NCCL = {
    "Process Group Name": "3",
    "Group size": 2,
    "dtype": "BFloat16",
}


@pytest.mark.parametrize(
    ("collective", "n_in", "n_out", "size"),
    [
        ("all_reduce", 4096, 4096, 8192),
        ("_all_gather_base", 4096, 8192, 16384),
        ("_reduce_scatter_base", 8192, 4096, 16384),
        ("all_to_all", 4096, 4096, 8192),
        # Another rank gives or gets more: the trace of this one does not say what.
        ("all_to_all", 4096, 8192, 0),
        ("all_to_allv", 4096, 4096, 0),
    ],
)
def test_a_size_is_of_all_ranks_segments_together(tmp_path, collective, n_in, n_out, size):
    args = {
        "Collective name": collective,
        "In msg nelems": n_in,
        "Out msg nelems": n_out,
    }
    group = {"pg_name": "3", "ranks": [0, 2]}
    path = write(
        tmp_path / "a.json",
        [call(**args, **NCCL)],
        distributedInfo={"pg_config": [group]},
    )
    assert calls(read(path)) == [(20.0, size, "3")]
    assert read(path).members == {"3": [0, 2]}


@pytest.mark.parametrize(
    ("operator", "args", "size"),
    [
        ("nccl:all_reduce", {"Input Dims": [[10, 5120]], "Input type": ["c10::BFloat16"]}, 102400),
        (
            "_C_custom_ar::all_reduce",
            {"Input Dims": [[], [8, 64]], "Input type": ["Scalar", "c10::Half"]},
            1024,
        ),
        ("nccl:_all_gather_base", {"Input Dims": [[64]], "Input type": ["float"]}, 0),
        ("nccl:all_reduce", {"Input Dims": [[-1]], "Input type": ["float"]}, 0),
        ("nccl:all_reduce", {"Input Dims": [[64]], "Input type": ["float7"]}, 0),
        ("aten::mm", {"Input Dims": [[64]], "Input type": ["float"]}, 0),
        # Of any collective; newer ones have it in words.
        ("record_param_comms", {"Input Dims": [[64]], "Input type": ["float"]}, 0),
        (
            "record_param_comms",
            {
                "Collective name": "_all_gather_base",
                "In msg nelems": 64,
                "Out msg nelems": 128,
                "dtype": "Float",
            },
            512,
        ),
    ],
)
def test_the_operator_that_launched_a_call_tells_its_size(tmp_path, operator, args, size):
    """The innermost one, of the same thread, and in any order in the file."""
    outer = {"Input Dims": [[7]], "Input type": ["float"]}
    inner = {**event("cpu_op", operator, 50, 20, **args), "tid": 11}
    events = [
        call(correlation=5),
        {**event("cpu_op", "c10d::allreduce_", 70.5, 90, **outer), "tid": 11},
        {**event("cpu_op", "c10d::allreduce_", 40, 90, **outer), "tid": 12},
        launch(5, 60.0),
        inner,
    ]
    timeline = read(write(tmp_path / "a.json", events))
    assert calls(timeline) == [(20.0, size, "")]
    assert timeline.launches_us.tolist() == [60.0]


def test_an_operator_that_has_ended_tells_no_size(tmp_path):
    shapes = {"Input Dims": [[64]], "Input type": ["float"]}
    before = {**event("user_annotation", "nccl:all_reduce", 10, 5, **shapes), "tid": 11}
    timeline = read(write(tmp_path / "a.json", [before, launch(5, 60.0), call(correlation=5)]))
    assert calls(timeline) == [(20.0, 0, "")]
    assert not timeline.annotations  # a call is no step


FORMS = {
    "head after the events": lambda text: text,
    "head first": lambda text: json.dumps(dict(reversed(json.loads(text).items()))),
    "on many lines": lambda text: json.dumps(json.loads(text), indent=2),
    "capitals, as until torch 1.11": lambda text: text.replace('"kernel"', '"Kernel"'),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip of two members": lambda text: (
        gzip.compress(text[:99].encode()) + gzip.compress(text[99:].encode())
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("letters", [1, 7, MIB])
def test_all_forms_of_a_file_tell_the_same(tmp_path, monkeypatch, form, letters):
    monkeypatch.setattr(trace_json, "PIECE_LETTERS", letters)
    world = {"rank": 1, "world_size": 2}
    head = {"distributedInfo": world, "baseTimeNanoseconds": 1234567890}
    names = ['a "quoted" \\ name', CALL, "\u00b5-kernel"]
    events = [call(1e6 + 10 * i, 1.25 * i, name) for i, name in enumerate(names)]
    content = form(json.dumps({"traceEvents": events} | head))
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    timeline = read(path)
    assert timeline.texts == names
    assert timeline.starts_us.tolist() == [1e6, 1e6 + 10, 1e6 + 20]
    assert timeline.ends_us.tolist() == [1e6, 1e6 + 11.25, 1e6 + 22.5]
    assert (timeline.rank, timeline.ranks) == (1, 2)


def test_times_since_1970_keep_their_nanoseconds(tmp_path):
    """A float64 of them is exact to 0.25 us: torch 2.3 wrote such ones."""
    epoch_us = 220 * TRIMONTHS_S * 1e6
    step = event("user_annotation", "ProfilerStep#1", epoch_us + 1024, 64)
    timeline = read(write(tmp_path / "a.json", [call(epoch_us + 1024, 5.123), step]))
    assert timeline.ends_us - timeline.starts_us == pytest.approx([5.123], abs=1e-6)
    assert timeline.starts_us == [1024]
    assert timeline.annotations[0].start_us == 1024


def on(device, **event):
    event["args"] = event["args"] | {"device": device}
    return event


def test_work_of_a_stray_device_is_left_out_and_told(tmp_path):
    path = tmp_path / "a.json"
    stray = on(0, **event("gpu_memset", "Memset", 10, 400))
    properties = [{"id": i, "name": name} for i, name in enumerate(["A", "B"])]
    timeline = read(write(path, [stray, on(1, **call())], deviceProperties=properties))
    assert (len(timeline.name), timeline.device) == (1, "B")
    assert "a.json: 1 events of other devices than 1 are left out" in timeline.notes


def test_kernels_that_are_repeated_for_their_counters_are_left_out(tmp_path):
    """As Kineto writes them for Intel."""
    repeated = call(name=f"metrics: {CALL}")
    assert len(read(write(tmp_path / "a.json", [call(), repeated])).name) == 1


def test_a_trace_of_the_host_alone_is_told_apart(tmp_path):
    with pytest.raises(NoDeviceWork, match="no work of a device"):
        read(write(tmp_path / "a.json", [event("cpu_op", "aten::mm", 1, 1)]))


def test_times_that_may_be_nanoseconds_are_a_note(tmp_path):
    events = [call(1e6 * i, 2000) for i in range(30)]
    timeline = read(write(tmp_path / "a.json", events))
    assert any("if these are nanoseconds" in note for note in timeline.notes)


GOOD = json.dumps({"traceEvents": [call()]})
DAMAGED = {
    "nothing": (b"", "is no trace of torch.profiler"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "is no trace of torch.profiler"),
    "cut off in an event": (GOOD[:60].encode(), "event 1: it is no JSON, or was cut off"),
    "cut off at the end": (GOOD[:-1].encode(), "Input data was truncated"),
    "cut off gzip": (gzip.compress(os.urandom(9) + GOOD.encode())[:40], "cannot be read"),
    "damaged gzip": (gzip.compress(GOOD.encode())[:-8] + b"12345678", "cannot be read"),
    "more after the end": (GOOD.encode() + b"{}", "trailing characters"),
    "NaN": (GOOD.replace("20.0", "NaN").encode(), "NaN is no number"),
    "Infinity": (GOOD.replace("20.0", "Infinity").encode(), "Infinity is no number"),
    "a huge number": (
        GOOD.replace("20.0", "1e999").encode(),
        "event 1: Expected `float` <= 1e+30 - at `$.dur`",
    ),
    "thousands of digits": (
        GOOD.replace("20.0", "1" * 5000).encode(),
        "event 1: Exceeds the limit",
    ),
    "nested deeply": (GOOD.replace("20.0", "[" * 100_000).encode(), "recursion"),
    "another JSON": (b'{"results": [1, 2]}', "is no trace of torch.profiler"),
    "no events": (b'{"traceEvents": []}', "neither the work of a device nor"),
    "an event that is none": (b'{"traceEvents": [3]}', "event 1: it is no object"),
    "no host, no device": (b'{"traceEvents": [{"ph": "M"}]}', "neither the work of a device nor"),
}


@pytest.mark.parametrize(("content", "sentence"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_sentence(tmp_path, capsys, content, sentence):
    (tmp_path / "a.json").write_bytes(content)
    assert sentence in refused(tmp_path / "a.json", capsys)


def refused(path, capsys):
    assert main(["breakdown", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert str(path) in err
    assert len(err) < 300
    return err


HOSTILE = "\x1b[2J\u202e" + "x" * 9999
WRONG = {
    "negative": ([call(dur=-5)], "event 1: Expected `float` >= 0.0 - at `$.dur`"),
    "no start": ([{**call(), "ts": None}], "event 1: Expected `float`, got `null` - at `$.ts`"),
    "no duration": (
        [
            call(),
            {
                "cat": "kernel",
                "name": "a",
                "ts": 1,
            },
        ],
        "event 2: Object missing required field `dur`",
    ),
    "a text": ([{**call(), "dur": HOSTILE}], "event 1: Expected `float`, got `str`"),
    "a truth": ([{**call(), "dur": True}], "event 1: Expected `float`, got `bool`"),
    "no name": ([{**call(), "name": 7}], "event 1: Expected `str`, got `int` - at `$.name`"),
    "a stream": ([call(device=[0])], "event 1: Expected `int | null`, got `array`"),
    "a step": (
        [event("user_annotation", "ProfilerStep#1", 1, -1)],
        "event 1: Expected `float` >= 0.0 - at `$.dur`",
    ),
    "two devices": ([on(0, **call()), on(1, **call())], "has the work of devices 0, 1: give each"),
}


@pytest.mark.parametrize(("events", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_event_is_one_sentence(tmp_path, capsys, events, sentence):
    assert sentence in refused(write(tmp_path / "a.json", events), capsys)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (
            {"distributedInfo": {"rank": "0"}},
            "Expected `int | null`, got `str` - at `$.distributedInfo.rank`",
        ),
        ({"distributedInfo": [1]}, "Expected `object`, got `array`"),
        ({"deviceProperties": 3}, "Expected `array`, got `int`"),
    ],
)
def test_a_wrong_head_is_one_sentence(tmp_path, capsys, head, sentence):
    assert sentence in refused(write(tmp_path / "a.json", [call(4.9e15 / 2)], **head), capsys)


def test_a_pipe_a_folder_and_no_file_are_one_sentence(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert "not an ordinary file" in refused(tmp_path / "pipe", capsys)
    assert "name its traces" in refused(tmp_path, capsys)
    assert "No such file" in refused(tmp_path / "none", capsys)


def test_names_are_cut_and_printable(tmp_path):
    timeline = read(write(tmp_path / "a.json", [call(name=HOSTILE)]))
    assert timeline.texts == [("?[2J?" + "x" * 9999)[:4000]]


@pytest.mark.parametrize(
    ("bound", "events"),
    [
        ("MOST_NUMBERS", [call()] * 30),
        ("MOST_ANNOTATIONS", [event("user_annotation", "ProfilerStep#1", 1, 1)] * 101),
        ("MOST_NAMES", [call(name=f"kernel {i}") for i in range(101)]),
    ],
)
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, capsys, monkeypatch, bound, events):
    monkeypatch.setattr(kineto_events, bound, 100)
    assert "are read of a trace" in refused(write(tmp_path / "a.json", events), capsys)


def test_a_value_that_never_ends_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trace_json, "MOST_LETTERS", 1000)
    monkeypatch.setattr(trace_json, "PIECE_LETTERS", 100)
    (tmp_path / "a.json").write_text('{"traceEvents": ["' + "x" * 100_000)
    assert "event 1: it is no JSON, or was cut off" in refused(tmp_path / "a.json", capsys)
