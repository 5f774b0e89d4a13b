"""The time of a prompt for each way to split a model; `serving` has the model's arithmetic."""

from __future__ import annotations

from math import ceil

from reports.advice import serving
from reports.advice.serving import AllReduce, Duration, Span, Workload


def chunks_of(prompt: int) -> tuple[int, float]:
    """The number of forward passes of a prompt and the tokens in each."""
    count = ceil(prompt / serving.CHUNK_TOKENS)
    return count, prompt / count


def prompt_us(workload: Workload, prompt: int) -> float:
    """The work of one GPU on a prompt: the weights for each chunk, and attention with
    2 x prompt^2 x heads x head size operations in each layer (half of the pairs)."""
    model, (count, tokens) = workload.model, chunks_of(prompt)
    attention = 2 * prompt**2 * model.heads * model.head_dim * model.cached_layers
    weights_us = count * serving.work_us(workload, serving.read_bytes(workload, tokens), tokens)
    return weights_us + attention / workload.tflops / 1e6


def tensor_prompt_us(workload: Workload, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """The work of one GPU / n + the all-reduces of the activations of each chunk."""
    count, tokens = chunks_of(prompt)
    each = all_reduce(serving.all_reduce_bytes(workload.model, tokens))
    calls = count * serving.all_reduces(workload.model)
    return each.times(calls, plus=prompt_us(workload, prompt) / gpus)


def pipeline_period_us(stage_us: float, handoff_us: float, in_flight: int) -> float:
    """The time between two chunks. With two chunks in flight, work hides the hand-off or the
    hand-off hides work (GPipe: Huang et al., NeurIPS 2019)."""
    return stage_us + handoff_us if in_flight < 2 else max(stage_us, handoff_us)


def pipeline_prompt_us(workload: Workload, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """The first chunk passes n stages and n-1 hand-offs; the others follow one period apart."""
    count, tokens = chunks_of(prompt)
    stage = prompt_us(workload, prompt) / gpus / count
    handoff = all_reduce(serving.all_reduce_bytes(workload.model, tokens))
    return Span(*(gpus * stage + (gpus - 1) * end
                  + (count - 1) * pipeline_period_us(stage, end, count) for end in handoff))


def replicas_prompt_us(workload: Workload, _: int, prompt: int,
                       __: AllReduce | None = None) -> Span:
    """A prompt on one GPU, which reads weights in host memory for each chunk behind its work."""
    count, tokens = chunks_of(prompt)
    outside = count * serving.read_bytes(workload, tokens) * serving.outside_share(workload, 1)
    return serving.exact(max(prompt_us(workload, prompt), outside / workload.slot_gb_s / 1e3))


def experts_prompt_us(workload: Workload, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """The work of the busiest rank on its share of the tokens, and the exchanges of each chunk."""
    count, tokens = chunks_of(prompt)
    work = workload.skew * prompt_us(workload, prompt) / gpus
    exchange = serving.exchange_us(workload, gpus, tokens / gpus, all_reduce)
    return exchange.times(2 * workload.model.layers * count, plus=work)


PROMPT_US: dict[str, Duration] = {
    serving.TENSOR: tensor_prompt_us, serving.PIPELINE: pipeline_prompt_us,
    serving.REPLICAS: replicas_prompt_us, serving.EXPERTS: experts_prompt_us,
    serving.ONE: replicas_prompt_us, serving.OFFLOAD: replicas_prompt_us}


def prompts_rate(workload: Workload, kind: str, gpus: int, prompt: int,
                 all_reduce: AllReduce) -> Span:
    """Tokens per second of many prompts in a row: a pipeline ends a chunk each period, replicas
    work on one prompt each."""
    if kind == serving.PIPELINE:
        count, tokens = chunks_of(prompt)
        stage = prompt_us(workload, prompt) / count / gpus
        handoff = all_reduce(serving.all_reduce_bytes(workload.model, tokens))
        return Span(*(pipeline_period_us(stage, end, 2) for end in handoff)).rate(tokens)
    prompts = gpus if kind == serving.REPLICAS else 1
    return PROMPT_US[kind](workload, gpus, prompt, all_reduce).rate(prompts * prompt)
