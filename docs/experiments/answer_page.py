"""Writes docs/answer.md.

Every figure of the page is computed here from `reports/references`, the formulas of
`reports/advice` and the archived runs, so that none goes stale."""

import re
from collections.abc import Sequence

from answer_text import change, fold, markdown_table, rate_text, sources
from drawing import HERE, path_of
from figures_answer import (
    CARD,
    CHUNK_BYTES,
    CONTEXT,
    MODEL,
    OURS,
    TOKEN_BYTES,
    WEIGHTS,
    advised,
    archived,
    by_layer,
    h100_us,
    is_setting,
    of_two,
    points,
    small_calls,
    step_ms,
)

from reports.advice.serving import CHUNK_TOKENS, Deployment, break_even_us
from reports.advice.specs import GB, engine_calls
from reports.references.published import PublishedServing, calls, select, serving
from reports.tables.sentences import number, size_text
from tests.references_page import span
from wiretax.common.grouped import grouped

PAGE = HERE.parent / "answer.md"
Q4_K_M_BITS = 4.8  # of Llama 2 70B: llama.cpp, tools/quantize/README.md
R9K, PLX_1, PLX_2, NIKO = (
    "bkvargyas/r9700-stack",
    "bkvargyas/r9700-stack@1871b502",
    "bkvargyas/dual-r9700-vllm-proxmox@0e06010a",
    "NikoCloud/r9700-local-inference-notes",
)


def served(source: str, note: str = "", **values: object) -> PublishedServing:
    """The one row of this source whose note has this text and whose fields have these values."""
    rows = select(serving(), **{name: {value} for name, value in values.items()})
    (row,) = [row for row in rows if row.source.startswith(source) and note in row.note]
    return row


def pairs() -> list[tuple[str, PublishedServing, PublishedServing]]:
    """What differs, a row, and the row that differs from it so."""
    stack = {"source": PLX_1, "streams": 1}
    p2p = {"source": PLX_2, "streams": 1}
    xt = {"source": "cadamcat/dual-radeon-vllm", "engine": "vLLM"}
    xtx = {"source": "ggml-org/llama.cpp#25051", "gpu": "RX 7900 XTX"}
    nine = {"source": "stew675/llama-cpp-rdna-boosts#27"}
    phase = {"source": "VectorAnvil/apex-r9700"}
    rccl = served(**stack, note="all-reduce by RCCL")
    niko = {"source": NIKO, "engine": "llama.cpp server"}
    depth = {"source": "daimonionnn", "engine": "llama.cpp"}
    return [
        ("RCCL to own exact kernel", rccl, served(**stack, note="own exact r9k kernel")),
        ("RCCL to own kernel, 6 bits if large", rccl, served(**stack, note="LOSSY 6-bit")),
        (
            "P2P off, RCCL to on, own kernel",
            served(**p2p, context_tokens=500, peer_access="off"),
            served(**p2p, context_tokens=500, peer_access="on"),
        ),
        ("through the host to P2P", served(**phase, note="stock"), served(**phase, note="only")),
        *(
            (
                "one card to two by tensor",
                served(**xt, model=model, split="single"),
                served(**xt, model=model, split="tp2"),
            )
            for model in ("Qwen3-8B", "gemma-4-12B")
        ),
        (
            "one card to two by tensor",
            served(NIKO, engine="vLLM", split="single"),
            served(NIKO, engine="vLLM", split="tp2"),
        ),
        ("two by layer to by tensor", served(**xtx, split="layer"), served(**xtx, split="tensor")),
        (
            "two by layer to by tensor, slow reduce",
            served(**nine, split="layer"),
            served(**nine, split="tensor"),
        ),
        ("one card to two by layer", served(**niko, split="single"), served(**niko, split="layer")),
        (
            "one card to two by layer",
            served(**depth, split="single"),
            served(**depth, split="layer"),
        ),
    ]


def gains(difference: str) -> list[float]:
    """How many times as fast decode became in the pairs that begin so."""
    return [
        (after.decode_tok_s or 0) / (before.decode_tok_s or 1)
        for name, before, after in pairs()
        if name.startswith(difference)
    ]


def in_note(row: PublishedServing, pattern: str) -> float:
    """A figure that stands in a row's note."""
    found = re.search(pattern, row.note)
    assert found, row
    return float(found[1])


TEMPLATE = """# The answer

**Question.** On two R9700s over PCIe, does tensor parallelism's bandwidth win survive {calls}
all-reduces a token?

**Yes, while a model decodes: at each published time below, near {size} and at default settings
({us}), the all-reduces of a 70B's token take {cost} of the {gain} that the split saves; in prefill
the split shortens one prompt, but serves fewer prompts a second.** The doubt: between two R9700s
over PCIe nobody has published an all-reduce this small with its size, nor a dense 70B, and whole
engines decoded {engines} as fast as one card, not twice.

![Published times of an all-reduce near {size}, and the break-even](experiments/answer.png)

`make figures` writes this page from [published figures](references.md), the formulas of
[`reports advise`](advise.md#formulas) and the archived runs of [one H100](experiments/gpu.md).
Nobody here has repeated what others published.

## The model

`{command}`: a token
reads {weights} of weights and the cache of {context} tokens at the {bandwidth} of the data sheet.
Split by layer, one card works at a time, and hands on: {layer}. Split by tensor, both do: {tensor},
and {calls} all-reduces of {size}. Both are equal if a call takes **{even}**. A file of
{other_weights} ({bits} bits a weight) takes {other_layer}, and its break-even is {other_even}.
Kernels reach less than the data sheet's bandwidth; then the split saves more and a call may take
longer. vLLM makes {engine} calls.

## A call near {size}

Exact all-reduces, as printed by their owners: of two cards, of R9700s, and of single kernels on up
to four cards. The last columns put the slowest time into the model.

{call_table}

A name ends with the variable that somebody set. {slowest} is what most recipes for the Arc B70 set;
`NCCL_SHM_USE_CUDA_MEMCPY=1` makes large messages faster, and costs decode, as its author says.
Near {size} the R9700s over PCIe were four, on two switches. `r9k` is a kernel of
its owner, `libr4d` one of StillDeadcode's. The time of `libr4d` is from a serving trace and
contains the wait for the later card, that of RCCL between two R9700s is of a decode message. Times
depend on the library's version and protocol ([columns](references.md#columns)).

## Whole engines

Tokens/s of one stream before and after. Each pair differs in what the first column names; `own` is
a kernel of the owner.

{pair_table}

- A step of the 27B took {rccl_step} with RCCL, {own_step} with the exact kernel and {lossy_step}
  with the one that compresses large messages, which is where the gain in prefill comes from.
- The pairs of one card are of small models; gemma-4-12B was not bound by memory.
- Two R9700s served many requests {many} as fast as one
  ([apohllo](https://github.com/kyuz0/amd-r9700-vllm-toolboxes/issues/8)).
- ACS that redirects peers through the CPU costs {acs_prefill} of prefill and {acs_step} of a step
  ({acs_ms} for {acs_size} and not {direct_ms}). A translating IOMMU cost nearly all: {iommu}
  tokens/s at {iommu_context} tokens of context, and {passed} with `iommu=pt`; short ones did not
  suffer
  ([mattbucci](https://github.com/mattbucci/2x-R9700-RDNA4-GFX1201-sglang-inference)).

## Prefill

A chunk of {chunk} tokens reduces {chunk_bytes} {calls} times. Two R9700s take {r9700_ms} a call
(PCIe 4 x8 with P2P, PCIe 5 x8 without), two RX 7900 XT without P2P {xt_ms}: {chunk_s} a chunk. At
the data sheet's rate one prompt of {chunk} tokens takes {tp_prompt} by tensor and {pp_prompt} by
layer, but many in a row pass at {tp_rate} and {pp_rate} tokens/s: for throughput split by layer.
Two cards at PCIe 5 x16 (RTX PRO 6000) take {x16_ms}: {x16_s}. Over a narrow riser (PCIe 3 x8, and
PCIe 1 or 2 x4) the split costs most of prefill: {narrow} tokens/s by tensor (hearsay),
{narrow_layer} by layer
([daimonionnn](https://github.com/daimonionnn/amd-r9700-vllm-and-tuning-toolkit)).

## One H100 whose ranks meet over PCIe

Two ranks shared one H100 and reduced through host memory, over PCIe 5 x16: {h100} a call of {size}
from a graph, {h100_ms} a token. Both ranks used the same link, and no second
card took part. Through the card's own memory, without a wire, a step of the 70B took {h100_tensor}
by tensor and {h100_pipeline} by pipeline, and the answer flips at {h100_flip} a call ([all
figures](experiments/gpu.md)).

## What nobody has measured

- An all-reduce of {size} between two R9700s over PCIe; one of any size over PCIe 5 x16 with P2P.
- A dense 70B on two R9700s, split either way.
- The decode of one model split by tensor and by layer, in one engine, on two R9700s.

If you have two R9700s, [`bench.survey`](buy.md) measures the first, and a decode step of the
70B's shapes, in minutes.
"""


def call_table() -> str:
    layer_ms, lines = step_ms(by_layer(advised())), []
    for name, own in small_calls().items():
        sizes = sorted({call.size_bytes for call in own if call.size_bytes})
        lines.append([name, " to ".join(map(size_text, sizes)), [call.us for call in own], own])
    lines.append([f"{OURS}, ours, host memory, graph", size_text(TOKEN_BYTES), h100_us(), []])
    rows = []
    for name, size, times_us, own in sorted(lines, key=lambda line: max(line[2])):
        tensor_ms = step_ms(of_two(max(times_us)))
        kind = {"library": "", "tuned": " (kernel)"}[own[0].kind] if own else ""
        rows.append(
            [
                name + kind,
                size or "not printed",
                span(times_us, "").strip(),
                number(MODEL.all_reduces * max(times_us) / 1e3),
                number(tensor_ms),
                f"{layer_ms / tensor_ms:.2f}",
                sources(own) if own else "[here](experiments/gpu.md)",
            ]
        )
    heading = "who | size | us a call | ms a token | token, ms | times by layer | source"
    return markdown_table(heading, rows)


def pair_table() -> str:
    rows = []
    for difference, before, after in pairs():
        cards = f"{after.gpus}x {after.gpu}" if after.gpu != before.gpu else f"{before.gpu}"
        rows.append(
            [
                difference,
                f"{cards.removeprefix('2x ')}, {before.model}",
                change(before.decode_tok_s, after.decode_tok_s),
                change(before.prefill_tok_s, after.prefill_tok_s),
                sources([after])
                + (", hearsay" if "hearsay" in (before.grade, after.grade) else ""),
            ]
        )
    return markdown_table("what differs | cards, model | decode | prefill | source", rows)


def prompt_s(tensor: Deployment) -> float:
    return tensor.figures["prompt_us"].value / 1e6


def figures() -> dict[str, str]:
    """The figures of the page's sentences by name."""
    file_gb = MODEL.parameters * Q4_K_M_BITS / 8 / GB
    none, load, other = of_two(0), advised(), advised(f"{file_gb:.1f}GB")
    small = [call for own in small_calls().values() for call in own]
    small_us = [call.us for call in small if not is_setting(call)]
    slowest = max(small, key=lambda call: call.us)
    token_ms = [MODEL.all_reduces * us / 1e3 for us in small_us]
    texts = {
        "command": f"python -m reports advise --model {MODEL.name} --weights {WEIGHTS} "
        f"--gpu {CARD.name} --gpus 2",
        "calls": str(MODEL.all_reduces),
        "engine": str(engine_calls(MODEL)),
        "size": size_text(TOKEN_BYTES),
        "weights": f"{WEIGHTS[:-2]} GB",
        "context": f"{CONTEXT:,}",
        "bandwidth": f"{number(CARD.bandwidth_gb_s)} GB/s",
        "us": span(small_us, "us"),
        "slowest": f"`{slowest.variant}` ({number(slowest.us)} us)",
        "cost": span(token_ms, "ms"),
        "gain": f"{number(step_ms(by_layer(load)) - step_ms(none))} ms",
        "layer": f"{number(step_ms(by_layer(load)))} ms",
        "tensor": f"{number(step_ms(none))} ms",
        "even": f"{number(break_even_us(load, by_layer(load)))} us",
        "other_weights": f"{file_gb:.1f} GB",
        "bits": f"{Q4_K_M_BITS:g}",
        "other_layer": f"{number(step_ms(by_layer(other)))} ms",
        "other_even": f"{number(break_even_us(other, by_layer(other)))} us",
        "engines": span(gains("one card to two by tensor"), "times"),
    }

    # Whole engines
    stack = {"source": PLX_1, "streams": 1}
    step = r"([\d.]+) ms/step"
    notes = {"rccl_step": "by RCCL", "own_step": "own exact r9k", "lossy_step": "LOSSY 6-bit"}
    for name, note in notes.items():
        texts[name] = f"{number(in_note(served(**stack, note=note), step))} ms"
    many = select(serving(), gpu={"R9700"}, source={"kyuz0/amd-r9700-vllm-toolboxes#8"})
    by_model = grouped(many, lambda row: row.model).values()
    texts["many"] = span(
        [(two.total_tok_s or 0) / (one.total_tok_s or 1) for one, two in by_model], "times"
    )

    # ACS and the IOMMU
    direct = served(R9K, note="ACS redirect off, switch-local")
    redirected = served(R9K, note="ACS redirect on")
    p50 = r"step p50 ([\d.]+) ms"
    less = 1 - (redirected.prefill_tok_s or 0) / (direct.prefill_tok_s or 1)
    longer = in_note(redirected, p50) / in_note(direct, p50) - 1
    switched = select(
        calls(), gpu={"R9700"}, gpus={2}, size_bytes={256 << 20}, fabric={"PCIe 3 x16"}
    )
    fast, slow = sorted(switched, key=lambda call: call.us)
    iommu = {"source": "mattbucci/2x-R9700", "gpu": "R9700"}
    translated = served(**iommu, note="IOMMU translating")
    texts |= {
        "acs_prefill": f"{less:.0%}".replace("%", " %"),
        "acs_step": f"{longer:.1%}".replace("%", " %"),
        "acs_ms": f"{number(slow.us / 1e3)} ms",
        "acs_size": size_text(256 << 20),
        "direct_ms": number(fast.us / 1e3),
        "iommu": f"{translated.decode_tok_s:g}",
        "iommu_context": f"{translated.context_tokens:,}",
        "passed": f"{served(**iommu, note='iommu=pt').decode_tok_s:g}",
    }
    tables = {"call_table": call_table(), "pair_table": pair_table()}
    return texts | of_prefill(small_us) | of_h100() | tables


def of_prefill(small_us: Sequence[float]) -> dict[str, str]:
    large = [
        call
        for call in select(calls(), size_bytes={CHUNK_BYTES}, gpus={2}, collective={"all_reduce"})
        if call.fabric.startswith("PCIe") and call.grade != "hearsay"
    ]
    chunk_us = {
        card: sorted(call.us for call in select(large, gpu={card}))
        for card in ("R9700", "RX 7900 XT", "RTX PRO 6000")
    }
    amd_us = chunk_us["R9700"] + chunk_us["RX 7900 XT"]
    seconds = MODEL.all_reduces / 1e6
    worst, best = (of_two(max(small_us), of(chunk_us["R9700"])) for of in (max, min))
    rates = [load.figures["prompt_tokens_per_s"].value for load in (worst, best)]
    layer_rate = by_layer(best).figures["prompt_tokens_per_s"].value
    riser = {"source": "daimonionnn", "machine": "B450 ITX, riser x8/x4/x4"}
    narrow = served(**riser, split="tp2")
    most = in_note(narrow, r"about \d+ to (\d+)")
    return {
        "chunk": f"{CHUNK_TOKENS:,}",
        "chunk_bytes": f"{CHUNK_BYTES:,} B",
        "r9700_ms": span([us / 1e3 for us in chunk_us["R9700"]], "ms"),
        "xt_ms": span([us / 1e3 for us in chunk_us["RX 7900 XT"]], "ms"),
        "chunk_s": span([us * seconds for us in amd_us], "s"),
        "x16_ms": span([us / 1e3 for us in chunk_us["RTX PRO 6000"]], "ms"),
        "x16_s": f"{span([us * seconds for us in chunk_us['RTX PRO 6000']], 's')} a chunk",
        "tp_prompt": span([prompt_s(best), prompt_s(worst)], "s"),
        "pp_prompt": f"{number(prompt_s(by_layer(best)))} s",
        "tp_rate": span(rates, "").strip(),
        "pp_rate": number(layer_rate),
        "narrow": f"{rate_text(narrow.prefill_tok_s)} to {most:.0f}",
        "narrow_layer": rate_text(served(**riser, split="pp2").prefill_tok_s),
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


def page() -> str:
    """The page, in lines of at most 100 letters outside its tables and links."""
    blocks = TEMPLATE.format(**figures()).strip().split("\n\n")
    return "\n\n".join(map(fold, blocks)) + "\n"


def write() -> None:
    """Writes the page and the table of its picture."""
    source = "# reports/references, and docs/experiments/runs/h100-wire: see figures_answer.py\n"
    path_of("answer").write_text(source + points().to_csv(index=False))
    PAGE.write_text(page())
