"""Parses the JSON of serving benches: `vllm bench serve` and `vllm bench latency`, SGLang's
bench_serving, llama-bench. A case is a figure (`metric`) at these prompts and this concurrency.
docs/import.md says which field is which time, and in which source the format was looked up."""

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from statistics import median
from typing import Annotated, Any

import msgspec

from reports.imports.logged import LoggedTest, check
from reports.imports.timing_lines import Time
from wiretax.common.untrusted import printable
from wiretax.record.histogram import steps_of
from wiretax.record.schema import Count, NotNegative, Positive

UNTOLD = "the file does not say whether requests failed: SGLang writes it with --output-details"
COLD = "cold first request"
COLD_WAVE = 3.0  # times the later requests' median; a queue's first request waits for no other
COLD_SAMPLE = 1.5  # times the longest later sample
Times = Annotated[list[Time], msgspec.Meta(min_length=1)]
Fields = dict[str, Any]
DATES = "%Y%m%d-%H%M%S", "%Y-%m-%dT%H:%M:%SZ"  # vLLM's, in its host's time; llama-bench's
PERCENTILE = re.compile(r"(median|max|p\d{1,2}(?:\.\d{1,4})?)_(ttft|tpot|itl|e2el|e2e_latency)_ms")
OF_CASE = {
    "model": "model_id",
    "model_type": "model_type",
    "dataset": "dataset_name",
    "prompts": "num_prompts",
    "rate": "request_rate",
    "concurrency": "max_concurrency",
    "input_len": "random_input_len",
    "output_len": "random_output_len",
    "prompt": "n_prompt",
    "generated": "n_gen",
    "depth": "n_depth",
    "split": "split_mode",
}


class Served(msgspec.Struct):
    """A result of `vllm bench serve` or of SGLang's bench_serving. `ttfts` has the seconds of each
    request, in the order in which they were sent, and `errors` a text of each, empty if it was
    served, or if the server gave no reason for its refusal (sgl-project/sglang,
    python/sglang/bench_serving.py at 0033168)."""

    backend: str
    duration: NotNegative
    completed: Count
    total_output_tokens: Count
    num_prompts: Positive | None = None
    max_concurrency: Positive | None = None
    mean_ttft_ms: NotNegative = 0.0
    median_ttft_ms: NotNegative = 0.0
    median_tpot_ms: NotNegative = 0.0
    mean_itl_ms: NotNegative = 0.0
    median_e2el_ms: NotNegative = 0.0
    median_e2e_latency_ms: NotNegative = 0.0
    ttfts: list[NotNegative] = []
    errors: list[str] = []


def parse_serving(documents: Sequence[Fields]) -> list[LoggedTest]:
    """A test for each harness whose results these are; [] for other JSON. Raises ValidationError
    for a field of another type than the harness writes."""
    tests = dict[str, LoggedTest]()
    for line, document in enumerate(documents, 1):
        mark = next((mark for mark in READERS if mark in document), None)
        if not mark:
            return []
        name, read = READERS[mark]
        # The one rank is the client; llama-bench lists its GPUs.
        new = LoggedTest(name, line, "median", "serving", world_size=1)
        test = tests.setdefault(name, new)
        if gpus := document.get("gpu_info"):
            test.gpus[0] = printable(str(gpus))[:200]
        test.documents[line] = document
        read(test, line, document)
        for layout in DATES:
            with suppress(ValueError):
                written = str(document.get("date") or document.get("test_time"))
                test.date = datetime.strptime(written, layout)

    return [*tests.values()]


def read_served(test: LoggedTest, line: int, document: Fields) -> None:
    served = msgspec.convert(document, Served)
    test.statistic = "median over requests; mean for itl and output_token"
    n_failed = sum(map(bool, served.errors))
    sent = max(len(served.errors), served.completed + n_failed)
    prompts, wave = served.num_prompts or sent, served.max_concurrency or 1
    times_ms = {
        "ttft": served.median_ttft_ms,
        "tpot": served.median_tpot_ms,
        "itl": served.mean_itl_ms,  # tokens that arrive together make the median nearly 0
        "e2el": served.median_e2el_ms or served.median_e2e_latency_ms,
    }
    if served.total_output_tokens:
        times_ms["output_token"] = 1e3 * served.duration / served.total_output_tokens
    theirs = theirs_of(document)
    if served.completed < prompts:
        test.lack = f"{prompts - served.completed} of {prompts} requests failed"
    elif "errors" not in document and "num_prompts" not in document:
        test.notes.append(UNTOLD)
    for metric, time_ms in times_ms.items():
        if time_ms and served.completed:
            case = case_of(served.backend, metric, document | {"num_prompts": prompts})
            time_us = msgspec.convert(1e3 * time_ms, Time)
            test.add(line, case, served.completed, theirs.get(metric), time_us=time_us)

    first, later = served.ttfts[:wave], served.ttfts[wave:]
    cold_ms, usual_ms, which = served.mean_ttft_ms, served.median_ttft_ms, ", perhaps: the mean is"
    if later:
        cold_ms, usual_ms = 1e3 * min(first), 1e3 * median(later)
        which = f": each of the first {wave} waited at least"
    if cold_ms > COLD_WAVE * usual_ms > 0:
        test.notes.append(
            f"{COLD}{which} {cold_ms:.0f} ms to the first token, the median {usual_ms:.0f} ms"
        )


def theirs_of(document: Fields) -> dict[str, dict[str, float]]:
    """The percentiles in us that a serving bench writes in ms, by metric."""
    theirs: dict[str, dict[str, float]] = {}
    for name, time_ms in document.items():
        found = PERCENTILE.fullmatch(name)
        if found and time_ms is not None:
            share, metric = found[1].replace("median", "p50"), found[2]
            metric = "e2el" if metric == "e2e_latency" else metric
            theirs.setdefault(metric, {})[f"{share}_us"] = 1e3 * time_ms
    return theirs


def read_batches(test: LoggedTest, line: int, document: Fields) -> None:
    """Reads seconds of vLLM's batches, which it does not name, or nanoseconds of llama-bench's
    repetitions; each becomes a block of one step. Names a first one that took far longer than the
    others."""
    if "samples_ns" in document:
        engine, raw, unit_us = "llama.cpp", document["samples_ns"], 1e-3
    else:
        engine, raw, unit_us = "vllm", document["latencies"], 1e6
    check("rows", len(raw) + len(test.rows))  # before each becomes a block of 600 bytes
    samples = msgspec.convert(raw, list[float])
    times_us = msgspec.convert([each * unit_us for each in samples], Times)
    case = case_of(engine, "latency", document)
    percentiles = document.get("percentiles") or {}
    theirs = {f"p{share}_us": time * unit_us for share, time in percentiles.items()}
    for time_us in times_us:
        test.add(line, case, theirs=theirs, time_us=time_us, steps=steps_of([time_us]))
        theirs = {}  # of all of them together
    first, *later = times_us
    if len(later) > 1 and first > COLD_SAMPLE * max(later):
        test.notes.append(
            f"{COLD}: the first took {first / 1e3:.1f} ms, none after it more than "
            f"{max(later) / 1e3:.1f} ms"
        )


def case_of(algorithm: str, metric: str, document: Fields) -> Fields:
    """The fields of a case. A file may be anybody's: its texts are cut and made printable. Of a
    model's path only the name stays."""
    shape = {
        name: printable(str(text).rpartition("/")[2])[:64]
        for name, field in OF_CASE.items()
        if (text := document.get(field)) is not None
    }
    return {
        "size_bytes": 0,
        "algorithm": printable(algorithm)[:64],
        "shape": {"metric": metric} | shape,
    }


# By a field that only this harness writes: its name, and its reader.
READERS = {
    "total_output_tokens_retokenized": ("sglang-bench-serving", read_served),
    "tokenizer_id": ("vllm-bench-serve", read_served),
    "avg_latency": ("vllm-bench-latency", read_batches),
    "samples_ns": ("llama-bench", read_batches),
}
