"""The implied cost of a call, beside cases that were calculated by hand from published tokens/s."""

import re

import pytest

from reports.advice.implied import calls_of_step, implied_us, step_us
from reports.advice.specs import MODELS
from reports.references.published import PublishedServing, select, serving
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit


def published(gpu: str, model: str, split: str, **values: object) -> PublishedServing:
    (row,) = select(
        serving(), gpu={gpu}, model={model}, split={split}, **{k: {v} for k, v in values.items()}
    )
    return row


def test_two_cards_through_host_memory_from_a_graph_pay_25_us_a_call():
    """46.7 and 79.6 tokens/s: 12,562.8 us - 21,413.3 us / 2 = 1,856.2 us, in 2 x 36 + 1 calls.
    Without the half of the single card's step a reader would get 172 us."""
    rows = [published("RX 7900 XT", "Qwen3-8B", split) for split in ("single", "tp2")]
    alone_us, two_us = (step_us(row.decode_tok_s or 0) for row in rows)
    calls = calls_of_step(MODELS["qwen3-8b"], rows[0].engine)
    assert calls == 73
    assert implied_us(two_us, alone_us, 2, calls) == pytest.approx(25.43, abs=0.01)


def test_a_split_by_layer_stands_for_one_card():
    """34.50 tokens/s by layer, 41.57 by tensor: 24,055.8 - 28,985.5 / 2 = 9,563.0 us, in 2 x 64
    calls of llama.cpp, which has none for the embeddings."""
    rows = [published("RX 7900 XTX", "Qwen3.5-27B arch", split) for split in ("layer", "tensor")]
    layer_us, tensor_us = (step_us(row.decode_tok_s or 0) for row in rows)
    calls = calls_of_step(MODELS["qwen3.5-27b"], rows[0].engine)
    assert calls == 128
    assert implied_us(tensor_us, layer_us, 2, calls) == pytest.approx(74.71, abs=0.01)


@pytest.mark.parametrize(
    ("rates", "cards", "calls", "us"),
    [
        # The engine waits for each call: 57,142.9 - 35,087.7 / 2 us. One alone took 41.9 us.
        ((28.5, 17.5), 2, 129, 306.97),
        # 239,234.4 - 127,551.0 / 2 us; one alone took 250.
        ((7.84, 4.18), 2, 128, 1370.77),
        ((22.1, 37.1), 2, 128, 33.83),
        # Four cards pay for what is beyond a quarter: 65,359.5 - 45,454.5 / 4 us.
        ((22.0, 15.3), 4, 128, 421.84),
    ],
)
def test_the_cost_is_what_a_step_takes_beyond_its_cards_share(rates, cards, calls, us):
    alone_us, shared_us = map(step_us, rates)
    assert implied_us(shared_us, alone_us, cards, calls) == pytest.approx(us, abs=0.01)


def test_a_pair_that_gained_more_than_its_cards_is_below_zero_and_not_hidden():
    """34.4 to 69.1 tokens/s on two cards: something else than the split changed too."""
    assert implied_us(step_us(69.1), step_us(34.4), 2, 129) < 0


def test_a_drafter_makes_a_step_of_several_tokens():
    """3.32 tokens a step at 171.8 tokens/s: 19.3 ms. A reader who takes a token for a step would
    find calls a third as dear as they are."""
    assert step_us(171.8, 3.32) == pytest.approx(19_324.8, abs=0.1)
    token_us = implied_us(step_us(80), step_us(50), 2, 129)
    assert implied_us(step_us(80, 3), step_us(50, 3), 2, 129) == pytest.approx(3 * token_us)


@pytest.mark.parametrize(
    ("engine", "more"),
    [("vLLM XPU", 1), ("radiance", 1), ("llama.cpp HIP", 0), ("SGLang", 1), ("Ollama", 0)],
)
def test_vllm_makes_a_call_more_than_two_a_layer(engine, more):
    assert calls_of_step(MODELS["llama-3.1-70b"], engine) == 160 + more


@pytest.mark.parametrize(
    ("step", "alone", "cards", "calls", "words"),
    [
        (10.0, 10.0, 1, 128, "a split over 1 with 128 calls"),
        (10.0, 10.0, 2, 0, "a split over 2 with 0 calls"),
        (0.0, 10.0, 2, 128, "steps of 0 and 10 us"),
        (10.0, float("nan"), 2, 128, "steps of 10 and nan us"),
        (float("inf"), 10.0, 2, 128, "steps of inf and 10 us"),
    ],
)
def test_what_is_no_split_is_refused_in_a_sentence(step, alone, cards, calls, words):
    with pytest.raises(ResultError, match=re.escape(words)) as refused:
        implied_us(step, alone, cards, calls)
    assert "\n" not in str(refused.value)
