"""The boards, the cards beside two and what is not known of docs/answer.md: the sections below its
questions. What is computed is by `reports/advice`, the rest are rows of `reports/references`."""

import re
from collections.abc import Iterable, Sequence

import answer_open
from answer_calls import PEERS, PLX, SHOWN_PEERS, board_order, calls_near, chunk_us, even_chunk_us
from answer_open import chipset_calls
from answer_pairs import Pair, Phase, Row, between, gains, is_chat
from answer_text import (
    in_note,
    markdown_table,
    owner_of,
    percent,
    rate_text,
    served,
    sources,
    times_text,
)
from figures_answer import (
    CARD,
    advised,
    archived,
    h100_us,
    is_setting,
    of_two,
    small_calls,
    step_ms,
)

from reports.advice.even_calls import (
    CHUNK_BYTES,
    CONTEXT,
    MODEL,
    TOKEN_BYTES,
    WEIGHTS,
    by_layer,
    prompt_s,
)
from reports.advice.reduce_times import ReduceTimes, assumed_times
from reports.advice.serving import Deployment, break_even_us
from reports.advice.specs import LINKS, MODELS, link_between
from reports.references.published import PublishedCall, draft_tokens, serving
from reports.tables.sentences import counted, number, size_text
from tests.references_page import span
from wiretax.common.grouped import grouped

CHIPSET = LINKS["pcie4x4"]  # the second slot of many home boards
GIB = 1.073741824  # GB

TEMPLATE = """## Which board

A row for each kind of slots, with peers on and off, from published calls of two cards and published
pairs of one stream. `engines`: how many times as fast two cards are by tensor as one card, or as
two by layer, as their owners print it; that is the verdict. `computed`: without engines, published
calls (`alone`) are held against the break-even of the 70B, {even} at {size} and {even_chunk} at
{chunk}; a call that passes is necessary, not sufficient. Prefill is one prompt of one chunk there;
[longer prompts](#long-prompts) pass faster by layer.

{board_table}

The chipset's row is computed: {chipset_gb_s} GB/s, of which two cards' calls reach at most {share}
on other slots, and the published latencies. One owner of two RX 7900 XTX on such a board reports,
in words, that by layer the prompt is fastest and that a faster all-reduce gains decode
([seamusmcshane](https://github.com/ggml-org/llama.cpp/pull/27825)).

## One bigger card

A 70B in Q4_K_M ({bigger_gib} GiB) by llama.cpp, tokens/s:

{bigger_table}

The computed rows are limits: at the data sheet's peaks, which engines do not reach
([likely](advise.md#likely)). [`procure`](buy.md) holds such cards against two R9700s, and tells the
price of a million tokens.

## Watts

Two RX 7900 XT without peer access decoded {watts_model} at {watts_layer} W by layer and
{watts_tensor} W by tensor, for {watts_gain} more tokens/s: a token took {layer_joule} and
{tensor_joule} J ({watts_source}).

## The missing fabric

What a link such as the MI300X's would give two R9700s, computed for the same 70B: with the calls
that owners print of RCCL over PCIe, and those over xGMI (brackets: least to most). One such link
has {xgmi_gb_s} GB/s one way, and a slot of {slot} {slot_gb_s}: what calls reach of them differs.

{fabric_table}

So at the typical times the missing link costs {fabric_token} of a token and {fabric_prompt} of a
prompt's first token; the split itself gains {fabric_gain} a token without it.

## One H100 whose ranks meet over PCIe

Two ranks shared one H100 and reduced through host memory, over PCIe 5 x16: {h100} a call of {size}
from a graph, {h100_ms} a token. Both ranks used the same link, and no second
card took part. Through the card's own memory, without a wire, a step of the 70B took {h100_tensor}
by tensor and {h100_pipeline} by pipeline, and the answer flips at {h100_flip} a call ([all
figures](experiments/gpu.md)).
"""
CHANGES = """## What changed our mind

- 2026-11-30: A call alone is no token. From the Arc B70's {b70_us} we had computed {b70_computed}
  times the decode by layer; inside an engine that replays no graph, two such cards decoded
  {b70_engine} times as fast as one.
- 2026-11-30: "In prefill the split shortens one prompt" was wrong for {slower} of {paths} published
  paths between two cards: there by layer is sooner.
- 2026-11-30: Two kernels that we had called their owner's are libr4d, of StillDeadcode, and those
  pairs drafted {k} tokens: their calls had {draft_size} and not {one_size}.
- 2026-11-30: "Kernels reach less than the data sheet; then the split saves more" was wrong: of two
  cards by tensor each read {two_gb_s} GB/s where one alone read {one_gb_s}.
- 2026-11-30: The slower end of "{default_us} to {set_us} us" is a variable of NCCL that costs
  decode, as its author says, and no range.
- 2026-11-30: Dense models larger than one card had been measured on two R9700s: by layer.
- 2026-11-30: A range's half counted every pair of an owner. Now each machine has one vote, and the
  pairs beside a range are those of the range alone.

Claims of four texts, checked: [docs/claims.md](claims.md).
"""


def slots_of(fabric: str) -> str:
    """`x16/x16, PCIe 4` of `PCIe 4 x16`."""
    if fabric == "mixed":
        return "riser x8/x4, PCIe 3 and 1 to 2"
    lanes = re.findall(r"PCIe (\d) x(\d+)", fabric)
    if len(lanes) > 1:
        widths = "/".join(f"x{width}" for _, width in lanes)
        return f"riser {widths}, PCIe {' and '.join(generation for generation, _ in lanes)}"
    if not lanes:
        return f"lanes not printed, {fabric}"
    ((generation, width),) = lanes
    riser = "riser " if int(width) < 4 else ""
    return f"{riser}x{width}/x{width}, PCIe {generation}"


def engine_pairs() -> list[tuple[str, Pair]]:
    """The published pairs of a chat on two cards by tensor: beside one card (`one card`), and
    beside two by layer (`by layer`)."""
    riser = {"source": "daimonionnn", "machine": "B450 ITX, riser x8/x4/x4", "weights": "FP8"}
    narrow = Pair(served(**riser, split="pp2"), served(**riser, split="tp2"))
    return [
        *(("one card", pair) for pair in between("one card", "tensor") if is_chat(pair.other)),
        *(("by layer", pair) for pair in between("layer", "tensor") if is_chat(pair.other)),
        ("by layer", narrow),
    ]


def on_board(fabric: str, peers: str) -> list[tuple[str, Pair]]:
    return [
        (beside, pair)
        for beside, pair in engine_pairs()
        if (pair.other.fabric, pair.other.peer_access) == (fabric, peers)
    ]


def verdict(
    own: Sequence[tuple[str, Pair]], phase: Phase, times_us: Sequence[float], even_us: float
) -> str:
    """The split that wins: by published engines if there are some that may replay a graph, or else
    by published calls beside the break-even, which is computed. Engines that replay none are said
    beside it."""
    texts, values = [], []
    for beside in ("one card", "by layer"):
        rows = [pair for name, pair in own if name == beside]
        eager = [pair for pair in rows if pair.replay == "eager"]
        found = [pair for pair in rows if pair not in eager]
        texts += gains_text(found, phase, beside) + gains_text(eager, phase, f"{beside}, eager")
        values += gains(found, phase)
    if values:
        wins = winner(min(values) > 1, max(values) < 1)
        return f"{wins}: engines {', '.join(texts)}"
    if times_us:
        wins = winner(max(times_us) < even_us, min(times_us) > even_us)
        known = f"{wins} if from a graph, computed" if texts else f"{wins}, computed"
        return "; ".join([known, *(f"engines {text}" for text in texts)])
    return "".join(f"engines {text}" for text in texts)


def gains_text(found: Iterable[Pair], phase: Phase, beside: str) -> list[str]:
    """`1.07 to 2.01 x one card (5 pairs)`; nothing without pairs."""
    values = gains(found, phase)
    return [f"{times_text(values)} {beside} ({counted(len(values), 'pair')})"] if values else []


def winner(tensor: bool, other: bool) -> str:
    return "**tensor**" if tensor else "**layer**" if other else "either"


def board_table() -> str:
    """A row for each kind of slots and path: calls near both sizes, what they mean, engines."""
    even_us = break_even_us(advised(), by_layer(advised()))
    small, large = board_calls(TOKEN_BYTES), board_calls(CHUNK_BYTES)
    of_engines = {(pair.other.fabric, pair.other.peer_access) for _, pair in engine_pairs()}
    named = {key for key in of_engines if " x" in key[0] or key[0] == "mixed"}
    rows = []
    for fabric, peers in sorted({*small, *large, *named}, key=board_order):
        own = on_board(fabric, peers)
        few, many = small.get((fabric, peers), []), large.get((fabric, peers), [])
        token_us, part_us = [call.us for call in few], list(map(chunk_us, many))
        rows.append(
            [
                f"{slots_of(fabric)}, peers {SHOWN_PEERS[peers]}",
                with_call(verdict(own, "decode", token_us, even_us), token_us, "us"),
                with_call(
                    verdict(own, "prefill", part_us, even_chunk_us()),
                    [us / 1e3 for us in part_us],
                    "ms",
                ),
                f"{cards_of([*few, *many], own)}: "
                + links([*few, *many, *(pair.other for _, pair in own)]),
            ]
        )
    places = [place for place, row in enumerate(rows) if row[0].startswith("riser")]
    rows.insert(min(places, default=len(rows)), chipset_row(even_us))
    return markdown_table("slots | decode | prefill | cards, source", rows)


def with_call(verdict: str, times: Sequence[float], unit: str) -> str:
    """A verdict, and what a call alone takes: `**tensor**, computed; alone 41.9 us`."""
    return f"{verdict}; alone {span(times, unit)}" if times else verdict


def board_calls(size_bytes: int) -> dict[tuple[str, str], list[PublishedCall]]:
    """The calls near a size by the fabric and whether the cards are peers."""
    found = [call for own in calls_near(size_bytes).values() for call in own]
    return grouped(found, lambda call: (call.fabric, PEERS[call.transport]))


def cards_of(found: Sequence[PublishedCall], own: Sequence[tuple[str, Pair]]) -> str:
    names = [call.gpu for call in found] + [pair.other.gpu for _, pair in own]
    return ", ".join(dict.fromkeys(name.removesuffix(" 16GB") for name in names))


def links(rows: Sequence[PublishedCall | Row]) -> str:
    """One link to each owner."""
    owners = {owner_of(row): row for row in reversed(rows)}
    return " ".join(sources([row]) for row in reversed(owners.values()))


def best_share() -> float:
    """The most of a slot's bandwidth one way that calls of a chunk reached, as libraries do by
    themselves or kernels do."""
    by_fabric = {link.fabric: link.gb_s for link in LINKS.values()}
    return max(
        call.gb_s / by_fabric[call.fabric]
        for own in calls_near(CHUNK_BYTES).values()
        for call in own
        if call.fabric in by_fabric
    )


def chipset_row(even_us: float) -> list[str]:
    """Computed: the published latencies over PCIe and the bytes over a slot of x4; of a chunk the
    least time."""
    latency = assumed_times(2, CARD, link_between(CARD, 2))(TOKEN_BYTES)
    bytes_us = TOKEN_BYTES / CHIPSET.gb_s / 1e3
    token_us = [latency.low + bytes_us, latency.high + bytes_us]
    part_us = CHUNK_BYTES / CHIPSET.gb_s / 1e3 / best_share()
    return [
        f"x16/x4 by the chipset, {CHIPSET.fabric.removesuffix(' x4')}, peers on or off",
        with_call(verdict([], "decode", token_us, even_us), token_us, "us"),
        f"{verdict([], 'prefill', [part_us], even_chunk_us())}; alone at least "
        f"{number(part_us / 1e3)} ms",
        f"{'' if chipset_calls() else 'none measured: '}[formulas](advise.md#formulas)",
    ]


def bigger_table() -> str:
    """Published rows of a 70B on one or two cards, and what two R9700s reach at most, computed; the
    slowest decode first."""
    rows = [row for row in serving() if "70B" in row.model and row.gpus <= 2]
    lines = [
        (
            row.decode_tok_s or 0,
            [
                f"2x {row.gpu} by layer" if row.gpus > 1 else row.gpu,
                row.model,
                rate_text(row.decode_tok_s),
                rate_text(row.prefill_tok_s),
                sources([row]),
            ],
        )
        for row in rows
    ]
    weights = f"{bigger_gib() * GIB:.1f}GB"
    token_us = [call.us for own in small_calls().values() for call in own if not is_setting(call)]
    chunks_us = [chunk_us(call) for own in calls_near(CHUNK_BYTES).values() for call in own]
    computed = {
        "by layer": [by_layer(advised(weights))],
        "by tensor": [of_two(of(token_us), of(chunks_us), weights) for of in (max, min)],
    }
    for split, loads in computed.items():
        rates = [1e3 / step_ms(load) for load in loads]
        prompts = [load.prompt / prompt_s(load) for load in loads]
        cells = [f"2x R9700 {split}, computed, at most", MODEL.name]
        cells += [span(values, "").strip() for values in (rates, prompts)]
        lines.append((max(rates), [*cells, "[formulas](advise.md#formulas)"]))
    lines.sort(key=lambda line: line[0])
    heading = "cards | model | decode | prefill | source"
    return markdown_table(heading, [cells for _, cells in lines])


def bigger_gib() -> float:
    return in_note(served("AUGMXNT/llm-tracker", gpu="W7900"), r"file of ([0-9.]+) GiB")


def of_link(times: ReduceTimes) -> Deployment:
    return Deployment(MODEL, CARD, WEIGHTS, times, context=CONTEXT, tensor=2)


def fabrics() -> dict[str, Deployment]:
    """The 70B split by tensor over two R9700s by the link whose published calls it takes."""
    xgmi = LINKS["xgmi-mi300x"]
    return {
        "PCIe, as it is": of_link(assumed_times(2, CARD, link_between(CARD, 2))),
        "xGMI": of_link(assumed_times(2, CARD, xgmi)),
    }


def fabric_table() -> str:
    rows = []
    for name, load in fabrics().items():
        figures = load.figures
        rows.append(
            [
                f"by tensor, {name}",
                load.times(TOKEN_BYTES).text(),
                (figures["step_us"] * 1e-3).text(),
                (load.times(CHUNK_BYTES) * 1e-3).text(),
                (figures["prompt_us"] * 1e-6).text(),
                figures["prompt_tokens_per_s"].text(),
            ]
        )
    layer = by_layer(advised())
    rate = layer.figures["prompt_tokens_per_s"].value
    cells = ["by layer", "", number(step_ms(layer)), "", number(prompt_s(layer)), number(rate)]
    heading = "split | 16 KiB, us | a token, ms | 32 MiB, ms | first token, s | prompts, tokens/s"
    return markdown_table(heading, [*rows, cells])


def figures() -> dict[str, str]:
    """The figures of the template's sentences by name."""
    even_us = break_even_us(advised(), by_layer(advised()))
    pcie, xgmi = (load.figures for load in fabrics().values())
    layer = step_ms(by_layer(advised()))
    slot = link_between(CARD, 2)
    texts = {
        "even": f"{number(even_us)} us",
        "size": size_text(TOKEN_BYTES),
        "even_chunk": f"{number(even_chunk_us() / 1e3)} ms",
        "chunk": size_text(CHUNK_BYTES),
        "board_table": board_table(),
        "chipset_gb_s": number(CHIPSET.gb_s),
        "share": percent(best_share()),
        "bigger_table": bigger_table(),
        "bigger_gib": f"{bigger_gib():.1f}",
        "fabric_table": fabric_table(),
        "xgmi_gb_s": number(LINKS["xgmi-mi300x"].gb_s),
        "slot": slot.fabric,
        "slot_gb_s": number(slot.gb_s),
        "fabric_token": lost((pcie["step_us"].value - xgmi["step_us"].value) / 1e3, "ms"),
        "fabric_prompt": lost((pcie["prompt_us"].value - xgmi["prompt_us"].value) / 1e6, "s"),
        "fabric_gain": f"{number(layer - pcie['step_us'].value / 1e3)} ms",
    }
    return texts | of_watts() | of_h100() | of_changes()


def lost(more: float, unit: str) -> str:
    """`5.78 ms`, or `nothing` where the slots are as fast as the link."""
    return f"{number(more)} {unit}" if more > 0 else "nothing"


def of_watts() -> dict[str, str]:
    layer, tensor = (
        served("cadamcat/dual-radeon-vllm@c12d4002", context_tokens=0, split=split)
        for split in ("layer", "tensor")
    )

    def watts(row: Row) -> list[int]:
        found = re.search(r"drew ([0-9]+) \+ ([0-9]+) W", row.note)
        assert found, row
        return [int(found[1]), int(found[2])]

    return {
        "watts_model": layer.model,
        "watts_layer": " + ".join(map(str, watts(layer))),
        "watts_tensor": " + ".join(map(str, watts(tensor))),
        "watts_gain": percent((Pair(layer, tensor).decode_gain or 0) - 1),
        "layer_joule": number(sum(watts(layer)) / (layer.decode_tok_s or 1)),
        "tensor_joule": number(sum(watts(tensor)) / (tensor.decode_tok_s or 1)),
        "watts_source": sources([layer]),
    }


def of_changes() -> dict[str, str]:
    (b70,) = [
        call
        for own in small_calls().values()
        for call in own
        if call.source == "vllm-project/vllm#54766"
    ]
    alone = served("vllm-project/vllm#54766", split="single")
    split = served("vllm-project/vllm#54766", split="tp2")
    slower = [
        name
        for name, own in calls_near(CHUNK_BYTES).items()
        if max(map(chunk_us, own)) > even_chunk_us()
    ]
    drafted = served(PLX, note="all-reduce by RCCL", streams=1)
    k, model = draft_tokens(drafted.drafter), MODELS[drafted.model.lower()]
    one = served("ggml-org/llama.cpp#28863", note="632.5 GB/s")
    two = served("ggml-org/llama.cpp#28863", note="GB/s a card")
    default, setting = sorted(
        call.us
        for own in small_calls().values()
        for call in own
        if call.source == "sgl-project/sglang#39605"
    )
    return {
        "b70_us": f"{number(b70.us)} us",
        "b70_computed": f"{step_ms(by_layer(advised())) / step_ms(of_two(b70.us)):.2f}",
        "b70_engine": f"{Pair(alone, split).decode_gain:.2f}",
        "slower": str(len(slower)),
        "paths": str(len(calls_near(CHUNK_BYTES))),
        "k": str(k),
        "draft_size": size_text(model.all_reduce_bytes(1 + (k or 0))),
        "one_size": size_text(model.all_reduce_bytes(1)),
        "two_gb_s": f"{in_note(two, r'([0-9.]+) GB/s'):.0f}",
        "one_gb_s": f"{in_note(one, r'([0-9.]+) GB/s'):.0f}",
        "default_us": number(default),
        "set_us": number(setting),
    }


def of_h100() -> dict[str, str]:
    (decode,) = archived("h100-decode", "decode")
    one = {case.algorithm: case for case in decode.cases if case.shape and case.shape["slots"] == 1}
    compute, tensor, pipeline = (
        one[name].total_us.median / 1e3  # type: ignore[union-attr]
        for name in ("compute", "tensor_parallel", "pipeline_parallel")
    )
    ours_us = h100_us()
    return {
        "h100": span(ours_us, "us"),
        "h100_ms": span([MODEL.all_reduces * us / 1e3 for us in ours_us], "ms"),
        "h100_tensor": f"{number(tensor)} ms",
        "h100_pipeline": f"{number(pipeline)} ms",
        "h100_flip": f"{number((pipeline - compute) / MODEL.all_reduces * 1e3)} us",
    }


def text() -> str:
    """The sections from the boards on."""
    found = figures()
    return "\n".join([TEMPLATE.format(**found), answer_open.text(), CHANGES.format(**found)])
