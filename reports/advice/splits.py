"""The ways to split a model over GPUs: their speed, and whether they fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from reports.advice import prefill, serving, specs
from reports.advice.reduce_times import Times, from_link
from reports.advice.serving import EXPERTS, OFFLOAD, ONE, PIPELINE, REPLICAS, TENSOR, Span, Workload
from reports.advice.specs import Gpu
from reports.tables.sentences import number

GB = 1e9


@dataclass(frozen=True)
class Question:
    """The command line; latency is for `batch` streams, throughput for `slots` streams."""

    workload: Workload
    gpu: Gpu
    gpus: int
    weights: str
    prompt: int
    batch: int
    slots: int


@dataclass(frozen=True)
class Split:
    """One way to serve: microseconds of a decode step and of a prompt, tokens per second of `slots`
    streams and of many prompts. `obstacle` says why it is impossible."""

    name: str
    kind: str
    obstacle: str | None
    step_us: Span
    rate: Span
    prompt_us: Span
    prompt_rate: Span


def on_gpu(workload: Workload, gpu: Gpu, in_fp8: bool) -> Workload:
    """The same model on this GPU, which multiplies in fp8 if it can and `in_fp8` is set."""
    return replace(workload, bandwidth_gb_s=gpu.bandwidth_gb_s, memory_bytes=gpu.memory_gb * GB,
                   tflops=(in_fp8 and gpu.fp8_tflops) or gpu.fp16_tflops,
                   slot_gb_s=specs.link(gpu.slot).gb_s)


def peer_link(gpu: Gpu, gpus: int) -> str | None:
    """The link that joins this number of GPUs directly; None if they have only their slots."""
    return gpu.peer if gpu.peer and gpus <= specs.link(gpu.peer).most_gpus else None


def all_splits(question: Question, times: Times) -> list[Split]:
    """Every way to serve the model on these GPUs; the last one uses one GPU."""
    kinds = [ONE if obstacle(question, ONE, 1) is None else OFFLOAD]
    if question.gpus > 1:
        mixture = [EXPERTS] if question.workload.model.experts > 1 else []
        kinds = [TENSOR, PIPELINE, REPLICAS, *mixture, *kinds]
    return [make_split(question, times, kind, question.gpus) for kind in kinds]


def make_split(question: Question, times: Times, kind: str, n: int) -> Split:
    workload, prompt = question.workload, question.prompt
    names = {TENSOR: f"TP {n}", PIPELINE: f"PP {n}", REPLICAS: f"{n} replicas", EXPERTS: f"EP {n}"}
    step_us, prompt_us = serving.STEP_US[kind], prefill.PROMPT_US[kind]
    return Split(
        names.get(kind, kind), kind, obstacle(question, kind, n),
        step_us=step_us(workload, n, question.batch, times),
        rate=step_us(workload, n, question.slots, times).rate(question.slots),
        prompt_us=prompt_us(workload, n, prompt, times),
        prompt_rate=prefill.prompts_rate(workload, kind, n, prompt, times))


def obstacle(question: Question, kind: str, n: int) -> str | None:
    """Why a split is impossible; None if it is possible."""
    model = question.workload.model
    if kind == TENSOR and model.heads % n:
        return f"{model.heads} heads do not go into {n}"
    if kind == PIPELINE and model.layers < n:
        return f"{model.layers} layers make no {n} stages"
    if kind == EXPERTS and model.experts % n:
        return f"{model.experts} experts do not go into {n}"
    parts = memory(question, kind, n)
    needed = sum(parts.values()) - (parts["weights"] if kind == OFFLOAD else 0)
    short = needed - serving.usable_bytes(question.workload.memory_bytes)
    return f"does not fit, {number(short / GB)} GB short" if short > 0 else None


def memory(question: Question, kind: str, n: int) -> dict[str, float]:
    """Bytes of each GPU by part, for the larger number of streams and the longest chunk."""
    streams = max(question.batch, question.slots)
    return serving.memory_bytes(question.workload, kind, n, streams,
                                min(question.prompt, serving.CHUNK_TOKENS))


def larger_card(question: Question) -> Split | None:
    """The smallest GPU of `specs.toml` that alone holds the model, if any."""
    in_fp8 = question.workload.tflops == question.gpu.fp8_tflops
    for gpu in sorted(specs.gpus(), key=lambda gpu: (gpu.memory_gb, -gpu.bandwidth_gb_s)):
        if gpu.memory_gb > question.gpu.memory_gb:
            single = replace(question, workload=on_gpu(question.workload, gpu, in_fp8), gpu=gpu,
                             gpus=1)
            split = make_split(single, from_link(specs.link(gpu.slot), 1), ONE, 1)
            if split.obstacle is None:
                return replace(split, name=f"1 x {gpu.name}")
    return None
