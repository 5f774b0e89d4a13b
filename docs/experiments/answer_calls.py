"""What the cases of docs/answer.md compute beside their pairs, for batches, prompts, drafts and the
paths between cards: published calls of two cards against the break-even of the 70B."""

import re
from collections.abc import Iterable
from dataclasses import replace

from answer_text import in_note, markdown_table, percent, rate_text, served, sources
from figures_answer import CARD, advised, is_setting, of_two

from reports.advice import even_calls
from reports.advice.even_calls import CHUNK_BYTES, MODEL, TOKEN_BYTES, by_layer, prompt_s
from reports.advice.serving import CHUNK_TOKENS, break_even_us
from reports.references.published import (
    PublishedCall,
    calls,
    draft_tokens,
    near_size,
    select,
    serving,
)
from reports.tables.sentences import number, size_text
from tests.references_page import span
from wiretax.common.grouped import grouped

BATCHES = 8, 32  # streams
PLX = "bkvargyas/r9700-stack@1871b502"
PEERS = {"p2p": "on", "host memory": "off", "unknown": "unknown"}  # of a call's transport
SHOWN_PEERS = {"on": "on", "off": "off", "unknown": "not printed"}


def chunk_us(call: PublishedCall) -> float:
    """The time of a chunk's all-reduce at the bandwidth of this one."""
    return call.us * CHUNK_BYTES / (call.size_bytes or float("nan"))


def calls_near(size_bytes: int) -> dict[str, list[PublishedCall]]:
    """Exact all-reduces of two cards over PCIe by cards, link, library and path, the fastest first:
    of this size, or else from half to twice of it. As the library does by itself, or a kernel."""
    found = [
        call
        for call in select(calls(), gpus={2}, collective={"all_reduce"})
        if call.fabric.startswith("PCIe")
        and call.grade != "hearsay"
        and call.kind != "lossy"
        and not is_setting(call)
    ]
    near = {
        name: near_size(own, size_bytes) for name, own in grouped(found, cards_and_path).items()
    }
    times_us = {name: max(call.us for call in own) for name, own in near.items() if own}
    return {name: near[name] for name in sorted(times_us, key=lambda name: times_us[name])}


def cards_and_path(call: PublishedCall) -> str:
    """`2x R9700, PCIe 5 x8, rccl, host memory`."""
    path = call.transport if call.transport != "unknown" else "path not printed"
    return f"{call.gpus}x {call.gpu}, {call.fabric}, {call.library}, {path}"


def board_order(key: tuple[str, str]) -> tuple[int, int, int]:
    """Of a fabric and its peers: wide slots first, then new ones; peers first."""
    fabric, peers = key
    lanes = re.findall(r"PCIe (\d) x(\d+)", fabric) or [("0", "0")]
    width = min(int(width) for _, width in lanes)
    return -width, -int(lanes[0][0]), list(SHOWN_PEERS).index(peers)


def sizes_text(own: Iterable[PublishedCall]) -> str:
    """`32 MiB`, or `16 MiB to 64 MiB`."""
    sizes = sorted({call.size_bytes or 0 for call in own})
    return " to ".join(map(size_text, dict.fromkeys([sizes[0], sizes[-1]])))


def even_chunk_us() -> float:
    """The time of a chunk's all-reduce at which both splits take equally long for one prompt."""
    return even_calls.even_chunk_us(CARD)


def chunk_table() -> str:
    rows = []
    for name, own in chunk_calls().items():
        times_us = list(map(chunk_us, own))
        prompts = [prompt_s(of_two(us, us)) for us in times_us]
        rows.append(
            [
                name,
                sizes_text(own),
                span([us / 1e3 for us in times_us], "").strip(),
                span(prompts, "").strip(),
                "tensor" if max(times_us) < even_chunk_us() else "**layer**",
                sources(own),
            ]
        )
    heading = "who | size | ms a call of a chunk | one prompt, s | sooner | source"
    return markdown_table(heading, rows)


def chunk_calls() -> dict[str, list[PublishedCall]]:
    """The calls near a chunk's size, those of the lowest bandwidth first."""
    near = calls_near(CHUNK_BYTES)
    return dict(sorted(near.items(), key=lambda named: -max(map(chunk_us, named[1]))))


def against(size_bytes: int, even_us: float) -> str:
    """`two cards took 16.0 to 111 us`, and by name those that took longer than `even_us`."""
    near = calls_near(size_bytes)
    slow = {name: own for name, own in near.items() if max(call.us for call in own) > even_us}
    passed = [call.us for name, own in near.items() if name not in slow for call in own]
    longer = [
        f"{name} {span([call.us for call in own], 'us')} ({sizes_text(own)})"
        for name, own in slow.items()
    ]
    took = f"two cards took {span(passed, 'us')}"
    return f"{took}; longer took {' and '.join(longer)}" if longer else took


def batch_text(streams: int) -> str:
    """`195 us for the 128 KiB of 8 streams; two cards took 17.7 to 111 us.`"""
    size_bytes, even_us = MODEL.all_reduce_bytes(streams), even_of_tokens(streams)
    took = against(size_bytes, even_us)
    return f"{number(even_us)} us for the {size_text(size_bytes)} of {streams} streams; {took}."


def even_of_tokens(tokens: int) -> float:
    """The time of a call in us at which both splits make a step of so many tokens equally fast."""
    each_us = advised().times(TOKEN_BYTES).value  # of the hand-offs
    load = replace(of_two(each_us, each_us), batch=tokens)
    return break_even_us(load, by_layer(load))


def figures() -> dict[str, str]:
    """The figures of the template's sentences by name."""
    batches = {"batches": "\n- ".join(map(batch_text, BATCHES))}
    return of_too_large() | batches | of_prompts() | of_drafts() | of_paths()


def of_too_large() -> dict[str, str]:
    dense = [row for row in serving() if row.note.startswith("dense and larger than one card")]
    mixture = served("kyuz0/amd-r9700-ai-toolboxes", note="mixture")
    names = dict.fromkeys(f"{row.model} in {row.weights}" for row in dense)
    one = served("ggml-org/llama.cpp#28863", note="632.5 GB/s")
    two = served("ggml-org/llama.cpp#28863", note="GB/s a card")
    return {
        "too_large": " and ".join(names),
        "too_large_rates": span([row.decode_tok_s or 0 for row in dense], "").strip(),
        "too_large_source": sources([*dense, mixture]),
        "mixture": f"{mixture.model} in {mixture.weights}",
        "mixture_rate": rate_text(mixture.decode_tok_s),
        "one_gb_s": f"{in_note(one, r'([0-9.]+) GB/s'):.0f}",
        "two_gb_s": f"{in_note(two, r'([0-9.]+) GB/s'):.0f}",
    }


def of_prompts() -> dict[str, str]:
    times_us = [chunk_us(call) for own in chunk_calls().values() for call in own]
    fastest, slowest = (of_two(us, us) for us in (min(times_us), max(times_us)))
    rates = [load.figures["prompt_tokens_per_s"].value for load in (slowest, fastest)]
    even_us = even_chunk_us()
    return {
        "chunk": f"{CHUNK_TOKENS:,}",
        "chunk_bytes": size_text(CHUNK_BYTES),
        "calls": str(MODEL.all_reduces),
        "chunk_table": chunk_table(),
        "even_chunk": f"{number(even_us / 1e3)} ms ({CHUNK_BYTES / even_us / 1e3:.1f} GB/s)",
        "pp_prompt": f"{number(prompt_s(by_layer(fastest)))} s",
        "tp_rate": span(rates, "").strip(),
        "pp_rate": number(by_layer(fastest).figures["prompt_tokens_per_s"].value),
    }


def of_drafts() -> dict[str, str]:
    stack = {"source": PLX, "streams": 1}
    step = r"([\d.]+) ms/step"
    notes = {"rccl_step": "by RCCL", "own_step": "own exact r9k", "lossy_step": "LOSSY 6-bit"}
    drafts = draft_tokens(served(**stack, note="by RCCL").drafter)
    tokens = 1 + (drafts or 0)
    size_bytes, even_us = MODEL.all_reduce_bytes(tokens), even_of_tokens(tokens)
    return {
        name: f"{number(in_note(served(**stack, note=note), step))} ms"
        for name, note in notes.items()
    } | {
        "large_draft": size_text(size_bytes),
        "draft_even": f"{number(even_us)} us",
        "draft_us": against(size_bytes, even_us),
    }


def of_paths() -> dict[str, str]:
    direct = served("bkvargyas/r9700-stack", note="ACS redirect off, switch-local")
    redirected = served("bkvargyas/r9700-stack", note="ACS redirect on")
    p50 = r"step p50 ([\d.]+) ms"
    less = 1 - (redirected.prefill_tok_s or 0) / (direct.prefill_tok_s or 1)
    longer = in_note(redirected, p50) / in_note(direct, p50) - 1
    switched = select(
        calls(),
        gpu={"R9700"},
        gpus={2},
        size_bytes={256 << 20},
        fabric={"PCIe 3 x16"},
        archive={""},
    )
    fast, slow = sorted(switched, key=lambda call: call.us)
    iommu = {"source": "mattbucci/2x-R9700", "gpu": "R9700"}
    translated = served(**iommu, note="IOMMU translating")
    return {
        "acs_prefill": percent(less),
        "acs_step": percent(longer, 1),
        "acs_ms": f"{number(slow.us / 1e3)} ms",
        "acs_size": size_text(256 << 20),
        "direct_ms": number(fast.us / 1e3),
        "acs_source": sources([direct, slow]),
        "iommu": f"{translated.decode_tok_s:g}",
        "iommu_context": f"{translated.context_tokens:,}",
        "passed": f"{served(**iommu, note='iommu=pt').decode_tok_s:g}",
    }
