"""The ways to serve a model with GPUs: whether they fit, their latency and their throughput, by the
roofline model (Williams, Waterman and Patterson, CACM 52:4, 2009) plus all communication."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np

from reports.advice import specs
from reports.advice.reduce_times import Span, Times, wire_factor
from reports.tables.sentences import number

GB = 1e9
HEADROOM = 0.1  # share of memory left free; vLLM's gpu_memory_utilization is 0.9
MOST_STREAMS = 1 << 16
LEAST_RANKED_RATIO = 1.1  # the arithmetic is too coarse to rank two splits that are closer
CHUNK_TOKENS = 2048  # most prompt tokens in one forward pass
TENSOR, PIPELINE, REPLICAS, EXPERTS = "TP", "PP", "replicas", "EP"
ONE, OFFLOAD, LARGER = "one GPU", "CPU offload", "larger card"


def rate(tokens: float, us: Span) -> Span:
    """Tokens per second of a pass of `tokens`."""
    return 1e6 * tokens / us[[0, 2, 1]]


@dataclass(frozen=True)
class Split:
    """A model and its load on `gpus` GPUs, which share the work by `kind`. Latency is for `batch`
    streams, throughput (tokens/s) for `slots` streams, each with `context` cached tokens. `skew` is
    the load of the busiest rank of an expert split over the mean load."""

    model: specs.Model
    gpu: specs.Gpu
    gpus: int
    weights: str
    weights_bytes: float
    times: Times
    context: int = 0
    prompt: int = CHUNK_TOKENS
    batch: int = 1
    slots: int = 1
    skew: float = 1.0
    kind: str = TENSOR

    @property
    def tflops(self) -> float:
        """The peak rate in fp8 if the weights are in fp8 and the GPU has one, otherwise in fp16."""
        return (self.weights.lower() == "fp8" and self.gpu.fp8_tflops) or self.gpu.fp16_tflops

    @property
    def usable_bytes(self) -> float:
        """The bytes of a GPU that weights, cache and activations may use."""
        return (1 - HEADROOM) * self.gpu.memory_gb * GB

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

    def outside_share(self, streams: int) -> float:
        """The share of the weights that does not fit on one GPU and stays in host memory."""
        cache = self.kv_bytes(streams) + self.model.activation_bytes(CHUNK_TOKENS)
        return 1 - min(1.0, max(0.0, self.usable_bytes - cache) / self.weights_bytes)

    def exchange_us(self, tokens: float) -> Span:
        """An all-to-all of `tokens` of each rank, timed as an all-reduce with the same wire bytes.
        A layer has two, a dispatch and a combine, where a tensor split has two all-reduces."""
        wire_bytes = self.skew * self.model.dispatch_bytes(self.gpus, tokens)
        return self.times(wire_bytes / wire_factor(self.gpus))

    @cached_property
    def figures(self) -> dict[str, Span]:
        """The latencies of a step and of a prompt, and the rates of streams and of prompts."""
        prompt_us, prompt_rate = self.prompts()
        return {
            "step_us": self.decode_us(self.batch),
            "prompt_us": prompt_us,
            "rate": rate(self.slots, self.decode_us(self.slots)),
            "prompt_rate": prompt_rate,
        }

    def decode_us(self, streams: int) -> Span:
        """A decode step: the work of a GPU, and the all-reduces, hand-offs or exchanges."""
        model, n = self.model, self.gpus
        group = ceil(streams / min(n, streams))
        if self.kind == TENSOR:
            each_us = self.times(model.all_reduce_bytes(streams))
            return self.step_us(streams) / n + model.all_reduces * each_us
        if self.kind == PIPELINE:
            # min(n, streams) groups are all in flight. A group passes n stages, each with 1/n of
            # the layers. A hand-off counts as an all-reduce of its bytes, an upper bound.
            return self.step_us(group) + n * self.times(model.all_reduce_bytes(group))
        if self.kind == EXPERTS:
            # The busiest GPU has the attention weights and the cache of a group. It reads
            # skew x 1/n of the experts in use: at least one, at most all its own.
            share, used = model.expert_share, self.skew * model.touched_experts(streams) / n
            busiest = min(model.experts / n, max(1.0, used)) / model.experts
            read = self.weights_bytes * (1 - share + share * busiest) + self.kv_bytes(group)
            work_us = max(self.work_us(read, 0), self.work_us(0, self.skew * streams / n))
            return work_us + model.all_reduces * self.exchange_us(group)
        outside = 0.0 if self.kind == REPLICAS else self.outside_share(group)
        read, slot = self.read_bytes(group), specs.LINKS[self.gpu.slot]
        local_us = self.work_us(read * (1 - outside) + self.kv_bytes(group), group)
        return np.full(3, local_us + read * outside / slot.gb_s / 1e3)

    def prompts(self) -> tuple[Span, Span]:
        """The time of a prompt, and the rate of many in a row: a pipeline ends a chunk each period,
        replicas work on one prompt each."""
        model, n, chunks = self.model, self.gpus, ceil(self.prompt / CHUNK_TOKENS)
        tokens = self.prompt / chunks
        # One GPU works on the weights for each chunk, and on attention with
        # 2 x prompt^2 x heads x head size operations in each layer (half of the pairs).
        attention = 2 * self.prompt**2 * model.heads * model.head_dim * model.kv_layers
        work_us = chunks * self.work_us(self.read_bytes(tokens), tokens)
        work_us += attention / self.tflops / 1e6
        if self.kind == PIPELINE:
            # The first chunk passes n stages and n-1 hand-offs; the others follow one period apart.
            # With two chunks in flight the longer of a stage and a hand-off hides the shorter
            # (GPipe: Huang et al., NeurIPS 2019).
            stage_us, handoff_us = work_us / n / chunks, self.times(model.all_reduce_bytes(tokens))
            period_us = np.maximum(stage_us, handoff_us)
            return (
                n * stage_us + (n - 1) * handoff_us + (chunks - 1) * period_us,
                rate(tokens, period_us),
            )
        if self.kind == TENSOR:
            each_us = self.times(model.all_reduce_bytes(tokens))
            us = work_us / n + chunks * model.all_reduces * each_us
        elif self.kind == EXPERTS:
            exchanges_us = chunks * model.all_reduces * self.exchange_us(tokens / n)
            us = self.skew * work_us / n + exchanges_us
        else:
            # The slot delivers weights in host memory behind the work.
            outside = chunks * self.read_bytes(tokens) * self.outside_share(1)
            us = np.full(3, max(work_us, outside / specs.LINKS[self.gpu.slot].gb_s / 1e3))
        return us, rate(self.prompt * (n if self.kind == REPLICAS else 1), us)

    @cached_property
    def memory_bytes(self) -> dict[str, float]:
        """Bytes of each GPU by part, for the larger number of streams and the longest chunk."""
        streams, n, share = max(self.batch, self.slots), self.gpus, self.model.expert_share
        weights = {TENSOR: 1 / n, PIPELINE: 1 / n, EXPERTS: 1 - share + share / n}
        cached = {TENSOR: streams * self.model.kv_share(n), PIPELINE: streams / n}
        tokens = max(streams, min(self.prompt, CHUNK_TOKENS))
        return {
            "weights": self.weights_bytes * weights.get(self.kind, 1.0),
            "KV cache": self.kv_bytes(cached.get(self.kind, ceil(streams / n))),
            "activations": self.model.activation_bytes(tokens, n if self.kind == TENSOR else 1),
        }

    @property
    def spare_bytes(self) -> float:
        """The bytes of each GPU that stay free; negative if the split does not fit."""
        return self.usable_bytes - sum(self.memory_bytes.values())

    @cached_property
    def obstacle(self) -> str | None:
        """Why a split is impossible; None if it is possible."""
        model, n = self.model, self.gpus
        if self.kind == TENSOR and model.heads % n:
            return f"{model.heads} heads do not go into {n}"
        if self.kind == PIPELINE and model.layers < n:
            return f"{model.layers} layers make no {n} stages"
        if self.kind == EXPERTS and model.experts % n:
            return f"{model.experts} experts do not go into {n}"
        spare = self.spare_bytes + (self.memory_bytes["weights"] if self.kind == OFFLOAD else 0)
        return f"does not fit, {number(-spare / GB)} GB short" if spare < 0 else None


def at_capacity(split: Split) -> Split:
    """A split with as many streams as fit, at most MOST_STREAMS."""
    streams = max(
        1,
        bisect_left(
            range(1, MOST_STREAMS + 1),
            True,
            key=lambda count: replace(split, batch=1, slots=count).obstacle is not None,
        ),
    )
    return replace(split, batch=1, slots=streams)


def possible_splits(load: Split, splits: dict[str, Split]) -> dict[str, Split]:
    """The splits that fit on the GPUs of `load`, without another card or host memory."""
    return {
        name: split
        for name, split in splits.items()
        if split.obstacle is None
        and split.gpus == load.gpus
        and split.kind not in (OFFLOAD, LARGER)
    }


def all_splits(split: Split) -> dict[str, Split]:
    """Every way to serve this load by name. If one GPU cannot hold the model, the last ones are an
    offload to host memory and, if `specs.toml` has one, the smallest larger GPU that can."""
    n, one = split.gpus, replace(split, kind=ONE, gpus=1)
    kinds = {f"TP {n}": TENSOR, f"PP {n}": PIPELINE, f"{n} replicas": REPLICAS, f"EP {n}": EXPERTS}
    splits = {
        name: replace(split, kind=kind)
        for name, kind in kinds.items()
        if n > 1 and (kind != EXPERTS or split.model.experts > 1)
    }
    if one.obstacle is None:
        return splits | {ONE: one}
    splits[OFFLOAD] = replace(one, kind=OFFLOAD)
    for gpu in sorted(specs.GPUS.values(), key=lambda gpu: (gpu.memory_gb, -gpu.bandwidth_gb_s)):
        card = replace(one, gpu=gpu, kind=LARGER)
        if gpu.memory_gb > split.gpu.memory_gb and card.obstacle is None:
            return splits | {f"1 x {gpu.name}": card}
    return splits
