"""The ways to serve a model with GPUs: whether they fit, their latency and their throughput.

A decode step follows the roofline model (Williams, Waterman and Patterson, CACM 52:4, 2009) plus
communication, none of it hidden. A step reads the weights and the cached keys and values once at
memory bandwidth, or multiplies at the peak rate, whichever takes longer. Data sheets give peaks, so
times are lower bounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np

from reports.advice import specs
from reports.advice.reduce_times import Span, Times, exact, wire_factor
from reports.advice.specs import Gpu, Model
from reports.tables.sentences import number

GB = 1e9
HEADROOM = 0.1  # share of memory left free; vLLM's gpu_memory_utilization is 0.9
CHUNK_TOKENS = 2048  # most prompt tokens in one forward pass
TENSOR, PIPELINE, REPLICAS, EXPERTS = "TP", "PP", "replicas", "EP"
ONE, OFFLOAD = "one GPU", "CPU offload"


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
        return streams * self.context * self.model.kv_bytes_per_token

    def read_bytes(self, tokens: float) -> float:
        """Weights that a step of `tokens` reads: all but the experts that no token uses."""
        used = self.model.touched_experts(tokens) / self.model.experts
        return self.weights_bytes * (1 - self.model.expert_share * (1 - used))

    def work_us(self, bytes_read: float, tokens: float) -> float:
        """Time of one GPU to read these bytes or to multiply the tokens with their active weights
        (2 operations a weight), whichever is longer."""
        flop = 2 * self.model.parameters * self.model.active_share * tokens
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
        cache = self.kv_bytes(streams) + self.model.activation_bytes(CHUNK_TOKENS)
        return 1 - min(1.0, max(0.0, self.usable_bytes - cache) / self.weights_bytes)

    def slot_us(self, bytes_read: float) -> float:
        """The time to read weights in host memory through a GPU's slot."""
        return bytes_read / specs.link(self.gpu.slot).gb_s / 1e3


def rate(tokens: float, us: Span) -> Span:
    """Tokens per second of a pass of `tokens`."""
    return 1e6 * tokens / us[[0, 2, 1]]


@dataclass(frozen=True)
class Split:
    """A workload on `gpus` GPUs; one GPU, or an offload to host memory, uses one.

    Times are in microseconds and rates in tokens per second, each with its interval.
    """

    workload: Workload
    kind: str
    gpus: int

    @cached_property
    def step_us(self) -> Span:
        """A decode step of `batch` streams."""
        return self.decode_us(self.workload.batch)

    @cached_property
    def rate(self) -> Span:
        """Decoded tokens of `slots` streams."""
        return rate(self.workload.slots, self.decode_us(self.workload.slots))

    def decode_us(self, streams: int) -> Span:
        """A decode step: the work of a GPU, and the all-reduces, hand-offs or exchanges."""
        load, model, n = self.workload, self.workload.model, self.gpus
        group = ceil(streams / min(n, streams))
        if self.kind == TENSOR:
            each_us = load.times(model.all_reduce_bytes(streams))
            return load.step_us(streams) / n + model.all_reduces * each_us
        if self.kind == PIPELINE:
            # min(n, streams) groups are all in flight. A group passes n stages, each with 1/n of
            # the layers. A hand-off counts as an all-reduce of its bytes, an upper bound.
            return load.step_us(group) + n * load.times(model.all_reduce_bytes(group))
        if self.kind == EXPERTS:
            return self._experts_us(streams, group) + model.all_reduces * self._exchange_us(group)
        outside = 0.0 if self.kind == REPLICAS else load.outside_share(group)
        read = load.read_bytes(group)
        local_us = load.work_us(read * (1 - outside) + load.kv_bytes(group), group)
        return exact(local_us + load.slot_us(read * outside))

    def _experts_us(self, streams: int, group: int) -> float:
        """The work of the busiest GPU, which has the attention weights and the cache of a group.
        It reads skew x 1/n of the experts in use: at least one, at most all its own."""
        load, model, n = self.workload, self.workload.model, self.gpus
        share = model.expert_share
        used = max(1.0, load.skew * model.touched_experts(streams) / n)
        busiest = min(model.experts / n, used) / model.experts
        read = load.weights_bytes * (1 - share + share * busiest)
        return max(load.work_us(read + load.kv_bytes(group), 0),
                   load.work_us(0, load.skew * streams / n))

    def _exchange_us(self, tokens: float) -> Span:
        """An all-to-all of `tokens` of each rank, timed as an all-reduce with the same wire bytes.
        A layer has two, a dispatch and a combine, where a tensor split has two all-reduces."""
        wire_bytes = self.workload.skew * self.workload.model.dispatch_bytes(self.gpus, tokens)
        return self.workload.times(wire_bytes / wire_factor(self.gpus))

    @cached_property
    def prompt_us(self) -> Span:
        """A prompt: its work and the communication of each chunk."""
        load, model, n = self.workload, self.workload.model, self.gpus
        work_us, calls = load.prompt_us(), load.chunks * model.all_reduces
        if self.kind == TENSOR:
            return work_us / n + calls * load.times(model.all_reduce_bytes(load.chunk_tokens))
        if self.kind == PIPELINE:
            # The first chunk passes n stages and n-1 hand-offs; the others follow one period apart.
            stage_us, handoff_us, period_us = self._stage_us()
            return n * stage_us + (n - 1) * handoff_us + (load.chunks - 1) * period_us
        if self.kind == EXPERTS:
            return load.skew * work_us / n + calls * self._exchange_us(load.chunk_tokens / n)
        # The slot delivers weights in host memory behind the work.
        outside = load.chunks * load.read_bytes(load.chunk_tokens) * load.outside_share(1)
        return exact(max(work_us, load.slot_us(outside)))

    def _stage_us(self) -> tuple[float, Span, Span]:
        """A chunk's stage and hand-off in a pipeline, and the time between two chunks. With two
        chunks in flight the longer hides the shorter (GPipe: Huang et al., NeurIPS 2019)."""
        load = self.workload
        stage_us = load.prompt_us() / self.gpus / load.chunks
        handoff_us = load.times(load.model.all_reduce_bytes(load.chunk_tokens))
        return stage_us, handoff_us, np.maximum(stage_us, handoff_us)

    @cached_property
    def prompt_rate(self) -> Span:
        """Many prompts in a row: a pipeline ends a chunk each period, replicas work on one prompt
        each."""
        load = self.workload
        if self.kind == PIPELINE:
            return rate(load.chunk_tokens, self._stage_us()[2])
        return rate(load.prompt * (self.gpus if self.kind == REPLICAS else 1), self.prompt_us)

    @cached_property
    def memory_bytes(self) -> dict[str, float]:
        """Bytes of each GPU by part, for the larger number of streams and the longest chunk."""
        load, model, n = self.workload, self.workload.model, self.gpus
        streams, share = max(load.batch, load.slots), model.expert_share
        weights = {TENSOR: 1 / n, PIPELINE: 1 / n, EXPERTS: 1 - share + share / n}
        cached = {TENSOR: streams * model.kv_share(n), PIPELINE: streams / n}
        tokens = max(streams, min(load.prompt, CHUNK_TOKENS))
        return {"weights": load.weights_bytes * weights.get(self.kind, 1.0),
                "KV cache": load.kv_bytes(cached.get(self.kind, ceil(streams / n))),
                "activations": model.activation_bytes(tokens, n if self.kind == TENSOR else 1)}

    @property
    def spare_bytes(self) -> float:
        """The bytes of each GPU that stay free; negative if the split does not fit."""
        return self.workload.usable_bytes - sum(self.memory_bytes.values())

    def tokens_in(self, bytes_per_gpu: float) -> int:
        """The tokens that these bytes of each GPU of a tensor split can cache."""
        model = self.workload.model
        token_bytes = model.kv_share(self.gpus) * model.kv_bytes_per_token
        return max(0, int(bytes_per_gpu // token_bytes))

    @cached_property
    def obstacle(self) -> str | None:
        """Why a split is impossible; None if it is possible."""
        model, n = self.workload.model, self.gpus
        if self.kind == TENSOR and model.heads % n:
            return f"{model.heads} heads do not go into {n}"
        if self.kind == PIPELINE and model.layers < n:
            return f"{model.layers} layers make no {n} stages"
        if self.kind == EXPERTS and model.experts % n:
            return f"{model.experts} experts do not go into {n}"
        spare = self.spare_bytes + (self.memory_bytes["weights"] if self.kind == OFFLOAD else 0)
        return f"does not fit, {number(-spare / GB)} GB short" if spare < 0 else None


def all_splits(workload: Workload) -> dict[str, Split]:
    """Every way to serve the workload on its GPUs by name; the last one uses one GPU."""
    n, one = workload.gpus, Split(workload, ONE, 1)
    names = {}
    if n > 1:
        names = {TENSOR: f"TP {n}", PIPELINE: f"PP {n}", REPLICAS: f"{n} replicas"}
        if workload.model.experts > 1:
            names[EXPERTS] = f"EP {n}"
    choices = {name: Split(workload, kind, n) for kind, name in names.items()}
    last = one if one.obstacle is None else Split(workload, OFFLOAD, 1)
    return choices | {last.kind: last}


def larger_card(workload: Workload) -> dict[str, Split]:
    """The smallest GPU of `specs.toml` that alone holds the model, by name; empty without one."""
    by_size = sorted(specs.tables().gpus.values(),
                     key=lambda gpu: (gpu.memory_gb, -gpu.bandwidth_gb_s))
    for gpu in by_size:
        split = Split(replace(workload, gpu=gpu), ONE, 1)
        if gpu.memory_gb > workload.gpu.memory_gb and split.obstacle is None:
            return {f"1 x {gpu.name}": split}
    return {}
