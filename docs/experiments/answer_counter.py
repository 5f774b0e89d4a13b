"""The counter-examples of docs/answer.md: what a call cost inside engines, and pairs in which a
faster call bought little."""

import re
from collections.abc import Sequence

from answer_pairs import Pair, Row, all_pairs, arrangement, between, gains, is_chat, is_pcie
from answer_rows import cards_text, engine_text, load_text, rests_on, source_text
from answer_text import (
    behind,
    change,
    first_rows,
    in_note,
    markdown_table,
    owner_of,
    percent,
    rate_text,
    served,
    sources,
    the_row,
    times_text,
)

from reports.references.pairs import pairs
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

TEXT = """## Counter-examples

What a call costs inside an engine is implied by whole steps: **(step of n cards - step of one / n)
/ calls**, where cards by layer, of which one works at a time, take the place of one. It contains
launches, waits, skew, and all else that the split does not divide. It was above the slowest call
that the same owner measured alone in {dearer} of {beside}, and otherwise among them.

By tensor is slower where the cost is above the pair's own break-even. Two cards over PCIe and one
chat: all are {all_two}, and slower were {losing}, {losing_eager} of them eager. These, and all
whose owner measured a call alone, the dearest first:

{mattering_table}

`inside`: the implied cost of a call. `alone`: the same owner's calls near the size of the message.
`tokens/s`: two cards by tensor beside one, or beside the same two by layer. The pair of
{windows_card} ran under Windows without peer access; in its thread the engine's maintainer has
{windows_layer} tokens/s by layer and {windows_tensor} by tensor on two RTX 3090s.

{implied_table}

![What a call cost inside engines and alone](experiments/answer.png)

### Peers, or a faster kernel

A faster call often buys little: of {all_faster} {small_faster} gained less than {little}, the
smallest first. A kernel whose call is {faster} times as fast gave {kernel} the tokens on two R9700s
({kernel_rests}); peer access alone gave R9700s {peers} ({peers_rest}).

{faster_table}

Settings of the path, each on one machine of two R9700s:

- ACS that redirects peers through the CPU cost {acs_prefill} of prefill and {acs_step} of a step,
  and a call of {acs_size} took {acs_ms} and not {direct_ms} ({acs_source}).
- A translating IOMMU cost nearly all: {iommu} tokens/s at {iommu_context} tokens of context, and
  {passed} with `iommu=pt`; short ones did not suffer
  ([mattbucci](https://github.com/mattbucci/2x-R9700-RDNA4-GFX1201-sglang-inference)).

### What makes the difference

- **Graph or eager.** Two RTX 3090s decoded {graph} tokens/s from a graph and {eager} eager, with
  the same split ({graph_source}).
- **A library that blocks the host.** On two Arc B70s a call of {blocked_size} took {blocked} alone,
  and so did a barrier without data ({blocked_source}): each of {blocked_calls} calls a token stops
  the host, which then launches late. Inside, a call cost {blocked_inside}.
- **Waits that sleep.** Two R9700s decoded {backoff} tokens/s with a back-off of 20 to 200 us in
  ROCr's waits and {no_backoff} without ({backoff_source}).
- **Launches.** Four MI50s went from {unfused} to {fused} tokens/s when a fused kernel cut the
  launches of a token from {launches} to {fewer_launches} ({launch_source}).
- **Skew.** In a trace of two R9700s a call took {own_us} in the rank that came later, and {seen_us}
  as rank 0 saw it: half of the calls began more than {skew_us} apart ({skew_source}). A call alone
  has no such wait; `--arrival-skew` adds one.
"""

PRINTED_US = r"([\d.]+) us a call"  # in a note
LITTLE = 1.1  # times the tokens/s
SHOWN = 6  # faster calls before a click
BELOW_TABLE = """With a drafter the figure is of a token: a call costs 1 to k + 1 times as much, by
how many tokens of k were accepted. kyuz0's rows are of {few} chats at once. A pair below 0
({super}) gained more than its cards: something else than the split changed there too."""


BESIDE = {"one card": "one card", "layer": "by layer"}


def implied_pairs() -> list[Pair]:
    """The pairs of a chat that tell what a call cost inside the engine, the dearest first."""
    many = range(2, 65)
    found = [*between("one card", "tensor", many), *between("layer", "tensor", many)]
    told = [pair for pair in found if is_chat(pair.other) and pair.implied_us is not None]
    return sorted(told, key=lambda pair: -(pair.implied_us or 0))


def calls_alone(pair: Pair) -> list[PublishedCall]:
    """All-reduces of a library that this owner measured on these cards, near the size of the pair's
    messages; in the pair's mode, if there are some in it."""
    row, model = pair.other, pair.model
    if not model:
        return []
    own = [
        call
        for call in select(calls(), collective={"all_reduce"}, kind={"library"}, gpu={row.gpu})
        if owner_of(call) == owner_of(row)
        and (call.gpus, call.hosts) == (row.gpus, 1)
        and not (row.peer_access == "off" and call.transport == "p2p")
    ]
    near = near_size(own, model.all_reduce_bytes(1))
    return select(near, mode={pair.replay}) or near


def alone_text(pair: Pair) -> str:
    """`41.9 (10 KiB, eager)`; empty without a figure of the owner."""
    own = calls_alone(pair)
    sizes = sorted({call.size_bytes for call in own if call.size_bytes})
    modes = sorted({call.mode for call in own} - {"unknown"})
    said = [*map(size_text, sizes), *modes]
    return f"{span([call.us for call in own], '').strip()} ({', '.join(said)})" if own else ""


def implied_table(found: Sequence[Pair]) -> str:
    rows = [
        [
            f"{cards_text(pair.other)}: {pair.other.model}, {engine_text(pair)}",
            signed(pair.implied_us or 0),
            alone_text(pair),
            number(pair.even_us),
            f"{pair.decode_gain:.2f} x {BESIDE[arrangement(pair.one)]}",
            source_text(pair),
        ]
        for pair in found
    ]
    heading = "by tensor | inside, us | alone, us | break-even, us | tokens/s | source"
    return markdown_table(heading, rows)


def signed(us: float) -> str:
    return number(us) if us >= 0 else f"-{number(-us)}"


def slowest_alone(pair: Pair) -> float:
    return max(call.us for call in calls_alone(pair))


def faster_pairs() -> list[Pair]:
    """Two to four cards over PCIe by tensor, with peer access after none, or with a kernel of its
    own after the library; the smallest gain first."""
    found = [
        pair
        for pair in all_pairs()
        if arrangement(pair.one) == arrangement(pair.other) == "tensor"
        and pair.one.gpus == pair.other.gpus
        and pair.other.gpus in (2, 3, 4)
        and is_pcie(pair.other)
        and pair.decode_gain
        and is_upgrade(pair.one, pair.other)
    ]
    return sorted(found, key=lambda pair: pair.decode_gain or 0)


def is_upgrade(one: Row, other: Row) -> bool:
    """Whether peer access was added, or a kernel in the library's place, and no access lost."""
    access = one.peer_access, other.peer_access
    before, after = map(reduce_of, (one, other))
    has_kernel = is_kernel(after) and not is_kernel(before)
    return access != ("on", "off") and (access == ("off", "on") or has_kernel)


def reduce_of(row: Row) -> str:
    """What reduced: `rccl`, `libr4d`, `PCIe one-shot`; empty if the source does not say."""
    return row.all_reduce if isinstance(row, PublishedServing) else row.split.kernel


def is_kernel(name: str) -> bool:
    """Whether this is a kernel of somebody, not the library or the engine's default."""
    return bool(name) and not re.match("(rccl|nccl|oneccl|built without)", name.lower())


def difference(pair: Pair) -> str:
    """`peer access off to on, rccl to libr4d`."""
    parts = []
    if pair.one.peer_access != pair.other.peer_access:
        parts.append("peer access")
    before, after = map(reduce_of, (pair.one, pair.other))
    if before != after:
        parts.append(f"{before or 'default'} to {after or 'default'}")
    return ", ".join(parts)


def faster_table() -> str:
    rows = [
        [
            difference(pair),
            change(pair.one.decode_tok_s, pair.other.decode_tok_s),
            change(pair.one.prefill_tok_s, pair.other.prefill_tok_s),
            f"{cards_text(pair.other).replace(', peer access', '')}: {pair.other.model}, "
            f"{engine_text(pair)}{load_text(pair.other)}",
            source_text(pair),
        ]
        for pair in faster_pairs()
    ]
    heading = (
        "what was added | decode, tokens/s | prefill, tokens/s | cards, model, engine | source"
    )
    return first_rows(heading, rows, SHOWN, "pairs")


def figures() -> dict[str, str]:
    told = implied_pairs()
    two = [pair for pair in told if pair.other.gpus == 2 and is_pcie(pair.other)]
    beside = [pair for pair in two if calls_alone(pair)]
    dearer = [pair for pair in beside if slowest_alone(pair) < (pair.implied_us or 0)]
    losing = [pair for pair in two if (pair.decode_gain or 0) < 1]
    light = [row for row in serving() if is_chat(row) and row.streams is None]
    few = [in_note(row, r"up to (\d+) at once") for row in light]
    at_once = f"{min(few):.0f} to {max(few):.0f}"
    faster = faster_pairs()
    beyond = [pair for pair in told if (pair.implied_us or 0) < 0]
    r9700 = [pair for pair in faster if pair.other.gpu == "R9700"]
    fast = [pair for pair in r9700 if "us a call" in pair.other.note]
    only_peers = [  # Direct-P2P is llama.cpp's own reduction with peer access
        pair
        for pair in r9700
        if reduce_of(pair.other) == "Direct-P2P" or reduce_of(pair.one) == reduce_of(pair.other)
    ]
    windows = the_row(pairs(), "ikawrakow/ik_llama.cpp#1730", "under Windows")
    below = BELOW_TABLE.format(
        few=at_once,
        super=", ".join(dict.fromkeys(f"{p.other.gpus}x {p.other.gpu}" for p in beyond)),
    )
    whole = behind(f"All {rests_on(told)}", f"{implied_table(told)}\n\n{below}")
    texts = {
        "windows_card": windows.gpu,
        "windows_layer": f"{in_note(windows, r'3090: ([0-9]+) by layer'):g}",
        "windows_tensor": f"{in_note(windows, r'by layer, ([0-9]+)'):g}",
        "implied_table": whole,
        "mattering_table": implied_table([p for p in two if p in losing or p in beside]),
        "dearer": str(len(dearer)),
        "beside": rests_on(beside),
        "faster_table": faster_table(),
        "losing": rests_on(losing),
        "all_two": rests_on(two),
        "losing_eager": str(sum(pair.replay == "eager" for pair in losing)),
        "few": at_once,
        "all_faster": rests_on(faster),
        "small_faster": str(sum(gain < LITTLE for gain in gains(faster))),
        "little": percent(LITTLE - 1),
        "faster": f"{in_note(fast[0].one, PRINTED_US) / in_note(fast[0].other, PRINTED_US):.0f}",
        "kernel": times_text(gains(fast)),
        "kernel_rests": rests_on(fast),
        "peers": times_text(gains(only_peers)),
        "peers_rest": rests_on(only_peers),
    }
    return texts | of_causes()


def of_causes() -> dict[str, str]:
    """What makes a call cost more in an engine: figures of rows and their notes."""
    graph = the_row(pairs(), "wzi690421-droid", "the same split EAGER reads 17.07")
    blocked = the_row(calls(), "vllm-project/vllm#54766", "0-byte barrier")
    inside = next(pair for pair in implied_pairs() if pair.other.source == blocked.source)
    backoff, without = served("FA85", "with the backoff"), served("FA85", "without")
    fused, unfused = (the_row(pairs(), "larkinwc", note) for note in ("launches to", "deferring"))
    seen, own = (the_row(calls(), "davetha", note) for note in ("what rank 0 observes", "SHORTER"))
    return {
        "graph": rate_text(graph.decode_tok_s),
        "eager": number(in_note(graph, r"EAGER reads ([\d.]+)")),
        "graph_source": sources([graph]),
        "blocked_size": size_text(blocked.size_bytes or 0),
        "blocked": f"{number(blocked.us)} us",
        "blocked_calls": str(inside.calls),
        "blocked_inside": f"{number(inside.implied_us)} us",
        "blocked_source": sources([blocked]),
        "backoff": rate_text(backoff.decode_tok_s),
        "no_backoff": rate_text(without.decode_tok_s),
        "backoff_source": sources([backoff]),
        "unfused": rate_text(unfused.decode_tok_s),
        "fused": rate_text(fused.decode_tok_s),
        "launches": f"{in_note(fused, r'([0-9]+) launches'):g}",
        "fewer_launches": f"{in_note(fused, r'launches to ([0-9]+)'):g}",
        "launch_source": sources([fused]),
        "own_us": f"{number(own.us)} us",
        "seen_us": f"{number(seen.us)} us",
        "skew_us": f"{number(in_note(seen, r'skew p50 (.+?) us'))} us",
        "skew_source": sources([seen]),
    }
