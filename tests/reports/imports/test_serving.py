"""Tests the JSON of serving benches and of NCCL's Inspector, with the fields that their sources
write (docs/import.md); the figures of llama-bench are those of its README."""

import json
import tracemalloc
from typing import Any

import pytest

from reports.tables.show import headline_of
from tests.reports.imports.test_import import imported, put, refused
from tests.reports.imports.test_import_formats import cases_of, only
from wiretax.record.result import read

pytestmark = pytest.mark.unit

VLLM: dict[str, Any] = {
    "date": "20260826-064255",
    "endpoint_type": "openai",
    "backend": "openai",
    "label": None,
    "model_id": "Qwen/Qwen3-0.6B",
    "tokenizer_id": "Qwen/Qwen3-0.6B",
    "num_prompts": 32,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 8,
    "duration": 1.2,
    "completed": 32,
    "failed": 0,
    "total_output_tokens": 4096,
    "request_goodput": None,
    "mean_ttft_ms": 47.0,
    "median_ttft_ms": 46.7,
    "median_tpot_ms": 1.91,
    "mean_itl_ms": 1.86,
    "median_itl_ms": 0.002,
}
SGLANG: dict[str, Any] = {
    "tag": None,
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": 4.0,
    "max_concurrency": None,
    "random_input_len": 1024,
    "random_output_len": 128,
    "server_info": {},
    "duration": 20.0,
    "completed": 80,
    "total_output_tokens": 10240,
    "total_output_tokens_retokenized": 10240,
    "median_e2e_latency_ms": 900.0,
    "mean_ttft_ms": 60.0,
    "median_ttft_ms": 58.0,
    "median_tpot_ms": 6.5,
    "mean_itl_ms": 6.6,
}
LLAMA = {
    "build_commit": "8cf427ff",
    "gpu_info": "NVIDIA GeForce RTX 4080",
    "model_type": "qwen2 7B Q4_K - Medium",
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "test_time": "2025-04-24T11:58:50Z",
    "avg_ns": 72135640,
    "samples_ns": [74601900, 71632900, 71745200, 71952700, 70745500],
}
LATENCY = {"avg_latency": 1.1, "std_latency": 0.1, "latencies": [1.0, 1.1, 1.2], "percentiles": {}}


def inspected(number, time_us, version="v4.0", collective="AllReduce"):
    return json.dumps(
        {
            "header": {"id": "0x7f8c", "rank": 0, "n_ranks": 2, "nnodes": 1},
            "metadata": {
                "inspector_output_format_version": version,
                "dump_timestamp_us": 1748030377748202,
                "hostname": "secret",
                "pid": 1639453,
            },
            "coll_perf": {
                "coll": collective,
                "coll_sn": number,
                "coll_msg_size_bytes": 1 << 20,
                "coll_exec_time_us": time_us,
                "coll_busbw_gbs": 485.1,
            },
        }
    )


def times_us(test):
    return {case.shape["metric"]: round(case.time_us.median, 3) for case in cases_of([test])}


def test_the_serving_benches_of_engines_are_read():
    """A reviewer of a kernel asks for TTFT, ITL and tokens per second."""
    vllm = only(json.dumps(VLLM))
    assert (vllm.format, vllm.status) == ("vllm-bench-serve", "complete")
    assert times_us(vllm) == {
        "ttft": 46700.0,
        "tpot": 1910.0,
        "itl": 1860.0,
        "output_token": round(1.2e6 / 4096, 3),
    }
    shape = vllm.rows[0].case["shape"]
    assert shape == {
        "metric": "ttft",
        "model": "Qwen3-0.6B",
        "prompts": "32",
        "rate": "inf",
        "concurrency": "8",
    }
    appended = only("".join(json.dumps(SGLANG | {"duration": d}) + "\n" for d in (20.0, 22.0)))
    assert (appended.format, len(appended.rows)) == ("sglang-bench-serving", 10)
    assert times_us(appended)["e2el"] == 900000.0
    assert {case.time_us.n_blocks for case in cases_of([appended])} == {2}  # a line is a block


def test_samples_of_batches_are_blocks():
    """llama-bench and vllm bench latency print each repetition."""
    generated = LLAMA | {"n_prompt": 0, "n_gen": 128, "samples_ns": [1075361300, 1065089400]}
    by_row = LLAMA | {"split_mode": "row"}
    llama = only(json.dumps([LLAMA, generated, by_row], indent=2))
    prompt, tokens, _ = cases_of([llama])
    assert llama.gpus == {0: "NVIDIA GeForce RTX 4080"}
    assert (prompt.time_us.median, prompt.time_us.n_blocks) == (71745.2, 5)
    assert (prompt.n_steps, prompt.step_worst_us) == (5, 74601.9)
    assert (tokens.shape["generated"], tokens.shape["prompt"]) == ("128", "0")
    assert tokens.shape["model_type"] == "qwen2 7B Q4_K - Medium"
    assert times_us(only(json.dumps(LATENCY))) == {"latency": 1.1e6}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            VLLM | {"ttfts": [2.0] * 8 + [0.05] * 24},
            "each of the first 8 waited at least 2000 ms to the first token, the median 50 ms",
        ),
        (VLLM | {"ttfts": [0.05, 0.4] * 4 + [0.05] * 24}, ""),  # a queue
        (LATENCY | {"latencies": [9.0, 1.0, 1.1]}, "the first took 9000.0 ms, none after it"),
    ],
)
def test_a_cold_first_request_is_named(document, words, tmp_path, capsys):
    path = put(tmp_path / "cold.json", json.dumps(document))
    [result] = map(read, imported(tmp_path / "runs", path))
    said = capsys.readouterr().err
    assert words in said
    assert ("cold first request" in said) == bool(words)
    assert sum("cold first request" in note for note in result.run.notes) == bool(words)


def test_failed_requests_make_a_run_incomplete():
    """Requests that fail at once would make a server look fast."""
    test = only(json.dumps(VLLM | {"completed": 30}))
    assert (test.status, test.reason) == ("incomplete", "2 of 32 requests failed")
    assert times_us(test) == times_us(only(json.dumps(VLLM)))
    assert only(json.dumps(VLLM | {"completed": 0})).rows == []
    assert "output_token" not in times_us(only(json.dumps(VLLM | {"total_output_tokens": 0})))


def test_failed_requests_of_sglang_are_counted_by_their_errors():
    """Its file has no number of prompts: a run with 50 failures was complete."""
    details = SGLANG | {"errors": [*80 * [""], *50 * ["timeout"]]}
    test = only(json.dumps(details))
    assert (test.status, test.reason) == ("incomplete", "50 of 130 requests failed")
    assert only(json.dumps(details | {"errors": 80 * [""]})).notes == []
    unexplained = only(json.dumps(details | {"errors": 130 * [""]}))  # an HTTP error has no text
    assert unexplained.reason == "50 of 130 requests failed"
    assert "does not say whether requests failed" in only(json.dumps(SGLANG)).notes[0]


def test_too_many_batches_are_refused_before_they_become_rows(tmp_path, capsys):
    """20 MB of latencies took 3.3 GB of memory."""
    many = put(tmp_path / "a.json", json.dumps(LATENCY | {"latencies": 200_000 * [1.5]}))
    tracemalloc.start()
    try:
        assert "it has more than 50,000 rows" in refused(tmp_path, capsys, many)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 15 * many.stat().st_size


def test_a_run_has_the_date_of_its_file_and_the_headline_names_the_metric(tmp_path):
    """Downloaded files have the date of the download, which would mix up the nights."""
    files = [put(tmp_path / f"{n}.json", json.dumps(each)) for n, each in enumerate((VLLM, LLAMA))]
    runs = [*map(read, imported(tmp_path / "runs", *files))]
    dates = "2025-04-24T11-58-50Z", "2026-08-26T06-42-55Z"
    assert [each.run.run_id[:20] for each in runs] == [*dates]
    assert [headline_of(each) for each in runs] == [
        "serving: latency 71745 us",
        "serving: ttft 46700 us",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (json.dumps(VLLM)[:-9], "cut off, damaged"),
        (json.dumps(VLLM | {"mean_ttft_ms": "x"}), "Expected `float"),
        (json.dumps([VLLM, {"x": 1}]), "no known version of"),
        (inspected(1, 90, "v5.0"), "NCCL's Inspector wrote v5.0, known is v4.x"),
    ],
)
def test_json_that_is_damaged_or_unknown_is_refused(content, sentence, tmp_path, capsys):
    assert sentence in refused(tmp_path, capsys, put(tmp_path / "a.json", content))


def test_dumps_of_the_inspector_come_with_a_caveat(tmp_path, capsys):
    """Its records take time and get lost: a figure without that caveat would be believed."""
    message = json.loads(inspected(2, 1))
    message["p2p_perf"] = message.pop("coll_perf")
    lines = [
        inspected(1, 90),
        json.dumps(message),
        inspected(4, 97),
        inspected(5, 0),
    ]
    gather = inspected(1, 50, collective="AllGather")
    path = put(tmp_path / "insp.log", "\n".join([*lines, gather]))
    reduce, other = map(read, imported(tmp_path / "runs", path))
    assert [block.time_us for block in reduce.blocks] == [90, 97]
    assert (reduce.cases[0].collective, reduce.run.world["size"]) == ("all_reduce", 2)
    assert other.cases[0].size_bytes == 2 << 20  # it prints the bytes of one rank
    assert "4 to 13 % at 128 KB to 4 MB (NVIDIA/nccl#2355)" in capsys.readouterr().err
    assert "secret" not in reduce.path.read_text()
