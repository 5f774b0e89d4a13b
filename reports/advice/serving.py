"""Serving arithmetic for `advise` and `procure`: bytes, microseconds and tokens per second.

A decode step follows the roofline model (Williams, Waterman and Patterson, CACM 52:4, 2009) plus
communication, none of it hidden. A step reads the weights and the cached keys and values once at
memory bandwidth, or multiplies at the peak rate, whichever takes longer. Data sheets give peaks, so
times are lower bounds. Callers supply the time of an all-reduce; every result keeps its interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, comb, inf
from typing import NamedTuple

from reports.advice.specs import Link, Model

ELEMENT_BYTES = 2  # an activation in fp16 or bf16
HEADROOM = 0.1  # share of memory left free; vLLM's gpu_memory_utilization is 0.9
CHUNK_TOKENS = 2048  # most prompt tokens in one forward pass
TENSOR, PIPELINE, REPLICAS, EXPERTS = "TP", "PP", "replicas", "EP"
ONE, OFFLOAD = "one GPU", "CPU offload"


class Span(NamedTuple):
    """A value and its interval; both ends equal the value if the interval is unknown."""

    value: float
    low: float
    high: float

    def times(self, factor: float, plus: float = 0.0) -> Span:
        """`factor` (not negative) times this, plus an exact value."""
        return Span(*(plus + factor * end for end in self))

    def rate(self, tokens: float) -> Span:
        """Tokens per second if this is the time of `tokens` tokens in microseconds."""
        return Span(*(1e6 * tokens / end if end else inf
                      for end in (self.value, self.high, self.low)))


def exact(value: float) -> Span:
    """A value without an interval."""
    return Span(value, value, value)


AllReduce = Callable[[float], Span]  # message bytes to microseconds


@dataclass(frozen=True)
class Workload:
    """A model on a kind of GPU, with dense TFLOP/s.

    `slot_gb_s` is one direction; each stream has `context` cached tokens; `skew` is the load of the
    busiest rank of an expert split over the mean load.
    """

    model: Model
    weights_bytes: float
    bandwidth_gb_s: float
    tflops: float = inf
    memory_bytes: float = inf
    slot_gb_s: float = inf
    context: int = 0
    skew: float = 1.0

    def kv_bytes(self, streams: float) -> float:
        """The cached keys and values of all streams."""
        return streams * self.context * kv_bytes_per_token(self.model)


def weights_bytes(model: Model, bits: float) -> float:
    return model.parameters * bits / 8


def kv_bytes_per_token(model: Model) -> float:
    """2 x layers x KV heads x head size x 2 B (grouped queries: Ainslie et al., EMNLP 2023)."""
    return 2 * model.cached_layers * model.kv_heads * model.head_dim * ELEMENT_BYTES


def activation_bytes(model: Model, tokens: int, gpus: int = 1) -> float:
    """Activations of a GPU while `tokens` pass a layer that is split over `gpus`.

    They are the residual and its norm, and the GPU's share of queries, keys, values, gate and up.
    """
    attention = (model.heads + 2 * model.kv_heads) * model.head_dim
    share = (attention + 2 * model.top_k * model.intermediate) / gpus
    return tokens * ELEMENT_BYTES * (2 * model.hidden + share)


def all_reduces(model: Model) -> int:
    """All-reduces of a tensor-parallel step: one after attention and one after the MLP of each
    layer (Shoeybi et al., Megatron-LM, 2019, section 3)."""
    return 2 * model.layers


def all_reduce_bytes(model: Model, tokens: float) -> float:
    return tokens * model.hidden * ELEMENT_BYTES


def wire_factor(gpus: int) -> float:
    """Bytes that each GPU sends per message byte: 2 (n-1) / n, the minimum of any all-reduce
    (Patarasuk and Yuan, JPDC 69:2, 2009; nccl-tests, doc/PERFORMANCE.md)."""
    return 2 * (gpus - 1) / gpus


def link_all_reduce_us(link: Link, base_us: float, gpus: int, size_bytes: float) -> float:
    """A ring all-reduce in NCCL's cost model: base + 2 (n-1) steps + 2 (n-1)/n bytes sent."""
    transfer_us = wire_factor(gpus) * size_bytes / link.total_gb_s(gpus) / 1e3
    return base_us + 2 * (gpus - 1) * link.step_us + transfer_us


def expert_share(model: Model) -> float:
    """The share of the parameters that belongs to experts; 0 for a dense model."""
    return model.expert_parameters / model.parameters if model.experts > 1 else 0.0


def active_share(model: Model) -> float:
    """The share of the parameters that one token is multiplied with."""
    return 1 - expert_share(model) * (1 - model.top_k / model.experts)


def touched_experts(model: Model, tokens: float) -> float:
    """Experts of a layer that at least one token uses, if all are equally likely:
    E (1 - (1 - k/E)^tokens)."""
    return model.experts * (1 - float((1 - model.top_k / model.experts) ** tokens))


def read_bytes(workload: Workload, tokens: float) -> float:
    """Weights that a step of `tokens` reads: all but the experts that no token uses."""
    share, model = expert_share(workload.model), workload.model
    used = touched_experts(model, tokens) / model.experts
    return workload.weights_bytes * (1 - share + share * used)


def work_us(workload: Workload, bytes_read: float, tokens: float) -> float:
    """Time of one GPU to read these bytes or to multiply the tokens with their active weights
    (2 operations a weight), whichever is longer."""
    flop = 2 * workload.model.parameters * active_share(workload.model) * tokens
    return max(bytes_read / workload.bandwidth_gb_s / 1e3, flop / workload.tflops / 1e6)


def single_gpu_us(workload: Workload, streams: float) -> float:
    """A decode step of one GPU that holds all weights and the cache of all streams."""
    return work_us(workload, read_bytes(workload, streams) + workload.kv_bytes(streams), streams)


def _streams_per_gpu(streams: int, gpus: int) -> int:
    return ceil(streams / min(gpus, streams))


def tensor_step_us(workload: Workload, gpus: int, streams: int, all_reduce: AllReduce) -> Span:
    """A decode step: the work of one GPU / n + the all-reduces."""
    each = all_reduce(all_reduce_bytes(workload.model, streams))
    return each.times(all_reduces(workload.model), plus=single_gpu_us(workload, streams) / gpus)


def pipeline_step_us(workload: Workload, gpus: int, streams: int, all_reduce: AllReduce) -> Span:
    """A decode step of min(n, streams) groups of streams that are all in flight.

    A group passes n stages, each with 1/n of the layers, and n hand-offs. A hand-off counts as an
    all-reduce of its bytes, an upper bound.
    """
    group = _streams_per_gpu(streams, gpus)
    handoff = all_reduce(all_reduce_bytes(workload.model, group))
    return handoff.times(gpus, plus=single_gpu_us(workload, group))


def replicas_step_us(workload: Workload, gpus: int, streams: int,
                     _: AllReduce | None = None) -> Span:
    """A decode step if every GPU has all weights and its share of the streams."""
    return exact(single_gpu_us(workload, _streams_per_gpu(streams, gpus)))


def dispatch_bytes(model: Model, gpus: int, tokens: float, shared: bool = False) -> float:
    """Bytes that a rank sends to experts on other ranks, without skew; combine returns as many.

    A token sends top_k x (n-1)/n copies. With `shared` it sends one copy to each rank that has at
    least one of its experts: (n-1) x (1 - C(E - E/n, k) / C(E, k)).
    """
    copies = model.top_k * (gpus - 1) / gpus
    if shared:
        others = model.experts - model.experts // gpus
        copies = (gpus - 1) * (1 - comb(others, model.top_k) / comb(model.experts, model.top_k))
    return tokens * copies * model.hidden * ELEMENT_BYTES


def exchange_us(workload: Workload, gpus: int, tokens: float, all_reduce: AllReduce) -> Span:
    """An all-to-all of `tokens` of each rank, timed as an all-reduce with the same wire bytes."""
    wire_bytes = workload.skew * dispatch_bytes(workload.model, gpus, tokens)
    return all_reduce(wire_bytes / wire_factor(gpus))


def experts_step_us(workload: Workload, gpus: int, streams: int, all_reduce: AllReduce) -> Span:
    """A decode step with a dispatch and a combine in each layer.

    Every GPU has the attention weights and its share of the streams. The busiest GPU reads
    skew x 1/n of the experts in use: at least one, at most all that it holds.
    """
    model, group = workload.model, _streams_per_gpu(streams, gpus)
    share = expert_share(model)
    used = max(1.0, workload.skew * touched_experts(model, streams) / gpus)
    busiest = min(model.experts / gpus, used) / model.experts
    read = workload.weights_bytes * (1 - share + share * busiest) + workload.kv_bytes(group)
    compute_us = work_us(workload, 0, workload.skew * streams / gpus)
    work = max(read / workload.bandwidth_gb_s / 1e3, compute_us)
    return exchange_us(workload, gpus, group, all_reduce).times(2 * model.layers, plus=work)


def outside_share(workload: Workload, streams: int) -> float:
    """The share of the weights that does not fit on one GPU and stays in host memory."""
    cache = workload.kv_bytes(streams) + activation_bytes(workload.model, CHUNK_TOKENS)
    room = max(0.0, usable_bytes(workload.memory_bytes) - cache)
    return 1 - min(1.0, room / workload.weights_bytes)


def offload_step_us(workload: Workload, _: int, streams: int, __: AllReduce | None = None) -> Span:
    """A decode step of one GPU that reads the weights in host memory through its slot."""
    outside, read = outside_share(workload, streams), read_bytes(workload, streams)
    local_us = work_us(workload, read * (1 - outside) + workload.kv_bytes(streams), streams)
    return exact(local_us + read * outside / workload.slot_gb_s / 1e3)


Duration = Callable[[Workload, int, int, AllReduce], Span]  # the third is streams or prompt tokens
STEP_US: dict[str, Duration] = {
    TENSOR: tensor_step_us, PIPELINE: pipeline_step_us, REPLICAS: replicas_step_us,
    EXPERTS: experts_step_us, ONE: offload_step_us, OFFLOAD: offload_step_us}


def kv_copies(model: Model, gpus: int) -> float:
    """The share of the KV heads on each GPU of a tensor split; more GPUs than heads keep copies."""
    return ceil(model.kv_heads / gpus) / model.kv_heads


def memory_bytes(workload: Workload, kind: str, gpus: int, streams: int,
                 chunk: int) -> dict[str, float]:
    """Bytes that a GPU holds: weights, KV cache and activations."""
    model, share = workload.model, expert_share(workload.model)
    weights = {TENSOR: 1 / gpus, PIPELINE: 1 / gpus, EXPERTS: 1 - share + share / gpus}
    cached = {TENSOR: streams * kv_copies(model, gpus), PIPELINE: streams / gpus,
              ONE: streams, OFFLOAD: streams}
    tokens = max(chunk, streams)
    return {"weights": workload.weights_bytes * weights.get(kind, 1.0),
            "KV cache": workload.kv_bytes(cached.get(kind, ceil(streams / gpus))),
            "activations": activation_bytes(model, tokens, gpus if kind == TENSOR else 1)}


def room_tokens(model: Model, gpus: int, bytes_per_gpu: float) -> int:
    """Tokens that these bytes of each GPU of a tensor split can cache."""
    return max(0, int(bytes_per_gpu // (kv_copies(model, gpus) * kv_bytes_per_token(model))))


def usable_bytes(memory_bytes: float) -> float:
    """The bytes of a GPU that weights, cache and activations may use."""
    return (1 - HEADROOM) * memory_bytes
