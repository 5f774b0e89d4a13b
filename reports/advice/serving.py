"""Bytes and times of a model that serves streams of tokens on GPUs.

A decode step follows the roofline model (Williams, Waterman and Patterson, CACM 52:4, 2009) plus
communication, none of it hidden. A step reads the weights and the cached keys and values once at
memory bandwidth, or multiplies at the peak rate, whichever takes longer. Data sheets give peaks, so
times are lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, comb

from reports.advice import specs
from reports.advice.reduce_times import Times
from reports.advice.specs import Gpu, Model

GB = 1e9
ELEMENT_BYTES = 2  # an activation in fp16 or bf16
HEADROOM = 0.1  # share of memory left free; vLLM's gpu_memory_utilization is 0.9
CHUNK_TOKENS = 2048  # most prompt tokens in one forward pass


def kv_bytes_per_token(model: Model) -> float:
    """2 x layers x KV heads x head size x 2 B (grouped queries: Ainslie et al., EMNLP 2023)."""
    return 2 * model.cached_layers * model.kv_heads * model.head_dim * ELEMENT_BYTES


def kv_copies(model: Model, gpus: int) -> float:
    """The share of the KV heads on each GPU of a tensor split; more GPUs than heads keep copies."""
    return ceil(model.kv_heads / gpus) / model.kv_heads


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


def all_reduce_bytes(model: Model, tokens: float) -> int:
    return round(tokens * model.hidden * ELEMENT_BYTES)


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


@dataclass(frozen=True)
class Workload:
    """A model, its load, GPUs of one kind and the times of their all-reduces.

    Each stream has `context` cached tokens. Latency is for `batch` streams, throughput for `slots`
    streams. `skew` is the load of the busiest rank of an expert split over the mean load.
    """

    model: Model
    gpu: Gpu
    gpus: int
    weights: str
    weights_bytes: float
    times: Times
    context: int = 0
    prompt: int = CHUNK_TOKENS
    batch: int = 1
    slots: int = 1
    skew: float = 1.0

    @property
    def tflops(self) -> float:
        """The peak rate in fp8 if the weights are in fp8 and the GPU has one, otherwise in fp16."""
        return (self.weights.lower() == "fp8" and self.gpu.fp8_tflops) or self.gpu.fp16_tflops

    @property
    def usable_bytes(self) -> float:
        """The bytes of a GPU that weights, cache and activations may use."""
        return (1 - HEADROOM) * self.gpu.memory_gb * GB

    @property
    def chunks(self) -> int:
        """The forward passes of a prompt."""
        return ceil(self.prompt / CHUNK_TOKENS)

    @property
    def chunk_tokens(self) -> float:
        """The tokens in each forward pass of a prompt."""
        return self.prompt / self.chunks

    def kv_bytes(self, streams: float) -> float:
        """The cached keys and values of these streams."""
        return streams * self.context * kv_bytes_per_token(self.model)

    def read_bytes(self, tokens: float) -> float:
        """Weights that a step of `tokens` reads: all but the experts that no token uses."""
        used = touched_experts(self.model, tokens) / self.model.experts
        return self.weights_bytes * (1 - expert_share(self.model) * (1 - used))

    def work_us(self, bytes_read: float, tokens: float) -> float:
        """Time of one GPU to read these bytes or to multiply the tokens with their active weights
        (2 operations a weight), whichever is longer."""
        flop = 2 * self.model.parameters * active_share(self.model) * tokens
        return max(bytes_read / self.gpu.bandwidth_gb_s / 1e3, flop / self.tflops / 1e6)

    def step_us(self, streams: float) -> float:
        """A decode step of one GPU that holds all weights and the cache of these streams."""
        return self.work_us(self.read_bytes(streams) + self.kv_bytes(streams), streams)

    def prompt_us(self) -> float:
        """The work of one GPU on a prompt: the weights for each chunk, and attention with
        2 x prompt^2 x heads x head size operations in each layer (half of the pairs)."""
        model, tokens = self.model, self.chunk_tokens
        attention = 2 * self.prompt**2 * model.heads * model.head_dim * model.cached_layers
        weights_us = self.chunks * self.work_us(self.read_bytes(tokens), tokens)
        return weights_us + attention / self.tflops / 1e6

    def outside_share(self, streams: int) -> float:
        """The share of the weights that does not fit on one GPU and stays in host memory."""
        cache = self.kv_bytes(streams) + activation_bytes(self.model, CHUNK_TOKENS)
        return 1 - min(1.0, max(0.0, self.usable_bytes - cache) / self.weights_bytes)

    def slot_us(self, bytes_read: float) -> float:
        """The time to read weights in host memory through a GPU's slot."""
        return bytes_read / specs.link(self.gpu.slot).gb_s / 1e3
