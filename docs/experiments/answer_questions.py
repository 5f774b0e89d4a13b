"""The questions of docs/answer.md, each under a heading that a thread can link, with the published
rows that answer it. Rows are of `reports/references`; what is computed is by `reports/advice`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from answer_rows import (
    PLX,
    Evidence,
    Row,
    does_not_fit,
    drafted,
    experts,
    fits,
    gain,
    in_note,
    many_streams,
    peers,
    served,
)
from answer_text import change, markdown_table, rate_text, sources
from figures_answer import CHUNK_BYTES, MODEL, TOKEN_BYTES, advised, by_layer, is_setting, of_two

from reports.advice.implied import draft_tokens
from reports.advice.serving import CHUNK_TOKENS, Deployment, break_even_us
from reports.advice.specs import MODELS
from reports.references.published import (
    PublishedCall,
    PublishedServing,
    calls,
    near_size,
    select,
    serving,
)
from reports.tables.sentences import number, size_text
from tests.references_page import span
from wiretax.common.grouped import grouped

BATCHES = 8, 32

TEMPLATE = """## Questions, and the rows that answer them

A thread can link each heading, such as `#fits-on-one-card`. The tables have tokens/s of all
streams, before and after; the first column says what differs, and `own` means a kernel of the
owner. What is computed and not published says so.

### Fits on one card

A second copy of the model serves twice the users, and a chat no faster. By tensor over PCIe a chat
decoded {fits_gains} as fast as on one card. The first token came sooner or later:
{first_tokens}. Two cards by layer are no help: the last rows are slower than one. Rows in ms a
token are at one request a second, the others of one stream.

{fits_table}

### Does not fit, one chat

By layer two R9700s decoded {too_large} at {too_large_rates} tokens/s, and a mixture
({mixture}) at {mixture_rate} ({too_large_source}). By tensor nobody has published one of these;
computed for the 70B, which of both wins is [above](#the-model). Models that fit one card
gained {layer_gains} by tensor over by layer:

{layer_table}

Two cards waste bandwidth that one has: an RX 7900 XTX read {one_gb_s} GB/s by itself, and each
of two by tensor {two_gb_s} ([LithiumDevourer](https://github.com/ggml-org/llama.cpp/issues/28863)).

### Many streams

Copies first. By tensor two R9700s served many requests {many} as fast as one, prompts perhaps
counted ([apohllo](https://github.com/kyuz0/amd-r9700-vllm-toolboxes/issues/8)).

{many_table}

Computed, the bandwidth that the split of the 70B saves survives a batch whose call takes less than:

- {batches}

### Long prompts

A chunk of {chunk} tokens of the 70B reduces {chunk_bytes} {calls} times. Computed at the data
sheet's rate, a prompt of one chunk takes {pp_prompt} by layer, and by tensor, with the calls that
owners of two cards print:

{chunk_table}

So the split shortens one prompt only where a call takes less than {even_chunk}; where it does not,
by layer shows the first token earlier. Many prompts in a row pass faster by layer at any of these
calls: {pp_rate} tokens/s, and {tp_rate} by tensor.

### A mixture of experts

A token reads few weights, and makes as many calls: by tensor mixtures decoded {experts_gains} as
fast as on one card or by layer.

{experts_table}

### A drafter

A step that drafts k tokens reduces k + 1: the messages of these pairs are larger than one token's.
At {draft_size} both splits of the 70B are equal at {draft_even} a call, computed; {draft_us}.

{draft_table}

A step of the 27B took {rccl_step} with RCCL, {own_step} with the owner's exact kernel, and
{lossy_step} with `libr4d`, which compresses large messages: hence its gain in prefill.

### Peers, or a faster kernel

{peers_table}

- ACS that redirects peers through the CPU costs {acs_prefill} of prefill and {acs_step} of a step
  ({acs_ms} for {acs_size} and not {direct_ms}).
- A translating IOMMU cost nearly all: {iommu} tokens/s at {iommu_context} tokens of context, and
  {passed} with `iommu=pt`; short ones did not suffer
  ([mattbucci](https://github.com/mattbucci/2x-R9700-RDNA4-GFX1201-sglang-inference)).

### Beyond memory

Experts in host memory cross the slots, and cards that share an uplink share that too: two R9700s
behind one switch decoded {shared_uplink} tokens/s, with a switch each {own_uplink}
({uplink_source}).
"""


def gains(found: Iterable[Evidence], difference: str = "") -> str:
    """`1.19 to 1.70 times`, of the pairs that begin so."""
    return span(
        [gain(one, two) for name, one, two in found if name.startswith(difference)], "times"
    )


def decode_change(before: Row, after: Row) -> str:
    """`46.7 to 79.6, 1.70 x`, or `37.1 to 21.7 ms a token, 1.71 x`."""
    if before.decode_tok_s or not isinstance(before, PublishedServing):
        return change(before.decode_tok_s, after.decode_tok_s)
    assert isinstance(after, PublishedServing)
    times = f"{rate_text(before.tpot_ms)} to {rate_text(after.tpot_ms)} ms a token"
    return f"{times}, {gain(before, after):.2f} x"


def evidence_table(found: Sequence[Evidence], drafts: bool = False) -> str:
    """A row for each pair; with `drafts` also what a drafted step reduces."""
    rows = []
    for difference, before, after in found:
        known = after.fabric not in ("unknown", "mixed")
        cards = [after.gpu if "+" in after.gpu else f"{after.gpus}x {after.gpu}"]
        cards += [after.fabric] if known else []
        engine = [after.engine, *([after.replay] if after.replay != "unknown" else [])]
        doubtful = {"hearsay", "C"} & {before.grade, after.grade}
        cells = [
            difference,
            ", ".join(cards),
            after.model,
            ", ".join(engine),
            decode_change(before, after),
            change(before.prefill_tok_s, after.prefill_tok_s),
            sources([after]) + (", hearsay" if doubtful else ""),
        ]
        if drafts:
            cells.insert(3, draft_message(after))
        rows.append(cells)
    heading = "what differs | cards | model | engine | decode | prefill | source"
    return markdown_table(heading.replace("engine", "a call | engine") if drafts else heading, rows)


def draft_message(row: Row) -> str:
    """`k = 7: 80 KiB`: the tokens that the drafter proposes, and the message of a step."""
    k = draft_tokens(row.drafter)
    assert k
    return f"k = {k}: {size_text(MODELS[row.model.lower()].all_reduce_bytes(k + 1))}"


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


def sizes_text(own: Iterable[PublishedCall]) -> str:
    """`32 MiB`, or `16 MiB to 64 MiB`."""
    sizes = sorted({call.size_bytes or 0 for call in own})
    return " to ".join(map(size_text, dict.fromkeys([sizes[0], sizes[-1]])))


def even_chunk_us() -> float:
    """The time of a chunk's all-reduce at which both splits take equally long for one prompt."""
    each_us = 1.0  # of whatever time the call is, the rest of both prompts is the same
    load = of_two(each_us, each_us)
    gain_s = prompt_s(by_layer(load)) - prompt_s(load)
    return each_us + 1e6 * gain_s / MODEL.all_reduces


def prompt_s(tensor: Deployment) -> float:
    return tensor.figures["prompt_us"].value / 1e6


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
    """The calls near a chunk's size, those of the highest bandwidth first."""
    near = calls_near(CHUNK_BYTES)
    return dict(sorted(near.items(), key=lambda named: max(map(chunk_us, named[1]))))


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
    return of_fits() | of_too_large() | of_many() | of_prompts() | of_drafts() | of_paths()


def of_fits() -> dict[str, str]:
    found = fits()
    first = [
        f"{one.ttft_ms:.0f} to {two.ttft_ms:.0f} ms ({two.gpu}, {two.model})"
        for _, one, two in found
        if isinstance(one, PublishedServing)
        and isinstance(two, PublishedServing)
        and one.ttft_ms
        and two.ttft_ms
    ]
    return {
        "fits_gains": gains(found, "one card to two by tensor"),
        "first_tokens": ", ".join(first),
        "fits_table": evidence_table(found),
    }


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
        "layer_gains": gains(does_not_fit()),
        "layer_table": evidence_table(does_not_fit()),
        "one_gb_s": f"{in_note(one, r'([0-9.]+) GB/s'):.0f}",
        "two_gb_s": f"{in_note(two, r'([0-9.]+) GB/s'):.0f}",
    }


def of_many() -> dict[str, str]:
    totals = select(serving(), gpu={"R9700"}, source={"kyuz0/amd-r9700-vllm-toolboxes#8"})
    by_model = grouped(totals, lambda row: row.model).values()
    return {
        "many": span(
            [(two.total_tok_s or 0) / (one.total_tok_s or 1) for one, two in by_model], "times"
        ),
        "many_table": evidence_table(many_streams()),
        "batches": "\n- ".join(map(batch_text, BATCHES)),
        "experts_gains": gains(experts()),
        "experts_table": evidence_table(experts()),
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
        "draft_size": size_text(size_bytes),
        "draft_even": f"{number(even_us)} us",
        "draft_us": against(size_bytes, even_us),
        "draft_table": evidence_table(drafted(), drafts=True),
    }


def of_paths() -> dict[str, str]:
    direct = served("bkvargyas/r9700-stack", note="ACS redirect off, switch-local")
    redirected = served("bkvargyas/r9700-stack", note="ACS redirect on")
    p50 = r"step p50 ([\d.]+) ms"
    less = 1 - (redirected.prefill_tok_s or 0) / (direct.prefill_tok_s or 1)
    longer = in_note(redirected, p50) / in_note(direct, p50) - 1
    switched = select(
        calls(), gpu={"R9700"}, gpus={2}, size_bytes={256 << 20}, fabric={"PCIe 3 x16"}
    )
    fast, slow = sorted(switched, key=lambda call: call.us)
    iommu = {"source": "mattbucci/2x-R9700", "gpu": "R9700"}
    translated = served(**iommu, note="IOMMU translating")
    shared = served("bkvargyas/r9700-stack", note="over the shared uplink")
    own = served("bkvargyas/r9700-stack", note="pair of the row above; aggregate of 8: 132")
    return {
        "peers_table": evidence_table(peers()),
        "acs_prefill": f"{less:.0%}".replace("%", " %"),
        "acs_step": f"{longer:.1%}".replace("%", " %"),
        "acs_ms": f"{number(slow.us / 1e3)} ms",
        "acs_size": size_text(256 << 20),
        "direct_ms": number(fast.us / 1e3),
        "iommu": f"{translated.decode_tok_s:g}",
        "iommu_context": f"{translated.context_tokens:,}",
        "passed": f"{served(**iommu, note='iommu=pt').decode_tok_s:g}",
        "shared_uplink": rate_text(shared.decode_tok_s),
        "own_uplink": rate_text(own.decode_tok_s),
        "uplink_source": sources([own]),
    }


def text() -> str:
    return TEMPLATE.format(**figures())
