"""The ways to serve a model with GPUs: whether they fit, their latency and their throughput, by the
roofline model (Williams, Waterman and Patterson, CACM 52:4, 2009) plus all communication."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

from reports.advice.reduce_times import ReduceTimes
from reports.advice.spans import Span, as_span
from reports.advice.specs import ELEMENT_BYTES, GB, Gpu, Transformer, bits_of, weights_called
from reports.tables.sentences import counted, number

HEADROOM = 0.1  # share of memory left free; vLLM's gpu_memory_utilization is 0.9
LEAST_RANKED_RATIO = 1.1  # the arithmetic is too coarse to rank two splits that are closer
CHUNK_TOKENS = 2048  # most prompt tokens in one forward pass
# How much of the bandwidth of the memory others' engines reached, by their tokens/s of one stream
# and the weights that a token reads; caches come on top. Of reports/references/serving.csv
# (tests/reports/advice/test_serving.py).
REACHED = (
    "for one stream others' engines got 56% to 75% of the memory's bandwidth with a split by "
    "tensor, 40% to 90% with one card at a time (18 figures)"
)


def rate(tokens: float, us: Span) -> Span:
    """Tokens per second of a pass of `tokens`."""
    return 1e6 * tokens / us


@dataclass(frozen=True)
class Deployment:
    """A model and its load on `replicas` x `stages` x `tensor` GPUs. Latency is for `batch`
    streams, throughput (tokens/s) for `slots` streams, each with `context` cached
    tokens. `times` are of the all-reduces of a tensor split and of the hand-offs between stages."""

    model: Transformer
    gpu: Gpu
    weights: str
    times: ReduceTimes
    context: int = 0
    prompt: int = CHUNK_TOKENS
    batch: int = 1
    slots: int = 1
    tensor: int = 1
    stages: int = 1
    replicas: int = 1

    @property
    def gpus(self) -> int:
        return self.tensor * self.stages * self.replicas

    @cached_property
    def weights_bytes(self) -> float:
        """Of a type such as q4 or `UD-Q4_K_M`, or a size such as 42.5GB. Raises ResultError for
        neither."""
        kind = weights_called(self.weights)
        if kind and kind.endswith("GB"):
            return float(kind.removesuffix("GB")) * GB
        return self.model.parameters * bits_of(self.weights) / 8

    @property
    def tflops(self) -> float:
        """The peak rate in fp8 if the weights are in fp8 and the GPU has one, otherwise in fp16."""
        if self.weights.lower() == "fp8" and self.gpu.fp8_tflops:
            return self.gpu.fp8_tflops
        return self.gpu.fp16_tflops

    def kv_bytes(self, streams: float) -> float:
        """The cached keys and values of these streams."""
        return streams * self.model.cached_bytes(self.context)

    def work_us(self, tokens: float, cached_bytes: float = 0) -> float:
        """Time of one GPU to read this cache and all weights but the experts that no token uses, or
        to multiply the tokens with their active weights (2 operations a weight), whichever is
        longer. Experts are equally likely: k of E leave (1 - k/E)^tokens of them unused."""
        model = self.model
        unused: float = model.expert_share * (1 - model.top_k / model.experts) ** tokens
        read_bytes = self.weights_bytes * (1 - unused) + cached_bytes
        flop = 2 * model.parameters * model.active_share * tokens
        return max(read_bytes / self.gpu.bandwidth_gb_s / 1e3, flop / self.tflops / 1e6)

    @cached_property
    def figures(self) -> dict[str, Span]:
        """The latencies of a step and of a prompt, and the rates of streams and of prompts."""
        prompt_us, prompt_rate = self.prompts()
        return {
            "step_us": self.decode_us(self.batch),
            "prompt_us": prompt_us,
            "tokens_per_s": rate(self.slots, self.decode_us(self.slots)),
            "prompt_tokens_per_s": prompt_rate,
        }

    def decode_us(self, streams: int) -> Span:
        """A decode step: the work of a GPU, and the all-reduces or hand-offs. The groups of
        streams, one for each stage of each replica, are all in flight."""
        groups = self.stages * self.replicas
        group = ceil(streams / min(groups, streams))
        us = as_span(self.work_us(group, self.kv_bytes(group)) / self.tensor)
        message_bytes = self.model.all_reduce_bytes(group)

        if self.tensor > 1:
            us += self.model.all_reduces * self.times(message_bytes)
        if self.stages > 1:  # a hand-off counts as an all-reduce of its bytes, an upper bound
            us += self.stages * self.times(message_bytes)

        return us

    def prompts(self) -> tuple[Span, Span]:
        """The time of a prompt, and the rate of many in a row: a pipeline ends a chunk each period,
        replicas work on one prompt each. With two chunks in flight the longer of a stage and a
        hand-off hides the shorter (GPipe: Huang et al., NeurIPS 2019)."""
        model, chunks = self.model, ceil(self.prompt / CHUNK_TOKENS)
        tokens = self.prompt / chunks
        # One GPU works on the weights for each chunk, and on attention with
        # 2 x prompt^2 x heads x head size operations in each layer (half of the pairs).
        attention = 2 * self.prompt**2 * model.heads * model.global_head_dim * model.kv_layers
        work_us = chunks * self.work_us(tokens)
        work_us += attention / self.tflops / 1e6
        us = as_span(work_us / self.tensor)

        if self.tensor > 1:
            us += chunks * model.all_reduces * self.times(model.all_reduce_bytes(tokens))
        if self.stages == 1:
            return us, rate(self.replicas * self.prompt, us)

        # The first chunk passes all stages and the hand-offs between them; the others follow.
        stage_us = us / chunks / self.stages
        handoff_us = self.times(model.all_reduce_bytes(tokens))
        period_us = stage_us.at_least(handoff_us)
        first_us = self.stages * stage_us + (self.stages - 1) * handoff_us
        return first_us + (chunks - 1) * period_us, rate(tokens, period_us)

    def memory_bytes(self, streams: int) -> float:
        """Bytes of each GPU: weights, and for so many streams their cache, of one KV head at least,
        and, with the longest chunk, the activations."""
        model, cached = self.model, ceil(streams / self.replicas) / self.stages
        weights = self.weights_bytes / self.tensor / self.stages
        kv_share = ceil(model.global_kv_heads / self.tensor) / model.global_kv_heads
        # In a layer: the residual, its norm, and a share of queries, keys, values, gate and up.
        tokens = max(streams, min(self.prompt, CHUNK_TOKENS))
        attention = (model.heads + 2 * model.kv_heads) * model.head
        share = (attention + 2 * model.top_k * model.intermediate) / self.tensor
        activations = tokens * ELEMENT_BYTES * (2 * model.hidden + share)
        return weights + self.kv_bytes(cached * kv_share) + activations

    @cached_property
    def obstacle(self) -> str | None:
        """Why a split cannot serve `batch` streams; None if it can."""
        model = self.model
        if model.heads % self.tensor:
            return f"{model.heads} heads do not go into {self.tensor}"
        if model.layers < self.stages:
            return f"{model.layers} layers make no {self.stages} stages"

        return self.lack(self.batch)

    def lack(self, streams: int) -> str | None:
        """How much memory so many streams lack; None if they fit."""
        short_gb = self.memory_bytes(streams) / GB - (1 - HEADROOM) * self.gpu.memory_gb
        if short_gb <= 0:
            return None
        return f"{counted(streams, 'stream')} would not fit, {number(short_gb)} GB short"


def all_splits(load: Deployment) -> dict[str, Deployment]:
    """Every way to serve this load on its GPUs by name."""
    n, one = load.gpus, replace(load, tensor=1)
    if n == 1:
        return {"one GPU": one}

    return {
        f"TP {n}": load,
        f"PP {n}": replace(one, stages=n),
        f"{n} replicas": replace(one, replicas=n),
    }


def break_even_us(tensor: Deployment, other: Deployment) -> float:
    """The time of an all-reduce at which both splits decode equally fast, the other's messages
    unchanged; not above 0 if no all-reduce is fast enough."""
    each_us = tensor.times(tensor.model.all_reduce_bytes(tensor.batch)).value
    gain_us = other.figures["step_us"].value - tensor.figures["step_us"].value
    return each_us + gain_us / tensor.model.all_reduces
