"""What an all-reduce costs inside an engine, implied by how long the engine's decode steps take.

A split by tensor divides the work of a step by its cards; what the step takes beyond that share is
paid for its all-reduces:

    (step of n cards - step of one card / n) / calls

A call alone costs less: the figure contains launches, waits of the host, the wait for the later
card, and work that the split does not divide (sampling, norms, small matrices). The definition is
ours; published steps come from `serving.csv` and `pairs.csv` of reports/references."""

from reports.advice.specs import Transformer, engine_calls
from wiretax.record.result import ResultError


def implied_us(step_us: float, alone_us: float, cards: int, calls: int) -> float:
    """The implied cost of a call in us: of a decode step split by tensor over `cards`, with so many
    calls, beside the same step without calls. `alone_us` is that of one card, or of as many cards
    by layer, which work one after another: their hand-offs, and whatever else that split
    loses, then makes the figure too small. Below 0 if the step became shorter than its share: then
    something else changed too. Raises ResultError for a split that has no calls, and for steps that
    take no time."""
    if cards < 2 or calls < 1:
        raise ResultError(f"a split over {cards} with {calls} calls a step has no cost of a call")
    if not (0 < step_us < float("inf") and 0 < alone_us < float("inf")):
        raise ResultError(f"steps of {step_us:g} and {alone_us:g} us: both must be above 0")

    return (step_us - alone_us / cards) / calls


def step_us(decode_tok_s: float, tokens_a_step: float = 1.0) -> float:
    """The time of a decode step in us of an engine that makes so many tokens/s for one stream. A
    drafter that proposes k tokens makes 1 to k + 1 a step: of `tokens_a_step` a source must say how
    many. With 1 in its place the result is the time of a token, and `implied_us` of it 1 to k + 1
    times too small. The tokens/s of n streams together: `tokens_a_step` is n."""
    return 1e6 * tokens_a_step / decode_tok_s


def calls_of_step(model: Transformer, engine: str) -> int:
    """The all-reduces of a model's decode step split by tensor: two a layer (Megatron-LM; Shoeybi
    et al., 2019, section 3), and one for the embeddings in vLLM and what is built on it, as
    `specs.toml` says, SGLang's included (sgl-project/sglang, srt/layers/vocab_parallel_embedding.py
    at 04d5e392). Not counted: the layers of a drafter."""
    built_on_vllm = any(name in engine.lower() for name in ("vllm", "radiance", "sglang"))
    return engine_calls(model) if built_on_vllm else model.all_reduces
