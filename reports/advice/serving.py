"""What it takes to serve a model on one or several GPUs: bytes, microseconds and tokens a second, by each way to split
it. Arithmetic alone: nothing is read or printed, and units stand in names.

The model of a step is the roofline's (Williams, Waterman and Patterson, CACM 52:4, 2009) with communication added, none
of it hidden: all weights that a step needs and its keys and values are read once at the memory's bandwidth, or its
multiplications are done at the peak rate, whichever takes longer. Data sheets give peaks, so that times are floors;
ratios between splits of one machine suffer less. What an all-reduce takes comes from outside, with its interval, which
is carried to whatever is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, comb, inf
from typing import NamedTuple

from reports.advice.specs import Link, Model

WIRE_BYTES = 2  # of an element of activations: fp16 or bf16
HEADROOM = 0.1  # of a GPU's memory, left to the driver, graphs and fragments: vLLM's gpu_memory_utilization is 0.9
CHUNK_TOKENS = 2048  # of a prompt that go through the model at once
TENSOR, PIPELINE, REPLICAS, EXPERTS, ONE, OFFLOAD = "TP", "PP", "replicas", "EP", "one GPU", "CPU offload"


class Span(NamedTuple):
    """A figure and the ends of its interval, which are the figure itself where no interval is known."""

    value: float
    low: float
    high: float

    def times(self, factor: float, plus: float = 0.0) -> Span:
        """This, times `factor` (at least 0), plus a figure that is sure."""
        return Span(*(plus + factor * end for end in self))

    def rate(self, tokens: float) -> Span:
        """Tokens a second, where this is what so many take, in microseconds."""
        return Span(*(1e6 * tokens / end if end else inf for end in (self.value, self.high, self.low)))


def sure(value: float) -> Span:
    """A figure without an interval."""
    return Span(value, value, value)


AllReduce = Callable[[float], Span]  # microseconds that an all-reduce of so many bytes takes


@dataclass(frozen=True)
class Serving:
    """What is served, and on which kind of GPU: GB/s of its memory, dense TFLOP/s, bytes of its memory, GB/s one way
    through its slot; `context` tokens of each stream stand in the cache; `skew` is what the busiest rank of an expert
    split gets, over the mean."""

    model: Model
    weights_bytes: float
    bandwidth_gb_s: float
    tflops: float = inf
    memory_bytes: float = inf
    slot_gb_s: float = inf
    context: int = 0
    skew: float = 1.0


def weights_bytes(model: Model, bits: float) -> float:
    """Bytes of all weights: parameters x bits / 8."""
    return model.parameters * bits / 8


def kv_bytes_per_token(model: Model) -> float:
    """Bytes of keys and values that a token leaves: 2 x layers x KV heads x head's elements x 2 B (grouped queries:
    Ainslie et al., EMNLP 2023)."""
    return 2 * (model.kv_layers or model.layers) * model.kv_heads * model.head_dim * WIRE_BYTES


def activation_bytes(model: Model, tokens: int, gpus: int = 1) -> float:
    """Bytes of a GPU's activations while `tokens` go through a layer split over `gpus`: the residual and its norm, and
    each GPU's part of queries, keys, values, gate and up."""
    split = (model.heads + 2 * model.kv_heads) * model.head_dim + 2 * model.top_k * model.intermediate
    return tokens * WIRE_BYTES * (2 * model.hidden + split / gpus)


def all_reduces(model: Model) -> int:
    """Of a step split by tensor: one after attention and one after the MLP of each layer (Shoeybi et al., Megatron-LM,
    2019, section 3)."""
    return 2 * model.layers


def all_reduce_bytes(model: Model, tokens: float) -> float:
    """Bytes of the message of each: tokens x hidden x 2."""
    return tokens * model.hidden * WIRE_BYTES


def wire_factor(gpus: int) -> float:
    """What a GPU sends of a message's bytes, and gets: 2 (n-1) / n, the least for any all-reduce (Patarasuk and Yuan,
    JPDC 69:2, 2009; nccl-tests, doc/PERFORMANCE.md)."""
    return 2 * (gpus - 1) / gpus


def link_all_reduce_us(link: Link, base_us: float, gpus: int, size_bytes: float) -> float:
    """What an all-reduce takes by a link's figures alone: base + 2 (n-1) steps + 2 (n-1)/n bytes over the bandwidth one
    way, as NCCL's cost model has it for a ring."""
    gb_s = link.gb_s * (gpus - 1 if link.mesh else 1)
    return base_us + 2 * (gpus - 1) * link.step_us + wire_factor(gpus) * size_bytes / gb_s / 1e3


def expert_share(model: Model) -> float:
    """The part of all parameters that are experts; 0 of a dense model."""
    return model.expert_parameters / model.parameters if model.experts > 1 else 0.0


def active_share(model: Model) -> float:
    """The part of all parameters that one token is multiplied with."""
    return 1 - expert_share(model) * (1 - model.top_k / model.experts)


def touched_experts(model: Model, tokens: float) -> float:
    """Experts of a layer that at least one of `tokens` uses, where each is as likely: E (1 - (1 - k/E)^tokens)."""
    return model.experts * (1 - float((1 - model.top_k / model.experts) ** tokens))


def read_bytes(serving: Serving, tokens: float) -> float:
    """Bytes of weights that a step of so many tokens reads: all, of a mixture the experts that are used."""
    share = expert_share(serving.model)
    used = touched_experts(serving.model, tokens) / serving.model.experts
    return serving.weights_bytes * (1 - share + share * used)


def work_us(serving: Serving, bytes_read: float, tokens: float) -> float:
    """What one GPU takes to read so many bytes, or to multiply so many tokens with the weights that they use (2
    operations a weight), whichever is more."""
    flop = 2 * serving.model.parameters * active_share(serving.model) * tokens
    return max(bytes_read / serving.bandwidth_gb_s / 1e3, flop / serving.tflops / 1e6)


def _kv_bytes(serving: Serving, streams: float) -> float:
    return streams * serving.context * kv_bytes_per_token(serving.model)


def alone_us(serving: Serving, streams: float) -> float:
    """A token of each stream on one GPU: weights and the streams' keys and values, read once."""
    return work_us(serving, read_bytes(serving, streams) + _kv_bytes(serving, streams), streams)


def tensor_step_us(serving: Serving, gpus: int, streams: int, all_reduce: AllReduce) -> Span:
    """A token of each stream split by tensor: one GPU's work / n + 2 x layers all-reduces."""
    each = all_reduce(all_reduce_bytes(serving.model, streams))
    return each.times(all_reduces(serving.model), plus=alone_us(serving, streams) / gpus)


def pipeline_step_us(serving: Serving, gpus: int, streams: int, all_reduce: AllReduce) -> Span:
    """A token of each stream in a pipeline. Streams go in min(n, streams) groups; a group's step passes n stages of 1/n
    of the layers each and n hand-offs, and all groups are on their way at once. A hand-off is counted as an all-reduce
    of its bytes, which is more than it is."""
    group = ceil(streams / min(gpus, streams))
    return all_reduce(all_reduce_bytes(serving.model, group)).times(gpus, plus=alone_us(serving, group))


def replicas_step_us(serving: Serving, gpus: int, streams: int, _: AllReduce | None = None) -> Span:
    """A token of each stream, where every GPU has all weights and its part of the streams."""
    return sure(alone_us(serving, ceil(streams / min(gpus, streams))))


def dispatch_bytes(model: Model, gpus: int, tokens: float, shared: bool = False) -> float:
    """Bytes that leave a rank of `tokens` for experts elsewhere, equally likely and without skew; as many come back to
    be combined. Of a token top_k x (n-1)/n copies leave; or with `shared` one for all experts of a rank: (n-1) x (1 -
    C(E - E/n, k) / C(E, k))."""
    copies = model.top_k * (gpus - 1) / gpus
    if shared:
        others = model.experts - model.experts // gpus
        copies = (gpus - 1) * (1 - comb(others, model.top_k) / comb(model.experts, model.top_k))
    return tokens * copies * model.hidden * WIRE_BYTES


def _exchange_us(serving: Serving, gpus: int, tokens: float, all_reduce: AllReduce) -> Span:
    """An all-to-all of a rank's `tokens`: as long as an all-reduce of as many bytes on the wire."""
    return all_reduce(serving.skew * dispatch_bytes(serving.model, gpus, tokens) / wire_factor(gpus))


def experts_step_us(serving: Serving, gpus: int, streams: int, all_reduce: AllReduce) -> Span:
    """A token of each stream split by experts: streams are parted for attention, whose weights every GPU has, and the
    busiest GPU reads skew x 1/n of the experts that are used, one at least and all of its own at most; a dispatch
    and a combine in each layer."""
    model, group = serving.model, ceil(streams / min(gpus, streams))
    share = expert_share(model)
    busiest = min(model.experts / gpus, max(1.0, serving.skew * touched_experts(model, streams) / gpus)) / model.experts
    read = serving.weights_bytes * (1 - share + share * busiest) + _kv_bytes(serving, group)
    work = max(read / serving.bandwidth_gb_s / 1e3, work_us(serving, 0, serving.skew * streams / gpus))
    return _exchange_us(serving, gpus, group, all_reduce).times(2 * model.layers, plus=work)


def outside_share(serving: Serving, streams: int) -> float:
    """The part of the weights that does not fit on one GPU beside its streams' cache and stays in the host's memory."""
    beside = _kv_bytes(serving, streams) + activation_bytes(serving.model, CHUNK_TOKENS)
    return 1 - min(1.0, max(0.0, usable_bytes(serving.memory_bytes) - beside) / serving.weights_bytes)


def one_gpu_step_us(serving: Serving, _: int, streams: int, __: AllReduce | None = None) -> Span:
    """A token of each stream on one GPU; weights that are outside come through the slot in each step."""
    outside, read = outside_share(serving, streams), read_bytes(serving, streams)
    here = work_us(serving, read * (1 - outside) + _kv_bytes(serving, streams), streams)
    return sure(here + read * outside / serving.slot_gb_s / 1e3)


STEP_US: dict[str, Callable[[Serving, int, int, AllReduce], Span]] = {
    TENSOR: tensor_step_us, PIPELINE: pipeline_step_us, REPLICAS: replicas_step_us, EXPERTS: experts_step_us,
    ONE: one_gpu_step_us, OFFLOAD: one_gpu_step_us}


def flip_us(other_us: float, work_us: float, calls: int) -> float:
    """What an all-reduce may cost until a step split by tensor takes as long as `other_us`: (other - work) / calls;
    negative where no all-reduce is fast enough."""
    return (other_us - work_us) / calls


def chunks_of(prompt: int) -> int:
    """In how many parts a prompt goes through the model."""
    return ceil(prompt / CHUNK_TOKENS)


def prompt_us(serving: Serving, prompt: int) -> float:
    """What one GPU takes to read a prompt in: of each chunk its multiplications with weights, and of queries, keys and
    values with one another, 2 x prompt^2 x heads x head's elements in each layer (half of the pairs)."""
    model, chunks = serving.model, chunks_of(prompt)
    pairs = 2 * prompt**2 * model.heads * model.head_dim * (model.kv_layers or model.layers)
    each = prompt / chunks
    return chunks * work_us(serving, read_bytes(serving, each), each) + pairs / serving.tflops / 1e6


def tensor_prompt_us(serving: Serving, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """A prompt split by tensor: one GPU's work / n + 2 x layers all-reduces of each chunk's activations."""
    chunks = chunks_of(prompt)
    each = all_reduce(all_reduce_bytes(serving.model, prompt / chunks))
    return each.times(chunks * all_reduces(serving.model), plus=prompt_us(serving, prompt) / gpus)


def pipeline_period_us(stage_us: float, handoff_us: float, in_flight: int) -> float:
    """How often a stage ends a chunk: after its work and the hand-off, but once two chunks are in flight one is handed
    on while the next is at work, and only the longer of both counts (GPipe: Huang et al., NeurIPS 2019)."""
    return stage_us + handoff_us if in_flight < 2 else max(stage_us, handoff_us)


def pipeline_prompt_us(serving: Serving, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """A prompt in a pipeline, alone: its first chunk passes n stages and n-1 hand-offs, and the others follow a period
    apart."""
    count = chunks_of(prompt)
    stage = prompt_us(serving, prompt) / gpus / count
    handoffs = all_reduce(all_reduce_bytes(serving.model, prompt / count))
    return Span(*(gpus * stage + (gpus - 1) * end + (count - 1) * pipeline_period_us(stage, end, count)
                  for end in handoffs))


def replicas_prompt_us(serving: Serving, _: int, prompt: int, __: AllReduce | None = None) -> Span:
    """A prompt on one GPU; weights that are outside come through the slot for each chunk, behind the work."""
    chunks = chunks_of(prompt)
    through_us = chunks * read_bytes(serving, prompt / chunks) * outside_share(serving, 1) / serving.slot_gb_s / 1e3
    return sure(max(prompt_us(serving, prompt), through_us))


def experts_prompt_us(serving: Serving, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """A prompt whose tokens are parted over the ranks of an expert split, the busiest one's work counting."""
    count = chunks_of(prompt)
    each = _exchange_us(serving, gpus, prompt / count / gpus, all_reduce)
    return each.times(2 * serving.model.layers * count, plus=serving.skew * prompt_us(serving, prompt) / gpus)


PROMPT_US: dict[str, Callable[[Serving, int, int, AllReduce], Span]] = {
    TENSOR: tensor_prompt_us, PIPELINE: pipeline_prompt_us, EXPERTS: experts_prompt_us, REPLICAS: replicas_prompt_us,
    ONE: replicas_prompt_us, OFFLOAD: replicas_prompt_us}


def prompts_rate(serving: Serving, kind: str, gpus: int, prompt: int, all_reduce: AllReduce) -> Span:
    """Tokens a second of many prompts, one behind another: in a pipeline a chunk each period, replicas all at once."""
    if kind == PIPELINE:
        chunks = chunks_of(prompt)
        each, stage_us = prompt / chunks, prompt_us(serving, prompt) / chunks / gpus
        handoffs = all_reduce(all_reduce_bytes(serving.model, each))
        return Span(*(pipeline_period_us(stage_us, end, 2) for end in handoffs)).rate(each)
    return PROMPT_US[kind](serving, gpus, prompt, all_reduce).rate(prompt * (gpus if kind == REPLICAS else 1))


def memory_bytes(serving: Serving, kind: str, gpus: int, streams: int, chunk: int) -> dict[str, float]:
    """What a GPU holds, in bytes: {"weights", "KV cache", "activations"}, for so many streams and a chunk of tokens. KV
    heads that are fewer than the GPUs are held more than once by a tensor split."""
    model, share = serving.model, expert_share(serving.model)
    parts = {TENSOR: 1 / gpus, PIPELINE: 1 / gpus, EXPERTS: 1 - share + share / gpus}
    cache = {TENSOR: streams * ceil(model.kv_heads / gpus) / model.kv_heads, PIPELINE: streams / gpus, ONE: streams,
             OFFLOAD: streams}
    return {"weights": serving.weights_bytes * parts.get(kind, 1.0),
            "KV cache": _kv_bytes(serving, cache.get(kind, ceil(streams / gpus))),
            "activations": activation_bytes(model, max(chunk, streams), gpus if kind == TENSOR else 1)}


def room_tokens(model: Model, gpus: int, bytes_of_a_gpu: float) -> int:
    """Tokens whose keys and values find room in so many bytes of each GPU of a tensor split."""
    part = ceil(model.kv_heads / gpus) / model.kv_heads
    return max(0, int(bytes_of_a_gpu // (part * kv_bytes_per_token(model))))


def usable_bytes(memory_bytes: float) -> float:
    """Bytes of a GPU's memory that weights, cache and activations may take."""
    return (1 - HEADROOM) * memory_bytes
