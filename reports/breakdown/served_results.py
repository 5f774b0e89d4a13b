"""A decode step from the results of serving benches, which `import` reads: its time, the tokens
that it makes, and the streams that it serves at once.

A result of `vllm bench serve` or of SGLang's bench_serving has the time of a token for one stream
(tpot, the median over requests); where a drafter ran, a step makes several. llama-bench and `vllm
bench latency` have the time of all tokens of a repetition. Fields as in the sources that
docs/import.md names."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from reports.imports.logged import LoggedRow, LoggedTest
from reports.imports.runs import find_tests
from reports.tables.sentences import number
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import NotNegative, Positive

# Tokens that arrive together leave longer gaps (itl) than tpot. Without a drafter both are means of
# the same waits, over tokens and over requests, which differ by less.
TOGETHER = 1.2
ASK_TOKENS = "whether a drafter ran, and what a step made for a stream: --tokens-a-step X"
BY_TENSOR = "row", "tensor", "graph"  # llama.cpp's and ik_llama.cpp's
MOST_TOKENS = 1000.0  # that a step makes for a stream; drafters propose up to tens
# A step of a model of 0.5e9 weights on the fastest card takes longer than the first, and one that
# reads its weights from a disk less than the second.
LEAST_STEP_US, MOST_STEP_US = 100.0, 30e6
UNITS = {"llama-bench": "nanoseconds", "vllm-bench-latency": "seconds"}  # of others milliseconds


class Server(msgspec.Struct):
    """What SGLang's server says of itself."""

    model_path: str = ""
    tp_size: int | None = None
    disable_cuda_graph: bool | None = None
    speculative_num_draft_tokens: int | None = None
    version: str = ""


class Said(msgspec.Struct):
    """What a result says beside its times. A step makes `spec_decode_acceptance_length` (vLLM) or
    `accept_length` (SGLang) tokens for a stream, the model's own included."""

    duration: NotNegative = 0.0
    total_output_tokens: NotNegative = 0.0
    mean_tpot_ms: NotNegative = 0.0
    max_concurrency: Positive | None = None
    spec_decode_acceptance_length: NotNegative | None = None
    spec_decode_num_drafts: NotNegative = 0.0
    spec_decode_draft_tokens: NotNegative = 0.0
    accept_length: NotNegative | None = None
    build_commit: str = ""
    version: str = ""  # by `--metadata version=...`
    model_filename: str = ""
    gpu_info: str = ""
    devices: str = "auto"
    split_mode: str = ""
    n_prompt: int = 0
    n_gen: int = 0
    server_info: Server | None = None


@dataclass
class ServedResult:
    """A run of a bench. `engine` is what served, as far as the file tells; `load` must be alike on
    both sides; `file` is the model's, where the bench names it. Of a stream a step makes `tokens`
    and computes `computed`, those that a drafter proposed included; `streams` is how many decode at
    once, NaN if that is unknown. `asked` are questions, `notes` sentences."""

    path: Path
    engine: str
    load: dict[str, str]
    step_us: float = 0.0
    split: str = ""
    file: str = ""
    gpus: int | None = None
    tokens: float = 1.0
    computed: float = 1.0
    streams: float = 1.0
    asked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_results(path: Path, arguments: argparse.Namespace) -> list[ServedResult]:
    """All runs of a bench in a file. Raises ResultError for a file that is not of a serving bench,
    for failed requests, and for one that does not tell the time of a step."""
    results = list[ServedResult]()
    for test in find_tests(path, content_of(path)):
        if not test.documents:
            raise ResultError(f"{path} is of {test.format}, which is no serving bench")
        if test.lack:
            raise ResultError(f"{path}: {test.lack}")
        rows = grouped(test.rows, attrgetter("line"))
        for line, document in test.documents.items():
            try:
                said = msgspec.convert(document, Said, strict=False)
            except msgspec.ValidationError as error:
                raise ResultError(f"{path}: {error}") from error
            if not (test.format == "llama-bench" and (said.n_prompt or not said.n_gen)):
                results.append(result_of(path, test, rows.get(line, []), said, arguments))
    if not results:
        raise ResultError(f"{path} has prompts alone, no test of generated tokens (tg)")
    return results


def result_of(
    path: Path,
    test: LoggedTest,
    rows: Sequence[LoggedRow],
    said: Said,
    arguments: argparse.Namespace,
) -> ServedResult:
    if not rows:
        raise ResultError(f"{path}: no request was completed")
    server = said.server_info or Server()
    case, shape = rows[0].case, dict[str, Any](rows[0].case["shape"])
    split = str(shape.pop("split", ""))
    del shape["metric"]
    if server.model_path:
        shape["model"] = printable(server.model_path.rpartition("/")[2])[:64]
    version = printable(said.build_commit or server.version or said.version)[:64]
    load = {"bench": test.format, "engine": case["algorithm"], "version": version, **shape}
    engine = case["algorithm"]
    if engine.startswith("openai"):  # the protocol of the client, not the server
        engine = test.format
    if server.disable_cuda_graph is not None:
        load["launches"] = "eager" if server.disable_cuda_graph else "graph"
    result = ServedResult(path, engine, load, split=split, gpus=server.tp_size, notes=[*test.notes])
    if test.format == "llama-bench":
        result.step_us = fmean(row.block.time_us for row in rows) / said.n_gen
        result.file = said.model_filename.rpartition("/")[2]
        cards = said.gpu_info.split(",") if said.devices == "auto" else said.devices.split("/")
        if split == "layer" and len(cards) == 1:
            result.split = "none"  # the only card has all layers
    elif test.format == "vllm-bench-latency":
        of_batches(result, rows, arguments)
    else:
        of_requests(result, rows, said, arguments)
    if not LEAST_STEP_US <= result.step_us <= MOST_STEP_US:
        raise ResultError(
            f"{path}: a step would take {number(result.step_us)} us, which is not credible: this "
            f"bench writes its times in {UNITS.get(test.format, 'milliseconds')}"
        )
    return result


def of_batches(
    result: ServedResult, rows: Sequence[LoggedRow], arguments: argparse.Namespace
) -> None:
    if not arguments.output_len:
        raise ResultError(
            f"{result.path}: vllm bench latency does not store how many tokens it generated: say "
            "--output-len N as you did to it"
        )
    set_tokens(result, Said(), arguments, is_blind=True)
    result.step_us = fmean(row.block.time_us for row in rows) * result.tokens / arguments.output_len
    result.streams = arguments.batch_size or nan
    result.notes.append("steps are of vllm bench latency: each has its share of the prompt's time")
    if not arguments.batch_size:
        result.asked.append("the streams of vllm bench latency: --batch-size N")


def of_requests(
    result: ServedResult, rows: Sequence[LoggedRow], said: Said, arguments: argparse.Namespace
) -> None:
    times_us = {row.case["shape"]["metric"]: row.block.time_us for row in rows}
    if "tpot" not in times_us:
        raise ResultError(
            f"{result.path} has no median time of a token (tpot): repeat it with "
            "--percentile-metrics ttft,tpot,itl"
        )
    token_us = 1e3 * said.mean_tpot_ms or times_us["tpot"]
    together = times_us.get("itl", 0.0) / token_us
    if not made_of(said, arguments) and together > TOGETHER:
        raise ResultError(
            f"{result.path}: {together:.2g} tokens arrive at a time (itl / tpot): say "
            "--tokens-a-step X, those that a step makes with its drafter, or 1 without one"
        )
    # SGLang's bench divides its gaps by their tokens, and asks its server instead.
    is_blind = not said.server_info if "sglang" in result.load["bench"] else "itl" not in times_us
    set_tokens(result, said, arguments, is_blind)
    result.step_us = times_us["tpot"] * result.tokens

    # By Little's law: each token keeps its stream in decode for one tpot.
    busy = said.total_output_tokens * token_us / (1e6 * said.duration) if said.duration else 1.0
    result.streams = max(1.0, min(busy, said.max_concurrency or busy))
    if result.streams > 1:
        result.notes.append(
            "streams at once are output tokens x tpot / duration; their tpot contains the prompts "
            "of others"
        )


def made_of(said: Said, arguments: argparse.Namespace) -> float | None:
    """The tokens that a step makes for a stream, if anybody says so."""
    return arguments.tokens_a_step or said.spec_decode_acceptance_length or said.accept_length


def set_tokens(
    result: ServedResult, said: Said, arguments: argparse.Namespace, is_blind: bool
) -> None:
    """The tokens of a stream that a step makes and computes, or questions how many they are.
    `is_blind`: the times do not show whether a drafter ran."""
    made = made_of(said, arguments)
    if is_blind and not made:
        result.asked.append(ASK_TOKENS)
    result.tokens = made or 1.0
    if not 1 <= result.tokens <= MOST_TOKENS:
        raise ResultError(f"{result.path}: a step makes {result.tokens:g} tokens, not 1 or more")
    result.load["drafter"] = "yes" if result.tokens > 1 else "no"
    verified = said.server_info and said.server_info.speculative_num_draft_tokens
    if arguments.draft is not None:
        result.computed = 1.0 + arguments.draft
    elif said.spec_decode_num_drafts:
        result.computed = 1.0 + said.spec_decode_draft_tokens / said.spec_decode_num_drafts
    elif verified:
        result.computed = float(verified)  # the model's own is among them
    elif result.tokens != 1:
        result.computed = nan
        result.asked.append("the tokens that the drafter proposes, which calls carry: --draft K")
