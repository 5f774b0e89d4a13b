"""The first screen of docs/answer.md: what to do with two cards over PCIe in each case, and the
published pairs on which that rests."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median, quantiles

from answer_counter import cards_text, engine_text, implied_pairs, source_text, times_text
from answer_pairs import (
    Pair,
    arrangement,
    between,
    drafts,
    gains,
    has_many,
    is_chat,
    is_mixture,
    is_pcie,
    step_of,
)
from answer_text import change, markdown_table, rate_text
from figures_answer import CARD, CONTEXT, by_layer, of_two, step_ms

from reports.advice.offload import HOST_GB_S, offloaded
from reports.advice.specs import GB, LINKS, MODELS
from reports.references.pairs import PairRow
from reports.references.published import serving
from reports.tables.sentences import counted, number, size_text
from tests.references_page import span

# A row of the first screen: the case, the heading of its section, what to do, how many times the
# tokens/s, and the table of its pairs.
FIRST_SCREEN = (
    (
        "Fits on one card, many users",
        "Fits on one card",
        "a copy on each card",
        "2 x the users, 1 x a chat, because nothing crosses the wire; four copies {four_copies}",
        "copies",
    ),
    (
        "Fits on one card, one chat faster",
        "Fits on one card",
        "by tensor, if the engine decodes from a graph",
        "{fits_range}; eager {fits_eager}",
        "fits",
    ),
    (
        "Needs both cards, one chat",
        "Does not fit, one chat",
        "by tensor, **if** the engine decodes from a graph **and** the wire passes both "
        "[thresholds](#test-your-own-cards-in-two-minutes); otherwise by layer",
        "{large_range}; eager {large_eager}",
        "large",
    ),
    (
        "8 streams and more",
        "Many streams",
        "copies if it fits; otherwise measure both splits",
        "by tensor {many_range}, where two copies make 2",
        "many",
    ),
    (
        "Long prompts, short answers",
        "Long prompts",
        "by layer, unless the wire passes the second threshold by far",
        "prefill by tensor {prompt_range}",
        "prompts",
    ),
    (
        "A mixture of experts",
        "A mixture of experts",
        "measure both splits: there is less to divide, and as many calls",
        "by tensor {mixture_range}",
        "mixtures",
    ),
    (
        "With a drafter (MTP, DFlash)",
        "A drafter",
        "as without one, and test the wire with k + 1 tokens a call",
        "by tensor {draft_range}",
        "drafters",
    ),
    (
        "Needs host memory too",
        "Beyond memory",
        "a second card first",
        "two cards {second_layer} (by layer) to {second_tensor} (by tensor) one card and its host, "
        "by data sheets",
        "host",
    ),
)

TOTALS = "kyuz0/amd-r9700-vllm-toolboxes#8"  # where all tokens of many requests are counted

TEXT = """## Fits on one card

**Many users: give each card a copy.** Nothing crosses the wire: two copies serve twice the users,
as far as their host keeps up, and a chat is as fast as on one card. Nobody has published two copies
on two cards over PCIe; four made {four_copies} the tokens of one card ({four_source}).

**One chat faster: split by tensor**, if the engine decodes from a graph: {fits_range}. Eager it was
slower than one card: {fits_eager}. The first token came later in {late} of {first_tokens} pairs
that print it ({first_range}).

{fits_table}

## Does not fit, one chat

By layer one card works at a time. By tensor both do, and each layer makes two all-reduces:
{large_range}; eager {large_eager}. Nobody has published a dense 70B on two R9700s by tensor. If its
calls cost what R9700s paid with smaller models ({r9700_us} a call), it would decode at
{r9700_times}, at the bandwidth of the data sheet.

{large_table}

Larger than one card, by layer: two R9700s decoded {too_large} at {too_large_rates} tokens/s, and a
mixture ({mixture}) at {mixture_rate} ({too_large_source}). Two cards waste bandwidth that one has:
an RX 7900 XTX read {one_gb_s} GB/s by itself, and each of two by tensor {two_gb_s}
([LithiumDevourer](https://github.com/ggml-org/llama.cpp/issues/28863)).

## Many streams

A call carries a row for each stream, and grows from latency to bandwidth. Two cards by tensor:
{many_range}; two copies would make 2. On four cards copies made {four_range} the four by tensor.
Two R9700s by tensor made {r9700_total} one, counting all tokens, prompts perhaps among them
([apohllo](https://github.com/kyuz0/amd-r9700-vllm-toolboxes/issues/8)).

{many_table}

Computed for the 70B, the bandwidth that the split saves survives a batch whose call takes less
than:

- {batches}

## Long prompts

In prefill a call carries the whole chunk: bandwidth decides, not latency. By tensor prefill ran at
{prompt_range}. Against one card it ran at {prompt_one}, and by layer at {prompt_layer}, where
chunks of one prompt follow each other through the cards. For a prompt of one chunk by layer gains
nothing, and the [second threshold](#test-your-own-cards-in-two-minutes) decides. A narrow link
costs prefill most: two P104-100s over {narrow_link} decode at {narrow_decode} by layer, and prefill
at {narrow_prefill}.

{prompts_table}

Computed at the data sheet's rate: a prompt of one chunk of the 70B ({chunk} tokens, {calls} calls
of {chunk_bytes}) takes {pp_prompt} by layer, and by tensor, with the calls that owners of two cards
print:

{chunk_table}

So the split shows the first token earlier only where a call takes less than {even_chunk}. Many
prompts in a row pass faster by layer at any of these calls: {pp_rate} tokens/s, and {tp_rate} by
tensor.

## A mixture of experts

A token reads only some experts, so there is less to divide, but each layer still makes its two
calls. By tensor: {mixture_range} on two cards, {mixture_four} on four; {mixture_one} one card,
where it fits there. With whole experts on each card, and attention by tensor, two cards made
{experts} all by tensor.

{mixtures_table}

## A drafter

A drafter proposes k tokens, and a step checks them at once: its calls carry k + 1 tokens, with
{draft_model} and k = {draft_k} {draft_bytes} and not {plain_bytes} (`--sizes {draft_size}`). The
step still reads its weights once, so that the split pays as without a drafter: {draft_range}.

{drafters_table}

With as many tokens, {large_draft}, both splits of the 70B are equal at {draft_even} a call,
computed; {draft_us}. A step of the 27B took {rccl_step} with RCCL on two R9700s, {own_step} with an
owner's exact kernel, and {lossy_step} with `libr4d`, which compresses large messages: hence its
gain in prefill ([pairs](#peers-or-a-faster-kernel)).

## Beyond memory

Of a 70B of {weights} with {context} cached tokens one R9700 leaves {rest} in host memory. A token
then takes at least {cpu_ms} if the CPU computes with it ({host_gb_s}), and {stream_ms} if it is
streamed over {link} ({link_gb_s}). On two cards it takes {layer_ms} by layer, and {tensor_ms} by
tensor without its calls: a second card is worth {second_layer} to {second_tensor}, with slower
memory or fewer lanes more. These are data sheets; nobody has published the pair. `advise` prints
the same for [any model](advise.md).

What streams from host memory shares its way with the calls: two R9700s with a mixture's experts in
host memory made {shared} tokens/s behind one switch, and {apart} with one card at each
({host_source}).
"""


def chats(found: Sequence[Pair], mixture: bool = False, drafter: bool = False) -> list[Pair]:
    """The pairs of one chat over PCIe, of mixtures or not, with a drafter or not."""
    return [
        pair
        for pair in over_pcie(found)
        if is_chat(pair.other)
        and is_mixture(pair.other) == mixture
        and drafts(pair.other) == drafter
    ]


def over_pcie(found: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in found if is_pcie(pair.other) and pair.decode_gain]


def split_by_replay(found: Sequence[Pair]) -> tuple[list[float], list[float]]:
    """The gains of pairs that are not said to be eager, and of those that are."""
    eager = [pair for pair in found if pair.replay == "eager"]
    return gains(pair for pair in found if pair not in eager), gains(eager)


def range_text(values: Sequence[float], against: str) -> str:
    """`1.07 to 2.01 x one card (half of the pairs 1.28 to 1.71)`."""
    text = f"{times_text(values)} {against}"
    if len(values) < 4:
        return text
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{text} (half of the pairs {low:.2f} to {high:.2f})"


def prefills(found: Sequence[Pair]) -> list[Pair]:
    """The pairs over PCIe that print prefill, the smallest gain first."""
    known = [pair for pair in found if pair.prefill_gain and is_pcie(pair.other)]
    return sorted(known, key=lambda pair: pair.prefill_gain or 0)


def prefill_gains(found: Sequence[Pair]) -> list[float]:
    return [pair.prefill_gain or 0 for pair in found]


def groups() -> dict[str, list[Pair]]:
    """The pairs of each case by the name of its table."""
    one, layer = between("one card", "tensor"), between("layer", "tensor")
    four_layer = between("layer", "tensor", (4,))
    experts = [pair for pair in between("tensor", "other") if is_mixture(pair.other)]
    copies = over_pcie(between("one card", "copies", (4,)))
    return {
        "copies": copies,
        "fits": chats(one),
        "large": chats(layer),
        "many": [
            *(pair for pair in over_pcie([*one, *layer]) if has_many(pair.other)),
            *copies,
            *over_pcie(between("tensor", "copies", (4,))),
        ],
        "prompts": [
            *prefills(layer),
            *prefills(one),
            *prefills(between("one card", "layer")),
        ],
        "mixtures": [
            *chats([*layer, *four_layer], mixture=True),
            *chats(one, mixture=True),
            *over_pcie(experts),
        ],
        "drafters": chats([*one, *layer], drafter=True),
        "host": in_host_memory(),
    }


def in_host_memory() -> list[Pair]:
    """Two cards behind one switch, and each behind its own, with experts in host memory."""
    rows = [row for row in serving() if "experts in host memory" in row.weights]
    shared, apart = sorted(rows, key=lambda row: row.decode_tok_s or 0)
    return [Pair(shared, apart)]


def from_to(found: Sequence[Pair], one: str, other: str, cards: int = 2) -> list[Pair]:
    ends = (one, other, cards)
    return [p for p in found if (arrangement(p.one), arrangement(p.other), p.other.gpus) == ends]


def figures() -> dict[str, str]:
    pairs = groups()
    texts = {f"{name}_table": pair_table(found) for name, found in pairs.items()}
    of_fits(pairs, texts)
    of_both_cards(pairs, texts)
    of_load(pairs, texts)
    of_host_memory(pairs, texts)
    return texts | {"cases_table": cases_table(pairs, texts)}


def of_fits(pairs: dict[str, list[Pair]], texts: dict[str, str]) -> None:
    replayed, eager = split_by_replay(pairs["fits"])
    (four,) = [pair for pair in pairs["copies"] if getattr(pair.other.split, "tensor", 0) == 1]
    first = [time for pair in between("one card", "tensor") if (time := pair.first_token)]
    texts |= {
        "fits_range": range_text(replayed, "one card"),
        "fits_eager": times_text(eager),
        "four_copies": times_text(gains([four])),
        "four_source": source_text(four),
        "late": str(sum(time > 1 for time in first)),
        "first_tokens": str(len(first)),
        "first_range": f"{times_text(first)} the time of one card",
    }


def of_both_cards(pairs: dict[str, list[Pair]], texts: dict[str, str]) -> None:
    replayed, eager = split_by_replay(pairs["large"])
    costs_us = [
        pair.implied_us
        for pair in implied_pairs()
        if pair.other.gpu.startswith("R9700") and pair.other.gpus == 2 and pair.implied_us
    ]
    layer_ms = step_ms(by_layer(of_two(0)))
    times = [layer_ms / step_ms(of_two(us)) for us in costs_us]
    k, model = 7, MODELS["qwen3.8-27b"]  # of the owners' DFlash2
    draft_bytes = model.all_reduce_bytes(k + 1)
    texts |= {
        "large_range": range_text(replayed, "by layer"),
        "large_eager": times_text(eager),
        "r9700_us": f"{span(costs_us, 'us')}, median {number(median(costs_us))}",
        "r9700_times": f"{times_text(times)} by layer, median {median(times):.2f}",
        "draft_range": range_text(gains(pairs["drafters"]), "one card or by layer"),
        "draft_model": "Qwen3.8-27B",
        "draft_k": str(k),
        "draft_bytes": size_text(draft_bytes),
        "draft_size": size_text(draft_bytes).replace(" KiB", "K"),
        "plain_bytes": size_text(model.all_reduce_bytes(1)),
    }


def of_load(pairs: dict[str, list[Pair]], texts: dict[str, str]) -> None:
    many, prompts, mixtures = pairs["many"], pairs["prompts"], pairs["mixtures"]
    totals = [
        gain
        for pair in between("one card", "tensor")
        if (gain := pair.total_gain) and pair.other.source == TOTALS
    ]
    narrow = from_to(prompts, "layer", "tensor")[0]
    texts |= {
        "many_range": range_text(gains(from_to(many, "one card", "tensor")), "one card"),
        "four_range": times_text(gains(from_to(many, "tensor", "copies", 4))),
        "r9700_total": times_text(totals),
        "prompt_range": range_text(prefill_gains(from_to(prompts, "layer", "tensor")), "by layer"),
        "prompt_one": times_text(prefill_gains(from_to(prompts, "one card", "tensor"))),
        "prompt_layer": times_text(prefill_gains(from_to(prompts, "one card", "layer"))),
        "narrow_link": narrow.other.fabric,
        "narrow_decode": times_text(gains([narrow])),
        "narrow_prefill": times_text(prefill_gains([narrow])),
        "mixture_range": range_text(gains(from_to(mixtures, "layer", "tensor")), "by layer"),
        "mixture_four": times_text(gains(from_to(mixtures, "layer", "tensor", 4))),
        "mixture_one": times_text(gains(from_to(mixtures, "one card", "tensor"))),
        "experts": times_text(gains(from_to(mixtures, "tensor", "other"))),
    }


def of_host_memory(pairs: dict[str, list[Pair]], texts: dict[str, str]) -> None:
    link, whole = LINKS[CARD.slot], by_layer(of_two(0))
    ways = offloaded(replace(of_two(0), tensor=1), HOST_GB_S, link.gb_s).values()
    cpu, stream = sorted(ways, key=lambda way: not way.on_cpu)
    cpu_ms, stream_ms, layer_ms, tensor_ms = map(step_ms, (cpu, stream, whole, of_two(0)))
    (pair,) = pairs["host"]
    texts |= {
        "context": f"{CONTEXT:,}",
        "rest": f"{number(cpu.rest_bytes(1) / GB)} GB",
        "host_gb_s": f"{number(HOST_GB_S)} GB/s",
        "link": link.fabric,
        "link_gb_s": f"{number(link.gb_s)} GB/s",
        "cpu_ms": f"{number(cpu_ms)} ms",
        "stream_ms": f"{number(stream_ms)} ms",
        "layer_ms": f"{number(layer_ms)} ms",
        "tensor_ms": f"{number(tensor_ms)} ms",
        "second_layer": f"{cpu_ms / layer_ms:.1f} x",
        "second_tensor": f"{stream_ms / tensor_ms:.1f} x",
        "shared": rate_text(pair.one.decode_tok_s),
        "apart": rate_text(pair.other.decode_tok_s),
        "host_source": source_text(pair),
    }


def anchor(heading: str) -> str:
    """As mkdocs and GitHub make it of a heading."""
    kept = [letter for letter in heading.lower() if letter.isalnum() or letter in " -"]
    return "".join(kept).replace(" ", "-")


def cases_table(pairs: dict[str, list[Pair]], texts: dict[str, str]) -> str:
    rows = []
    for case, heading, advice, gain, table in FIRST_SCREEN:
        machines = {pair.other.machine for pair in pairs[table]}
        rests_on = f"{counted(len(pairs[table]), 'pair')}, {counted(len(machines), 'machine')}"
        rows.append([f"[{case}](#{anchor(heading)})", advice, gain.format(**texts), rests_on])
    return markdown_table("your case | do this | tokens/s | published", rows)


def arranged(pair: Pair) -> str:
    """`one card to 2 by tensor`."""

    def words(row: object) -> str:
        assert isinstance(row, type(pair.one))
        copies = row.split.replicas if isinstance(row, PairRow) else 1
        return {
            "one card": "one card",
            "layer": f"{row.gpus} by layer",
            "tensor": f"{row.gpus} by tensor",
            "copies": f"{copies} copies",
            "other": f"{row.gpus}, experts apart",
        }[arrangement(row)]

    return f"{words(pair.one)} to {words(pair.other)}"


def decode_text(pair: Pair) -> str:
    """`46.7 to 79.6, 1.70 x`; of rows without tokens/s the ms of a token."""
    one, other = pair.one, pair.other
    if one.decode_tok_s and other.decode_tok_s:
        return change(one.decode_tok_s, other.decode_tok_s)
    before, after = step_of(one), step_of(other)
    if not before or not after:
        return ""
    return f"{number(before / 1e3)} to {number(after / 1e3)} ms a token, {before / after:.2f} x"


def pair_table(found: Sequence[Pair]) -> str:
    rows = [
        [
            arranged(pair),
            cards_text(pair.other),
            f"{pair.other.model} {pair.other.weights}",
            engine_text(pair),
            str(pair.other.streams or "few"),
            decode_text(pair),
            change(pair.one.prefill_tok_s, pair.other.prefill_tok_s),
            source_text(pair),
        ]
        for pair in found
    ]
    heading = "from, to | cards | model | engine | streams | decode | prefill | source"
    return markdown_table(heading, rows)
