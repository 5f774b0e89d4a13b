"""The first screen of docs/answer.md: what to do with two cards over PCIe in each case, and the
published pairs on which that rests."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from answer_counter import implied_pairs
from answer_pairs import (
    Arrangement,
    Pair,
    arrangement,
    between,
    dense_70b,
    drafts,
    gains,
    has_many,
    is_chat,
    is_mixture,
    is_pcie,
    machine_votes,
    machines,
)
from answer_rows import pair_table, range_text, rests_on, served_text, source_text
from answer_text import markdown_table, rate_text, times_text
from figures_answer import CARD, of_two, step_ms

from reports.advice import likely
from reports.advice.even_calls import CONTEXT, by_layer
from reports.advice.likely_winner import Likely, conditions_of
from reports.advice.offload import HOST_GB_S, offloaded
from reports.advice.reduce_times import assumed_times
from reports.advice.spans import Span
from reports.advice.specs import GB, LINKS, MODELS, link_between
from reports.references.published import serving
from reports.tables.sentences import number, size_text
from tests.references_page import span

# A row of the first screen: the case, the heading of its section, what to do, and how many times
# the tokens/s. Cells are short, for a phone.
FIRST_SCREEN = (
    (
        "Fits on one card, many users",
        "Fits on one card",
        "a copy on each card",
        "2 x the users, 1 x a chat: nothing crosses the wire; four copies {four_copies}",
    ),
    (
        "Fits on one card, one chat faster",
        "Fits on one card",
        "by tensor, if the engine decodes from a graph",
        "{fits_range}; eager {fits_eager}",
    ),
    (
        "Needs both cards, one chat",
        "Does not fit, one chat",
        "by tensor, **if** from a graph **and** past both "
        "[thresholds](#test-your-own-cards-in-three-minutes); else by layer",
        "{large_range}; eager {large_eager}",
    ),
    (
        "8 streams and more",
        "Many streams",
        "copies if it fits; else measure both splits",
        "by tensor {many_range}; two copies make 2",
    ),
    (
        "Long prompts, short answers",
        "Long prompts",
        "by layer, unless the wire is far past the second threshold",
        "prefill by tensor {prompt_range}",
    ),
    (
        "A mixture of experts",
        "A mixture of experts",
        "measure both splits: less to divide, as many calls",
        "by tensor {mixture_range}",
    ),
    (
        "With a drafter (MTP, DFlash)",
        "A drafter",
        "as without one; test the wire with k + 1 tokens a call",
        "by tensor {draft_range}",
    ),
    (
        "Needs host memory too",
        "Beyond memory",
        "a second card first",
        "{second_layer} (by layer) to {second_tensor} (by tensor) one card and its host, computed",
    ),
)

TOTALS = "kyuz0/amd-r9700-vllm-toolboxes#8"  # where all tokens of many requests are counted

TEXT = """## Fits on one card

**Many users: give each card a copy.** Nothing crosses the wire: two copies serve twice the users,
as far as their host keeps up, and a chat is as fast as on one card. {two_copies}; four made
{four_copies}: {four_source}.

**One chat faster: split by tensor**, if the engine decodes from a graph: {fits_range}. Eager it was
slower than one card, {fits_eager}; with several streams or over a network eager engines made
{eager_others}. The first token came later in {late} of {first_tokens} that print it
({first_range}). kyuz0's pairs, of `few streams`, had {few} chats at once.

{fits_table}

## Does not fit, one chat

By layer one card works at a time. By tensor both do, and each layer makes two all-reduces:
{large_range}; eager {large_eager}. The models have {large_models}; those that fit one card stand
for those that do not. {by_tensor_70b}. An inference, at
the bandwidth of the data sheet: if its calls cost what R9700s paid with smaller models
({r9700_us}), it would decode at {r9700_times}. One of these machines is {r9700_unlike}, the other's
pairs are kyuz0's.

{large_table}

Larger than one card, by layer: two R9700s decoded {too_large} at {too_large_rates} tokens/s, and a
mixture ({mixture}) at {mixture_rate} ({too_large_source}). Two cards can waste bandwidth that one
has: on one machine an RX 7900 XTX read {one_gb_s} GB/s by itself, and each of two by tensor
{two_gb_s}
([LithiumDevourer](https://github.com/ggml-org/llama.cpp/issues/28863)).

## Many streams

A call carries a row for each stream, and grows from latency to bandwidth. Two cards by tensor:
{many_range}, eager ones among them at {many_eager}; two copies would make 2. On four cards copies
made {four_range}. Two R9700s of one owner made {r9700_total} one by tensor, counting all tokens,
prompts perhaps among them ([apohllo](https://github.com/kyuz0/amd-r9700-vllm-toolboxes/issues/8)).

{many_table}

Computed for the 70B, a batch decodes faster by tensor than by layer where a call takes less than:

- {batches}

## Long prompts

In prefill a call carries the whole chunk: bandwidth decides, not latency. By tensor prefill ran at
{prompt_range}. Against one card it ran at {prompt_one}, and two cards by layer at {prompt_layer}:
chunks of one prompt follow each other through the cards. For a prompt of one chunk by layer gains
nothing, and the [second threshold](#test-your-own-cards-in-three-minutes) decides. The narrowest
link that is published cost prefill most: two P104-100s over {narrow_link} decode at {narrow_decode}
by layer, and prefill at {narrow_prefill}.

{prompts_table}

Computed at the data sheet's rate: a prompt of one chunk of the 70B ({chunk} tokens, {calls} calls
of {chunk_bytes}) takes {pp_prompt} by layer, and by tensor, with the calls that owners of two cards
print:

{chunk_table}

So the split shows the first token earlier only where a call takes less than {even_chunk}. At
that rate many prompts in a row pass faster by layer at any of these calls: {pp_rate} tokens/s, and
{tp_rate} by tensor.

## A mixture of experts

A token reads only some experts, so there is less to divide, but each layer still makes its two
calls. By tensor on two cards: {mixture_range}; on four {mixture_four}. Where it fits one card, two
by tensor made {mixture_one}. With whole experts on each card, and attention by tensor, two cards
made {experts}.

{mixtures_table}

## A drafter

A drafter proposes k tokens, and a step checks them at once: its calls carry k + 1 tokens, with
{draft_model} and k = {draft_k} that is {draft_bytes}, not {plain_bytes} (`--sizes {draft_size}`).
The step still reads its weights once, so that the split should pay as without a drafter:
{draft_range}. Without one the same machines made {undrafted}.

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
memory or fewer lanes more. These are data sheets; {host_70b}. `advise` prints
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


def split_by_replay(found: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The pairs that are not said to be eager, and those that are."""
    pairs = list(found)
    eager = [pair for pair in pairs if pair.replay == "eager"]
    return [pair for pair in pairs if pair not in eager], eager


def prefills(found: Sequence[Pair]) -> list[Pair]:
    """The pairs over PCIe that print prefill, the smallest gain first."""
    known = [pair for pair in found if pair.prefill_gain and is_pcie(pair.other)]
    return sorted(known, key=lambda pair: pair.prefill_gain or 0)


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


def from_to(
    found: Sequence[Pair], one: Arrangement, other: Arrangement, cards: int = 2
) -> list[Pair]:
    ends = (one, other, cards)
    return [p for p in found if (arrangement(p.one), arrangement(p.other), p.other.gpus) == ends]


def figures() -> dict[str, str]:
    pairs = groups()
    texts = {f"{name}_table": pair_table(found) for name, found in pairs.items()}
    texts |= of_fits(pairs) | of_both_cards(pairs) | of_r9700() | of_drafters(pairs)
    texts |= of_load(pairs) | of_mixtures(pairs) | of_host_memory(pairs)
    return texts | {"cases_table": cases_table(texts)}


def of_fits(pairs: dict[str, list[Pair]]) -> dict[str, str]:
    replayed, eager = split_by_replay(pairs["fits"])
    others = [pair for pair in between("one card", "tensor") if pair.replay == "eager"]
    (four,) = [pair for pair in pairs["copies"] if getattr(pair.other.split, "tensor", 0) == 1]
    first = [pair for pair in between("one card", "tensor") if pair.first_token]
    times = [pair.first_token or 0 for pair in first]
    two = over_pcie(between("one card", "copies"))
    two_copies = "Nobody has published two copies on two cards over PCIe"
    if two:
        two_copies = f"Two copies on two cards made {range_text(two, 'one card')}"
    return {
        "two_copies": two_copies,
        "fits_range": range_text(replayed, "one card"),
        "fits_eager": range_text(eager, ""),
        "eager_others": range_text([pair for pair in others if pair not in eager], ""),
        "four_copies": range_text([four], "one card"),
        "four_source": source_text(four),
        "late": str(sum(time > 1 for time in times)),
        "first_tokens": rests_on(first),
        "first_range": f"{times_text(times)} the time of one card",
    }


def of_both_cards(pairs: dict[str, list[Pair]]) -> dict[str, str]:
    replayed, eager = split_by_replay(pairs["large"])
    weights = [pair.model.parameters / 1e9 for pair in pairs["large"] if pair.model]
    by_tensor = dense_70b("tensor")
    said = "Nobody has published a dense 70B on two R9700s by tensor"
    if by_tensor:
        said = f"By tensor a dense 70B on two R9700s made {served_text(by_tensor)}"
    return {
        "by_tensor_70b": said,
        "large_range": range_text(replayed, "by layer"),
        "large_eager": range_text(eager, ""),
        "large_models": f"{min(weights):.0f} to {max(weights):.0f} billion weights",
    }


def of_r9700() -> dict[str, str]:
    """An inference: the 70B by tensor, if its calls cost what those of R9700s did."""
    found = r9700_pairs()
    figures = [(pair.other, pair.implied_us or 0) for pair in found]

    def times(costs_us: Iterable[float]) -> list[float]:
        return [step_ms(by_layer(of_two(0))) / step_ms(of_two(us)) for us in costs_us]

    middle = times_text(times(machine_votes(figures)))
    return {
        "r9700_us": f"{span([us for _, us in figures], 'us')} a call in {rests_on(found)}",
        "r9700_likely": likely_ratio().text("x").replace("x [", " x ["),
        "r9700_unlike": " and ".join(
            dict.fromkeys(pair.other.gpu for pair in found if "+" in pair.other.gpu)
        ),
        "r9700_times": f"{times_text(times(us for _, us in figures))} by layer, at the machines' "
        f"medians {middle}",
    }


def r9700_pairs() -> list[Pair]:
    """Those of two R9700s, or of one beside another card, that tell what a call cost inside."""
    return [
        pair
        for pair in implied_pairs()
        if pair.other.gpu.startswith("R9700") and pair.other.gpus == 2
    ]


def likely_ratio() -> Span:
    """What `advise` finds likely for the 70B by tensor beside by layer, from a graph."""
    link = link_between(CARD, 2)
    tensor = replace(of_two(0), times=assumed_times(2, CARD, link))
    conditions = conditions_of(tensor, "graph", link)
    layer, both = (
        Likely(load, conditions).passes["token_us"] for load in (by_layer(tensor), tensor)
    )
    return likely.published().ratio(layer, both)


def of_drafters(pairs: dict[str, list[Pair]]) -> dict[str, str]:
    drafted = pairs["drafters"]
    plain = [
        pair
        for pair in [*pairs["fits"], *pairs["large"]]
        if pair.other.machine in machines(drafted)
    ]
    k, model = 7, MODELS["qwen3.8-27b"]  # of the owners' DFlash2
    draft_bytes = model.all_reduce_bytes(k + 1)
    return {
        "draft_range": range_text(drafted, "one card or by layer"),
        "undrafted": range_text(plain, ""),
        "draft_model": "Qwen3.8-27B",
        "draft_k": str(k),
        "draft_bytes": size_text(draft_bytes),
        "draft_size": size_text(draft_bytes).replace(" KiB", "K"),
        "plain_bytes": size_text(model.all_reduce_bytes(1)),
    }


def of_load(pairs: dict[str, list[Pair]]) -> dict[str, str]:
    many, prompts = pairs["many"], pairs["prompts"]
    totals = [
        gain
        for pair in between("one card", "tensor")
        if (gain := pair.total_gain) and pair.other.source == TOTALS
    ]
    narrow = from_to(prompts, "layer", "tensor")[:1]
    _, eager = split_by_replay(from_to(many, "one card", "tensor"))
    one, both = from_to(prompts, "one card", "tensor"), from_to(prompts, "layer", "tensor")
    by_layers = from_to(prompts, "one card", "layer")
    copies = from_to(many, "tensor", "copies", 4)
    return {
        "many_range": range_text(from_to(many, "one card", "tensor"), "one card"),
        "many_eager": range_text(eager, ""),
        "four_range": range_text(copies, "the four by tensor"),
        "r9700_total": times_text(totals),
        "prompt_range": range_text(both, "by layer", "prefill"),
        "prompt_one": range_text(one, "", "prefill"),
        "prompt_layer": range_text(by_layers, "", "prefill"),
        "narrow_link": narrow[0].other.fabric,
        "narrow_decode": times_text(gains(narrow)),
        "narrow_prefill": times_text(gains(narrow, "prefill")),
    }


def of_mixtures(pairs: dict[str, list[Pair]]) -> dict[str, str]:
    mixtures = pairs["mixtures"]
    two, four = (from_to(mixtures, "layer", "tensor", cards) for cards in (2, 4))
    return {
        "mixture_range": range_text(two, "by layer"),
        "mixture_four": range_text(four, "by layer"),
        "mixture_one": range_text(from_to(mixtures, "one card", "tensor"), "its tokens"),
        "experts": range_text(from_to(mixtures, "tensor", "other"), "all by tensor"),
    }


def of_host_memory(pairs: dict[str, list[Pair]]) -> dict[str, str]:
    link, whole = LINKS[CARD.slot], by_layer(of_two(0))
    ways = offloaded(replace(of_two(0), tensor=1), HOST_GB_S, link.gb_s).values()
    cpu, stream = sorted(ways, key=lambda way: not way.on_cpu)
    cpu_ms, stream_ms, layer_ms, tensor_ms = map(step_ms, (cpu, stream, whole, of_two(0)))
    (pair,) = pairs["host"]
    one = dense_70b(gpus=1)
    said = "nobody has published the pair"
    if one and dense_70b():
        said = f"one card made {served_text(one)} and two {served_text(dense_70b())}"
    return {
        "host_70b": said,
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


def cases_table(texts: dict[str, str]) -> str:
    rows = [
        [f"[{case}](#{anchor(heading)})", advice, gain.format(**texts)]
        for case, heading, advice, gain in FIRST_SCREEN
    ]
    return markdown_table("your case | do this | tokens/s", rows)
