"""The break-evens of docs/answer.md: the time of a call alone at which a dense 70B of 40 GB decodes
equally fast by tensor and by layer, and the one at which both show the first token equally early.
At the data sheet's rates, which is the strict case."""

from dataclasses import replace

from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import CHUNK_TOKENS, Deployment, break_even_us
from reports.advice.spans import as_span
from reports.advice.specs import MODELS, Gpu

MODEL, WEIGHTS, CONTEXT = MODELS["llama-3.1-70b"], "40GB", 4096
TOKEN_BYTES, CHUNK_BYTES = MODEL.all_reduce_bytes(1), MODEL.all_reduce_bytes(CHUNK_TOKENS)


def by_tensor(
    card: Gpu, token_us: float, chunk_us: float = 0.0, weights: str = WEIGHTS, gpus: int = 2
) -> Deployment:
    """The 70B split by tensor over cards whose all-reduces take these times."""
    spans = {TOKEN_BYTES: as_span(token_us), CHUNK_BYTES: as_span(chunk_us)}
    times = ReduceTimes(gpus, "published", spans)
    return Deployment(MODEL, card, weights, times, context=CONTEXT, tensor=gpus)


def by_layer(tensor: Deployment) -> Deployment:
    return replace(tensor, tensor=1, stages=tensor.tensor)


def even_token_us(card: Gpu, gpus: int = 2) -> float:
    """The break-even of a call of TOKEN_BYTES, without hand-offs."""
    tensor = by_tensor(card, 0.0, gpus=gpus)
    return break_even_us(tensor, by_layer(tensor))


def even_chunk_us(card: Gpu, gpus: int = 2) -> float:
    """The break-even of a call of CHUNK_BYTES for one prompt."""
    each_us = 1.0  # of whatever time the call is, the rest of both prompts is the same
    tensor = by_tensor(card, each_us, each_us, gpus=gpus)
    gain_s = prompt_s(by_layer(tensor)) - prompt_s(tensor)
    return each_us + 1e6 * gain_s / MODEL.all_reduces


def prompt_s(split: Deployment) -> float:
    return split.figures["prompt_us"].value / 1e6
